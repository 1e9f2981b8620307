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

import numpy as np
import torch

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


def main() -> None:
    torch.set_num_threads(1)
    zipf = 1e7 / (torch.arange(CLASSES) + 2.7)
    samplers: dict[str, Noise] = {
        "uniform": Uniform(CLASSES, K),
        "unigram^0.75": Unigram(zipf, K),
        "log-uniform": LogUniform(CLASSES, K),
    }
    target = torch.randint(CLASSES, (ROWS,))
    print(f"torch {torch.__version__}, numpy {np.__version__}, 1 thread")
    print(f"{CLASSES:,} classes, {ROWS:,} rows, {K} negatives a row")
    print(f"{'noise':14}{'ours, ms':>10}{'numpy, ms':>12}{'ratio':>8}{'multinomial, ms':>18}{'ratio':>8}")
    for name, noise in samplers.items():
        probability = noise.log_probability().exp()
        cumulative, random = probability.cumsum(0).numpy(), np.random.default_rng(0)
        ours = milliseconds(lambda noise=noise: noise.sample(target))
        numpy = milliseconds(lambda c=cumulative, r=random: c.searchsorted(r.random((ROWS, K))))
        torchs = milliseconds(lambda p=probability: torch.multinomial(p, ROWS * K, replacement=True))
        print(f"{name:14}{ours:10.1f}{numpy:12.1f}{numpy / ours:8.2f}{torchs:18.1f}{torchs / ours:8.2f}")


if __name__ == "__main__":
    main()
