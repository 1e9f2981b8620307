"""Two runs beside each other, and beside the paper's recipe: as tables with a verdict in words, or as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simcse.display.tables import Table, terminal
from simcse.errors import ConfigError, did_you_mean
from simcse.evaluation.items import KINDS
from simcse.evaluation.published import RECIPES, departures, recipe_of
from simcse.evaluation.statistics import POWER, Comparison, Difference, Interval, mean_interval, rounded
from simcse.evaluation.sts import SEVEN

__all__ = ["Side", "as_json", "as_tables", "check_recipe", "sides_of"]


def check_recipe(recipe: str | None) -> None:
    """Raise a ConfigError for one that the paper has not."""
    if recipe is not None and recipe not in RECIPES:
        raise ConfigError(
            f"recipe: found {recipe!r}, expected one of {', '.join(RECIPES)}{did_you_mean(recipe, RECIPES)}"
        )


@dataclass(frozen=True)
class Side:
    """One of the two, with what its seeds and its config say."""

    run: str
    name: str
    """Short."""
    scores: NDArray[np.float64]
    """(k, T): score x 100 of each seed on each task."""
    averages: Interval
    """Of the mean over the tasks, over the seeds."""
    recipe: str | None
    """The paper's recipe that it follows, a key of `RECIPES`."""
    departs: list[str]
    """From that recipe, in which settings."""


def sides_of(
    found: Comparison,
    runs: Sequence[str],
    names: Sequence[str],
    configs: Sequence[Mapping[str, Any]],
    recipe: str | None = None,
) -> list[Side]:
    """Both sides; the recipe is the one given, else the one that a run's config follows.

    Args:
        found: the comparison of the two.
        runs: what both were called.
        names: short ones.
        configs: the content of their `config.yaml`; empty without one.
        recipe: a key of `RECIPES`.
    """
    sides = []
    for run, name, config, scores in zip(runs, names, configs, (found.scores_a, found.scores_b), strict=True):
        averages, followed = mean_interval(scores.mean(axis=1).tolist(), found.confidence), recipe or recipe_of(config)
        sides.append(Side(run, name, scores, averages, followed, departures(followed, config) if followed else []))
    return sides


def as_json(found: Comparison, sides: list[Side]) -> dict[str, Any]:
    """All numbers, unrounded."""

    def of_side(side: Side) -> dict[str, Any]:
        averages = {key: None if value != value else value for key, value in asdict(side.averages).items()}  # no NaN
        published = (
            {"recipe": side.recipe, **asdict(RECIPES[side.recipe]), "departures": side.departs} if side.recipe else None
        )
        return {"model": side.run, "seeds": side.scores.tolist(), "average": averages, "published": published}

    a, b = sides
    unit, metric = KINDS[found.kind]
    return {
        "kind": found.kind,
        "metric": metric,
        "unit": unit,
        "a": of_side(a),
        "b": of_side(b),
        "tasks": {r.name: {**asdict(r), "difference": r.difference, "significant": r.significant} for r in found.rows},
        "over_seeds": found.over_seeds,
        "paired_seeds": found.paired,
        "significant": found.significant,
        "verdict": found.in_words(a.name, b.name),
        "confidence": found.confidence,
        "resamples": found.resamples,
    }


def as_tables(found: Comparison, sides: list[Side]) -> str:
    """At most 80 columns: the differences, what each side's seeds say, the verdict, and the paper beside."""
    names = [side.name for side in sides]
    parts: list[Table | str] = [differences_table(found, names)]
    if any(row.more is not None for row in found.rows):
        unit = KINDS[found.kind][0]
        parts.append(f"no, +n: about n more {unit} would decide it at this difference (power {100 * POWER:g} %).")
    parts += [seeds_in_words(side, found.confidence) for side in sides if side.averages.n > 1]
    parts.append(found.in_words(*names))
    for recipe in dict.fromkeys(side.recipe for side in sides if side.recipe):
        following = [side for side in sides if side.recipe == recipe]
        if (table := paper_table(found, recipe, following)) is not None:
            parts += ["", table, *(paper_in_words(found, side) for side in following)]
    return terminal(*parts)


def differences_table(found: Comparison, names: list[str]) -> Table:
    """A row a task, and their average."""
    unit, metric = KINDS[found.kind]
    columns = ["task", unit, *names, "difference", f"{100 * found.confidence:g} % interval", "significant"]
    rows = [
        [
            row.name, f"{row.n:,}", f"{row.a:.2f}", f"{row.b:.2f}", f"{row.difference:+.2f}",
            f"{row.low:+.2f} to {row.high:+.2f}", _answer(row),
        ]
        for row in found.rows
    ]  # fmt: skip
    return Table(columns, rows, metric)


def _answer(row: Difference) -> str:
    """Whether it is significant, else how many more items would make it so."""
    return "yes" if row.significant else "no" if row.more is None else f"no, +{rounded(row.more)}"


def seeds_in_words(side: Side, confidence: float) -> str:
    """How far the seeds of a run spread."""
    over = side.averages
    return (
        f"{side.name}: {over.n} seeds, mean {over.mean:.2f}, standard deviation {over.std:.2f}, {over.least:.2f} to "
        f"{over.greatest:.2f}, {100 * confidence:g} % interval of the mean {over.low:.2f} to {over.high:.2f}."
    )


def paper_table(found: Comparison, recipe: str, sides: list[Side]) -> Table | None:
    """The paper's scores, the reference over 50 seeds, and those of the runs; None without a task of the paper's."""
    published = RECIPES[recipe]
    paper = dict(zip(SEVEN, published.scores, strict=True))
    rows = [
        [task.name, f"{paper[task.name]:.2f}", "", *(_spread(side.scores[:, column]) for side in sides)]
        for column, task in enumerate(found.tasks)
        if task.name in paper
    ]
    if not rows:
        return None
    if _all_seven(found):
        reference = "{:.2f} ± {:.2f}".format(*published.spread) if published.spread else "not known"
        averages = (_spread(side.scores.mean(axis=1)) for side in sides)
        rows.append(["average", f"{published.average:.2f}", reference, *averages])
    return Table(["task", "paper", "reference, 50 seeds", *(side.name for side in sides)], rows, f"Beside {recipe}")


def paper_in_words(found: Comparison, side: Side) -> str:
    """Whether a run is the recipe, and how far from the reference it came out."""
    assert side.recipe is not None
    words = f"{side.name} beside {side.recipe}"
    if side.departs:
        words += f", from whose settings it departs: {', '.join(side.departs)}"
    published = RECIPES[side.recipe]
    if _all_seven(found):
        words += f". The paper has {published.average:.2f} by one run, yours is {side.averages.mean:.2f}"
        if published.spread:
            mean, deviation = published.spread
            away = (side.averages.mean - mean) / deviation
            words += (
                f"; a reference over 50 seeds has {mean:.2f} ± {deviation:.2f}, so yours lies {abs(away):.1f} standard "
                f"deviations {'above' if away > 0 else 'below'} it"
            )
    return f"{words}."


def _all_seven(found: Comparison) -> bool:
    return [task.name for task in found.tasks] == list(SEVEN)


def _spread(scores: NDArray[np.float64]) -> str:
    """A mean over seeds, with their deviation where there are several."""
    return f"{scores.mean():.2f} ± {scores.std(ddof=1):.2f}" if len(scores) > 1 else f"{scores[0]:.2f}"
