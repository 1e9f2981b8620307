"""Samplers: no repeats, no target, and counts that a simulation meets."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simcse.errors import ConfigError, DataError
from simcse.objectives import LogUniform, Noise, Uniform, Unigram


def assert_distinct(drawn: Tensor, target: Tensor) -> None:
    ordered = drawn.sort(1).values
    assert (ordered.diff(dim=1) > 0).all()
    assert (drawn != target[:, None]).all()


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.one_of(st.floats(1e-9, 1e9), st.integers(0, 3)), min_size=2, max_size=40),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_rows_hold_k_distinct_classes_and_never_the_target(weights: list[float], share: float, seed: int) -> None:
    """Whatever the weights, up to all but one of the classes that can be drawn."""
    table = torch.tensor(weights, dtype=torch.float64)
    drawable = int(table.count_nonzero())
    if drawable < 2:
        return
    k = 1 + int(share * (drawable - 2))
    noise = Noise(table, k, seed=seed)
    target = torch.arange(len(weights)).repeat(20)
    drawn = noise.sample(target, torch.Generator().manual_seed(seed))
    assert drawn.shape == (len(target), k)
    assert_distinct(drawn, target)
    assert (table[drawn] > 0).all()


SAMPLERS: dict[str, Callable[[], Noise]] = {
    "uniform": lambda: Uniform(12, 5),
    "uniform, all": lambda: Uniform(6, 5),
    "unigram": lambda: Unigram(torch.tensor([100, 50, 30, 20, 10, 10, 5, 5, 1, 1, 0, 3]), 3),
    "frequency": lambda: Unigram(torch.tensor([9, 8, 7, 6, 5, 4, 3, 2, 1, 1, 1, 1]), 2, power=1.0),
    "log-uniform": lambda: LogUniform(2000, 4),
    "capped": lambda: Noise(torch.tensor([1e6, 1.0, 2.0, 3.0, 4.0]), 3),
}


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("target", [0, 1, 5])
def test_expected_count_is_what_a_simulation_counts(name: str, target: int) -> None:
    """Counts are means of 0/1 draws: each within 5 of its standard deviations of exp(log_expected_count)."""
    noise, draws = SAMPLERS[name](), 40_000
    classes = torch.arange(len(noise.log_probability()))
    target = min(target, len(classes) - 1)
    expected = noise.log_expected_count(classes[None], torch.tensor([target]))[0].exp().double()
    expected[target] = 0.0
    assert float(expected.sum()) == pytest.approx(noise.k, rel=1e-6)
    generator = torch.Generator().manual_seed(target)
    calls = [noise.sample(torch.full((draws // 100,), target), generator) for _ in range(100)]
    counted = torch.cat(calls).flatten().bincount(minlength=len(classes)) / draws
    deviation = (expected * (1 - expected).clamp(min=0) / draws).sqrt()
    assert ((counted - expected).abs() <= 5 * deviation + 1e-6).all()


def test_probabilities_are_the_formulas() -> None:
    q = Uniform(50, 3).log_probability().exp()
    torch.testing.assert_close(q, torch.full((50,), 0.02, dtype=torch.float64))
    counts = torch.arange(1, 101)
    q = Unigram(counts, 5).log_probability().exp()
    torch.testing.assert_close(q, counts.double() ** 0.75 / (counts.double() ** 0.75).sum())
    q = Unigram(torch.tensor([0.5, 0.25, 1.0]), 1, power=0.5).log_probability().exp()
    torch.testing.assert_close(q, torch.tensor([0.5**0.5, 0.5, 1.0]).double() / (0.5**0.5 + 1.5))
    q = LogUniform(1000, 5).log_probability().exp()
    expected = [(math.log(c + 2) - math.log(c + 1)) / math.log(1001) for c in range(1000)]
    torch.testing.assert_close(q, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0.0)


def test_only_a_class_without_weight_is_never_drawn() -> None:
    """The shortest stretch of the line is 1; power 0 makes all classes that were seen alike, and no others."""
    found = Noise(torch.tensor([1.0, 1.0, 1e-30, 0.0], dtype=torch.float64), 1).log_probability()
    assert float(found[2]) == pytest.approx(-48 * math.log(2), rel=1e-9)
    assert float(found[3]) == -math.inf
    found = Unigram(torch.tensor([4, 0, 3]), 1, power=0.0).log_probability()
    torch.testing.assert_close(found, torch.tensor([math.log(0.5), -math.inf, math.log(0.5)], dtype=torch.float64))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_points_on_the_border_of_two_classes(monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    """On a line of 24 nearly every point is a border: each belongs to the class that begins there."""
    monkeypatch.setattr("simcse.objectives.noise._LENGTH", 24)
    noise, target = Uniform(6, k, seed=3), torch.arange(6).repeat(400)
    drawn = noise.sample(target, torch.Generator().manual_seed(0))
    assert_distinct(drawn, target)
    counted = torch.stack([drawn[target == one].flatten().bincount(minlength=6) for one in range(6)]) / 400
    expected = (1 - torch.eye(6)) * k / 5
    assert float((counted - expected).abs().max()) < 5 * math.sqrt(0.25 / 400)


@pytest.mark.parametrize(
    "make",
    [
        lambda **seed: Noise(torch.arange(1, 41), 3, **seed), lambda **seed: Uniform(40, 3, **seed),
        lambda **seed: Unigram(torch.arange(1, 41), 3, **seed), lambda **seed: LogUniform(40, 3, **seed),
    ],
    ids=["Noise", "Uniform", "Unigram", "LogUniform"],
)  # fmt: skip
def test_the_seed_fixes_the_order_of_classes(make: Callable[..., Noise]) -> None:
    target = torch.zeros(50, dtype=torch.int64)
    draws = [make(**seed).sample(target, torch.Generator().manual_seed(0)) for seed in ({}, {"seed": 0}, {"seed": 1})]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_class_too_likely_to_be_drawn_once_is_capped() -> None:
    """Weights 1e6 : 1 : 2 : 3 : 4 and k = 3, so none may pass 1/4. The first is cut to it; of the 3/4 that are left the
    last would have 0.3, so it is cut too, and then 3 is: 0.5 * 3/6 is just 1/4, beside 1/12 and 1/6."""
    noise = SAMPLERS["capped"]()
    assert noise._total == pytest.approx(2**48, rel=1e-9), "the line keeps its length, and with it its resolution"
    q = noise.log_probability().exp()
    torch.testing.assert_close(q, torch.tensor([0.25, 1 / 12, 1 / 6, 0.25, 0.25], dtype=torch.float64))


def test_expected_count_without_a_target() -> None:
    noise = Uniform(10, 4)
    torch.testing.assert_close(noise.log_expected_count(torch.arange(10)), torch.full((10,), math.log(0.4)))


def test_large_vocabulary() -> None:
    noise, target = LogUniform(200_000, 64), torch.randint(200_000, (256,), generator=torch.Generator().manual_seed(0))
    drawn = noise.sample(target, torch.Generator().manual_seed(0))
    assert_distinct(drawn, target)
    again = noise.sample(target, torch.Generator().manual_seed(0))
    other = noise.sample(target, torch.Generator().manual_seed(1))
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, other)


def test_neighbours_on_the_line_change_from_call_to_call() -> None:
    """Which two of 12 classes meet in a row varies: in 300 calls every pair meets, none over 3 times the mean."""
    noise, generator = Uniform(12, 3), torch.Generator().manual_seed(0)
    meetings = torch.zeros(12, 12)
    for _ in range(300):
        row = noise.sample(torch.tensor([0]), generator)[0]
        meetings[row[:, None], row] += 1
    pairs = meetings[1:, 1:][~torch.eye(11, dtype=torch.bool)]
    assert float(pairs.min()) > 0
    assert float(pairs.max()) < 3 * float(pairs.mean())


def test_wrong_input_is_named() -> None:
    for k in (0, 5, 9):
        with pytest.raises(ConfigError, match=f"k is {k}, expected 1 to 4, as 5 classes can be drawn"):
            Uniform(5, k)
    with pytest.raises(ConfigError, match="expected 1 to 1, as 2 classes can be drawn"):
        Unigram(torch.tensor([4, 0, 3]), 2)
    with pytest.raises(ConfigError, match="power is -1"):
        Unigram(torch.tensor([4, 1, 3]), 1, power=-1)
    with pytest.raises(ConfigError, match="power is inf"):
        Unigram(torch.tensor([4, 1, 3]), 1, power=math.inf)
    with pytest.raises(DataError, match=r"class 2: weight is -1\.0"):
        Noise(torch.tensor([0.5, 0.0, -1.0, 2.0]), 1)
    with pytest.raises(DataError, match="class 2: weight is nan"):
        Noise(torch.tensor([1.0, 1.0, math.nan]), 1)
    with pytest.raises(DataError, match="row 1: target is 5, expected a class from 0 to 4"):
        Uniform(5, 2).sample(torch.tensor([0, 5]))
