"""The training bar on stderr: step, loss, rate, time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["training_bar"]


@contextmanager
def training_bar(total: int, done: int, shown: bool) -> Iterator[Callable[[dict[str, float]], None]]:
    """Yield a function that takes a step's record and moves the bar.

    Args:
        total: steps of the run.
        done: steps done before.
        shown: False for all processes but the first.
    """
    if not shown:
        yield lambda record: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("training"), BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total, completed=done, state="")

        def show(record: dict[str, float]) -> None:
            if "loss" in record:
                bar.update(task, state=f"loss {record['loss']:.4f} {record['rows_per_second']:,.0f} rows/s")
            bar.update(task, completed=int(record["step"]))

        yield show
