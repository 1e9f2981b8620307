"""Cross-entropy over the candidates of a row, and its kin.

Where a docstring names a limit, it is what a free score table converges to, normalised over the candidates; the tests
in `tests/objectives/test_theory.py` prove it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from simcse.errors import ConfigError
from simcse.objectives.logits import ContrastiveLogits

__all__ = ["BackwardCorrected", "Decoupled", "LabelSmoothed", "Margin", "SoftmaxCrossEntropy"]


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """-log softmax(s)_y, the loss of SimCSE (eq. 1) and InfoNCE (van den Oord et al. 2018, eq. 4).

    Limit: p_d(y | x).
    """

    needs_counts: ClassVar[bool] = False
    needs_angles: ClassVar[bool] = False

    def __call__(self, scores: ContrastiveLogits) -> Tensor:
        """The mean over the rows, a scalar."""
        return F.cross_entropy(scores.masked, scores.target)


@dataclass(frozen=True)
class LabelSmoothed:
    """-(1 - l) log softmax(s)_y - l / n sum_c log softmax(s)_c over the row's n valid candidates (Szegedy et al. 2016).

    Limit: (1 - l) p_d(y | x) + l / |Y| (Kamigaito and Hayashi 2021, table 1).

    Raises:
        ConfigError: smoothing outside [0, 1).
    """

    needs_counts: ClassVar[bool] = False
    needs_angles: ClassVar[bool] = False

    smoothing: float = 0.1
    """Share l of the target's probability that is spread evenly; 0.1 as in Szegedy et al. 2016, section 7."""

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"objective label_smoothed: smoothing is {self.smoothing}, expected 0 <= smoothing < 1")

    def __call__(self, scores: ContrastiveLogits) -> Tensor:
        """The mean over the rows, a scalar."""
        if scores.valid is None:  # torch's own is faster, and infinite on a masked logit
            return F.cross_entropy(scores.logits, scores.target, label_smoothing=self.smoothing)
        even = scores.logits.masked_fill(~scores.valid, 0.0).sum(1) / scores.valid.count_nonzero(1)  # (R,)
        expected = (1 - self.smoothing) * scores.positive + self.smoothing * even  # (R,)
        return (scores.masked.logsumexp(1) - expected).mean()


@dataclass(frozen=True)
class BackwardCorrected:
    """-(#x / #y) log softmax(s)_y with training counts of the query and of its answer, `ContrastiveLogits.correction`.

    Limit: p_d(y | x) / p_d(y), normalised (Kamigaito and Hayashi 2021, table 1; backward correction is
    from Patrini et al. 2017). It gives rare answers the weight of frequent ones, as negative sampling with frequency
    noise does.

    Raises:
        ConfigError: scores without counts.
    """

    needs_counts: ClassVar[bool] = True
    needs_angles: ClassVar[bool] = False

    def __call__(self, scores: ContrastiveLogits) -> Tensor:
        """The mean over the rows, a scalar."""
        if scores.correction is None:
            raise ConfigError(
                "objective backward_corrected needs the counts of the texts and the scores carry none: "
                "pass log_frequency to the candidate set, or fill ContrastiveLogits.correction"
            )
        losses = F.cross_entropy(scores.masked, scores.target, reduction="none")  # (R,)
        return (scores.correction * losses).mean()


@dataclass(frozen=True)
class Decoupled:
    """-s_y + log sum over the negatives of exp(s), the target left out of the sum (DCL, Yeh et al. 2022).

    A row keeps its gradient when the positive is already close, so small batches learn more. No limit where one answer
    has more than half of p_d(y | x), as between two views of a text: the loss then falls without end, so scores have to
    be bounded (cosines).
    """

    needs_counts: ClassVar[bool] = False
    needs_angles: ClassVar[bool] = False

    def __call__(self, scores: ContrastiveLogits) -> Tensor:
        """The mean over the rows, a scalar."""
        others = scores.logits.masked_fill(~scores.negatives, -math.inf)  # (R, C)
        return (others.logsumexp(1) - scores.positive).mean()


@dataclass(frozen=True)
class Margin:
    """Cross-entropy with the target's cosine cos(a) replaced by cos(a + m) (ArcFace, Deng et al. 2019, eq. 3).

    ArcCSE (Zhang et al. 2022) uses it for sentences. Where a + m would pass pi, the cosine falls on as
    cos(a) - m sin(m), so that the loss stays monotonic.

    Raises:
        ConfigError: margin outside [0, pi), or scores that are not cosines.
    """

    needs_counts: ClassVar[bool] = False
    needs_angles: ClassVar[bool] = True

    margin: float = math.pi / 18
    """m in radians; 10 degrees as in ArcCSE."""

    def __post_init__(self) -> None:
        if not 0 <= self.margin < math.pi:
            raise ConfigError(f"objective margin: margin is {self.margin} radians, expected 0 <= margin < pi")

    def __call__(self, scores: ContrastiveLogits) -> Tensor:
        """The mean over the rows, a scalar."""
        if scores.temperature is None:
            raise ConfigError("objective margin needs angles and the scores are no cosines: set similarity to 'cosine'")
        edge = 1 - 8 * torch.finfo(scores.logits.dtype).eps  # the angle has no slope at cosine 1
        cosine = (scores.positive * scores.temperature).clamp(-edge, edge)  # (R,)
        turned = cosine * math.cos(self.margin) - (1 - cosine.square()).sqrt() * math.sin(self.margin)
        beyond = cosine - self.margin * math.sin(self.margin)
        target = torch.where(cosine > -math.cos(self.margin), turned, beyond) / scores.temperature  # (R,)
        logits = scores.masked.scatter(1, scores.target[:, None], target[:, None])  # (R, C)
        return F.cross_entropy(logits, scores.target)
