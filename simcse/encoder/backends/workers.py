"""One thread a core, each with work of its own.

torch splits every operation over all cores and waits for the slowest at the end of each; with hundreds of small
operations a second the waiting adds up, and a core that another program took for a moment holds up all. Batches need no
waiting, and each stays in one core's cache.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["in_parallel", "worker_count"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_busy = threading.Lock()  # torch keeps one number of threads for the process: one caller at a time changes it


def worker_count(device: torch.device) -> int:
    """Threads that work side by side: as many as torch would use on the CPU, one for an accelerator."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def in_parallel(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """`work` of each item, in order; with one worker or one item in this thread, where torch may use all cores.

    An exception ends it: items not yet begun are left out.
    """
    if workers < 2 or len(items) < 2:
        yield from map(work, items)
        return
    with _busy:
        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(min(workers, len(items)), "encode", initializer=torch.set_num_threads, initargs=(1,))
        try:
            yield from pool.map(work, items)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)
