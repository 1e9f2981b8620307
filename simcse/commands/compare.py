"""`simcse compare`."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simcse.commands.models import config_of, encoders_of, load_encode, short_names
from simcse.commands.shared import Dtype, Format, as_text, print_json
from simcse.errors import ConfigError, did_you_mean
from simcse.evaluation.published import RECIPES, departures, recipe_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from simcse.data.pairs import ScoredPairs
    from simcse.evaluation.statistics import Comparison, Interval
    from simcse.vectors import Encode

__all__ = ["compare"]

WIDTH = 80  # columns of the tables


def compare(
    a: str,
    b: str,
    *,
    data: str | None = None,
    data_dir: str | None = None,
    tasks: list[str] | None = None,
    recipe: str | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    format: Format = "auto",
    device: str = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Say whether one model is better than another, and how sure that is.

    Both are evaluated on the same pairs; a bootstrap over pairs, and over seeds where a run has them, gives an interval
    of the difference for each task and for the average, and a sentence says whether it is statistically significant.
    Beside a run of the paper's recipe stand the paper's value and the spread of a reference over 50 seeds.

    Args:
        a: run folder, one with seed-N folders below, checkpoint, hub id, or folder of simcse postprocess
        b: the other one; differences are b - a
        data: file of (a, b, score), such as STS-B's sts-test.csv
        data_dir: instead of data, SentEval's folder or the one above it; default the environment's SIMCSE_DATA
        tasks: names of STS tasks in it; default the seven of the paper
        recipe: the paper's recipe to show beside, such as unsup-bert-base; default what the run's config.yaml follows
        resamples: of the bootstrap
        confidence: of the intervals
        seed: of the bootstrap
        format: text, or json; auto is text on a terminal, and json where output is piped
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision of the weights; auto is bf16 where the device computes in it; int8 needs a CPU with AMX or VNNI
    """
    from simcse.evaluation.statistics import check_confidence, compare_encoders

    check_confidence(confidence)
    if recipe is not None and recipe not in RECIPES:
        raise ConfigError(
            f"--recipe: found {recipe!r}, expected one of {', '.join(RECIPES)}{did_you_mean(recipe, RECIPES)}"
        )
    for run in (a, b):
        config_of(run)  # damage is told before hours of encoding
    loaded = read_tasks(data, data_dir, tasks or [])
    names_a, names_b = encoders_of(a), encoders_of(b)
    print(f"{len(names_a)} + {len(names_b)} encoders on {len(loaded)} tasks", file=sys.stderr)
    found = compare_encoders(
        [_loaded_when_called(name, device, dtype) for name in names_a],
        [_loaded_when_called(name, device, dtype) for name in names_b],
        loaded,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )
    sides = sides_of(found, [a, b], recipe)
    if as_text(format):
        print(as_tables(found, sides))
    else:
        print_json(as_json(found, sides))


def _loaded_when_called(name: str, device: str, dtype: str) -> Encode:
    """An encoder that takes memory only while it encodes: of many seeds one at a time."""
    return lambda texts: load_encode(name, device, dtype, show_progress=sys.stderr.isatty())(texts)


def read_tasks(data: str | None, data_dir: str | None, tasks: list[str]) -> dict[str, list[ScoredPairs]]:
    """Sub-sets by task name, from a file or from SentEval's folders.

    Raises:
        ConfigError: neither is given, or both.
        DataError: a file is missing or damaged.
    """
    from simcse.data.readers import read_scored_pairs
    from simcse.evaluation.sts import SEVEN, load_task

    if data is not None:
        if data_dir is not None or tasks:
            raise ConfigError("--data names one file; leave out --data_dir and --tasks, or leave out --data")
        return {Path(data).name: [read_scored_pairs(data)]}
    folder = data_dir or os.environ.get("SIMCSE_DATA")
    if folder is None:
        raise ConfigError(
            "no evaluation data given: pass --data FILE of (a, b, score), or "
            "SentEval's folder by --data_dir (or SIMCSE_DATA)"
        )
    return {task: load_task(task, folder) for task in (tasks or SEVEN)}


@dataclass(frozen=True)
class Side:
    """One of the two, with what its seeds and its config say."""

    run: str
    name: str
    """Short."""
    scores: NDArray[np.float64]
    """(k, T): Spearman x 100 of each seed on each task."""
    averages: Interval
    """Of the mean over the tasks, over the seeds."""
    recipe: str | None
    """The paper's recipe that it follows, a key of `RECIPES`."""
    departs: list[str]
    """From that recipe, in which settings."""


def sides_of(found: Comparison, runs: list[str], recipe: str | None) -> list[Side]:
    """Both sides; the recipe is the one given, else the one that a run's config follows."""
    from simcse.evaluation.statistics import mean_interval

    sides = []
    for run, name, scores in zip(runs, short_names(runs), (found.scores_a, found.scores_b), strict=True):
        averages, config = mean_interval(scores.mean(axis=1).tolist(), found.confidence), config_of(run)
        followed = recipe or recipe_of(config)
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
    return {
        "a": of_side(a),
        "b": of_side(b),
        "tasks": {r.name: {**asdict(r), "difference": r.difference, "significant": r.significant} for r in found.rows},
        "welch": found.welch,
        "significant": found.significant,
        "verdict": found.in_words(a.name, b.name),
        "confidence": found.confidence,
        "resamples": found.resamples,
    }


def as_tables(found: Comparison, sides: list[Side]) -> str:
    """At most 80 columns: the differences, what each side's seeds say, the verdict, and the paper beside."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=WIDTH, color_system=None, legacy_windows=False)
    names = [side.name for side in sides]
    with console.capture() as capture:
        console.print(differences_table(found, names))
        for side in sides:
            if side.averages.n > 1:
                console.print(Text(seeds_in_words(side, found.confidence)))
        console.print(Text(found.in_words(*names)))
        for recipe in dict.fromkeys(side.recipe for side in sides if side.recipe):
            following = [side for side in sides if side.recipe == recipe]
            if (table := paper_table(found, recipe, following)) is not None:
                console.print("", table)
                for side in following:
                    console.print(Text(paper_in_words(found, side)))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def differences_table(found: Comparison, names: list[str]) -> Table:
    """A row a task, and their average."""
    table = _table(
        "Spearman × 100", "task", "pairs", *names, "difference", f"{100 * found.confidence:g} % interval", "significant"
    )
    for row in found.rows:
        if row is found.average and len(found.tasks) > 1:
            table.add_section()
        table.add_row(
            row.name, f"{row.n:,}", f"{row.a:.2f}", f"{row.b:.2f}", f"{row.difference:+.2f}",
            f"{row.low:+.2f} to {row.high:+.2f}", "yes" if row.significant else "no",
        )  # fmt: skip
    return table


def seeds_in_words(side: Side, confidence: float) -> str:
    """How far the seeds of a run spread."""
    over = side.averages
    return (
        f"{side.name}: {over.n} seeds, mean {over.mean:.2f}, standard deviation {over.std:.2f}, {over.least:.2f} to "
        f"{over.greatest:.2f}, {100 * confidence:g} % interval of the mean {over.low:.2f} to {over.high:.2f}."
    )


def paper_table(found: Comparison, recipe: str, sides: list[Side]) -> Table | None:
    """The paper's scores, the reference over 50 seeds, and those of the runs; None without a task of the paper's."""
    from simcse.evaluation.sts import SEVEN

    published = RECIPES[recipe]
    paper = dict(zip(SEVEN, published.scores, strict=True))
    if not any(task.name in paper for task in found.tasks):
        return None
    table = _table(f"Beside {recipe}", "task", "paper", "reference, 50 seeds", *(side.name for side in sides))
    for column, task in enumerate(found.tasks):
        if task.name in paper:
            table.add_row(
                task.name, f"{paper[task.name]:.2f}", "", *(_spread(side.scores[:, column]) for side in sides)
            )
    if _all_seven(found):
        table.add_section()
        reference = "{:.2f} ± {:.2f}".format(*published.spread) if published.spread else "not known"
        table.add_row(
            "average", f"{published.average:.2f}", reference, *(_spread(side.scores.mean(axis=1)) for side in sides)
        )
    return table


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
    from simcse.evaluation.sts import SEVEN

    return [task.name for task in found.tasks] == list(SEVEN)


def _spread(scores: Any) -> str:
    """A mean over seeds, with their deviation where there are several."""
    return f"{scores.mean():.2f} ± {scores.std(ddof=1):.2f}" if len(scores) > 1 else f"{scores[0]:.2f}"


def _table(title: str, *columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        table.add_column(column, justify="left" if column == "task" else "right", overflow="fold")
    return table
