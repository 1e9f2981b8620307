"""Settings of a whole process, each tried in a process of its own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

MALLOC = """
import ctypes, sys
import torch
from simcse.encoder.backends.allocator import keep_freed_megabytes, keep_freed_memory

FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
class Malloc(ctypes.Structure):  # of mallinfo(3)
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Malloc
torch.set_num_threads(1)
"""
BLOCK = """
getattr(sys.modules["simcse.encoder.backends.allocator"], sys.argv[1], bool)()
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


def mapped_and_kept(setting: str) -> tuple[int, int]:
    """What a process of its own prints."""
    command = [sys.executable, "-c", MALLOC + BLOCK, setting]
    mapped, kept = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(mapped), int(kept)


@needs_mallinfo
@pytest.mark.parametrize("setting", ["keep_freed_memory", "keep_freed_megabytes"])
def test_a_freed_block_stays(setting: str) -> None:
    """By default a block of 20 MB is mapped alone and goes back."""
    mapped, kept = mapped_and_kept(setting)
    assert mapped == 0
    assert kept > 20_000_000


@pytest.mark.parametrize("given", [None, "0"])
def test_loading_asks_for_large_pages_unless_told(tiny_bert: Path, given: str | None) -> None:
    name = "THP_MEM_ALLOC_ENABLE"
    environment = {key: value for key, value in os.environ.items() if key != name} | ({name: given} if given else {})
    script = (
        "import os, sys; from simcse import SentenceEncoder; SentenceEncoder.from_pretrained(sys.argv[1]); "
        f"print(os.environ['{name}'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny_bert)], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == (given or "1")
