"""What is left of a group of processes when it has ended."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from forked import Runs, start_group, wait_for

THREADS = """
import os
def end(status, now=os._exit):
    names = [open(f"/proc/self/task/{number}/comm").read() for number in os.listdir("/proc/self/task")]
    print("of gloo:", sum("gloo" in name for name in names), flush=True)
    now(status)
os._exit = end
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/task, where Linux lists the threads of a process")
@pytest.mark.parametrize(
    ("options", "status"), [({"max_steps": 1}, 0), ({"max_steps": 100_000}, 143), ({"data.dev": "none.csv"}, 1)]
)
def test_no_thread_of_the_group_outlives_it(
    runs: Runs, tiny_bert: Path, files: Path, tmp_path: Path, options: dict[str, object], status: int
) -> None:
    """One that does may abort the process while the interpreter ends: a run that is done, stopped, or an error."""
    common = {"model.name": tiny_bert, "model.pooling": "mean", "data.train": files / "pairs.csv", "batch_size": 8}
    group = start_group(runs, common | {"output_dir": tmp_path / "run", "log_every": 1} | options, code=THREADS)
    if status == 143:
        wait_for((tmp_path / "run" / "log.jsonl").exists)
        for run in group:
            run.kill(15)
    for run in group:
        assert run.status() == status, run.printed
        assert run.printed.endswith("of gloo: 0\n")
