"""`simcse data`: the files that evaluation and the paper's recipes read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from simcse.errors import DataError

__all__ = ["sts"]


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
