"""Noise sampling: 1,000,000 classes, 1,024 rows, 64 negatives, against numpy's way and torch.multinomial.

    OMP_NUM_THREADS=1 python benchmarks/noise.py

Prints milliseconds of CPU time a batch (one thread, median of the runs) and each peer's time over ours. The peers are
as far as they go: `numpy.searchsorted` on the cumulative probabilities and `torch.multinomial` draw with repeats
within a row and may hit the target; ours does neither.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from harness import limited
from jsonargparse import auto_cli
from sheet import FOLDER, Sheet

from simcse.objectives import LogUniform, Noise, Uniform, Unigram

CLASSES, ROWS, K, RUNS = 1_000_000, 1024, 64, 15


def milliseconds(draw: Callable[[], object]) -> float:
    """Median over `RUNS` calls, after one to warm up; other processes do not count."""
    draw()
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        draw()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


def main(limit: float = 120, output: Path | None = FOLDER) -> None:
    """Measure, print rows, keep them.

    Args:
        limit: seconds that each kind of noise has; where one needs more, the benchmark ends with the rows before it.
        output: folder of the results, by machine; null keeps nothing.
    """
    torch.set_num_threads(1)
    zipf = 1e7 / (torch.arange(CLASSES) + 2.7)
    samplers: dict[str, Noise] = {
        "uniform": Uniform(CLASSES, K),
        "unigram^0.75": Unigram(zipf, K),
        "log-uniform": LogUniform(CLASSES, K),
    }
    target = torch.randint(CLASSES, (ROWS,))
    sheet = Sheet("noise", ("torch", "numpy"), {"classes": CLASSES, "rows": ROWS, "negatives": K, "threads": 1}, output)
    for name, noise in samplers.items():
        with limited(sheet, name, limit):
            probability = noise.log_probability().exp()
            cumulative, random = probability.cumsum(0).numpy(), np.random.default_rng(0)
            ours = milliseconds(partial(noise.sample, target))
            numpy = milliseconds(lambda c=cumulative, r=random: c.searchsorted(r.random((ROWS, K))))
            torchs = milliseconds(partial(torch.multinomial, probability, ROWS * K, replacement=True))
        sheet.row(name, {"processor ms": ours, "x numpy": numpy / ours, "x torch.multinomial": torchs / ours})
    sheet.keep()


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
