"""What came out, beside the paper where it has the same table: markdown, what it says of the order, and a figure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.ablations.grid import Grid
from simcse.evaluation.plots.style import COLOURS, new_figure, save, styled
from simcse.evaluation.statistics import Interval, mean_interval
from simcse.files import replaced_file

__all__ = ["Column", "Row", "draw", "order", "read_columns", "to_markdown", "write_results"]

AGAINST = "Against: the mean difference seed by seed, and its 95 % interval (Student's t)."


@dataclass(frozen=True)
class Row:
    """A variant's scores."""

    scores: list[float]
    """Spearman x 100 on STS-B's development set, a seed each."""
    before: float
    """Before the first step."""


@dataclass(frozen=True)
class Column:
    """All runs from one start."""

    title: str
    setup: str
    """In words."""
    rows: Mapping[str, Row]
    """By the name of the variant; one that was left out is missing."""
    versions: Mapping[str, str]

    @property
    def seeds(self) -> int:
        """The most that a variant has."""
        return max(len(row.scores) for row in self.rows.values())

    def against(self, name: str, other: str) -> Interval | None:
        """How far one variant is from another: under each seed both have the same rows in the same order.

        Returns:
            None where there is no seed, or one alone, to compare.
        """
        if name == other or not {name, other} <= set(self.rows):
            return None
        mine, theirs = self.rows[name].scores, self.rows[other].scores
        if min(len(mine), len(theirs)) < 2:
            return None
        return mean_interval([a - b for a, b in zip(mine, theirs, strict=True)])


def read_columns(path: Path) -> dict[str, Column]:
    """Start -> its numbers, of a file that `write_results` wrote; none where there is no file."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {
        start: Column(
            one["title"], one["setup"], {name: Row(**row) for name, row in one["variants"].items()}, one["versions"]
        )
        for start, one in found.items()
    }


def write_results(grid: Grid, columns: Mapping[str, Column], folder: Path) -> str:
    """Write GRID.json, .md and .svg -> the markdown."""
    target = folder / grid.name
    numbers = {
        start: {
            "title": column.title,
            "setup": column.setup,
            "variants": {name: vars(row) for name, row in column.rows.items()},
            "versions": dict(column.versions),
        }
        for start, column in columns.items()
    }
    draw(grid, list(columns.values()), target)
    markdown = to_markdown(grid, list(columns.values())) + f"\n![{grid.title}]({grid.name}.svg)\n"
    for suffix, text in {".md": markdown, ".json": json.dumps(numbers, indent=2) + "\n"}.items():
        with replaced_file(target.with_name(f"{grid.name}{suffix}")) as new:
            new.write_text(text, encoding="utf-8")
    return markdown


def to_markdown(grid: Grid, columns: Sequence[Column]) -> str:
    """The table, what it says, and what ran."""
    names = [variant.name for variant in grid.variants if any(variant.name in column.rows for column in columns)]
    cells = [("variant", names)]
    if grid.source:
        paper = {variant.name: variant.paper for variant in grid.variants}
        cells.append(("paper", marked([paper[name] for name in names], 1)))
    for column in columns:
        cells += column_cells(grid, column, names)
    headings, values = zip(*cells, strict=True)
    lines = [
        f"## {grid.title}",
        "",
        f"STS-B development set, Spearman × 100{f'; {grid.source}, BERT-base' if grid.source else ''}.",
        *(f"{column.title}: {column.setup}" for column in columns),
        "",
        f"| {' | '.join(headings)} |",
        f"| --- |{' ---: |' * (len(cells) - 1)}",
        *(f"| {' | '.join(row)} |" for row in zip(*values, strict=True)),
        "",
        *([AGAINST] if any(column.seeds > 1 for column in columns) else []),
        *([f"{column.title}: {order(grid, column)}" for column in columns] if grid.source else []),
        "",
    ]
    return "\n".join(lines)


def column_cells(grid: Grid, column: Column, names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Headings and their cells, of one start."""
    rows = [column.rows.get(name) for name in names]
    found = [row and mean_interval(row.scores) for row in rows]
    cells = [(column.title, marked([one and one.mean for one in found], 2))]
    if column.seeds > 1:
        reference = grid.reference.name
        cells.append(("std", ["" if one is None or one.n < 2 else f"{one.std:.2f}" for one in found]))
        differences = [column.against(name, reference) for name in names]
        shown = ["" if one is None else f"{one.mean:+.2f} [{one.low:+.2f}, {one.high:+.2f}]" for one in differences]
        cells.append((f"against {reference}", shown))
    return [*cells, (f"{column.title}, before", [f"{row.before:.2f}" if row else "" for row in rows])]


def marked(values: Sequence[float | None], digits: int) -> list[str]:
    """Figures, the greatest in bold."""
    best = max(value for value in values if value is not None)
    cells = ["" if value is None else f"{value:.{digits}f}" for value in values]
    return [f"**{cell}**" if value == best else cell for value, cell in zip(values, cells, strict=True)]


def order(grid: Grid, column: Column) -> str:
    """In words, how many pairs of variants stand in the paper's order: of all, and of those beyond chance."""
    paper = {one.name: one.paper for one in grid.variants if one.paper is not None and one.name in column.rows}
    pairs = [(a, b) for a, b in combinations(paper, 2) if paper[a] != paper[b]]

    def same(pair: tuple[str, str]) -> bool:
        a, b = (mean_interval(column.rows[name].scores).mean for name in pair)
        return (paper[pair[0]] - paper[pair[1]]) * (a - b) > 0

    words = f"{sum(map(same, pairs))} of {len(pairs)} pairs of variants stand in the paper's order"
    if column.seeds < 2:
        return f"{words}."
    told = [pair for pair in pairs if (found := column.against(*pair)) and found.low * found.high > 0]
    return f"{words}; of the {len(told)} that the seeds tell apart, {sum(map(same, told))} do."


@styled
def _figure(grid: Grid, columns: Sequence[Column]) -> Any:
    panels = len(columns) + (1 if grid.source else 0)
    width = 2.6 + 2.6 * panels
    figure, axes = new_figure(width, 0.9 + 0.32 * len(grid.variants), columns=panels, sharey=True, squeeze=False)
    if grid.source:
        paper = [math.nan if one.paper is None else one.paper for one in grid.variants]
        axes[0, 0].plot(paper, range(len(paper)), "o", color=COLOURS[0], ms=6)
        axes[0, 0].set(xlabel="Spearman × 100", title="Paper, BERT-base")
        axes[0, 0].margins(x=0.15)
    for axis, column in zip(axes[0, panels - len(columns) :], columns, strict=True):
        draw_column(axis, [column.rows.get(one.name) for one in grid.variants], column)
    axes[0, 0].set_yticks(range(len(grid.variants)), [one.name for one in grid.variants])
    axes[0, 0].set_ylim(len(grid.variants) - 0.5, -0.5)  # the first on top, and room for whole dots
    return figure


def draw_column(axis: Any, rows: Sequence[Row | None], column: Column) -> None:
    """Each seed a stroke, their mean a point with a bar of one standard deviation to each side."""
    for place, row in enumerate(rows):
        if row is None:
            continue
        found = mean_interval(row.scores)
        bar = None if found.n < 2 else found.std
        axis.errorbar(found.mean, place, xerr=bar, fmt="o", color=COLOURS[1], ms=6, capsize=3, elinewidth=1.2)
        if found.n > 1:
            axis.plot(row.scores, [place] * found.n, "|", color=COLOURS[1], ms=9, alpha=0.5)
    axis.set(xlabel=f"Spearman × 100{'; bars: one std' if column.seeds > 1 else ''}", title=column.title)
    axis.margins(x=0.15)
    before = {round(row.before, 2) for row in rows if row}
    if len(before) == 1:  # variants of the pooling start from different places
        axis.axvline(*before, color="#888888", lw=1, ls="--")
        axis.text(*before, 1.0, " before", fontsize=7, color="#666666", va="top", transform=axis.get_xaxis_transform())


def draw(grid: Grid, columns: Sequence[Column], path: Path) -> list[Path]:
    """Write the figure: a row a variant, the paper's scores, where there are any, beside these."""
    return save(_figure(grid, columns), path, ["svg"])
