"""Losses of a student's vectors against a teacher's: of their similarities, or of the vectors themselves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from simcse.objectives.logits import ContrastiveLogits

__all__ = ["listwise_kl", "margin_mse", "vector_loss"]


def listwise_kl(student: ContrastiveLogits, teacher: ContrastiveLogits, same_text: Tensor | None = None) -> Tensor:
    """KL divergence of the student's distribution over a row's candidates from the teacher's; the mean over the rows.

    Args:
        student: (R, C) similarities over temperature.
        teacher: the same of the teacher's vectors, without gradient.
        same_text: (R,) rows whose positive is the anchor's own text, which is left out: its similarity says nothing.
    """
    valid = torch.ones_like(student.logits, dtype=torch.bool) if student.valid is None else student.valid
    if same_text is not None:
        valid = valid.scatter(1, student.target[:, None], ~same_text[:, None])
    # a finite floor: the gradient of an infinite logit is NaN
    floor = torch.finfo(student.logits.dtype).min
    log_p = F.log_softmax(teacher.logits.masked_fill(~valid, floor), dim=-1)  # (R, C)
    log_q = F.log_softmax(student.logits.masked_fill(~valid, floor), dim=-1)  # (R, C)
    return (log_p.exp() * (log_p - log_q).masked_fill(~valid, 0.0)).sum(-1).mean()


def margin_mse(student: ContrastiveLogits, teacher: ContrastiveLogits) -> Tensor:
    """Mean squared difference of the margins of positive and negative (Hofstätter et al. 2020), over all negatives.

    Args:
        student: (R, C) similarities over a temperature of 1.
        teacher: the same of the teacher's vectors, without gradient.
    """
    error = (student.positive[:, None] - student.logits) - (teacher.positive[:, None] - teacher.logits)  # (R, C)
    return error[student.negatives].square().mean()


def vector_loss(student: Tensor, teacher: Tensor, kind: str) -> Tensor:
    """Distance of the student's vectors from the teacher's, the mean over all.

    Args:
        student: (..., D).
        teacher: (..., D) of unit length, without gradient.
        kind: "l2", the squared distance as it is (LEAF, Vujanic and Rueckstiess 2025, eq. 1), or "cosine", 1 - cosine.
    """
    if kind == "l2":
        return (student - teacher).square().sum(-1).mean()
    return (1 - F.cosine_similarity(student, teacher, dim=-1)).mean()
