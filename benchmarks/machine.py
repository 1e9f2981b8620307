"""What a measurement ran on: processor, versions, date, and how fast its matrix products are."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

__all__ = ["MINILM_SHAPES", "describe", "gemm_rate", "machine", "slug", "versions"]

# (in, out) of the products in a layer of all-MiniLM-L6-v2: query, key and value together, output, up, down
MINILM_SHAPES = ((384, 1152), (384, 384), (384, 1536), (1536, 384))
# that decide which kernels run, as Linux names them, the best last
INSTRUCTIONS = (
    "fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8",
    "amx_bf16",
)  # fmt: skip
# vendor, family, models -> what people call it; a virtual machine often hides the name
GENERATIONS = (
    ("AuthenticAMD", 23, range(0x30, 0xFF), "Zen 2"),
    ("AuthenticAMD", 25, (*range(0x10), *range(0x20, 0x60)), "Zen 3"),
    ("AuthenticAMD", 25, (*range(0x10, 0x20), *range(0x60, 0xB0)), "Zen 4"),
    ("AuthenticAMD", 26, range(0xFF), "Zen 5"),
    ("GenuineIntel", 6, (85,), "Skylake or Cascade Lake"),
    ("GenuineIntel", 6, (106, 108), "Ice Lake"),
    ("GenuineIntel", 6, (143,), "Sapphire Rapids"),
    ("GenuineIntel", 6, (207,), "Emerald Rapids"),
    ("GenuineIntel", 6, (173, 174), "Granite Rapids"),
)


def describe(packages: Iterable[str] = ("torch", "transformers")) -> str:
    """One line: processor, cores, instruction sets that matter, versions, date."""
    here = machine()
    named = ", ".join(f"{name} {version}" for name, version in versions(packages).items())
    return (
        f"{here['cpu']} ({here['generation']}), {here['cores']} cores, {torch.get_num_threads()} threads, "
        f"{' '.join(here['instructions'])}; {named}; {datetime.date.today().isoformat()}"
    )


def machine() -> dict[str, Any]:
    """Processor, generation, cores that this process may use, and instruction sets, the best last."""
    vendor, family, model = field("vendor_id"), int(field("cpu family") or 0), int(field("model") or 0)
    generation = f"family {family}, model {model}" if family else platform.machine()
    for maker, of_family, models, name in GENERATIONS:
        if maker == vendor and of_family == family and model in models:
            generation = name
    flags = set(field("flags").split())
    return {
        "cpu": " ".join(re.sub(r"\((?:R|TM)\)|CPU|@.*|\d+-Core|Processor", " ", processor()).split()),
        "generation": generation,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
    }


def slug(here: dict[str, Any]) -> str:
    """The folder of a machine's results: name, generation, best instruction set, cores; or the accelerator's name.

    Args:
        here: as `machine` gives it.
    """
    if "accelerator" in here:
        return re.sub(r"[^a-z0-9]+", "-", here["accelerator"].lower()).strip("-")
    best = (here["instructions"] or ["plain"])[-1]
    words = f"{here['cpu']} {here['generation']} {best} {here['cores']}".lower()
    return re.sub(r"[^a-z0-9_]+", "-", words.replace("zen ", "zen")).strip("-")


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python and of the packages that are installed."""
    found = {"Python": platform.python_version()}
    for name in packages:
        for distribution in importlib.metadata.distributions(name=name):
            found.setdefault(name, distribution.version)
    return found


def processor() -> str:
    """The processor's name."""
    return field("model name") or platform.processor() or platform.machine()


def field(name: str) -> str:
    """The first processor's line of this name in /proc/cpuinfo; nothing where there is none."""
    file = Path("/proc/cpuinfo")
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def gemm_rate(
    dtype: torch.dtype,
    shapes: Sequence[tuple[int, int]] = MINILM_SHAPES,
    *,
    rows: int = 4096,
    repeats: int = 10,
    device: str = "cpu",
) -> float:
    """FLOP/s of `torch.mm`, over a layer's products together; the best of several passes.

    Args:
        dtype: of both operands.
        shapes: (in, out) of each product.
        rows: of the left operand.
        repeats: passes; the best one counts.
        device: cpu is all cores.
    """
    with torch.inference_mode():
        pairs = [(torch.randn(rows, k).to(device, dtype), torch.randn(k, n).to(device, dtype)) for k, n in shapes]
        seconds = []
        for _ in range(repeats + 2):  # the first two compile and warm up
            start = time.perf_counter()
            for left, right in pairs:
                torch.mm(left, right)
            if device != "cpu":
                torch.accelerator.synchronize(device)
            seconds.append(time.perf_counter() - start)
    return sum(2 * rows * k * n for k, n in shapes) / min(seconds[2:])
