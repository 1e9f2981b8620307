"""What came out, beside the paper where it has the same table: markdown, a sentence on the order, and a figure."""

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

AGAINST = "Against: the mean difference seed by seed, and its 95 % interval (Student's t)."


@dataclass(frozen=True)
class Outcome:
    """A variant and its score for each seed."""

    variant: Variant
    scores: list[float]
    before: float
    """Before the first step."""

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return mean_interval(self.scores).mean


def to_markdown(grid: Grid, outcomes: Sequence[Outcome], setup: str) -> str:
    """The table, what it says, and what ran."""
    columns: dict[str, list[str]] = {"variant": [one.variant.name for one in outcomes]}
    if grid.source:
        columns["paper"] = marked([one.variant.paper for one in outcomes], 1)
    columns["here"] = marked([one.mean for one in outcomes], 2)
    if max(len(one.scores) for one in outcomes) > 1:
        spread = [mean_interval(one.scores) for one in outcomes]
        columns["std"] = ["" if one.n < 2 else f"{one.std:.2f}" for one in spread]
        columns["min"] = [f"{one.least:.2f}" for one in spread]
        columns["max"] = [f"{one.greatest:.2f}" for one in spread]
        if not grid.source:
            columns[f"against {outcomes[0].variant.name}"] = [against(one, outcomes[0]) for one in outcomes]
    columns["before training"] = [f"{one.before:.2f}" for one in outcomes]
    lines = [
        f"## {grid.title}",
        "",
        f"STS-B development set, Spearman × 100{f'; {grid.source}, BERT-base' if grid.source else ''}. {setup}",
        "",
        f"| {' | '.join(columns)} |",
        f"| --- |{' ---: |' * (len(columns) - 1)}",
        *(f"| {' | '.join(row)} |" for row in zip(*columns.values(), strict=True)),
        "",
        order(outcomes) if grid.source else AGAINST,
        "",
    ]
    return "\n".join(lines)


def marked(values: Sequence[float | None], digits: int) -> list[str]:
    """Figures, the greatest in bold."""
    best = max(value for value in values if value is not None)
    cells = ["" if value is None else f"{value:.{digits}f}" for value in values]
    return [f"**{cell}**" if value == best else cell for value, cell in zip(values, cells, strict=True)]


def against(one: Outcome, first: Outcome) -> str:
    """How far a variant is from the first: both have the same rows in the same order under each seed."""
    if one is first or min(len(one.scores), len(first.scores)) < 2:
        return ""
    found = mean_interval([mine - theirs for mine, theirs in zip(one.scores, first.scores, strict=True)])
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def order(outcomes: Sequence[Outcome]) -> str:
    """Whether the paper's order shows, in words: pairs of variants that stand in the same order, and Kendall's tau."""
    from scipy import stats

    both = [(one.variant.paper, one.mean) for one in outcomes if one.variant.paper is not None]
    paper, here = [row[0] for row in both], [row[1] for row in both]
    pairs = [(i, j) for i in range(len(paper)) for j in range(i) if paper[i] != paper[j]]
    same = sum((paper[i] - paper[j]) * (here[i] - here[j]) > 0 for i, j in pairs)
    tau = float(stats.kendalltau(paper, here).statistic) if len(set(paper)) > 1 and len(set(here)) > 1 else math.nan
    words = f"{same} of {len(pairs)} pairs of variants stand in the paper's order"
    return f"{words} (Kendall's tau {tau:+.2f})." if math.isfinite(tau) and len(paper) > 2 else f"{words}."


@styled
def _figure(grid: Grid, outcomes: Sequence[Outcome]) -> Any:
    width, columns = (7.2, 2) if grid.source else (5.4, 1)
    figure, axes = new_figure(width, 0.9 + 0.32 * len(outcomes), columns=columns, sharey=True, squeeze=False)
    if grid.source:
        paper = [math.nan if one.variant.paper is None else one.variant.paper for one in outcomes]
        axes[0, 0].plot(paper, range(len(outcomes)), "o", color=COLOURS[0], ms=6)
        axes[0, 0].set(xlabel="Spearman × 100, STS-B dev", title="Paper, BERT-base")
        axes[0, 0].margins(x=0.15)
    draw_here(axes[0, -1], outcomes, "Here" if grid.source else grid.title)
    axes[0, 0].set_yticks(range(len(outcomes)), [one.variant.name for one in outcomes])
    axes[0, 0].set_ylim(len(outcomes) - 0.5, -0.5)  # the first on top, and room for whole dots
    return figure


def draw_here(axis: Any, outcomes: Sequence[Outcome], title: str) -> None:
    """Each seed a stroke, their mean a point with a bar of one standard deviation to each side."""
    for row, one in enumerate(outcomes):
        found = mean_interval(one.scores)
        bar = None if found.n < 2 else found.std
        axis.errorbar(found.mean, row, xerr=bar, fmt="o", color=COLOURS[1], ms=6, capsize=3, elinewidth=1.2)
        if found.n > 1:
            axis.plot(one.scores, [row] * found.n, "|", color=COLOURS[1], ms=9, alpha=0.5)
    several = max(len(one.scores) for one in outcomes) > 1
    axis.set(xlabel=f"Spearman × 100, STS-B dev{'; bars: one std' if several else ''}", title=title)
    axis.margins(x=0.15)
    before = {round(one.before, 2) for one in outcomes}
    if len(before) == 1:  # variants of the pooling start from different places
        axis.axvline(*before, color="#888888", lw=1, ls="--")
        axis.text(*before, 1.0, " before", fontsize=7, color="#666666", va="top", transform=axis.get_xaxis_transform())


def draw(grid: Grid, outcomes: Sequence[Outcome], path: Path) -> list[Path]:
    """Write the figure: a row a variant, the paper's scores, where there are any, beside these."""
    return save(_figure(grid, outcomes), path, ["svg"])
