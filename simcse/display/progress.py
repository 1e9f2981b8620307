"""Progress on stderr, so that what goes to stdout can be piped: bars, and a line for what has none and takes long.

There is one live display at a time: a bar that begins while another moves is a line of it, and log lines go above it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from threading import Timer
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["paced", "progress", "training_bar", "waiting"]

T = TypeVar("T")

FIRST = 64  # items of the first chunk
CHUNK_SECONDS = 1.0
PATIENCE = 1.5  # seconds until a line says what is waited for

_live: Progress | None = None


def paced(items: Iterable[T], most: int, clock: Callable[[], float] = time.perf_counter) -> Iterator[list[T]]:
    """Chunks that need about a second each, whatever an item costs: a bar moves, and little is lost by a kill.

    Args:
        items: read once.
        most: items of a chunk.
        clock: seconds.
    """
    stream, size = iter(items), min(FIRST, most)
    while chunk := list(islice(stream, size)):
        begin = clock()
        yield chunk
        room = CHUNK_SECONDS / max(clock() - begin, 1e-9)
        size = max(1, min(most, int(size * min(max(room, 0.25), 2))))


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
    with _bar() as bar:
        begin, done = time.perf_counter(), 0
        task = bar.add_task(what, total=total, state="")

        def advance(n: int) -> None:
            nonlocal done
            done += n
            rate = done / max(time.perf_counter() - begin, 1e-9)
            bar.update(task, advance=n, state=f"{rate:,.{0 if rate >= 10 else 1}f} {unit}/s" if done else "")

        try:
            yield advance
        finally:
            if len(bar.tasks) > 1:  # a line of another bar
                bar.remove_task(task)


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
    with _bar() as bar:
        task = bar.add_task("training", total=total, completed=done, state="")

        def show(record: dict[str, float]) -> None:
            if "loss" in record:
                bar.update(task, state=f"loss {record['loss']:.4f} {record['rows_per_second']:,.0f} rows/s")
            bar.update(task, completed=int(record["step"]))

        yield show


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """On a terminal, say what is waited for once that takes longer than a moment."""
    if not sys.stderr.isatty():
        yield
        return
    timer = Timer(PATIENCE, lambda: print(f"{what} ...", file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _bar() -> Iterator[Progress]:
    global _live
    if _live is not None:
        yield _live
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"), TimeElapsedColumn(), TextColumn("left"), Left(),
    )  # fmt: skip
    before = sys.stderr
    # what is printed meanwhile goes above the bar, unless it is piped on
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as bar:
        handlers = [handler for handler in _log_handlers() if handler.stream is before]
        for handler in handlers:
            handler.setStream(sys.stderr)  # that of the bar, on a terminal
        _live = bar
        try:
            yield bar
        finally:
            _live = None
            for handler in handlers:
                handler.setStream(before)


def _log_handlers() -> list[logging.StreamHandler[Any]]:
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    found = [handler for logger in loggers if isinstance(logger, logging.Logger) for handler in logger.handlers]
    return [handler for handler in found if isinstance(handler, logging.StreamHandler)]
