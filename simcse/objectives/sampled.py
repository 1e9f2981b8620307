"""Objectives that tell the right candidate from noise, rather than from every other candidate.

Where a docstring names a limit, it is what a free score table converges to when the noise is drawn without regard to
the target; `tests/objectives/test_theory.py` proves it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from simcse.errors import ConfigError
from simcse.objectives.logits import ContrastiveLogits

__all__ = ["NegativeSampling", "NoiseContrastive", "SampledSoftmax", "SelfAdversarial"]


@dataclass(frozen=True)
class NoiseContrastive:
    """-log sigmoid(d_y) - sum over the negatives of log sigmoid(-d), where d = s + b - log(k q).

    NCE (Gutmann and Hyvarinen 2010; for conditional models Mnih and Teh 2012, section 3): log(k q) is
    `ContrastiveLogits.log_noise`, and the partition function is not computed but fixed at exp(-b). Limit: exp(s + b) is
    p_d(y | x) itself, whose sum over y is 1.

    Raises:
        ConfigError: scores without counts, or a bias that is not finite.
    """

    needs_counts: ClassVar[bool] = True
    needs_angles: ClassVar[bool] = False

    bias: float = 0.0
    """b, added to each score; 0 as in Mnih and Teh. Cosines over a temperature are bounded and need one below 0."""

    def __post_init__(self) -> None:
        _check_finite("noise_contrastive", "bias", self.bias)

    def __call__(self, scores: ContrastiveLogits) -> Tensor:
        """The mean over the rows, a scalar."""
        if scores.log_noise is None:
            raise ConfigError(_NO_NOISE.format("noise_contrastive"))
        return _logistic(scores, scores.logits + (self.bias - scores.log_noise)).mean()


@dataclass(frozen=True)
class NegativeSampling:
    """-log sigmoid(s_y + b) - sum over the negatives of log sigmoid(-(s + b)) (Mikolov et al. 2013, eq. 4).

    Limit: p_d(y | x) / q(y), normalised: p_d(y | x) for uniform noise, p_d(y | x) / p_d(y) for frequency noise, which
    the other rows of a batch are (Kamigaito and Hayashi 2021, table 1).

    Raises:
        ConfigError: a bias that is not finite.
    """

    needs_counts: ClassVar[bool] = False
    needs_angles: ClassVar[bool] = False

    bias: float = 0.0
    """b, added to each score; 0 as in word2vec. For cosines over a temperature, -10 as in SigLIP (Zhai et al. 2023)."""

    def __post_init__(self) -> None:
        _check_finite("negative_sampling", "bias", self.bias)

    def __call__(self, scores: ContrastiveLogits) -> Tensor:
        """The mean over the rows, a scalar."""
        return _logistic(scores, scores.logits + self.bias).mean()


@dataclass(frozen=True)
class SelfAdversarial:
    """-log sigmoid(s_y + b) - sum over the negatives of w log sigmoid(-(s + b)), where w = softmax(a s) over them.

    SANS, self-adversarial negative sampling (Sun et al. 2019, section 3.2), without their factor 1/2; w has no
    gradient. Limit for uniform noise: p_d(y | x)^(1 / (1 + a)), normalised: a smoothed p_d. Kamigaito and Hayashi
    (2021, table 1) approximate it by (1 - l) p_d(y | x) + l / |Y|; where p_d has two levels it is exactly that.

    Raises:
        ConfigError: an adversarial temperature below 0, or a bias that is not finite.
    """

    needs_counts: ClassVar[bool] = False
    needs_angles: ClassVar[bool] = False

    adversarial_temperature: float = 1.0
    """a: 0 weighs all negatives alike; 1.0 as for RotatE on FB15k-237 (Sun et al. 2019, appendix)."""

    bias: float = 0.0
    """b, added to each score; the margin gamma of RotatE where scores are -distances."""

    def __post_init__(self) -> None:
        _check_finite("self_adversarial", "bias", self.bias)
        if not 0 <= self.adversarial_temperature < math.inf:
            raise ConfigError(
                f"objective self_adversarial: adversarial_temperature is {self.adversarial_temperature}, "
                "expected a number of at least 0"
            )

    def __call__(self, scores: ContrastiveLogits) -> Tensor:
        """The mean over the rows, a scalar."""
        sharp = (self.adversarial_temperature * scores.logits.detach()).masked_fill(~scores.negatives, -math.inf)
        return _logistic(scores, scores.logits + self.bias, sharp.softmax(1)).mean()


@dataclass(frozen=True)
class SampledSoftmax:
    """-log softmax(s - log E[count])_y, log E[count] = `log_noise` (Jean et al. 2015; Bengio and Senecal 2008).

    The correction makes a sample of candidates stand for all of them; `sampled_candidates` masks noise that hits the
    target (accidental hits). Limit: p_d(y | x), exactly so where candidates enter the sample independently.

    Raises:
        ConfigError: scores without counts.
    """

    needs_counts: ClassVar[bool] = True
    needs_angles: ClassVar[bool] = False

    def __call__(self, scores: ContrastiveLogits) -> Tensor:
        """The mean over the rows, a scalar."""
        if scores.log_noise is None:
            raise ConfigError(_NO_NOISE.format("sampled_softmax"))
        return F.cross_entropy(scores.masked - scores.log_noise, scores.target)


_NO_NOISE = (
    "objective {} needs the counts of the candidates and the scores carry none: "
    "pass log_frequency to the candidate set, or fill ContrastiveLogits.log_noise"
)


def _logistic(scores: ContrastiveLogits, logits: Tensor, weight: Tensor | None = None) -> Tensor:
    """(R,) logistic losses, the positive's plus the (weighted) sum of the negatives', for shifted scores (R, C)."""
    positive = F.logsigmoid(logits.gather(1, scores.target[:, None]))[:, 0]  # (R,)
    negative = F.logsigmoid(-logits).masked_fill(~scores.negatives, 0.0)  # (R, C)
    return -positive - (negative if weight is None else weight * negative).sum(1)


def _check_finite(objective: str, option: str, value: float) -> None:
    if not math.isfinite(value):
        raise ConfigError(f"objective {objective}: {option} is {value}, expected a finite number")
