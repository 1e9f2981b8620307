"""What the processor can do."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

__all__ = ["INT8_PRODUCTS", "cpu_flags", "cpu_model", "has_int8_products"]

# what adds up products of 8-bit integers in 32 bits; AVX2 and AVX-512 alone do so in 16, where two of them overflow
INT8_PRODUCTS = frozenset({"amx_int8", "avx512_vnni", "avx_vnni"})


@cache
def cpu_lines() -> dict[str, str]:
    """What Linux lists of the first processor; nothing elsewhere."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


@cache
def cpu_flags() -> frozenset[str]:
    """Names of instruction sets as Linux lists them; none elsewhere."""
    return frozenset(cpu_lines().get("flags", "").split())


def cpu_model() -> str:
    """Name, family and model of the processor: in virtual machines many go by one name."""
    found = cpu_lines()
    names = (found.get(key, "") for key in ("model name", "cpu family", "model"))
    return " ".join(filter(None, names)) or platform.processor()


def has_int8_products() -> bool:
    """Whether sums of 8-bit products are exact on this CPU."""
    return bool(cpu_flags() & INT8_PRODUCTS)
