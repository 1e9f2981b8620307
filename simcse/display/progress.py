"""Progress bars on stderr, so that what goes to stdout can be piped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress"]


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
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f} {unit}/s" if speed else "")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)
