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
STEPS = """
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    layers = [torch.empty(1_000_000).zero_() for _ in range(40)]  # 160 MB, all freed on return
    return float(layers[0][0])

for _ in range(3):
    step()
print(mallinfo().fordblks)  # bytes that are free and still the process's own
"""
BLOCK = """
if sys.argv[1] == "keep":
    keep_freed_megabytes()
before = mallinfo().hblkhd
block = torch.empty(20_000_000, dtype=torch.uint8)
print(mallinfo().hblkhd - before)  # bytes mapped for it alone
"""
needs_mallinfo = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="needs glibc 2.33, which tells what malloc holds",
)


def printed(script: str, mode: str) -> int:
    """What a process of its own prints."""
    command = [sys.executable, "-c", MALLOC + script, mode]
    return int(subprocess.run(command, check=True, capture_output=True).stdout)


@needs_mallinfo
def test_freed_memory_stays() -> None:
    """Of the 160 MB that a step frees, all stay for the next one; by default all but the last few go back."""
    assert printed(STEPS, "keep") > 150_000_000
    assert printed(STEPS, "default") < 80_000_000


@needs_mallinfo
def test_megabytes_are_not_mapped_each_time() -> None:
    assert printed(BLOCK, "default") > 20_000_000
    assert printed(BLOCK, "keep") == 0
