"""Whether the fast training step learns what sentence-transformers' trainer learns: loss and STS-B over seeds.

    python benchmarks/same_losses.py --texts wiki.txt.gz --dev data/senteval/STS/STSBenchmark/sts-dev.csv

Same weights, sentences, batch, length, dropout, learning rate and precision; see `train_step.py`, whose trainers run
here. Each run is a process of its own.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness import Apart, Out, answer, read_lines
from jsonargparse import auto_cli
from machine import describe
from rich.console import Console
from rich.table import Table
from train_step import CONTESTANTS, MODEL, Contestant, Plan, train_sentence_transformers, train_simcse

SHOWN = ("sentence-transformers bf16", "simcse bf16, mean")
FROM = 100  # the first step whose loss counts


def main(
    texts: Path,
    dev: Path,
    seeds: int = 5,
    steps: int = 200,
    batch_size: int = 64,
    max_length: int = 32,
    limit: float = 1200,
    output: Path | None = None,
) -> None:
    """Measure and print one table.

    Args:
        texts: a sentence a line; .gz too.
        dev: STS-B's development set, as `data.dev` in a config.
        seeds: runs of each contestant.
        steps: of each run.
        batch_size: sentences a step; each goes through the encoder twice.
        max_length: tokens kept of each.
        limit: seconds that each run has; one that needs more is cut off.
        output: JSON lines, one a run; runs that are there already are not done again.
    """
    done = []
    if output is not None and output.exists():
        done = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    for seed in range(seeds):
        for contestant in (c for c in CONTESTANTS if c.name in SHOWN):
            if any((run["name"], run["seed"]) == (contestant.name, seed) for run in done):
                continue
            with tempfile.TemporaryDirectory() as folder:
                sample = Path(folder) / "texts.txt"
                lines = read_lines(texts, steps * batch_size)
                sample.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
                plan = Plan(MODEL, batch_size, max_length, steps, seed)
                process = Apart(contestant.name, answer, (runner,), limit, contestant.library)
                try:
                    done.append(process.ask((contestant, sample, dev, plan))[0])
                except Out as why:
                    print(f"{contestant.name}, seed {seed}: {why}", flush=True)
                    continue
                finally:
                    process.close()
            print(", ".join(f"{key} {value}" for key, value in done[-1].items()), flush=True)
            if output is not None:
                with output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(done[-1]) + "\n")
    report(done, steps)


def runner() -> Callable[[tuple[Contestant, Path, Path, Plan]], dict[str, float | str]]:
    """What does a run."""
    return lambda given: run(*given)


def run(contestant: Contestant, sample: Path, dev: Path, plan: Plan) -> dict[str, float | str]:
    """Mean loss of the counted steps, and STS-B dev behind the last one."""
    from simcse.data.pairs import read_scored_pairs
    from simcse.evaluation.evaluators import ScoredPairsEvaluator

    losses: list[float] = []
    train = train_simcse if contestant.library == "simcse" else train_sentence_transformers
    encode = train(contestant, sample, losses.append, plan)
    return {
        "name": contestant.name,
        "seed": plan.seed,
        "loss": statistics.mean(losses[FROM:]),
        "dev": ScoredPairsEvaluator(read_scored_pairs(dev))(encode)["spearman"],
    }


def report(done: list[dict[str, float | str]], steps: int) -> None:
    """Print the table."""
    table = Table(title=f"Mean and standard deviation over seeds, {steps} steps")
    for column in ("", "seeds", f"loss of steps {FROM + 1} to {steps}", "STS-B dev, Spearman x 100"):
        table.add_column(column, justify="left" if not column else "right")
    for name in SHOWN:
        runs = [run for run in done if run["name"] == name]
        cells = []
        for key, form in (("loss", ".2e"), ("dev", ".2f")):
            values = [float(run[key]) for run in runs]
            spread = f" +- {statistics.stdev(values):{form}}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):{form}}{spread}")
        table.add_row(name, str(len(runs)), *cells)
    console = Console(width=120)
    console.print(table)
    console.print(describe(("torch", "transformers", "sentence-transformers")))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
