"""A small copy of SentEval's folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def write_sts(root: Path, seed: int = 0) -> None:
    """The STS and SICK files with 8 scored pairs for each sub-set, and some that nobody scored."""
    from simcse.evaluation.sts import SEVEN, TASKS

    rng = np.random.default_rng(seed)

    def sentence() -> str:
        return " ".join(f"w{i}" for i in rng.integers(0, 40, 5))

    for name in (*SEVEN, "STS-B-dev"):
        task = TASKS[name]
        folder = root / task.folder
        folder.mkdir(parents=True, exist_ok=True)
        for subset in task.subsets:
            rows = [(sentence(), sentence(), f"{rng.uniform(1, 5):.3f}") for _ in range(7)]
            rows.append((sentence(), sentence(), "4.5"))  # a positive pair for alignment
            if name == "SICK-R":
                body = "".join(f"{i}\t{a}\t{b}\t{s}\tNEUTRAL\n" for i, (a, b, s) in enumerate(rows))
                header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
                (folder / subset).write_text(header + body)
            elif not task.is_semeval:
                (folder / subset).write_text(
                    "".join(f"g\tf\ty\t{i}\t{s}\t{a}\t{b}\n" for i, (a, b, s) in enumerate(rows))
                )
            else:
                rows.insert(3, (sentence(), "unscored", ""))
                (folder / f"STS.input.{subset}.txt").write_text("".join(f"{a}\t{b}\n" for a, b, _ in rows))
                (folder / f"STS.gs.{subset}.txt").write_text("".join(f"{s}\n" for _, _, s in rows))


@pytest.fixture
def senteval(tmp_path: Path) -> Path:
    """A folder in SentEval's layout."""
    root = tmp_path / "senteval"
    write_sts(root)
    return root
