"""How runs went: learning curves, and the way through alignment and uniformity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simcse.data.tabular import json_object, lines
from simcse.errors import DataError
from simcse.evaluation.plots.style import MARKERS, SCORES, legend_below, line_styles, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Log", "Run", "has_trajectory", "learning_curves", "read_run", "trajectory"]

UNITS = {"spearman": "Spearman × 100", "mrr@10": "MRR@10 × 100"}


@dataclass
class Log:
    """What one `log.jsonl` tells."""

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Mean loss since the line before."""
    evaluated: list[int] = field(default_factory=list)
    """Steps of the evaluations."""
    dev: list[dict[str, float]] = field(default_factory=list)
    """Their results; the first metric is the one that best/ was chosen by."""

    @property
    def metric(self) -> str:
        """Name of the metric that decides."""
        return next(iter(self.dev[0]))


@dataclass
class Run:
    """A run folder: one log, or one a seed."""

    name: str
    logs: list[Log]


def read_run(folder: str | Path, name: str | None = None) -> Run:
    """Read a run folder, or all `seed-N` within it.

    Raises:
        DataError: no log, a line that is no JSON object, or nothing logged yet.
    """
    folder = Path(folder)
    files = sorted(folder.glob("seed-*/log.jsonl")) or [folder / "log.jsonl"]
    if not files[0].is_file():
        raise DataError(f"{folder}: no log.jsonl there or in seed-N below; name the folder of a run of simcse train")
    return Run(name or folder.name, [_read_log(file) for file in files])


def _read_log(file: Path) -> Log:
    log, written = Log(), list(lines(file))
    for number, line in enumerate(written, 1):
        try:
            record = json_object(f"{file}:{number}", line)
            step, loss, dev = record["step"], record.get("loss", 0), record.get("dev", {"": 0})
            if not (isinstance(step, int) and dev and all(map(_is_number, [loss, *dev.values()]))):
                raise KeyError
        except (DataError, KeyError, AttributeError) as error:
            if number == len(written):  # the run was killed in the midst of it, or is writing it now
                break
            raise DataError(
                f"{file}:{number}: no JSON object with a step, and a loss or scores that are numbers; delete the line"
            ) from error
        if "loss" in record:
            log.steps.append(step)
            log.losses.append(math.nan if loss is None else loss)
        if "dev" in record and (not log.dev or log.metric in dev):
            log.evaluated.append(step)
            log.dev.append(dev)
    if not (log.steps or log.dev):
        raise DataError(f"{file}: nothing is logged yet; wait for its first line")
    return log


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float)  # None: NaN


@styled
def learning_curves(runs: Sequence[Run]) -> Figure:
    """Loss and the deciding metric over steps; seeds of a run share its colour, and the best evaluation has a dot."""
    evaluated = any(log.dev for run in runs for log in run.logs)
    figure, axes = new_figure(7.2 if evaluated else 4.2, 2.9, columns=1 + evaluated, squeeze=False)
    for run, line in zip(runs, line_styles(len(runs)), strict=True):
        alpha = 1.0 if len(run.logs) == 1 else 0.6
        for seed, log in enumerate(run.logs):
            style: dict[str, Any] = {**line, "alpha": alpha}
            axes[0, 0].plot(log.steps, log.losses, **style, label=None if seed else run.name)
            if log.dev:
                scores = [result[log.metric] for result in log.dev]
                axes[0, 1].plot(log.evaluated, scores, **style)
                best = max(range(len(scores)), key=scores.__getitem__)
                axes[0, 1].plot(log.evaluated[best], scores[best], "o", color=line["color"], ms=5, mec="white", mew=0.8)
    axes[0, 0].set(xlabel="step", ylabel="loss (nats)", title="Training")
    if evaluated:
        metrics = {UNITS.get(log.metric, log.metric) for run in runs for log in run.logs if log.dev}
        axes[0, 1].set(xlabel="step", ylabel=" or ".join(sorted(metrics)), title="Development set (dot: best)")
    for axis in axes[0]:
        axis.xaxis.get_major_locator().set_params(integer=True)  # there is no half step
    if len(runs) > 1:
        legend_below(figure)
    return figure


@styled
def trajectory(runs: Sequence[Run]) -> Figure:
    """Alignment against uniformity at each evaluation, a curve a seed, a marker a run, coloured by the score.

    Lower is better for both.

    Args:
        runs: of which one at least `has_trajectory`.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    shown = [run for run in runs if has_trajectory(run)]
    every = [score for run in shown for log in run.logs for score in _path(log)[2]]
    norm = Normalize(min(every), max(every))
    figure, axis = new_figure(5.6, 4.0)
    for run, marker in zip(shown, _cycled(MARKERS, len(shown)), strict=True):
        for seed, (x, y, scores) in enumerate(path for path in map(_path, run.logs) if len(path[0]) > 1):
            axis.plot(x, y, color="#bbbbbb", lw=1, zorder=1)
            axis.scatter(x, y, c=scores, cmap=SCORES, norm=norm, marker=marker, s=26, zorder=2, ec="white", lw=0.4)
            name = None if seed else run.name
            axis.plot(x[0], y[0], marker, mfc="white", mec="#333333", ms=7, zorder=3, label=name)  # where it starts
    axis.margins(0.12)
    metrics = {UNITS.get(log.metric, log.metric) for run in shown for log in run.logs if log.dev}
    figure.colorbar(ScalarMappable(norm, SCORES), ax=axis, label=f"{' or '.join(sorted(metrics))}, development set")
    axis.set(xlabel="uniformity (lower is better)", ylabel="alignment (lower is better)")
    axis.set_title("from the hollow marker, before training", fontsize=8, color="#555555")
    # names at the curves' ends would lie on each other: runs that do equally well end at one place
    if len(shown) > 1:
        legend_below(figure)
    return figure


def has_trajectory(run: Run) -> bool:
    """Whether a run was evaluated more than once with alignment and uniformity."""
    return any(len(_path(log)[0]) > 1 for log in run.logs)


def _path(log: Log) -> tuple[list[float], list[float], list[float]]:
    """Uniformity, alignment and score at each evaluation that has them."""
    known = [result for result in log.dev if {"alignment", "uniformity"} <= set(result)]
    return (
        [result["uniformity"] for result in known],
        [result["alignment"] for result in known],
        [result[log.metric] for result in known],
    )


def _cycled(values: Sequence[str], n: int) -> list[str]:
    return [values[i % len(values)] for i in range(n)]
