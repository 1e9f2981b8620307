"""How sure a difference between two encoders is: intervals over pairs and over seeds.

One run's score says little: seeds of the paper's own recipe spread widely (`published.RECIPES`).
And a task's pairs are a sample too. So both encoders are evaluated on the same resampled pairs, and seeds are
resampled with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simcse.data.pairs import ScoredPairs
from simcse.errors import ConfigError, DataError
from simcse.evaluation.pairs import PairEvaluator, check_gold, correlate
from simcse.vectors import Encode

__all__ = [
    "Comparison",
    "Difference",
    "Interval",
    "compare_encoders",
    "mean_interval",
    "resampled_spearman",
    "spearman_intervals",
]

Floats = NDArray[np.float64]

BLOCK = 64  # resamples at a time: bounds the memory to a few of (64, n) float64


@dataclass(frozen=True)
class Interval:
    """A mean over runs, and how far it is known."""

    mean: float
    std: float
    """Sample standard deviation (n - 1); NaN for one value."""
    low: float
    """Lower end of the t interval of the mean; NaN for one value."""
    high: float
    least: float
    greatest: float
    n: int


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of scores over seeds with Student's t interval.

    Args:
        values: a score a seed.
        confidence: of the interval, in (0, 1).

    Raises:
        DataError: no value, or one that is not finite.
        ConfigError: the confidence is out of range.
    """
    from scipy import stats

    check_confidence(confidence)
    scores = np.asarray(values, dtype=np.float64)
    if not len(scores) or not np.isfinite(scores).all():
        raise DataError(f"found scores {scores.tolist()}, expected at least one, all of them finite")
    n, mean = len(scores), float(scores.mean())
    std = float(scores.std(ddof=1)) if n > 1 else math.nan
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * std / math.sqrt(n) if n > 1 else math.nan
    return Interval(mean, std, mean - half, mean + half, float(scores.min()), float(scores.max()), n)


def check_confidence(confidence: float) -> None:
    """Raise a ConfigError unless the confidence lies between 0 and 1."""
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}: a share between 0 and 1, such as 0.95")


@dataclass(frozen=True)
class Difference:
    """Two encoders on one task: `b - a`, in points of Spearman x 100."""

    name: str
    a: float
    """Spearman x 100 of the first, mean over its seeds."""
    b: float
    low: float
    """Of the bootstrap interval of b - a."""
    high: float
    n: int
    """Pairs."""

    @property
    def difference(self) -> float:
        """b - a."""
        return self.b - self.a

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """Two encoders over all tasks."""

    tasks: list[Difference]
    average: Difference
    """Of the mean over the tasks; the only task itself where there is one."""
    scores_a: Floats
    """(k_a, T): Spearman x 100 of each seed on each task."""
    scores_b: Floats
    """(k_b, T)."""
    welch: tuple[float, float] | None
    """Welch's t interval of the average's b - a over seeds alone; None unless both have two seeds or more."""
    confidence: float
    resamples: int

    @property
    def rows(self) -> list[Difference]:
        """The tasks, and their average where there are several."""
        return [*self.tasks, self.average] if len(self.tasks) > 1 else self.tasks

    @property
    def significant(self) -> bool:
        """Whether the average differs by the bootstrap and, where there are seeds to tell, by Welch's interval too."""
        return self.average.significant and (self.welch is None or self.welch[0] > 0 or self.welch[1] < 0)

    def in_words(self, name_a: str, name_b: str) -> str:
        """A sentence or two on the average: which is better, by how much, and whether that is significant."""
        average, found = (
            self.average,
            f"{100 * self.confidence:g} % interval {_span(self.average.low, self.average.high)}",
        )
        better, worse = (name_b, name_a) if average.difference > 0 else (name_a, name_b)
        on = average.name if len(self.tasks) == 1 else f"the average of {len(self.tasks)} tasks"
        gap = f"on {on} {better} is {abs(average.difference):.2f} points above {worse}"
        if self.significant:
            words = f"The difference is statistically significant: {gap} ({found})."
        elif average.significant and self.welch is not None:
            words = (
                f"The difference is not statistically significant: {gap} ({found} over pairs and seeds), but seeds "
                f"alone leave it open (Welch's interval {_span(*self.welch)}); run more seeds."
            )
        elif average.difference == 0:
            words = f"There is no difference on {on} ({found})."
        else:
            words = f"The difference is not statistically significant: {gap}, but 0 lies within the {found}."
        if min(len(self.scores_a), len(self.scores_b)) == 1:
            words += (
                f" Seeds: {len(self.scores_a)} against {len(self.scores_b)}. A single seed does not tell how "
                "far runs spread, so this tells two encoders apart, not the methods behind them."
            )
        return words


def compare_encoders(
    a: Sequence[Encode],
    b: Sequence[Encode],
    tasks: Mapping[str, Sequence[ScoredPairs]],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Evaluate two sets of encoders, each one or several seeds of a method, on the same pairs.

    Each resample draws the pairs of every sub-set with replacement, the same for all encoders, and the seeds of each
    side, the same for all tasks. Of k seeds it draws k - 1: that gives the mean the unbiased variance s^2 / k, where k
    of k would give (k - 1) / k of it. The interval is the bootstrap's percentiles.

    Args:
        a, b: encoders of the first and the second method.
        tasks: name -> sub-sets, put together before one correlation (aggregation `all`).
        resamples: of the bootstrap.
        confidence: of all intervals.
        seed: of the bootstrap.

    Raises:
        ConfigError: no encoder or task, confidence or resamples out of range.
        DataError, ModelError: as `pairs.embed` and `pairs.correlate`; names task and row.
    """
    check_confidence(confidence)
    if resamples < 100:
        raise ConfigError(f"resamples is {resamples}: at least 100, for the ends of an interval to mean something")
    if not (a and b and tasks):
        raise ConfigError(f"found {len(a)} and {len(b)} encoders and {len(tasks)} tasks, expected at least one of each")
    golds = {name: np.concatenate([subset.scores for subset in subsets]) for name, subsets in tasks.items()}
    for name, gold in golds.items():
        check_gold(gold, name)
    evaluator = PairEvaluator(*(subset for subsets in tasks.values() for subset in subsets))
    cosines = [_by_task(evaluator.cosines(encode), tasks) for encode in (*a, *b)]  # k_a + k_b of T arrays
    rng = np.random.default_rng(seed)
    k_a = len(a)
    picks_a, picks_b = _seed_draws(rng, resamples, k_a), _seed_draws(rng, resamples, len(b))
    scores, differences, names = np.empty((len(cosines), len(tasks))), np.empty((resamples, len(tasks))), list(tasks)
    for t, (name, subsets) in enumerate(tasks.items()):
        gold = golds[name]
        together = np.stack([of_encoder[t] for of_encoder in cosines])  # (k, n)
        scores[:, t] = [correlate(one, gold, name)[0] for one in together]
        drawn = resampled_spearman(together, gold, [len(subset) for subset in subsets], resamples, rng)  # (R, k)
        of_a = np.take_along_axis(drawn[:, :k_a], picks_a, axis=1).mean(axis=1)
        of_b = np.take_along_axis(drawn[:, k_a:], picks_b, axis=1).mean(axis=1)
        differences[:, t] = of_b - of_a
    sizes = [sum(map(len, subsets)) for subsets in tasks.values()]
    scores_a, scores_b = scores[:k_a], scores[k_a:]

    def difference(name: str, columns: slice, n: int) -> Difference:
        low, high = _percentiles(differences[:, columns].mean(axis=1), confidence)
        return Difference(name, float(scores_a[:, columns].mean()), float(scores_b[:, columns].mean()), low, high, n)

    found = [difference(name, slice(t, t + 1), sizes[t]) for t, name in enumerate(names)]
    average = difference("average", slice(None), sum(sizes)) if len(names) > 1 else found[0]
    welch = _welch(scores_a.mean(axis=1), scores_b.mean(axis=1), confidence)
    return Comparison(found, average, scores_a, scores_b, welch, confidence, resamples)


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


def spearman_intervals(
    encode: Encode,
    tasks: Mapping[str, Sequence[ScoredPairs]],
    *,
    averaged: Sequence[str] = (),
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """The ends of the bootstrap interval over pairs of one encoder's Spearman x 100 on each task.

    They say how far these pairs tell the score, nothing of other seeds of a training.

    Args:
        encode: the encoder.
        averaged: tasks whose average gets an interval, too, under the name `average`; none by default.
        tasks, resamples, confidence, seed: as of `compare_encoders`.
    """
    evaluator = PairEvaluator(*(subset for subsets in tasks.values() for subset in subsets))
    rng, drawn = np.random.default_rng(seed), {}
    for (name, subsets), cosines in zip(tasks.items(), _by_task(evaluator.cosines(encode), tasks), strict=True):
        gold = np.concatenate([subset.scores for subset in subsets])
        sizes = [len(subset) for subset in subsets]
        drawn[name] = resampled_spearman(cosines[None], gold, sizes, resamples, rng)[:, 0]  # (R,)
    if averaged:
        drawn["average"] = np.mean([drawn[name] for name in averaged], axis=0)
    return {name: _percentiles(values, confidence) for name, values in drawn.items()}


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


def _by_task(
    cosines: list[NDArray[np.float32]], tasks: Mapping[str, Sequence[ScoredPairs]]
) -> list[NDArray[np.float32]]:
    parts = iter(cosines)
    return [np.concatenate([next(parts) for _ in subsets]) for subsets in tasks.values()]


def _seed_draws(rng: np.random.Generator, resamples: int, seeds: int) -> NDArray[np.int64]:
    return rng.integers(seeds, size=(resamples, max(1, seeds - 1)))


def _percentiles(values: Floats, confidence: float) -> tuple[float, float]:
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _span(low: float, high: float) -> str:
    return f"{low:+.2f} to {high:+.2f}"


def _welch(a: Floats, b: Floats, confidence: float) -> tuple[float, float] | None:
    from scipy import stats

    if len(a) < 2 or len(b) < 2:
        return None
    if np.ptp(a) == 0 and np.ptp(b) == 0:  # the same scores by every seed: t is not defined, the difference is exact
        return float(b[0] - a[0]), float(b[0] - a[0])
    interval = stats.ttest_ind(b, a, equal_var=False).confidence_interval(confidence)
    return float(interval.low), float(interval.high)
