"""Distillation losses against their formulas, written as loops, and at their minimum."""

from __future__ import annotations

import math

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
    keys = torch.randint(0, 2 * rows, (count, rows), generator=torch.Generator().manual_seed(seed))
    keys[0], keys[1, 1:] = torch.arange(rows) + 100, torch.arange(1, rows) + 200  # each row has a negative
    keys[1, 0] = 100  # and the first is its own positive
    student = InBatchCandidates(0.5)(one, keys=keys)
    teacher = InBatchCandidates(0.2)(other)
    same = keys[0] == keys[1]
    expected = []
    for row in range(rows):
        left = [c for c in range(student.logits.shape[1]) if student.valid is None or student.valid[row, c]]
        left = [c for c in left if not (same[row] and c == int(student.target[row]))]
        p = torch.softmax(torch.tensor([float(teacher.logits[row, c]) for c in left]), 0).tolist()
        q = torch.softmax(torch.tensor([float(student.logits[row, c]) for c in left]), 0).tolist()
        expected.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    found = float(listwise_kl(student, teacher, same))
    assert found == pytest.approx(sum(expected) / rows, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), rows=st.integers(2, 6))
def test_margin_mse_is_its_double_loop(seed: int, rows: int) -> None:
    student, teacher = InBatchCandidates(1.0)(views(seed, rows)), InBatchCandidates(1.0)(views(seed + 1, rows, 3, 7))
    errors = []
    for row in range(rows):
        y = int(student.target[row])
        for c in range(student.logits.shape[1]):
            if c != y:
                ours, theirs = (float(x.logits[row, y] - x.logits[row, c]) for x in (student, teacher))
                errors.append((ours - theirs) ** 2)
    assert float(margin_mse(student, teacher)) == pytest.approx(sum(errors) / len(errors))


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
