"""Vectors in, loss out: pure functions of tensors that know no model, no file and no config.

A candidate set says which vectors an anchor is compared with, an objective what to do with the similarities; each
candidate set works with each objective. InfoNCE is in-batch candidates and softmax cross-entropy:

    logits = InBatchCandidates(temperature=0.05)(views)  # or another of CANDIDATES
    loss = SoftmaxCrossEntropy()(logits)  # or another of OBJECTIVES
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor

from simcse.errors import ConfigError
from simcse.objectives.candidates import (
    CANDIDATES,
    AllViewsCandidates,
    BatchCandidates,
    InBatchCandidates,
    PastKeys,
    SymmetricCandidates,
    build_candidates,
)
from simcse.objectives.logits import ContrastiveLogits, RowError, keep_negatives
from simcse.objectives.noise import LogUniform, Noise, Uniform, Unigram
from simcse.objectives.registry import build
from simcse.objectives.sampled import NegativeSampling, NoiseContrastive, SampledSoftmax, SelfAdversarial
from simcse.objectives.softmax import BackwardCorrected, Decoupled, LabelSmoothed, Margin, SoftmaxCrossEntropy
from simcse.objectives.vocabulary import sampled_candidates, vocabulary_candidates

__all__ = [
    "CANDIDATES",
    "OBJECTIVES",
    "AllViewsCandidates",
    "BackwardCorrected",
    "BatchCandidates",
    "ContrastiveLogits",
    "Decoupled",
    "InBatchCandidates",
    "LabelSmoothed",
    "LogUniform",
    "Margin",
    "NegativeSampling",
    "Noise",
    "NoiseContrastive",
    "Objective",
    "PastKeys",
    "RowError",
    "SampledSoftmax",
    "SelfAdversarial",
    "SoftmaxCrossEntropy",
    "SymmetricCandidates",
    "Uniform",
    "Unigram",
    "build_candidates",
    "build_objective",
    "keep_negatives",
    "sampled_candidates",
    "vocabulary_candidates",
]


class Objective(Protocol):
    """`objective(logits)` -> the mean loss over their rows, a scalar."""

    needs_counts: ClassVar[bool]
    """Whether the logits must carry `log_noise` or `correction`: pass `log_frequency` to the candidate set."""

    needs_angles: ClassVar[bool]
    """Whether the logits must be cosines over a temperature, and carry it: not dot products."""

    def __call__(self, scores: ContrastiveLogits) -> Tensor: ...


OBJECTIVES: Mapping[str, type[Objective]] = {
    "backward_corrected": BackwardCorrected,
    "decoupled": Decoupled,
    "label_smoothed": LabelSmoothed,
    "margin": Margin,
    "negative_sampling": NegativeSampling,
    "noise_contrastive": NoiseContrastive,
    "sampled_softmax": SampledSoftmax,
    "self_adversarial": SelfAdversarial,
    "softmax": SoftmaxCrossEntropy,
}
"""Objectives by the name that a config uses."""


def build_objective(name: str, **options: Any) -> Objective:
    """The objective of that name, with its options.

    Raises:
        ConfigError: an unknown name or option, or a value out of range.
    """
    for option, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"objective {name}: {option} is {value!r}, expected a number")
    return build("objective", OBJECTIVES, name, options)
