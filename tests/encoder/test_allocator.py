"""Freed memory stays in the process; measured in a process of its own, since it is a setting of the whole one."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

MALLOC = """
import ctypes, sys
import torch
from simcse.encoder.allocator import keep_freed_megabytes, keep_freed_memory

FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
class Malloc(ctypes.Structure):  # of mallinfo(3)
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Malloc
torch.set_num_threads(1)
"""
BLOCK = """
getattr(sys.modules["simcse.encoder.allocator"], sys.argv[1], bool)()
before = mallinfo().hblkhd
block = torch.empty(20_000_000, dtype=torch.uint8)
mapped = mallinfo().hblkhd - before  # bytes mapped for it alone, which go back when it is freed
del block
print(mapped, mallinfo().fordblks)  # and bytes that are free and still the process's own
"""
needs_mallinfo = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="needs glibc 2.33, which tells what malloc holds",
)


def mapped_and_held(setting: str) -> tuple[int, int]:
    """What a process of its own prints."""
    command = [sys.executable, "-c", MALLOC + BLOCK, setting]
    mapped, held = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(mapped), int(held)


@needs_mallinfo
@pytest.mark.parametrize("setting", ["keep_freed_memory", "keep_freed_megabytes"])
def test_a_freed_block_stays(setting: str) -> None:
    """By default a block of 20 MB is mapped alone and goes back."""
    mapped, held = mapped_and_held(setting)
    assert mapped == 0
    assert held > 20_000_000
