"""Which threads do what in a service: one receives requests and answers them, the others encode and search.

Each of the others has a batch of its own. An operation that is split over all cores waits for the slowest of them, and
the threads that wait for the next operation hold a core without work.
"""

from __future__ import annotations

import torch

from simcse.encoder.backends.allocator import keep_freed_megabytes

__all__ = ["compute_alone", "search_threads", "use_threads"]

SEARCHES = 4  # large searches at a time that have all threads; more read no faster from memory


def compute_alone() -> None:
    """To be called in a thread of its own: torch splits nothing there."""
    torch.set_num_threads(1)


def use_threads(wanted: int | None) -> int:
    """Set up the process for a service; how many threads encode and search.

    Args:
        wanted: threads; default as many as torch would use, one a core.
    """
    keep_freed_megabytes()  # a few queries would not ask for it themselves
    return torch.get_num_threads() if wanted is None else wanted


def search_threads(count: int) -> int:
    """Threads that a search may use inside, where so many search side by side."""
    return max(1, count // SEARCHES)
