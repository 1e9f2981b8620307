"""What the processor can do."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["INT8_PRODUCTS", "cpu_flags", "has_int8_products"]

# what adds up products of 8-bit integers in 32 bits; AVX2 and AVX-512 alone do so in 16, where two of them overflow
INT8_PRODUCTS = frozenset({"amx_int8", "avx512_vnni", "avx_vnni"})


@cache
def cpu_flags() -> frozenset[str]:
    """Names of instruction sets as Linux lists them; none elsewhere."""
    try:
        listed = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("flags", 1)[-1].split("\n", 1)[0]
    except OSError:
        return frozenset()
    return frozenset(listed.split())


def has_int8_products() -> bool:
    """Whether sums of 8-bit products are exact on this CPU."""
    return bool(cpu_flags() & INT8_PRODUCTS)
