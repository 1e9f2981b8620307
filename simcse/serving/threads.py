"""Which threads do what in a service: one receives requests and answers them, the others encode and search."""

from __future__ import annotations

import torch

from simcse.encoder.backends.allocator import keep_freed_megabytes

__all__ = ["use_threads"]


def use_threads(wanted: int | None) -> int:
    """Set up the process for a service; how many threads encode and search.

    An operation that is split over all cores leaves none for the requests, and the threads that wait for the next one
    hold a core without work.

    Args:
        wanted: threads; default one fewer than torch would use, at least one.
    """
    count = wanted if wanted is not None else max(1, torch.get_num_threads() - 1)
    torch.set_num_threads(count)
    keep_freed_megabytes()  # a few queries would not ask for it themselves
    return count
