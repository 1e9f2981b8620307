"""Intervals and comparisons against scipy, against samples written out, and where the truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from simcse.data.pairs import ScoredPairs
from simcse.errors import ConfigError, DataError
from simcse.evaluation.items import Items, pair_items
from simcse.evaluation.resampling import resampled_means, resampled_spearman
from simcse.evaluation.statistics import compare_encoders, mean_interval, more_items

Encode = Callable[[list[str]], np.ndarray]


def angles(gold: np.ndarray, noise: float, seed: int) -> Encode:
    """An encoder whose cosine of pair i (texts `a i`, `b i`) follows gold i, with noise of that deviation."""
    cosines = np.clip(gold / 5 + np.random.default_rng(seed).normal(scale=noise, size=len(gold)), -1, 1)

    def encode(texts: list[str]) -> np.ndarray:
        turned = [np.arccos(cosines[int(text[2:])]) if text[0] == "b" else 0.0 for text in texts]
        return np.stack([np.cos(turned), np.sin(turned)], axis=1)

    return encode


def pairs(n: int, name: str = "task", seed: int = 0) -> ScoredPairs:
    gold = np.random.default_rng(seed).uniform(0, 5, n).round(1)
    return ScoredPairs([f"a {i}" for i in range(n)], [f"b {i}" for i in range(n)], gold, name)


def mean_items(n: int) -> Items:
    """Items whose values an encoder gives as they are."""
    from simcse.evaluation.items import _mean, _resampled_mean

    return Items("task", "retrieval", n, lambda encode: encode([]), _mean, _resampled_mean)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 4), min_size=4, max_size=12), st.integers(0, 1000))
def test_resampled_spearman_is_that_of_the_samples_written_out(gold: list[int], seed: int) -> None:
    """The same draws as counts and as repeated rows; scipy ranks the latter anew."""
    n, scores = len(gold), np.array(gold, dtype=float)
    cosines = np.random.default_rng(seed).integers(0, 6, (2, n)) / 6
    found = resampled_spearman(cosines, scores, [n - 2, 2], 3, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    counts = np.concatenate([rng.multinomial(size, np.full(size, 1 / size), 3) for size in (n - 2, 2)], axis=1)
    for sample, row in zip(counts, found, strict=True):
        rows = np.repeat(np.arange(n), sample)
        for one, value in zip(cosines, row, strict=True):
            if np.ptp(one[rows]) and np.ptp(scores[rows]):
                assert value == pytest.approx(100 * stats.spearmanr(one[rows], scores[rows]).statistic, abs=1e-9)
            else:
                assert math.isnan(value)


def test_subsets_are_resampled_within_themselves() -> None:
    """Two sub-sets put together, or averaged; scipy ranks each sample anew."""
    subsets = [pairs(30, "one"), pairs(20, "two", seed=1)]
    encode = angles(pairs(30).scores, 0.5, 0)
    items = pair_items("task", subsets)
    found = items.resample(items.measure(encode)[None], 100, np.random.default_rng(3))
    rng, drawn = np.random.default_rng(3), []
    counts = np.concatenate(
        [np.concatenate([rng.multinomial(n, np.full(n, 1 / n), rows) for n in (30, 20)], axis=1) for rows in (64, 36)]
    )
    gold = np.concatenate([subset.scores for subset in subsets])
    cosines = np.concatenate([(encode(subset.a) * encode(subset.b)).sum(1) for subset in subsets])
    for sample in counts:
        rows = np.repeat(np.arange(50), sample)
        drawn.append(100 * stats.spearmanr(cosines[rows].round(6), gold[rows]).statistic)
    assert found[:, 0] == pytest.approx(drawn, abs=0.3)
    mean, weighted = (pair_items("task", subsets, how) for how in ("mean", "wmean"))
    parts = [pair_items("task", [subset]).score(pair_items("task", [subset]).measure(encode)) for subset in subsets]
    assert mean.score(mean.measure(encode)) == pytest.approx(np.mean(parts))
    assert weighted.score(weighted.measure(encode)) == pytest.approx(np.average(parts, weights=[30, 20]))
    low, high = weighted.interval(encode)
    assert low < np.average(parts, weights=[30, 20]) < high
    assert weighted.interval(encode) == [low, high]


def test_resampled_means_are_those_of_the_samples_written_out() -> None:
    values = np.random.default_rng(0).normal(size=(40, 3))
    found = resampled_means(values, 100, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    drawn = np.concatenate([rng.integers(40, size=(rows, 40)) for rows in (64, 36)])
    assert found == pytest.approx(values[drawn].mean(axis=1))


def test_as_many_more_items_as_it_says_find_the_difference_in_four_of_five_samples() -> None:
    """Differences of mean 0.1 and deviation 1: 785 items have a power of 80 %, of which 100 are there."""
    more = more_items(0.1, 1 / math.sqrt(100), 0.0, 100, 0.95)
    assert more == pytest.approx(685, abs=1)
    rng = np.random.default_rng(0)
    samples = rng.normal(0.1, 1, (2000, 100 + more))
    significant = np.abs(stats.ttest_1samp(samples, 0, axis=1).statistic) > stats.norm.ppf(0.975)
    assert significant.mean() == pytest.approx(0.8, abs=0.03)
    assert more_items(0.0, 1.0, 0.0, 100, 0.95) is None
    assert more_items(0.1, 0.1, 0.01, 100, 0.95) is None  # the seeds alone have that much error
    # seeds take a part of the error that is allowed, so more items are needed
    assert (more_items(0.1, 0.1, 0.0005, 100, 0.95) or 0) > 1.5 * more


def test_the_interval_over_seeds_is_students() -> None:
    values = [75.1, 76.3, 74.2, 75.9]
    found = mean_interval(values, 0.9)
    expected = stats.t.interval(0.9, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert (found.mean, found.std) == pytest.approx((75.375, np.std(values, ddof=1)))
    assert (found.least, found.greatest, found.n) == (74.2, 76.3, 4)


def test_one_seed_has_no_interval() -> None:
    found = mean_interval([75.0])
    assert found.mean == 75
    assert all(map(math.isnan, (found.std, found.low, found.high)))


def test_a_clear_difference_is_significant_and_its_sign_is_second_minus_first() -> None:
    task = pairs(300)
    found = compare_encoders([angles(task.scores, 0.5, 1)], [angles(task.scores, 0.1, 2)], [pair_items("task", [task])])
    [one] = found.tasks
    assert one.difference == pytest.approx(one.b - one.a)
    assert one.low < one.difference < one.high
    assert one.low > 0
    assert found.significant
    words = found.in_words("rough", "fine")
    assert words.startswith("The difference is statistically significant: on task fine is")
    assert "single seed" in words


def test_an_encoder_does_not_differ_from_itself() -> None:
    task = pairs(50)
    encode = angles(task.scores, 0.3, 1)
    found = compare_encoders([encode], [encode], [pair_items("task", [task])])
    assert (found.average.low, found.average.high) == (0, 0)
    assert not found.significant
    assert found.in_words("a", "b").startswith("There is no difference on task")


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Two encoders of the same quality, 60 worlds: at 90 % about 54 intervals hold 0; fewer than 47 has p < 0.003."""
    inside = 0
    for world in range(60):
        task = pairs(120, seed=world)
        a, b = angles(task.scores, 0.4, 1000 + world), angles(task.scores, 0.4, 2000 + world)
        average = compare_encoders([a], [b], [pair_items("task", [task])], resamples=200, confidence=0.9).average
        inside += average.low <= 0 <= average.high
    assert 47 <= inside < 60


def test_seeds_widen_the_interval_by_their_own_spread() -> None:
    """Seeds of very different quality: what the pairs tell apart the seeds leave open, and the words say so."""
    task = pairs(400)
    a = [angles(task.scores, noise, i) for i, noise in enumerate((0.1, 0.6))]
    b = [angles(task.scores, noise, 10 + i) for i, noise in enumerate((0.09, 0.55))]
    found = compare_encoders(a, b, [pair_items("task", [task])])
    assert found.over_seeds is not None
    expected = stats.ttest_ind(found.scores_b[:, 0], found.scores_a[:, 0], equal_var=False).confidence_interval(0.95)
    assert found.over_seeds == pytest.approx((expected.low, expected.high))
    assert not found.significant
    assert "is not statistically significant" in found.in_words("a", "b")
    alone = compare_encoders(a[:1], b[:1], [pair_items("task", [task])]).average
    assert found.average.high - found.average.low > 3 * (alone.high - alone.low)


def test_of_k_seeds_the_bootstrap_gives_the_mean_its_unbiased_variance() -> None:
    """Without noise in the pairs the variance of b - a is s_a^2 / k_a: here from 3 seeds against one, on many pairs."""
    task = pairs(3000)
    a = [angles(task.scores, noise, i) for i, noise in enumerate((0.2, 0.5, 0.8))]
    b = [angles(task.scores, 0.0, 9)]
    found = compare_encoders(a, b, [pair_items("task", [task])], confidence=0.6827, resamples=2000)
    deviation = found.scores_a[:, 0].std(ddof=1) / math.sqrt(3)
    half = (found.average.high - found.average.low) / 2
    assert half == pytest.approx(deviation, rel=0.35)  # percentiles of the few means that two of three can have


def test_sub_sets_are_put_together_and_tasks_averaged() -> None:
    first, second = pairs(40, "one", 1), pairs(30, "two", 2)
    encode = angles(first.scores, 0.3, 1)
    a, b = encode, angles(first.scores, 0.1, 2)
    found = compare_encoders([a], [b], [pair_items("both", [first, second]), pair_items("one", [first])], resamples=200)
    assert [task.n for task in found.tasks] == [70, 40]
    assert found.average.n == 110
    assert found.average.difference == pytest.approx(np.mean([task.difference for task in found.tasks]))


@pytest.mark.parametrize("confidence", [0, 1, 1.5, math.nan])
def test_a_confidence_out_of_range_is_refused(confidence: float) -> None:
    with pytest.raises(ConfigError, match=r"^confidence is"):
        mean_interval([1.0, 2.0], confidence)


def test_bad_input_is_named() -> None:
    task, flat = pairs(20), ScoredPairs(["a 0", "a 1"], ["b 0", "b 1"], np.array([2.0, 2.0]), "flat.tsv")
    encode = angles(task.scores, 0.3, 1)
    with pytest.raises(DataError, match="finite"):
        mean_interval([1.0, math.nan])
    with pytest.raises(DataError, match="at least one"):
        mean_interval([])
    with pytest.raises(ConfigError, match="resamples is 3: at least 100"):
        compare_encoders([encode], [encode], [pair_items("task", [task])], resamples=3)
    with pytest.raises(ConfigError, match="0 and 1 encoders"):
        compare_encoders([], [encode], [pair_items("task", [task])])
    with pytest.raises(ConfigError, match=r"2 and 1 encoders.*as many of both"):
        compare_encoders([encode] * 2, [encode], [pair_items("task", [task])], paired=True)
    with pytest.raises(DataError, match=r"flat: all 2 gold scores are 2"):
        pair_items("flat", [flat])
    with pytest.raises(DataError, match="1 scored pair, expected at least 2"):
        pair_items("one", [ScoredPairs(["a 0"], ["b 0"], np.array([2.0]), "one")])


def test_seeds_that_belong_together_are_paired() -> None:
    """Seeds of very different quality, each a little better in b: paired, that is seen; apart, it is hidden."""
    task = pairs(400)
    a = [angles(task.scores, noise, 1) for noise in (0.2, 0.4, 0.6)]
    b = [angles(task.scores, noise - 0.04, 1) for noise in (0.2, 0.4, 0.6)]
    items = [pair_items("task", [task])]
    apart, together = (compare_encoders(a, b, items, paired=paired) for paired in (False, True))
    assert not apart.significant
    assert apart.average.more is None
    assert "More pairs alone would not decide it; run more seeds." in apart.in_words("a", "b")
    assert together.significant
    differences = together.scores_b[:, 0] - together.scores_a[:, 0]
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert together.over_seeds == pytest.approx((expected.low, expected.high))


def test_a_difference_that_is_not_significant_says_how_many_pairs_would_make_it_so() -> None:
    """And with about so many it is, in most worlds; `more` of a significant one is None."""
    task, noises = pairs(60), (0.45, 0.40)
    a, b = (angles(task.scores, noise, 20 + i) for i, noise in enumerate(noises))
    found = compare_encoders([a], [b], [pair_items("task", [task])])
    more = found.average.more
    assert more is not None
    assert not found.significant
    assert "more pairs would decide it, if it is as large as it seems" in found.in_words("a", "b")
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    width = found.average.high - found.average.low
    error = width / 2 / stats.norm.ppf(0.975)
    assert 60 + more == pytest.approx(60 * (z * error / found.average.difference) ** 2, rel=0.25)


def test_means_of_queries_and_rows_are_compared_as_pairs_are() -> None:
    """Items whose values stand in the texts: the paired interval is that of the differences of the two."""
    rng = np.random.default_rng(0)
    one = rng.uniform(size=300)
    other = one + rng.normal(0.05, 0.1, 300)
    items = mean_items(300)
    found = compare_encoders([lambda _: one], [lambda _: other], [items], resamples=4000)
    [row] = found.tasks
    half = stats.norm.ppf(0.975) * 100 * (other - one).std() / math.sqrt(300)
    assert row.difference == pytest.approx(100 * (other - one).mean())
    assert (row.low, row.high) == pytest.approx((row.difference - half, row.difference + half), abs=0.1 * half)
    assert "on task b is" in found.in_words("a", "b")
