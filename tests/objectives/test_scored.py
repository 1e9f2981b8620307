"""Losses of scored pairs against their formulas, written as loops."""

from __future__ import annotations

import naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simcse.objectives.scored import SCORED


def made(seed: int, n: int, width: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randn(n, 2, width, generator=generator, dtype=torch.float64)
    return pairs, torch.randint(0, 4, (n,), generator=generator).double() / 3


@pytest.mark.parametrize("name", list(SCORED))
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(1, 9), temperature=st.floats(0.1, 2.0))
def test_each_is_its_double_loop(name: str, seed: int, n: int, temperature: float) -> None:
    pairs, scores = made(seed, n)
    expected = naive.scored(name, list(pairs), scores.tolist(), temperature)
    torch.testing.assert_close(SCORED[name](pairs, scores, temperature), expected)


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
