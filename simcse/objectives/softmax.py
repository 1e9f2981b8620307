"""Cross-entropy over the candidates of a row, and its kin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from simcse.objectives.table import Scores

__all__ = ["SoftmaxCrossEntropy"]


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """-log softmax(s)_y, the loss of SimCSE (eq. 1) and InfoNCE (van den Oord et al. 2018, eq. 4).

    A free score table converges to p_d(y | x).
    """

    needs_counts: ClassVar[bool] = False

    def __call__(self, scores: Scores) -> Tensor:
        """The mean over the rows, a scalar."""
        return F.cross_entropy(scores.masked, scores.target)
