"""Distillation losses against their formulas, written as loops, and at their minimum."""

from __future__ import annotations

import math
from dataclasses import replace

import naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simcse.objectives import InBatchCandidates
from simcse.objectives.distillation import listwise_kl, margin_mse, vector_loss


def views(seed: int, rows: int, count: int = 3, width: int = 5) -> Tensor:
    return torch.randn(count, rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), rows=st.integers(2, 6), count=st.integers(2, 4))
def test_listwise_kl_is_its_double_loop(seed: int, rows: int, count: int) -> None:
    one, other = views(seed, rows, count), views(seed + 1, rows, count, 7)
    keys = torch.randint(98, 100 + rows, (count, rows), generator=torch.Generator().manual_seed(seed))  # some an anchor
    keys[0], keys[1, 1:] = torch.arange(rows) + 100, torch.arange(1, rows) + 200  # each row has a negative
    keys[1, 0] = 100  # and the first is its own positive
    student = InBatchCandidates(0.5)(one, keys=keys)
    teacher = InBatchCandidates(0.2)(other)
    same = keys[0] == keys[1]
    texts = naive.Texts(list(one), keys=keys.tolist())
    expected = naive.distilled("kl", texts, list(other), "in_batch", (0.5, 0.2))
    torch.testing.assert_close(listwise_kl(student, teacher, same), expected, rtol=1e-6, atol=1e-9)
    unmasked = InBatchCandidates(0.5)(one)
    whole = torch.ones_like(unmasked.logits, dtype=torch.bool)
    losses = [listwise_kl(replace(unmasked, valid=valid), teacher) for valid in (None, whole)]
    torch.testing.assert_close(losses[0], losses[1])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), rows=st.integers(2, 6))
def test_margin_mse_is_its_double_loop(seed: int, rows: int) -> None:
    ours, theirs = views(seed, rows), views(seed + 1, rows, 3, 7)
    expected = naive.distilled("margin_mse", naive.Texts(list(ours)), list(theirs), "in_batch", (1.0, 1.0))
    torch.testing.assert_close(margin_mse(InBatchCandidates(1.0)(ours), InBatchCandidates(1.0)(theirs)), expected)


def test_vector_losses_are_their_loops() -> None:
    student, teacher = views(1, 4), torch.nn.functional.normalize(views(2, 4), dim=-1)
    pairs = [(student[v, i].tolist(), teacher[v, i].tolist()) for v in range(3) for i in range(4)]
    squares = [sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in pairs]
    assert float(vector_loss(student, teacher, "l2")) == pytest.approx(sum(squares) / 12)
    angles = [sum(a * b for a, b in zip(*pair, strict=True)) / math.hypot(*pair[0]) for pair in pairs]
    assert float(vector_loss(student, teacher, "cosine")) == pytest.approx(1 - sum(angles) / 12)


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    mine = views(3, 6).requires_grad_()
    logits = InBatchCandidates(0.05)(mine)
    cosines = InBatchCandidates(1.0)(mine)
    unit = torch.nn.functional.normalize(mine, dim=-1)
    for loss in (
        listwise_kl(logits, InBatchCandidates(0.05)(mine.detach())),
        margin_mse(cosines, InBatchCandidates(1.0)(mine.detach())),
        vector_loss(unit, unit.detach(), "l2"),
        vector_loss(mine, unit.detach(), "cosine"),
    ):
        assert float(loss.detach()) == pytest.approx(0, abs=1e-9)
        [gradient] = torch.autograd.grad(loss, mine, retain_graph=True)
        assert gradient.abs().max() < 1e-6
