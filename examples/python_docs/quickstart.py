"""The whole road on Python's own documentation: corpus, training, judging before and after, index, three questions.

    python examples/python_docs/quickstart.py
    python examples/python_docs/quickstart.py --config configs/quickstart-unsup.yaml --least_gain 2

Run again, it takes up an interrupted training, and does not repeat a finished one. It fails if training did not help.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import make_corpus
import yaml
from rich.console import Console
from rich.table import Table

from simcse.console import Parser, run
from simcse.errors import SimCSEError

__all__ = ["check_gain", "main"]

ROOT = Path(__file__).resolve().parents[2]
METRICS = {
    "mrr@10": "MRR@10",
    "recall@1": "recall@1",
    "recall@10": "recall@10",
    "alignment": "alignment (less is better)",
    "uniformity": "uniformity (less is better)",
}
QUESTIONS = (
    "delete a folder and everything in it",
    "how do I know whether a thread is still running?",
    "send an email over an encrypted connection",
)


def main(argv: Sequence[str]) -> None:
    """Parse, then walk the road."""
    parser = Parser(prog="quickstart.py", description="Train, judge and search on Python's own documentation.")
    parser.add_argument("--config", default="configs/quickstart.yaml", help="recipe of the training run")
    parser.add_argument("--source", default=sysconfig.get_path("stdlib"), help="folder of Python sources to learn from")
    parser.add_argument("--least_gain", type=float, default=10.0, help="points of MRR@10 that training must bring")
    options = parser.parse_args(list(argv))
    started = time.perf_counter()
    os.chdir(ROOT)  # the paths in configs/ are relative to it
    recipe = yaml.safe_load(Path(options.config).read_text(encoding="utf-8"))
    corpus, folder = Path(recipe["data"]["dev_corpus"]), Path(recipe["output_dir"])

    step(f"python examples/python_docs/make_corpus.py --output {corpus.parent}")
    if status := make_corpus.main(["--output", str(corpus.parent), "--source", str(options.source)]):
        raise SystemExit(status)
    launch(["train.py", "--config", options.config, *(["--resume", "auto"] if folder.exists() else [])])
    [after] = (report := json.loads((folder / "report.json").read_text(encoding="utf-8")))["tasks"].values()
    before, after = report["before"], {**after, **report["geometry"]}
    check_gain(before["mrr@10"], after["mrr@10"], options.least_gain, folder)
    step(f"build the index over {corpus}")
    answers = ask(folder, corpus)

    console = Console()
    show_scores(console, before, after)
    for question, hits in answers:
        show_hits(console, question, hits)
    show_way_on(console, folder, options.config, time.perf_counter() - started)


def step(what: str) -> None:
    """Tell on stderr what comes next, as a command that could be typed."""
    print(f"$ {what}", file=sys.stderr, flush=True)


def launch(arguments: list[str]) -> None:
    """Run `accelerate launch ARGUMENTS` in this environment; an error there has been told there."""
    step(f"accelerate launch {shlex.join(arguments)}")
    status = subprocess.run([sys.executable, "-m", "accelerate.commands.launch", *arguments], check=False).returncode
    if status:
        raise SystemExit(status)


def check_gain(before: float, after: float, least: float, folder: Path) -> None:
    """Raise unless the score rose as training is known to make it rise.

    Args:
        before: MRR@10 x 100 of the encoder that training started from.
        after: of the trained one.
        least: points between them.
        folder: of the run, for the error.

    Raises:
        SimCSEError: training did not help, or not enough.
    """
    if not after - before >= least:  # NaN fails, too
        raise SimCSEError(
            f"{folder}: MRR@10 went from {before:.1f} to {after:.1f}, expected at least {before + least:.1f}: training "
            f"did not help; {folder / 'log.jsonl'} has the loss of each step"
        )


def ask(folder: Path, corpus: Path) -> list[tuple[str, list[Any]]]:
    """Index all docstrings with the best encoder, save the index, and search it."""
    from simcse import SearchIndex, SentenceEncoder

    encoder = SentenceEncoder.from_pretrained(folder / "best")
    index = SearchIndex.build(corpus, encoder.encode)
    index.save(folder / "index")
    return list(zip(QUESTIONS, index.search(list(QUESTIONS), top_k=3), strict=True))


def show_scores(console: Console, before: dict[str, float], after: dict[str, float]) -> None:
    console.print("\n[bold]Finding a docstring by its name, in modules held out from training[/bold]")
    table = Table()
    table.add_column()
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right")
    for key, label in METRICS.items():
        digits = 2 if key in ("alignment", "uniformity") else 1
        cells = (f"{before[key]:.{digits}f}", f"{after[key]:.{digits}f}", f"{after[key] - before[key]:+.{digits}f}")
        table.add_row(label, *cells)
    console.print(table)


def show_hits(console: Console, question: str, hits: list[Any]) -> None:
    console.print(f"\n[bold]{question}[/bold]")
    for hit in hits:
        text = hit.text if len(hit.text) <= 72 else f"{hit.text[:71]}…"
        console.print(f"  {hit.score:.2f}  {hit.id}: {text}", markup=False, highlight=False, soft_wrap=True)


def show_way_on(console: Console, folder: Path, config: str, seconds: float) -> None:
    lines = (
        f"\nDone in {seconds:.0f} s. What lies where:",
        f"  {folder / 'best'}         the trained encoder",
        f"  {folder / 'index'}        the index over all docstrings",
        f"  {folder / 'report.json'}  the scores; log.jsonl has every step",
        "What to type next:",
        f'  simcse index search {folder / "index"} "read a file line by line"',
        "  accelerate launch train.py --config configs/minilm-sup.yaml --data.train YOUR.csv --output_dir runs/mine",
        f"  rm -r {folder}  # to train anew, with other values in {config}",
    )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run(main))
