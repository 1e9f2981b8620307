"""Losses of pairs with a gold score: what two vectors are compared by, and what is made of order or value."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SCORED", "angle", "cosent", "cosine_mse"]

ScoredLoss = Callable[[Tensor, Tensor, float], Tensor]


def cosent(pairs: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """log(1 + sum exp((cos_j - cos_i) / temperature)) over all i, j where pair i has the higher score (Su 2022).

    It asks for the order of the scores alone, which is what Spearman's correlation measures.

    Args:
        pairs: (n, 2, D) vectors.
        scores: (n,) gold, in any unit.
        temperature: divides the cosines (Su: 0.05).
    """
    return _ranked(F.cosine_similarity(pairs[:, 0], pairs[:, 1], dim=-1) / temperature, scores)


def angle(pairs: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """As `cosent`, with the angle of the two vectors as complex numbers in place of the cosine (AnglE, Li and Li 2023,
    eq. 7), which does not go flat where a cosine is near 1 or -1.

    Args:
        pairs: (n, 2, D) vectors, D even: the first half real, the second imaginary parts.
        scores: (n,) gold, in any unit.
        temperature: divides the similarities (Li and Li: 0.05).
    """
    a, b = (torch.complex(*vectors.chunk(2, dim=-1)) for vectors in pairs.unbind(1))  # (n, D / 2)
    quotient = a * b.conj() / (torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1))[:, None]
    return _ranked((quotient.real + quotient.imag).sum(-1).abs() / temperature, scores)


def cosine_mse(pairs: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Mean squared difference of cosine and score (Reimers and Gurevych 2019, "regression objective").

    Args:
        pairs: (n, 2, D) vectors.
        scores: (n,) gold from 0 to 1.
        temperature: unused: cosines are compared as they are.
    """
    return F.mse_loss(F.cosine_similarity(pairs[:, 0], pairs[:, 1], dim=-1), scores)


def _ranked(similarities: Tensor, scores: Tensor) -> Tensor:
    """log(1 + the sum of exp(s_j - s_i)) over all pairs (i, j) that should stand the other way round."""
    wrong = scores[:, None] > scores[None, :]  # (n, n): i above j
    gaps = (similarities[None, :] - similarities[:, None])[wrong]
    return torch.logsumexp(torch.cat([gaps.new_zeros(1), gaps]), dim=0)


SCORED: Mapping[str, ScoredLoss] = {"angle": angle, "cosent": cosent, "cosine_mse": cosine_mse}
"""Losses of scored pairs by the name that a config uses."""
