"""Vectors in, loss out: pure functions of tensors that know no model, no file and no config.

A layout says who competes with whom, an objective what to do about it; each layout works with each objective:

    scores = info_nce(views, temperature=0.05)  # or another of SCORES
    loss = SoftmaxCrossEntropy()(scores)  # or another of OBJECTIVES
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor

from simcse.errors import ConfigError, nearest
from simcse.objectives.noise import LogUniform, Noise, Uniform, Unigram
from simcse.objectives.sampled import NegativeSampling, NoiseContrastive, SampledSoftmax, SelfAdversarial
from simcse.objectives.scores import SCORES, info_nce, nt_xent, queue_scores, symmetric_info_nce
from simcse.objectives.softmax import BackwardCorrected, Decoupled, LabelSmoothed, Margin, SoftmaxCrossEntropy
from simcse.objectives.table import RowError, Scores, keep_negatives
from simcse.objectives.vocabulary import sampled_scores, vocabulary_scores

__all__ = [
    "OBJECTIVES",
    "SCORES",
    "BackwardCorrected",
    "Decoupled",
    "LabelSmoothed",
    "LogUniform",
    "Margin",
    "NegativeSampling",
    "Noise",
    "NoiseContrastive",
    "Objective",
    "RowError",
    "SampledSoftmax",
    "Scores",
    "SelfAdversarial",
    "SoftmaxCrossEntropy",
    "Uniform",
    "Unigram",
    "build_objective",
    "info_nce",
    "keep_negatives",
    "nt_xent",
    "queue_scores",
    "sampled_scores",
    "symmetric_info_nce",
    "vocabulary_scores",
]


class Objective(Protocol):
    """Scores -> the mean loss over their rows, a scalar."""

    needs_counts: ClassVar[bool]
    """Whether the scores must carry `log_noise` or `correction`: pass `log_frequency` to the layout."""

    needs_angles: ClassVar[bool]
    """Whether the scores must be cosines over a temperature, and carry it: not dot products."""

    def __call__(self, scores: Scores) -> Tensor: ...


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
    if name not in OBJECTIVES:
        expected = f"expected one of {', '.join(OBJECTIVES)}{nearest(name, OBJECTIVES)}"
        raise ConfigError(f"--objective is {name!r}, {expected}")
    known = sorted(inspect.signature(OBJECTIVES[name]).parameters)
    if unknown := sorted(set(options) - set(known)):
        takes = ", ".join(known) if known else "no options"
        raise ConfigError(f"objective {name}: unknown option {unknown[0]!r}; it takes {takes}")
    for option, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"objective {name}: {option} is {value!r}, expected a number")
    return OBJECTIVES[name](**options)
