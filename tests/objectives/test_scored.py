"""Losses of scored pairs against their formulas, written as loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simcse.objectives.scored import SCORED, angle, cosent, cosine_mse


def made(seed: int, n: int, width: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randn(n, 2, width, generator=generator, dtype=torch.float64)
    return pairs, torch.randint(0, 4, (n,), generator=generator).double() / 3


def ranked(similarities: list[float], scores: list[float]) -> float:
    total = 1.0
    for i, high in enumerate(scores):
        for j, low in enumerate(scores):
            if high > low:
                total += math.exp(similarities[j] - similarities[i])
    return math.log(total)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(1, 9), temperature=st.floats(0.1, 2.0))
def test_cosent_is_its_double_loop(seed: int, n: int, temperature: float) -> None:
    pairs, scores = made(seed, n)
    cosines = [float(a @ b / a.norm() / b.norm()) / temperature for a, b in pairs]
    assert float(cosent(pairs, scores, temperature)) == pytest.approx(ranked(cosines, scores.tolist()))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(1, 9), temperature=st.floats(0.1, 2.0))
def test_angle_is_its_double_loop(seed: int, n: int, temperature: float) -> None:
    pairs, scores = made(seed, n)
    found = []
    for a, b in pairs.tolist():
        half = len(a) // 2
        z, w = ([complex(*both) for both in zip(v[:half], v[half:], strict=True)] for v in (a, b))
        sizes = math.sqrt(sum(abs(x) ** 2 for x in z)) * math.sqrt(sum(abs(x) ** 2 for x in w))
        whole = sum(x * y.conjugate() for x, y in zip(z, w, strict=True)) / sizes
        found.append(abs(whole.real + whole.imag) / temperature)
    assert float(angle(pairs, scores, temperature)) == pytest.approx(ranked(found, scores.tolist()))


def test_cosine_mse() -> None:
    pairs, scores = made(1, 5)
    cosines = torch.stack([a @ b / a.norm() / b.norm() for a, b in pairs])
    torch.testing.assert_close(cosine_mse(pairs, scores, 0.05), ((cosines - scores) ** 2).mean())


@pytest.mark.parametrize("name", list(SCORED))
def test_a_step_down_the_gradient_brings_order(name: str) -> None:
    pairs, scores = made(2, 8)
    pairs.requires_grad_()
    for _ in range(400):
        loss = SCORED[name](pairs, scores, 0.5)
        [gradient] = torch.autograd.grad(loss, pairs)
        with torch.no_grad():
            pairs -= gradient
    cosines = torch.nn.functional.cosine_similarity(pairs[:, 0], pairs[:, 1], dim=-1)
    order = (scores[:, None] > scores[None, :]) & (cosines[:, None] <= cosines[None, :])
    assert name == "angle" or not order.any()
    assert torch.isfinite(pairs).all()
