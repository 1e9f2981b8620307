"""How many threads a search takes, where three libraries each have their own.

torch and faiss bring an OpenMP runtime each, numpy's BLAS a pool of its own. A worker thread of any of them waits some
milliseconds in a loop for the next piece of work, and occupies its core meanwhile: after a search by all cores, the
encoder that answers the next query has half of them. So small searches use one thread, which leaves none waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["blas_threads", "faiss_threads"]


@contextmanager
def faiss_threads(threads: int | None) -> Iterator[None]:
    """Let faiss use so many threads inside; None leaves it as it is."""
    import faiss

    before = faiss.omp_get_max_threads()  # of this thread alone
    if threads is None or threads == before:
        yield
        return
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


_bounding = threading.Lock()


@contextmanager
def blas_threads(threads: int | None) -> Iterator[None]:
    """Let numpy's matrix products use so many threads inside; None leaves it as it is.

    The limit applies to the whole process: while one search has set it, others run with what they find.
    """
    if threads is None or not _bounding.acquire(blocking=False):
        yield
        return
    try:
        with _libraries().limit(limits=threads, user_api="blas"):
            yield
    finally:
        for library in _libraries().lib_controllers:
            # from 3.8 on the first thread that sets a number keeps the right to, until it ends
            getattr(library, "clear_controlling_thread", lambda: None)()
        _bounding.release()


@cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController()  # looks through what is loaded, once
