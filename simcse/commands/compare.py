"""`simcse compare`."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from simcse.commands.models import config_of, encoders_of, load_encode, short_names
from simcse.commands.shared import Format, as_text, print_json
from simcse.errors import ConfigError, nearest
from simcse.evaluation.published import RECIPES, recipe_of

if TYPE_CHECKING:
    from simcse.data.pairs import ScoredPairs
    from simcse.evaluation.judge import Encode
    from simcse.evaluation.statistics import Comparison

__all__ = ["compare"]


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
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
) -> None:
    """Say whether one model is better than another, and how sure that is.

    Both are evaluated on the same pairs; a bootstrap over pairs, and over seeds where a run has them, gives an interval
    of the difference for each task and for the average, and a sentence says whether it stands. Beside a run of the
    paper's recipe stand the paper's value and the spread of a reference over 50 seeds.

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
        dtype: precision of the weights; auto is bf16 where the device computes in it
    """
    from simcse.evaluation.statistics import check_confidence, compare_encoders

    check_confidence(confidence)
    if recipe is not None and recipe not in RECIPES:
        raise ConfigError(f"--recipe: found {recipe!r}, expected one of {', '.join(RECIPES)}{nearest(recipe, RECIPES)}")
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
    beside = [(run, recipe or recipe_of(config_of(run))) for run in (a, b)]
    if as_text(format):
        print(as_tables(found, short_names([a, b]), [name for _, name in beside]))
    else:
        print_json(as_json(found, beside))


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
            "on what? Name --data FILE of (a, b, score), or SentEval's folder by --data_dir (or SIMCSE_DATA)"
        )
    return {task: load_task(task, folder) for task in (tasks or SEVEN)}


def as_json(found: Comparison, runs: list[tuple[str, str | None]]) -> dict[str, Any]:
    """All numbers, unrounded."""
    from simcse.evaluation.statistics import mean_interval

    rows = [*found.tasks, found.average] if len(found.tasks) > 1 else found.tasks
    sides = []
    for (run, recipe), scores in zip(runs, (found.scores_a, found.scores_b), strict=True):
        interval = asdict(mean_interval(scores.mean(axis=1).tolist(), found.confidence))
        over_seeds = {key: None if isinstance(x, float) and math.isnan(x) else x for key, x in interval.items()}
        published = {"recipe": recipe, **asdict(RECIPES[recipe])} if recipe else None
        sides.append({"model": run, "seeds": scores.tolist(), "average": over_seeds, "published": published})
    names = short_names([run for run, _ in runs])
    return {
        "a": sides[0],
        "b": sides[1],
        "tasks": {row.name: {**asdict(row), "difference": row.difference, "stands": row.stands} for row in rows},
        "welch": found.welch,
        "stands": found.stands,
        "verdict": found.in_words(names[0], names[1]),
        "confidence": found.confidence,
        "resamples": found.resamples,
    }


def as_tables(found: Comparison, names: list[str], recipes: list[str | None]) -> str:
    """A table of differences, the verdict, and for each side what its seeds and its recipe say."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=100, color_system=None, legacy_windows=False)
    table = Table(title="Spearman × 100", title_justify="left")
    for column in ("task", "pairs", *names, "difference", f"{100 * found.confidence:g} % interval", "stands"):
        table.add_column(column, justify="left" if column == "task" else "right", overflow="fold")
    for row in [*found.tasks, found.average] if len(found.tasks) > 1 else found.tasks:
        table.add_row(
            row.name, f"{row.n:,}", f"{row.a:.2f}", f"{row.b:.2f}", f"{row.difference:+.2f}",
            f"{row.low:+.2f} to {row.high:+.2f}", "yes" if row.stands else "no", end_section=row is found.tasks[-1],
        )  # fmt: skip
    with console.capture() as capture:
        console.print(table)
        for name, scores, recipe in zip(names, (found.scores_a, found.scores_b), recipes, strict=True):
            for line in _about(found, name, scores, recipe):
                console.print(Text(line))
        console.print(Text(found.in_words(*names)))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _about(found: Comparison, name: str, scores: Any, recipe: str | None) -> list[str]:
    from simcse.evaluation.statistics import mean_interval
    from simcse.evaluation.sts import SEVEN

    lines, averages = [], mean_interval(scores.mean(axis=1).tolist(), found.confidence)
    if averages.n > 1:
        lines.append(
            f"{name}: {averages.n} seeds, mean {averages.mean:.2f}, standard deviation {averages.std:.2f}, "
            f"{averages.least:.2f} to {averages.greatest:.2f}, "
            f"{100 * found.confidence:g} % interval of the mean {averages.low:.2f} to {averages.high:.2f}"
        )
    if recipe is None:
        return lines
    published = RECIPES[recipe]
    paper = dict(zip(SEVEN, published.scores, strict=True))
    if [task.name for task in found.tasks] == list(SEVEN):
        line = f"{name} follows {recipe}: the paper has {published.average:.2f}, yours is {averages.mean:.2f}"
        if published.spread:
            mean, deviation = published.spread
            line += (
                f"; a reference over 50 seeds has {mean:.2f} ± {deviation:.2f}, from which yours is "
                f"{(averages.mean - mean) / deviation:+.1f} standard deviations away"
            )
        return [*lines, f"{line}."]
    shown = [f"{task.name} {paper[task.name]:.2f}" for task in found.tasks if task.name in paper]
    return [*lines, f"{name} follows {recipe}: the paper has {', '.join(shown)}."] if shown else lines
