"""Progress bars on stderr, so that what goes to stdout can be piped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["progress", "training_bar"]


@contextmanager
def progress(
    total: int | None, shown: bool, what: str = "encoding", unit: str = "texts"
) -> Iterator[Callable[[int], None]]:
    """Yield a function that advances the bar by n; it does nothing where no bar is shown.

    Args:
        total: expected count, None if unknown.
        shown: whether to show a bar at all.
        what: label before the bar.
        unit: of the rate behind it.
    """
    if not shown:
        yield lambda n: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f} {unit}/s" if speed else "")

    with _bar(TextColumn(what), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)


@contextmanager
def training_bar(total: int, done: int, shown: bool) -> Iterator[Callable[[dict[str, float]], None]]:
    """Yield a function that reads a step's record and moves the bar: step, loss, rate, time left.

    Args:
        total: steps of the run.
        done: steps done before.
        shown: False for all processes but the first.
    """
    if not shown:
        yield lambda record: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    with _bar(
        TextColumn("training"), BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    ) as bar:  # fmt: skip
        task = bar.add_task("training", total=total, completed=done, state="")

        def show(record: dict[str, float]) -> None:
            if "loss" in record:
                bar.update(task, state=f"loss {record['loss']:.4f} {record['rows_per_second']:,.0f} rows/s")
            bar.update(task, completed=int(record["step"]))

        yield show


def _bar(*columns: object) -> Progress:
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True))  # type: ignore[arg-type]
