"""Scores on bootstrap samples of the items that they were measured on: of all samples and encoders at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "percentiles", "resampled_means", "resampled_spearman"]

Floats = NDArray[np.float64]

BLOCK = 64  # resamples at a time: bounds the memory to a few of (64, n) float64


def percentiles(values: Floats, confidence: float) -> tuple[float, float]:
    """The ends of the interval that holds that share of (R,) resampled scores; NaN among them is left out."""
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


def resampled_means(values: NDArray[Any], resamples: int, rng: np.random.Generator) -> Floats:
    """Means of c columns on each of R bootstrap samples of the same n items. (n, c) -> (R, c)

    Args:
        values: (n, c): what was measured on each item; a column an encoder, or a measure.
        resamples: R.
        rng: draws the items.
    """
    n = len(values)
    found = np.empty((resamples, values.shape[1]))
    for first in range(0, resamples, BLOCK):
        rows = min(BLOCK, resamples - first)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]  # counted all at once
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        found[first : first + rows] = counts @ values / n
    return found


def resampled_spearman(
    cosines: NDArray[Any], gold: NDArray[Any], sizes: Sequence[int], resamples: int, rng: np.random.Generator
) -> Floats:
    """Spearman x 100 of k encoders on each of R bootstrap samples of the same n pairs.

    A sample is a count for each pair, and its mid-ranks follow from one cumulative sum of counts in sorted order: O(n)
    a sample, where ranking each anew would sort.

    Args:
        cosines: (k, n).
        gold: (n,).
        sizes: pairs of each sub-set, one after another; each is resampled within itself.
        resamples: R.
        rng: draws the counts.

    Returns:
        (R, k); NaN for a sample whose gold scores or cosines are all equal.
    """
    sorted_gold, sorted_cosines = _Sorted(gold), [_Sorted(row) for row in cosines]
    found = np.empty((resamples, len(cosines)))
    for first in range(0, resamples, BLOCK):
        rows = min(BLOCK, resamples - first)
        counts = np.concatenate([rng.multinomial(size, np.full(size, 1 / size), rows) for size in sizes], axis=1)
        gold_ranks, gold_spread = sorted_gold.ranks(counts)
        # deviations times counts sum to 0, so the cosines' ranks need not be centred
        weights = counts * (gold_ranks - (len(gold) + 1) / 2)  # (r, n); mid-ranks of n have the mean (n + 1) / 2
        for k, of_encoder in enumerate(sorted_cosines):
            ranks, spread = of_encoder.ranks(counts)
            covariance = np.einsum("rn,rn->r", weights, ranks)
            with np.errstate(invalid="ignore"):
                found[first : first + rows, k] = 100 * covariance / np.sqrt(gold_spread * spread)
    return found


class _Sorted:
    """Values in order, with their ties, so that the mid-ranks of any resample of them need no sorting."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._order = np.argsort(values, kind="stable")
        ordered = values[self._order]
        is_new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        self._first = np.flatnonzero(is_new)  # (g,) where each group of ties begins
        self._group = np.empty(len(values), dtype=np.int64)  # (n,) of each value, in the caller's order
        self._group[self._order] = np.cumsum(is_new) - 1

    def ranks(self, counts: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Of samples that hold value i `counts[r, i]` times, n in all, the mid-ranks of the values (R, n), and the sum
        of the squared deviations of the sample's ranks (R,): (n^3 - n) / 12, less (s^3 - s) / 12 for a tie of s.
        """
        sizes = np.add.reduceat(counts[:, self._order], self._first, axis=1)  # (R, g)
        middle = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
        n = len(self._order)
        spread = (n**3 - np.einsum("rg,rg,rg->r", sizes, sizes, sizes)) / 12  # sum s = n
        ranks: Floats = middle[:, self._group]
        return ranks, spread
