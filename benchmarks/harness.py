"""Contestants that are measured side by side: interleaved, each within its own seconds."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sheet import Sheet

__all__ = ["Apart", "Out", "answer", "interleaved", "limited", "read_lines"]


class Out(Exception):  # noqa: N818 - no error: a contestant goes on no further
    """Why a contestant is out."""


class Apart:
    """A contestant in a process of its own, so that none inherits another's threads, caches and compiled kernels.

    The process starts with the first question. What it raises ends it, and is said in one line.

    Args:
        name: for its row.
        target: runs in the process: (pipe, *args); receives questions and sends answers.
        args: of the target.
        limit: seconds that it has in all, loading included.
        install: what installs its packages.
    """

    def __init__(
        self, name: str, target: Callable[..., None], args: tuple[Any, ...], limit: float, install: str = ""
    ) -> None:
        self.name, self.limit, self._left = name, limit, limit
        context = multiprocessing.get_context("spawn")
        self._here, self._there = context.Pipe()
        self._process = context.Process(target=run, args=(self._there, target, args, install), daemon=True)
        self._started = False

    def ask(self, question: Any) -> Any:
        """The process's answer to a question.

        Raises:
            Out: it cannot run here, or its seconds are over.
        """
        start = time.perf_counter()
        if not self._started:
            self._process.start()
            self._there.close()  # so that the end of the process is seen
            self._started = True
        try:
            self._here.send(question)
            if not self._here.poll(max(self._left, 0)):
                raise Out(f"cut off: needs more than {self.limit:g} s; --limit sets how many it has")
            found = self._here.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(1)
            raise Out(f"left out: its process died, exit code {self._process.exitcode}") from None
        finally:
            self._left -= time.perf_counter() - start
        if isinstance(found, Out):
            raise found
        return found

    def close(self) -> None:
        """End the process, by force where it does not listen."""
        if not self._started:
            return
        self._here.close()
        self._process.join(1)
        self._process.kill()
        self._process.join()


def run(pipe: Connection, target: Callable[..., None], args: tuple[Any, ...], install: str) -> None:
    """The process: run the target; whatever it raises is why the contestant is out, whatever it prints is lost."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        target(pipe, *args)
    except (EOFError, BrokenPipeError):  # nobody asks any more
        pass
    except ModuleNotFoundError as error:
        pipe.send(Out(f"skipped: {error.name} is not installed; pip install {install or error.name}"))
    except Exception as error:  # a peer may raise anything
        pipe.send(Out(f"left out: {(str(error).strip() or type(error).__name__).splitlines()[0]:.200}"))


def answer(pipe: Connection, load: Callable[..., Callable[[Any], Any]], *args: Any) -> None:
    """A target: load a function, then send (result, seconds of the call, its backend) for each argument that comes."""
    function: Callable[[Any], Any] | None = None
    while True:
        question = pipe.recv()
        if function is None:
            function = load(*args)
        start = time.perf_counter()
        result = function(question)
        seconds = time.perf_counter() - start
        pipe.send((result, seconds, getattr(function, "backend", None)))


def interleaved(
    runs: Mapping[str, Callable[[], object]], seconds: float, *, least: int = 4, most: int = 1_000_000
) -> dict[str, float]:
    """Median seconds of each call; in random order, so that all meet the same busy moments.

    Args:
        runs: calls by name.
        seconds: that each has in all; one that has used them up rests.
        least: calls of each, however long they take.
        most: calls of each.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    while left := [
        name for name, times in taken.items() if len(times) < least or (sum(times) < seconds and len(times) < most)
    ]:
        for name in random.sample(left, len(left)):
            start = time.perf_counter()
            runs[name]()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}  # the first one warms up


@contextmanager
def limited(sheet: Sheet, name: str, seconds: float) -> Iterator[None]:
    """End this process, rows so far kept, if what is inside needs longer: a call in C++ cannot be interrupted."""

    def end() -> None:
        sheet.out(name, f"cut off: needs more than {seconds:g} s")
        sheet.keep()
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def read_lines(file: Path, count: int | None = None) -> list[str]:
    """The first lines of a text file; .gz too."""
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        return [line.rstrip("\n") for line in islice(lines, count)]
