"""What came out, beside the paper: a markdown table, a sentence on the order, and a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.ablations.grid import Grid, Variant
from simcse.evaluation.plots.style import COLOURS, new_figure, save, styled
from simcse.evaluation.statistics import mean_interval

__all__ = ["Outcome", "draw", "order", "to_markdown"]


@dataclass(frozen=True)
class Outcome:
    """A variant and its score for each seed."""

    variant: Variant
    scores: list[float]
    before: float
    """Before the first step."""


def to_markdown(grid: Grid, outcomes: Sequence[Outcome], about: str) -> str:
    """The table, the order, and what ran."""
    best_paper = max(one.variant.paper for one in outcomes)
    best = max(mean_interval(one.scores).mean for one in outcomes)
    lines = [
        f"## {grid.title}",
        "",
        f"STS-B development set, Spearman × 100; {grid.source}, BERT-base. {about}",
        "",
        "| variant | paper | here | before training |",
        "| --- | ---: | ---: | ---: |",
    ]
    for one in outcomes:
        found, paper = mean_interval(one.scores), f"{one.variant.paper:.1f}"
        here = f"{found.mean:.2f}" + (f" ± {found.std:.2f}" if found.n > 1 else "")
        paper = f"**{paper}**" if one.variant.paper == best_paper else paper
        here = f"**{here}**" if found.mean == best else here
        lines.append(f"| {one.variant.name} | {paper} | {here} | {one.before:.2f} |")
    return "\n".join([*lines, "", order(outcomes), ""])


def order(outcomes: Sequence[Outcome]) -> str:
    """Whether the paper's order shows, in words: pairs of variants that stand in the same order, and Kendall's tau."""
    from scipy import stats

    paper = [one.variant.paper for one in outcomes]
    here = [mean_interval(one.scores).mean for one in outcomes]
    pairs = [(i, j) for i in range(len(paper)) for j in range(i) if paper[i] != paper[j]]
    same = sum((paper[i] - paper[j]) * (here[i] - here[j]) > 0 for i, j in pairs)
    tau = float(stats.kendalltau(paper, here).statistic) if len(set(paper)) > 1 and len(set(here)) > 1 else math.nan
    words = f"{same} of {len(pairs)} pairs of variants stand in the paper's order"
    return f"{words} (Kendall's tau {tau:+.2f})." if math.isfinite(tau) and len(outcomes) > 2 else f"{words}."


@styled
def _figure(grid: Grid, outcomes: Sequence[Outcome]) -> Any:
    figure, axes = new_figure(7.2, 0.9 + 0.32 * len(outcomes), columns=2, sharey=True)
    rows = range(len(outcomes))
    found = [mean_interval(one.scores) for one in outcomes]
    for axis, values, colour, title in (
        (axes[0], [one.variant.paper for one in outcomes], COLOURS[0], "Paper, BERT-base"),
        (axes[1], [one.mean for one in found], COLOURS[1], "Here"),
    ):
        axis.plot(values, rows, "o", color=colour, ms=6)
        axis.set(xlabel="Spearman × 100, STS-B dev", title=title)
        axis.margins(x=0.15)
    for row, one in zip(rows, outcomes, strict=True):
        axes[1].plot(one.scores, [row] * len(one.scores), "|", color=COLOURS[1], ms=9)  # each seed
    before = {round(one.before, 2) for one in outcomes}
    if len(before) == 1:  # variants of the pooling start from different places
        axes[1].axvline(*before, color="#888888", lw=1, ls="--")
        axes[1].text(
            *before, 1.0, " before", fontsize=7, color="#666666", va="top", transform=axes[1].get_xaxis_transform()
        )
    axes[0].set_yticks(rows, [one.variant.name for one in outcomes])
    axes[0].invert_yaxis()
    return figure


def draw(grid: Grid, outcomes: Sequence[Outcome], path: Path) -> list[Path]:
    """Write the figure: a row a variant, the paper's scores beside these."""
    return save(_figure(grid, outcomes), path, ["svg"])
