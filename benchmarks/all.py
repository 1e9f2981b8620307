"""Every speed benchmark at small sizes, one after the other, and the tables of RESULTS.md from what they found.

    python benchmarks/all.py --texts wiki.txt.gz                # under 8 minutes on 2 cores
    python benchmarks/all.py --texts wiki.txt.gz --minutes 20   # on a slow machine

The most telling come first; where the minutes are over, the rest is left out and said. `make bench` runs all at full
size.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from jsonargparse import auto_cli

# script -> options
RUNS = {
    "encode": "--sentences 1024 --part 512 --limit 90",
    "train_step": "--steps 6 --turn 3 --limit 90",
    "short_text": "--seconds 3",
    "instruction_sets": "--seconds 1 --limit 60",
    "serve": "--documents 3000 --requests 1200 --limit 30",
    "start_up": "--starts 3",
    "search": "--encode 2000 --rows 50000 --seconds 1 --limit 60",
    "filtered": "--encode 2000 --rows 50000 --seconds 0.5 --limit 60",
    "growth": "--steps 2 --largest 64 --limit 30",
}
WITH_TEXTS = ("encode", "train_step", "serve", "search", "filtered", "growth")
FOLDER = Path(__file__).parent


def main(texts: Path, minutes: float = 8, only: list[str] | None = None) -> None:
    """Run them.

    Args:
        texts: a sentence a line; .gz too.
        minutes: for all of them together.
        only: of the scripts.
    """
    if unknown := [name for name in only or () if name not in RUNS]:
        raise SystemExit(f"--only: found {', '.join(unknown)}, expected some of {', '.join(RUNS)}")
    until, failed = time.monotonic() + 60 * minutes, []
    for name, options in RUNS.items():
        if only is not None and name not in only:
            continue
        given = ["--texts", str(texts)] if name in WITH_TEXTS else []
        begin = time.monotonic()
        print(f"\n== {name}: {until - begin:.0f} s left", flush=True)
        try:
            command = [sys.executable, str(FOLDER / f"{name}.py"), *given, *options.split()]
            code = subprocess.run(command, timeout=max(1, until - begin), check=False).returncode
        except subprocess.TimeoutExpired:
            code = f"the {minutes:g} minutes are over; --minutes sets them"
        if code:
            failed.append(f"{name} ({code})")
        print(f"== {name}: {time.monotonic() - begin:.0f} s", flush=True)
    subprocess.run([sys.executable, str(FOLDER / "results.py")], check=True)
    if failed:
        raise SystemExit(f"not measured to the end: {', '.join(failed)}")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
