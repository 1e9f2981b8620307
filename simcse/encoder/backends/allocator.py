"""Memory kept instead of handed back between batches and training steps, in large pages."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

__all__ = ["keep_freed_megabytes", "keep_freed_memory", "prefer_large_pages"]

# of mallopt(3), as glibc's malloc.h numbers them
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
NEVER = (1 << 31) - 1  # bytes
MEGABYTE = 1 << 20


def keep_freed_memory() -> bool:
    """Keep freed memory in the process, for the next step to use.

    A training step allocates and frees the same few hundred MB each time. By default glibc hands them back to the
    system and gets them again page by page, each page a fault that zeroes it. This is a setting of the whole process,
    so a program makes it, never an import.

    Returns:
        Whether it was set; only glibc knows how.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # 32 MB is the highest threshold that glibc accepts; larger blocks come and go as before
    options = ((MMAP_THRESHOLD, 32 * MEGABYTE), (TRIM_THRESHOLD, NEVER), (TOP_PAD, 64 * MEGABYTE))
    return all(set_option(option, value) == 1 for option, value in options)


def keep_freed_megabytes() -> None:
    """Raise glibc's mmap threshold by freeing a larger block, so that freed blocks of some megabytes are reused.

    glibc maps a block anew if it is larger than any freed before (128 KB at the start, 32 MB at most), and hands memory
    back as soon as twice as much lies free. The blocks of 1 to 6 MB of a batch would fault page by page in each batch.
    Any large array that a program frees does the same, so a library may do it, and no more than 64 MB stay.
    """
    torch.empty(31 * MEGABYTE, dtype=torch.uint8)  # no page of it is touched


def prefer_large_pages() -> None:
    """Make torch ask for pages of 2 MB where a tensor is that large, on a Linux that gives them to who asks.

    The first thousands of sentences grow the process by some hundred MB, which in pages of 4 KB are as many faults. The
    switch is torch's own, read when it makes its first tensor: a program that made one before, or has set the variable
    itself, has decided otherwise.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
