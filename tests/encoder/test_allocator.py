"""Freed memory stays in the process; measured in a process of its own, since it is a setting of the whole one."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, sys
import torch
from simcse.encoder.allocator import keep_freed_memory

FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
class Malloc(ctypes.Structure):  # of mallinfo(3)
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Malloc

torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    layers = [torch.empty(1_000_000).zero_() for _ in range(40)]  # 160 MB, all freed on return
    return float(layers[0][0])

for _ in range(3):
    step()
print(mallinfo().fordblks)  # bytes that are free and still the process's own
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="needs glibc 2.33, which tells what malloc holds",
)
def test_freed_memory_stays() -> None:
    """Of the 160 MB that a step frees, all stay for the next one; by default all but the last few go back."""
    held = {
        mode: int(subprocess.run([sys.executable, "-c", SCRIPT, mode], check=True, capture_output=True).stdout)
        for mode in ("default", "keep")
    }
    assert held["keep"] > 150_000_000
    assert held["default"] < 80_000_000
