"""Several sources in one run: each step's batch is of one of them, and is prepared ahead of the step that needs it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace

import numpy as np

from simcse.data.collate import Batch, Batches
from simcse.errors import ConfigError

__all__ = ["Mixture"]

AHEAD = 4  # batches prepared before they are needed


class Mixture:
    """The batches of a run: step s is of the source that is furthest behind its share, and goes on in that source.

    Which source that is depends on the shares alone: a run can stop and go on anywhere, and every process takes the
    same one.

    Args:
        sources: one or more, all of the same batch size.
        shares: of the steps, one for each source, in any unit; None: by their numbers of rows.

    Raises:
        ConfigError: a share is not above 0.
    """

    def __init__(self, sources: Sequence[Batches], shares: Sequence[float] | None = None) -> None:
        self.sources = list(sources)
        self.batch_size = self.sources[0].batch_size
        wanted = np.asarray([len(source.dataset) for source in sources] if shares is None else shares, dtype=float)
        if not (np.isfinite(wanted).all() and (wanted > 0).all()):
            raise ConfigError(f"shares are {wanted.tolist()}, expected numbers above 0")
        self.shares = wanted / wanted.sum()  # (K,)
        self._plan = np.empty((0, 2), dtype=np.int64)  # of the steps known so far: source, step in it
        self._taken = np.zeros(len(self.sources), dtype=np.int64)

    @property
    def per_epoch(self) -> int:
        """Steps in which as many batches are taken as all sources together have."""
        return sum(source.per_epoch for source in self.sources)

    def place_of(self, step: int) -> tuple[int, int]:
        """Source of step 0, 1, 2, ... of the run, and the number of the step in that source."""
        if step >= len(self._plan):
            rows = []
            for number in range(len(self._plan), max(step + 1, 2 * len(self._plan))):
                source = int(np.argmax((number + 1) * self.shares - self._taken))
                rows.append((source, self._taken[source]))
                self._taken[source] += 1
            self._plan = np.concatenate([self._plan, np.asarray(rows, dtype=np.int64)])
        source, own = self._plan[step].tolist()
        return source, own

    def batch_of(self, step: int) -> Batch:
        """This process's share of a step."""
        source, own = self.place_of(step)
        return replace(self.sources[source].batch_of(own), source=source)

    def ahead(self, first: int, last: int) -> AbstractContextManager[Iterator[Batch]]:
        """The batches of steps first..last - 1, each prepared by a thread while earlier ones train."""
        return prepared_ahead(self.batch_of, first, last)


@contextmanager
def prepared_ahead(batch_of: Callable[[int], Batch], first: int, last: int) -> Iterator[Iterator[Batch]]:
    """Yield what `batch_of` gives for first..last - 1, made by a thread."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=AHEAD)
    stopped = threading.Event()

    def put(item: Batch | BaseException) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def prepare() -> None:
        try:
            for step in range(first, last):
                if stopped.is_set():
                    return
                put(batch_of(step))
        except BaseException as error:  # whatever it is, it belongs to the thread that waits
            put(error)

    def take() -> Iterator[Batch]:
        for _ in range(first, last):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=prepare, daemon=True, name="simcse-batches")
    thread.start()
    try:
        yield take()
    finally:
        stopped.set()
        thread.join()
