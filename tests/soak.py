"""The long forms of tests, for about an hour in all: `make soak`, or one: SOAK_MINUTES=10 python tests/soak.py PART.

A test with a long form asks this module: whether it is to run it, from which seed, and for how long.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["LONG", "SECONDS", "SEED"]

LONG = os.environ.get("SIMCSE_SOAK") == "1"
SEED = int(os.environ.get("SOAK_SEED", "0"))
SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))  # that a part has

GRACE = 120  # seconds to start and to end
# in this order, each with its share of the time that is left, in minutes of an hour: what counts answers a second first
PARTS = {
    "tests/fuzzing": 20, "tests/serving/test_long_service.py": 11, "tests/search/test_model.py": 8,
    "tests/durability": 6, "tests/training/test_gradients.py": 3, "tests/reliability": 12,
}  # fmt: skip


def main(parts: list[str]) -> int:
    """Run parts; the exit status of the first that failed, 1 where one was not done in time."""
    end = time.monotonic() + 60 * float(os.environ.get("SOAK_MINUTES", "60"))
    seed, failed = os.environ.get("SOAK_SEED") or str(random.randrange(2**31)), 0
    shares = [PARTS.get(part, 10) for part in parts]
    for number, part in enumerate(parts):
        left = max(end - time.monotonic(), 0)
        seconds = left * shares[number] / sum(shares[number:])
        print(f"{part}: SOAK_SEED={seed}, {seconds:.0f} seconds", flush=True)
        environment = os.environ | {"SIMCSE_SOAK": "1", "SOAK_SEED": seed, "SOAK_SECONDS": str(seconds)}
        command = [sys.executable, "-m", "pytest", "-s", part]
        try:
            done = subprocess.run(
                command, cwd=Path(__file__).parents[1], env=environment, check=False, timeout=left + GRACE
            )
            failed = failed or done.returncode
        except subprocess.TimeoutExpired:
            print(f"{part}: not done in {left + GRACE:.0f} seconds; give more by SOAK_MINUTES", flush=True)
            failed = failed or 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(PARTS)))
