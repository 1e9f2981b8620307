"""Which threads do what in a service: one takes requests and answers them, the others encode and search."""

from __future__ import annotations

import sys

import torch

from simcse.encoder.allocator import keep_freed_megabytes

__all__ = ["use_threads"]

SWITCH = 0.0005  # seconds


def use_threads(wanted: int | None) -> int:
    """Set up the process for a service; how many threads encode and search.

    An operation that torch or faiss splits over all cores leaves none for the requests, and what waits for the next
    operation takes a core without work. Beside that, the thread that encodes asks for Python's lock after each of some
    hundred short operations, and would wait 5 milliseconds each time while requests are parsed: it is handed over
    sooner.

    Args:
        wanted: threads; default one fewer than torch would use, at least one.
    """
    count = wanted if wanted is not None else max(1, torch.get_num_threads() - 1)
    torch.set_num_threads(count)
    sys.setswitchinterval(SWITCH)
    keep_freed_megabytes()  # a few queries would not ask for it themselves
    return count
