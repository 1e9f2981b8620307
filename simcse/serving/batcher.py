"""Micro-batching: requests that arrive together are worked on together.

Requests live in an event loop, the work in threads of its own. A thread gets what waits, up to `max_batch` items, once
the first of them has waited `max_wait` seconds, and shares it with the threads that have nothing to do; while all work,
the next batch gathers by itself.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["ClosedError", "MicroBatcher", "QueueFullError"]

log = logging.getLogger(__name__)

FEWEST = 8  # items of a batch that are not shared: a batch has its own cost

Item = TypeVar("Item")
Result = TypeVar("Result")


class QueueFullError(Exception):
    """More waits than is allowed; the request was not taken."""


class ClosedError(Exception):
    """The service is stopping; the request was not taken."""


@dataclass
class _Waiting(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Result]
    since: float


class MicroBatcher(Generic[Item, Result]):
    """A bounded queue and the threads that empty it, batch by batch, first come first served.

    Args:
        work: n items -> n results, of which each may be an exception instead. If it raises, the items are tried again
            one at a time, so that only the one at fault fails.
        max_batch: the most items that `work` gets at once.
        max_wait: seconds that the first item of a batch waits for others.
        max_queue: the most items that wait.
        threads: how many work; `work` must bear to be called by several.
        begin: called once in each thread.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        *,
        max_batch: int,
        max_wait: float,
        max_queue: int,
        threads: int = 1,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._work, self._max_batch, self._max_wait, self._max_queue = work, max_batch, max_wait, max_queue
        self._begin = begin
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._idle = 0  # threads that wait for a batch
        self._threads = [threading.Thread(target=self._run, name="micro-batcher", daemon=True) for _ in range(threads)]

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def alive(self) -> bool:
        """Whether items are taken and worked on."""
        return all(thread.is_alive() for thread in self._threads) and not self._closed

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Take no more, finish what waits, and return when that is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    async def submit(self, items: Sequence[Item]) -> list[Result]:
        """The results of these items, in order; all of them are taken or none.

        Raises:
            QueueFullError: there is no room for them.
            ClosedError: the batcher is closed.
            Exception: what the work of an item raised; the first, if there are several.
        """
        loop, now = asyncio.get_running_loop(), time.perf_counter()
        waiting = [_Waiting[Item, Result](item, loop.create_future(), now) for item in items]
        with self._changed:
            if not self.alive:
                raise ClosedError
            if len(self._queue) + len(waiting) > self._max_queue:
                raise QueueFullError
            waits = bool(self._queue)
            self._queue.extend(waiting)
            if not waits or len(self._queue) >= self._max_batch:  # else one counts its seconds, or all work
                self._changed.notify()
        return list(await asyncio.gather(*(one.future for one in waiting)))

    def _run(self) -> None:
        self._begin()
        while batch := self._next_batch():
            # a request that was cancelled while it waited needs no work
            if batch := [one for one in batch if not one.future.cancelled()]:
                results = self._results([one.item for one in batch])
                try:
                    batch[0].future.get_loop().call_soon_threadsafe(_deliver, batch, results)
                except RuntimeError:  # the loop is closed: nobody waits for an answer
                    return

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        """Wait for a batch; empty when all is done and the batcher closed."""
        with self._changed:
            self._idle += 1
            try:
                while not self._ready():
                    if not self._queue and self._closed:
                        return []
                    left = self._queue[0].since + self._max_wait - time.perf_counter() if self._queue else None
                    self._changed.wait(left)
                share = max(FEWEST, -(-len(self._queue) // self._idle))
                taken = [self._queue.popleft() for _ in range(min(len(self._queue), share, self._max_batch))]
                if self._queue:
                    self._changed.notify()
                return taken
            finally:
                self._idle -= 1

    def _ready(self) -> bool:
        """Whether a batch need not wait any longer."""
        if not self._queue:
            return False
        waited = time.perf_counter() - self._queue[0].since
        return self._closed or len(self._queue) >= self._max_batch or waited >= self._max_wait

    def _results(self, items: list[Item]) -> list[Result | Exception]:
        try:
            return list(self._work(items))
        except Exception as error:
            if len(items) == 1:
                return [error]
            log.debug("a batch of %d failed (%s); trying its items one at a time", len(items), error)
            return [self._results([item])[0] for item in items]


def _deliver(batch: list[_Waiting[Item, Result]], results: list[Result | Exception]) -> None:
    """Hand results to their requests; runs in the event loop."""
    for one, result in zip(batch, results, strict=True):
        if one.future.done():  # cancelled in the meantime
            continue
        if isinstance(result, Exception):
            one.future.set_exception(result)
        else:
            one.future.set_result(result)
