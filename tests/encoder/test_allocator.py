"""Freed memory stays in the process; measured in a process of its own, since it is a setting of the whole one."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from simcse.encoder.allocator import keep_freed_memory

torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    layers = [torch.empty(1_000_000).zero_() for _ in range(40)]  # 160 MB, all freed on return
    return float(layers[0][0])

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's malloc")
def test_no_page_faults_once_memory_is_there() -> None:
    """Three steps of 160 MB touch 117,000 pages of 4 KB: all of them fault by default, next to none once kept."""
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", SCRIPT, mode], check=True, capture_output=True).stdout)
        for mode in ("default", "keep")
    }
    assert faults["keep"] < 2000
    assert faults["keep"] < faults["default"]
