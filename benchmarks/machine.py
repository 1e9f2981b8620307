"""What a measurement ran on: processor, versions, date, and how fast its matrix products are."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

__all__ = ["MINILM_SHAPES", "describe", "gemm_rate"]

# (in, out) of the products in a layer of all-MiniLM-L6-v2: query, key and value together, output, up, down
MINILM_SHAPES = ((384, 1152), (384, 384), (384, 1536), (1536, 384))


def describe(packages: Iterable[str] = ("torch", "transformers")) -> str:
    """One line: processor, cores, extensions that matter, versions, date."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return (
        f"{processor()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
        f"{', AMX' if 'amx_bf16' in flags() else ''}; Python {platform.python_version()}, {versions}; "
        f"{datetime.date.today().isoformat()}"
    )


def processor() -> str:
    """The processor's name."""
    for line in cpuinfo():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def flags() -> list[str]:
    """The processor's extensions, as Linux names them."""
    return next((line.split(":", 1)[1].split() for line in cpuinfo() if line.startswith("flags")), [])


def cpuinfo() -> list[str]:
    """Lines of /proc/cpuinfo; none where there is no such file."""
    file = Path("/proc/cpuinfo")
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def gemm_rate(
    dtype: torch.dtype, shapes: Sequence[tuple[int, int]] = MINILM_SHAPES, *, rows: int = 4096, repeats: int = 10
) -> float:
    """FLOP/s of `torch.mm` on all cores, over a layer's products together; the best of several passes.

    Args:
        dtype: of both operands.
        shapes: (in, out) of each product.
        rows: of the left operand.
        repeats: passes; the best one counts.
    """
    with torch.inference_mode():
        pairs = [(torch.randn(rows, k).to(dtype), torch.randn(k, n).to(dtype)) for k, n in shapes]
        seconds = []
        for _ in range(repeats + 2):  # the first two compile and warm up
            start = time.perf_counter()
            for left, right in pairs:
                torch.mm(left, right)
            seconds.append(time.perf_counter() - start)
    return sum(2 * rows * k * n for k, n in shapes) / min(seconds[2:])
