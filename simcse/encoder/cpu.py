"""What the processor can do."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["cpu_flags"]


@cache
def cpu_flags() -> frozenset[str]:
    """Names of instruction sets as Linux lists them; none elsewhere."""
    try:
        listed = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("flags", 1)[-1].split("\n", 1)[0]
    except OSError:
        return frozenset()
    return frozenset(listed.split())
