"""The C library's memory, kept instead of handed back between training steps."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# of mallopt(3), as glibc's malloc.h numbers them
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
LARGEST = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Keep freed memory in the process, for the next step to use.

    A training step allocates and frees the same few hundred MB each time. By default glibc hands them back to the
    system and gets them again page by page, each page a fault that zeroes it: a tenth of a step on the CPU. This is a
    setting of the whole process, so a program makes it, never an import. It does not raise the peak.

    Returns:
        Whether it was set; only glibc knows how.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    options = ((MMAP_MAX, 0), (TRIM_THRESHOLD, LARGEST), (TOP_PAD, 64 << 20))
    return all(set_option(option, value) == 1 for option, value in options)
