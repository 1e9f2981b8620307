"""The whole road on Python's own documentation, as the commands that a user types for data of his own.

    simcse quickstart
    simcse quickstart --config quickstart-unsup --least_gain 1

Corpus, training with an evaluation before and after, index, three questions. Run again, it takes up an interrupted
training, and does not repeat a finished one. It fails if training did not help.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

from simcse.commands.recipes import file_of
from simcse.console import Parser
from simcse.errors import ConfigError, SimCSEError
from simcse.training.interrupt import heard_signals

__all__ = ["build_parser", "check_gain", "main"]

QUESTIONS = (
    "delete a folder and everything in it",
    "how do I know whether a thread is still running?",
    "send an email over an encrypted connection",
)


def build_parser() -> Parser:
    """The options, with their help."""
    parser = Parser(
        usage="simcse quickstart [options]", description="Train, evaluate and search on Python's own documentation."
    )
    parser.add_argument("--config", default="quickstart", help="recipe of the training run, or its file")
    parser.add_argument("--source", default=sysconfig.get_path("stdlib"), help="folder of Python sources to learn from")
    parser.add_argument("--least_gain", type=float, default=10.0, help="points of MRR@10 that training must bring")
    return parser


def main(argv: Sequence[str]) -> None:
    """Train, evaluate and search on Python's own documentation: minutes, no downloads."""
    options = build_parser().parse_args(list(argv))
    started = time.perf_counter()
    corpus, folder = places(options.config)
    index = folder / "index"

    source = [] if options.source == sysconfig.get_path("stdlib") else ["--source", options.source]
    step("data", "python-docs", "--output", corpus.parent, *source)
    again = ["--resume", "auto"] if folder.exists() else []
    step("train", "--config", options.config, *again)
    check_gain(folder, options.least_gain)
    step("index", "build", "--model", folder / "best", "--output", index, "--overwrite", "--input", corpus)
    step("index", "search", index, *QUESTIONS, "--top_k", "3", "--format", "text")
    show_way_on(folder, options.config, time.perf_counter() - started)


def places(config: str) -> tuple[Path, Path]:
    """Corpus file and run folder of a recipe.

    Raises:
        ConfigError: there is no such file, or it names no corpus.
    """
    import yaml

    recipe = yaml.safe_load(Path(file_of(config)).read_text(encoding="utf-8"))
    try:
        return Path(recipe["data"]["dev_corpus"]), Path(recipe["output_dir"])
    except (KeyError, TypeError):
        raise ConfigError(
            f"--config {config}: expected data.dev_corpus and output_dir, as in quickstart.yaml"
        ) from None


def step(*arguments: str | Path) -> None:
    """Show a command of simcse on stderr and run it; one that fails has told why, and ends the road with its status."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ simcse {shlex.join(words)}", file=sys.stderr, flush=True)
    # a group of its own: Ctrl-C of a terminal reaches us alone, and the command once
    running = subprocess.Popen([sys.executable, "-m", "simcse", *words], process_group=0)
    before = {number: signal.signal(number, lambda n, _: running.send_signal(n)) for number in heard_signals()}
    status = running.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    if status:
        raise SystemExit(status if status > 0 else 128 - status)


def check_gain(folder: Path, least: float) -> None:
    """Tell how far the score rose, or raise unless it rose as training is known to make it rise.

    Args:
        folder: of the run, whose report.json has MRR@10 x 100 before and after.
        least: points between them.

    Raises:
        SimCSEError: training did not help, or not enough.
    """
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    [task] = report["tasks"].values()
    before, after = report["before"]["mrr@10"], task["mrr@10"]
    if not after - before >= least:  # NaN fails, too
        raise SimCSEError(
            f"{folder}: MRR@10 went from {before:.1f} to {after:.1f}, expected at least {before + least:.1f}: training "
            f"did not help; {folder / 'log.jsonl'} has the loss of each step"
        )
    rise = f"{before:.1f} before, {after:.1f} after"
    print(f"MRR@10 of finding a docstring by its name, in modules held out: {rise}", flush=True)


def show_way_on(folder: Path, config: str, seconds: float) -> None:
    """Where everything lies, and what to type next."""
    activate = Path(os.path.relpath(sys.prefix)) / "bin" / "activate"
    ready = shutil.which("simcse") == str(Path(sys.executable).with_name("simcse")) or not activate.is_file()
    first = "" if ready else f"\n  source {activate}"
    print(f"""
Done in {seconds:.0f} s. What lies where:
  {folder / "best"}         the trained encoder
  {folder / "index"}        the index over all docstrings
  {folder / "report.json"}  the scores; log.jsonl has every step
What to type next:{first}
  simcse index search {folder / "index"} "read a file line by line"
  simcse train --config minilm-sup --data.train YOUR.csv --data.dev null --data.test null --output_dir runs/mine
  rm -r {folder}  # to train anew, with other values in {config}""")
