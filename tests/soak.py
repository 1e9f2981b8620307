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
from pathlib import Path

__all__ = ["LONG", "SECONDS", "SEED"]

LONG = os.environ.get("SIMCSE_SOAK") == "1"
SEED = int(os.environ.get("SOAK_SEED", "0"))
SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))  # that a part has

GRACE = 120  # seconds to start and to end
# minutes of an hour: first what takes every core, then what takes one, in two rows beside each other
STAGES = [
    [{"tests/fuzzing": 20, "tests/serving/test_long_service.py": 11}],
    [
        {"tests/search/test_model.py": 29},
        {"tests/durability": 5, "tests/training/test_gradients.py": 3, "tests/reliability": 21},
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
        environment = os.environ | {"SIMCSE_SOAK": "1", "SOAK_SEED": seed, "SOAK_SECONDS": str(seconds)}
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-s", part], cwd=Path(__file__).parents[1], env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        try:
            said, status = process.communicate(timeout=left + GRACE)[0], process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            said = process.communicate()[0] + f"not done in {left + GRACE:.0f} seconds; give more by SOAK_MINUTES\n"
            status = 1
        print(f"{part}: SOAK_SEED={seed}, {seconds:.0f} seconds\n{said}", flush=True)
        statuses.append(status)
    return statuses


def main(parts: list[str]) -> int:
    """Run parts, by default all; 1 if one failed."""
    seed, minutes = os.environ.get("SOAK_SEED") or str(random.randrange(2**31)), os.environ.get("SOAK_MINUTES", "60")
    print(f"SOAK_SEED={seed}", flush=True)
    stages = [[dict.fromkeys(parts, 60 / len(parts))]] if parts else STAGES
    failed = False
    for rows in stages:
        share = max(sum(row.values()) for row in rows) / 60
        with ThreadPoolExecutor() as pool:
            done = pool.map(lambda row: run_row(row, seed, share * float(minutes) * 60), rows)  # noqa: B023
        failed |= any(map(any, done))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
