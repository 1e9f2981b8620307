"""How sure a difference between two encoders is: intervals over items and over seeds.

One run's score says little: seeds of the paper's own recipe spread widely (`published.RECIPES`).
And a task's pairs, queries or rows are a sample too. So both encoders are evaluated on the same resampled items, and
seeds are resampled with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simcse.errors import ConfigError, DataError
from simcse.evaluation.items import KINDS, Items
from simcse.evaluation.resampling import Floats, percentiles
from simcse.vectors import CachedEncoder, Encode

__all__ = [
    "POWER",
    "Comparison",
    "Difference",
    "Interval",
    "compare_encoders",
    "mean_interval",
    "rounded",
]

POWER = 0.8  # of the test that a difference's `more` makes possible; Cohen's convention
FAR = 1000  # times the items that there are: more than anybody will collect


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
    """Two encoders on one task: `b - a`, in points (of 100)."""

    name: str
    a: float
    """Score x 100 of the first, mean over its seeds."""
    b: float
    low: float
    """Of the bootstrap interval of b - a."""
    high: float
    n: int
    """Pairs, queries or rows."""
    more: int | None
    """How many further ones would make this difference significant, see `more_items`; None where it is, or where no
    number of them would."""

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
    """Two encoders over all tasks of a kind."""

    kind: str
    """A key of `items.KINDS`: what is counted, and by which score."""
    tasks: list[Difference]
    average: Difference
    """Of the mean over the tasks; the only task itself where there is one."""
    scores_a: Floats
    """(k_a, T): score x 100 of each seed on each task."""
    scores_b: Floats
    """(k_b, T)."""
    over_seeds: tuple[float, float] | None
    """The t interval of the average's b - a over seeds alone, paired or Welch's; None unless both have two or more."""
    paired: bool
    """Whether seed i of one belongs to seed i of the other."""
    confidence: float
    resamples: int

    @property
    def rows(self) -> list[Difference]:
        """The tasks, and their average where there are several."""
        return [*self.tasks, self.average] if len(self.tasks) > 1 else self.tasks

    @property
    def significant(self) -> bool:
        """Whether the average differs by the bootstrap and, where there are seeds to tell, by their interval too."""
        return self.average.significant and (
            self.over_seeds is None or self.over_seeds[0] > 0 or self.over_seeds[1] < 0
        )

    def in_words(self, name_a: str, name_b: str) -> str:
        """A sentence or two on the average: which is better, by how much, and whether that is significant."""
        average, unit = self.average, KINDS[self.kind][0]
        found = f"{100 * self.confidence:g} % interval {_span(average.low, average.high)}"
        better, worse = (name_b, name_a) if average.difference > 0 else (name_a, name_b)
        on = average.name if len(self.tasks) == 1 else f"the average of {len(self.tasks)} tasks"
        gap = f"on {on} {better} is {abs(average.difference):.2f} points above {worse}"
        if self.significant:
            words = f"The difference is statistically significant: {gap} ({found})."
        elif average.significant and self.over_seeds is not None:
            test = "the paired t interval" if self.paired else "Welch's interval"
            words = (
                f"The difference is not statistically significant: {gap} ({found} over {unit} and seeds), but seeds "
                f"alone leave it open ({test} {_span(*self.over_seeds)}); run more seeds."
            )
        elif average.difference == 0:
            words = f"There is no difference on {on} ({found})."
        else:
            words = f"The difference is not statistically significant: {gap}, but 0 lies within the {found}."
            words += (
                f" About {rounded(average.more)} more {unit} would decide it, if it is as large as it seems."
                if average.more is not None
                else f" More {unit} alone would not decide it{'' if self.over_seeds is None else '; run more seeds'}."
            )
        if min(len(self.scores_a), len(self.scores_b)) == 1:
            words += (
                f" Seeds: {len(self.scores_a)} against {len(self.scores_b)}. A single seed does not tell how "
                "far runs spread, so this tells two encoders apart, not the methods behind them."
            )
        return words


def compare_encoders(
    a: Sequence[Encode],
    b: Sequence[Encode],
    tasks: Sequence[Items],
    *,
    paired: bool = False,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Evaluate two sets of encoders, each one or several seeds of a method, on the same items.

    Each resample draws the items of every task with replacement, the same for all encoders, and the seeds of each
    side, the same for all tasks. Of k seeds it draws k - 1: that gives the mean the unbiased variance s^2 / k, where k
    of k would give (k - 1) / k of it. The interval is the bootstrap's percentiles.

    Args:
        a, b: encoders of the first and the second method.
        tasks: all of one kind.
        paired: whether encoder i of a and encoder i of b share their seed: both are drawn together then.
        resamples: of the bootstrap.
        confidence: of all intervals.
        seed: of the bootstrap.

    Raises:
        ConfigError: no encoder or task, confidence or resamples out of range, unequal numbers of paired seeds.
        DataError, ModelError: as the tasks' measures; names task and row.
    """
    check_confidence(confidence)
    if resamples < 100:
        raise ConfigError(f"resamples is {resamples}: at least 100, for the ends of an interval to mean something")
    if not (a and b and tasks) or (paired and len(a) != len(b)):
        expected = "expected at least one of each, as many of both where seeds are paired"
        raise ConfigError(f"found {len(a)} and {len(b)} encoders and {len(tasks)} tasks, {expected}")
    measured = [_measured(encode, tasks) for encode in (*a, *b)]  # k_a + k_b of T arrays
    rng, k_a = np.random.default_rng(seed), len(a)
    picks_a = _seed_draws(rng, resamples, k_a)
    picks_b = picks_a if paired else _seed_draws(rng, resamples, len(b))
    scores = np.empty((len(measured), len(tasks)))
    differences, of_items = np.empty((2, resamples, len(tasks)))
    for t, task in enumerate(tasks):
        together = np.stack([of_encoder[t] for of_encoder in measured])  # (k, n)
        scores[:, t] = [task.score(one) for one in together]
        drawn = task.resample(together, resamples, rng)  # (R, k)
        picked_a = np.take_along_axis(drawn[:, :k_a], picks_a, axis=1).mean(axis=1)
        picked_b = np.take_along_axis(drawn[:, k_a:], picks_b, axis=1).mean(axis=1)
        differences[:, t] = picked_b - picked_a
        of_items[:, t] = drawn[:, k_a:].mean(axis=1) - drawn[:, :k_a].mean(axis=1)  # all seeds, always
    scores_a, scores_b = scores[:k_a], scores[k_a:]

    def difference(name: str, columns: slice, n: int) -> Difference:
        low, high = percentiles(differences[:, columns].mean(axis=1), confidence)
        of_a, of_b = scores_a[:, columns].mean(axis=1), scores_b[:, columns].mean(axis=1)  # (k,)
        gap, error = float(of_b.mean() - of_a.mean()), float(np.nanstd(of_items[:, columns].mean(axis=1)))
        more = None
        if low <= 0 <= high:
            more = more_items(gap, error, seeds_variance(of_a, of_b, paired), n, confidence)
        return Difference(name, float(of_a.mean()), float(of_b.mean()), low, high, n, more)

    found = [difference(task.name, slice(t, t + 1), task.n) for t, task in enumerate(tasks)]
    average = difference("average", slice(None), sum(task.n for task in tasks)) if len(tasks) > 1 else found[0]
    over_seeds = _over_seeds(scores_a.mean(axis=1), scores_b.mean(axis=1), paired, confidence)
    return Comparison(tasks[0].kind, found, average, scores_a, scores_b, over_seeds, paired, confidence, resamples)


def more_items(gap: float, error: float, of_seeds: float, n: int, confidence: float) -> int | None:
    """How many items more a two-sided test needs to find a difference in `POWER` of all samples; None where there is no
    such number, or none within reach.

    n items gave it a standard error of `error`, and n' give `error` sqrt(n / n'); the seeds' share stays. A test of
    that power needs a difference of z = z(1 - alpha / 2) + z(power) standard errors (2.80 at 95 %).

    Args:
        gap: the difference, taken to be the true one.
        error: its standard error over items.
        of_seeds: its variance over seeds.
        n: items that there are.
        confidence: of the test.
    """
    from scipy import stats

    z = stats.norm.ppf((1 + confidence) / 2) + stats.norm.ppf(POWER)
    left = (gap / z) ** 2 - of_seeds  # variance that the items may have
    if not left > 0 or error**2 / left > FAR:
        return None
    return max(1, math.ceil(n * error**2 / left) - n)


def seeds_variance(a: Floats, b: Floats, paired: bool) -> float:
    """The variance of mean(b) - mean(a) over seeds, as far as it is known: 0 for one seed."""
    groups = [b - a] if paired else [a, b]
    return sum(float(group.var(ddof=1)) / len(group) for group in groups if len(group) > 1)


def _measured(encode: Encode, tasks: Sequence[Items]) -> list[Floats]:
    once = CachedEncoder(encode)
    if sentences := [sentence for task in tasks for sentence in task.sentences]:
        once(sentences)
    return [task.measure(once if task.sentences else encode) for task in tasks]


def _seed_draws(rng: np.random.Generator, resamples: int, seeds: int) -> NDArray[np.int64]:
    return rng.integers(seeds, size=(resamples, max(1, seeds - 1)))


def rounded(number: int) -> str:
    """To two digits: an estimate has no more."""
    return f"{float(f'{number:.1e}'):,.0f}"


def _span(low: float, high: float) -> str:
    return f"{low:+.2f} to {high:+.2f}"


def _over_seeds(a: Floats, b: Floats, paired: bool, confidence: float) -> tuple[float, float] | None:
    from scipy import stats

    if len(a) < 2 or len(b) < 2:
        return None
    if paired:
        found = mean_interval((b - a).tolist(), confidence)
        return found.low, found.high
    if np.ptp(a) == 0 and np.ptp(b) == 0:  # the same scores by every seed: t is not defined, the difference is exact
        return float(b[0] - a[0]), float(b[0] - a[0])
    interval = stats.ttest_ind(b, a, equal_var=False).confidence_interval(confidence)
    return float(interval.low), float(interval.high)
