"""`simcse data`: the files that evaluation and the recipes read."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Literal

from simcse.data.python_docs import SEED, SHARE
from simcse.errors import ConfigError, DataError

__all__ = ["python_docs", "sts"]


def sts(*, output: str = "data", only: Literal["all", "sts", "wiki", "nli"] = "all") -> None:
    """Fetch STS12-16, STS-B, SICK-R and the paper's training files.

    They come from the Hugging Face hub, where the authors of SimCSE keep them, are counted, and are put where the
    recipes look for them: senteval/ (STS, SICK and SentEval's transfer sets), wiki1m_for_simcse.txt and
    nli_for_simcse.csv. What is there already is counted, and not fetched again.

    Args:
        output: the folder that the files are put in
        only: sts, wiki or nli alone
    """
    from simcse.data.fetch import FILES, fetch_file, fetch_senteval

    folder = Path(output)
    if only in ("all", "sts"):
        new = fetch_senteval(folder, check_senteval)
        tell(folder / "senteval", "the seven STS tasks and STS-B dev, all pairs", new)
    for name, rows in FILES.items():
        if only == "all" or name.startswith(only):
            tell(folder / name, f"{rows:,} rows", fetch_file(name, folder))


def check_senteval(folder: Path) -> None:
    """Raise a DataError unless every STS task has as many scored pairs as were published."""
    from simcse.evaluation.sts import SEVEN, TASKS, load_task

    for name in (*SEVEN, "STS-B-dev"):
        found = sum(map(len, load_task(name, folder)))
        if found != TASKS[name].n:
            raise DataError(
                f"{folder}: {name} has {found:,} scored pairs, expected {TASKS[name].n:,}; remove it and fetch it anew"
            )


def tell(place: Path, what: str, new: bool) -> None:
    """Say what lies where."""
    print(f"{place}: {'fetched' if new else 'already there'}; {what}", file=sys.stderr)


def python_docs(*, output: str, source: str | None = None, heldout: float = SHARE, seed: int = SEED) -> None:
    """Make a training corpus from Python sources: names and their docstrings.

    Writes train.csv (pairs), docstrings.txt (the same texts, one a line), heldout.csv (pairs of modules that are held
    out) and corpus.jsonl (all docstrings, with metadata). The sources are parsed, never imported or run.

    Args:
        output: folder for the four files
        source: folder of Python sources; default this Python's standard library
        heldout: share of the top-level modules that is held out
        seed: which modules are held out
    """
    from simcse.data.python_docs import collect, write_corpus

    if not 0 < heldout < 1:
        raise ConfigError(f"--heldout: found {heldout}, expected a share between 0 and 1, such as {SHARE}")
    folder = Path(source or sysconfig.get_path("stdlib"))
    if not folder.is_dir():
        raise ConfigError(f"--source {folder}: no such folder; name one that holds Python files")
    entries, unreadable = collect(folder)
    version = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
    for file in unreadable:
        print(f"warning: {folder / file}: cannot be read as {version}, left out", file=sys.stderr)
    for name, rows in write_corpus(entries, Path(output), share=heldout, seed=seed).items():
        print(f"{rows:6,} rows  {Path(output) / name}", file=sys.stderr)
