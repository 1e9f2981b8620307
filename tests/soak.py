"""The long forms of tests, for about an hour in all: `make soak`; or some: SOAK_MINUTES=10 python tests/soak.py PART...

A test with a long form asks this module: whether it is to run it, from which seed, and for how long.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryFile

import psutil

__all__ = ["LONG", "SECONDS", "SEED"]

LONG = os.environ.get("SIMCSE_SOAK") == "1"
SEED = int(os.environ.get("SOAK_SEED", "0"))
SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))  # that a part has

GRACE = 120  # seconds to start and to end
# minutes of an hour: first what takes every core, then what takes one, in two rows beside each other
STAGES = [
    [{"tests/fuzzing": 19, "tests/serving/test_long_service.py": 12}],
    [
        {"tests/search/test_model.py": 29},
        {"tests/durability": 4, "tests/training/test_gradients.py": 2, "tests/reliability": 23},
    ],
]


def run_row(parts: dict[str, float], seed: str, seconds: float) -> list[int]:
    """Run parts one after another, each for its share of the time that is left; their exit statuses, 1 for one that was
    not done in time.
    """
    end, statuses = time.monotonic() + seconds, []
    for number, part in enumerate(parts):
        left = max(end - time.monotonic(), 0)
        seconds = left * parts[part] / sum([*parts.values()][number:])
        print(f"{part}: SOAK_SEED={seed}, {seconds:.0f} seconds ...", flush=True)
        environment = os.environ | {"SIMCSE_SOAK": "1", "SOAK_SEED": seed, "SOAK_SECONDS": str(seconds)}
        command = [sys.executable, "-m", "pytest", "-s", part]
        with TemporaryFile("w+", errors="replace") as said:  # no pipe, which what a killed test has started would hold
            process = psutil.Popen(
                command, cwd=Path(__file__).parents[1], env=environment, stdout=said, stderr=subprocess.STDOUT
            )
            try:
                statuses.append(process.wait(left + GRACE))
            except psutil.TimeoutExpired:
                for running in [process, *process.children(recursive=True)]:
                    running.kill()
                said.write(f"\nnot done in {left + GRACE:.0f} seconds; give more by SOAK_MINUTES\n")
                statuses.append(1)
            said.seek(0)
            print(f"{part}:\n{said.read()}", flush=True)
    return statuses


def main(parts: list[str]) -> int:
    """Run parts, by default all; 1 if one failed."""
    seed, minutes = os.environ.get("SOAK_SEED") or str(random.randrange(2**31)), os.environ.get("SOAK_MINUTES", "60")
    stages = [[dict.fromkeys(parts, 60 / len(parts))]] if parts else STAGES
    failed = False
    for rows in stages:
        seconds = max(sum(row.values()) for row in rows) * float(minutes)  # a 60th of minutes, in seconds
        with ThreadPoolExecutor() as pool:
            failed |= any(map(any, pool.map(run_row, rows, repeat(seed), repeat(seconds))))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
