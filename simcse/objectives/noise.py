"""Noise for sampled objectives: k classes a row, no repeats within the row, never the row's target.

Classes lie side by side on a line, each as long as it is likely, the target's stretch cut out. k points at equal
distances from a random start pick the row's classes (systematic sampling, Madow 1949). No class is longer than that
distance, so none is picked twice, and a row holds class c exactly k q(c) / (1 - q(target)) times on average. Lengths
are integers, so both facts are exact. Classes lie in random order, in blocks that each call shuffles anew, so that
other classes meet in a row each time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from simcse.errors import ConfigError, DataError

__all__ = ["LogUniform", "Noise", "Uniform", "Unigram"]

_BLOCKS = 1024
_LENGTH = 2**48  # of the line; times k it must stay below 2**63
_MOST = 2**14  # negatives a row


class Noise:
    """A sampler of k negatives a row, class c with probability q(c) in proportion to its weight.

    Args:
        weights: (classes,) unnormalised q; a class of weight 0 is never drawn.
        k: negatives a row. As a class cannot be drawn twice, one more likely than 1 / (k + 1) counts as that likely,
            and the others share the rest in proportion.
        seed: of the order in which classes lie.

    Raises:
        ConfigError: k is not between 1 and the number of classes of positive weight less one (or 16,383).
        DataError: a weight that is negative or not finite.
    """

    def __init__(self, weights: Tensor, k: int, *, seed: int = 0) -> None:
        self.k = k
        self._lengths = _lengths(weights, k)  # (classes,)
        classes = len(self._lengths)
        self._class_at = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))  # (classes,) by place
        self._ends = self._lengths[self._class_at].cumsum(0)  # (classes,) by place
        self._starts = torch.empty_like(self._ends)  # (classes,) by class
        self._starts[self._class_at] = self._ends - self._lengths[self._class_at]
        self._total = int(self._ends[-1])
        width = -(-classes // _BLOCKS)
        self._block_ends = self._ends[torch.arange(width, classes + width, width).clamp(max=classes) - 1]  # (blocks,)

    def log_probability(self) -> Tensor:
        """(classes,) natural log of q(c), float64."""
        return self._lengths.double().log() - math.log(self._total)

    def log_expected_count(self, classes: Tensor, target: Tensor | None = None) -> Tensor:
        """Natural log of how often a row's noise holds a class on average, k q(c) / (1 - q(target)).

        Args:
            classes: (R, ...) int64; any shape where there is no target.
            target: (R,) as passed to `sample`. The count of a row's own target is the one that the formula gives.

        Returns:
            The shape of `classes`, float32; -inf for a class that is never drawn.
        """
        lengths = self._lengths[classes].double()
        rest = torch.full(classes.shape[:1], float(self._total), dtype=torch.float64)
        if target is not None:
            rest = rest - self._lengths[target]
        rest = rest.reshape(rest.shape + (1,) * (classes.ndim - rest.ndim))  # (R, 1...)
        return (math.log(self.k) + lengths.log() - rest.log()).float()

    def sample(self, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw k classes for each row.

        Args:
            target: (R,) int64, the class that each row leaves out.
            generator: of the random numbers; default torch's own.

        Returns:
            (R, k) int64.

        Raises:
            DataError: a target that is no class.
        """
        classes = len(self._lengths)
        if bool(((target < 0) | (target >= classes)).any()):
            row = int(((target < 0) | (target >= classes)).nonzero()[0])
            raise DataError(f"row {row}: target is {int(target[row])}, expected a class from 0 to {classes - 1}")
        order, ends, moved = self._shuffle(generator)
        hole, start = self._lengths[target, None], self._starts[target, None]  # (R, 1) the stretch to leave out
        start = start + moved[torch.searchsorted(self._block_ends, start, right=True).clamp(max=len(order) - 1)]
        free = self._total - hole  # (R, 1)
        first = (torch.rand(hole.shape, generator=generator, dtype=torch.float64) * free).long()  # (R, 1)
        points = (first + torch.arange(self.k) * free) // self.k  # (R, k)
        points += hole * (points >= start)
        points -= moved[order[torch.searchsorted(ends, points, right=True)]]  # back to where classes lie unshuffled
        return self._class_at[torch.searchsorted(self._ends, points, right=True)]

    def _shuffle(self, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """A new order of the blocks, where each of that order ends, and how far each block has moved: (blocks,)."""
        order = torch.randperm(len(self._block_ends), generator=generator)
        lengths = self._block_ends.diff(prepend=self._block_ends.new_zeros(1))
        ends = lengths[order].cumsum(0)
        moved = torch.empty_like(ends)
        moved[order] = ends - self._block_ends[order]
        return order, ends, moved


class Uniform(Noise):
    """All classes alike."""

    def __init__(self, classes: int, k: int, *, seed: int = 0) -> None:
        super().__init__(torch.ones(classes), k, seed=seed)


class Unigram(Noise):
    """q(c) in proportion to count(c)^power; power 0.75 as in word2vec (Mikolov et al. 2013), 1 for frequency noise."""

    def __init__(self, counts: Tensor, k: int, *, power: float = 0.75, seed: int = 0) -> None:
        if not 0 <= power < math.inf:
            raise ConfigError(f"noise: power is {power}, expected a number of at least 0 (word2vec has 0.75)")
        super().__init__(torch.where(counts > 0, counts.double() ** power, counts.double()), k, seed=seed)


class LogUniform(Noise):
    """q(c) = (ln(c + 2) - ln(c + 1)) / ln(classes + 1), for classes sorted by falling frequency (Zipf's law)."""

    def __init__(self, classes: int, k: int, *, seed: int = 0) -> None:
        super().__init__((1 / (torch.arange(classes, dtype=torch.float64) + 1)).log1p(), k, seed=seed)


def _lengths(weights: Tensor, k: int) -> Tensor:
    """(classes,) integers in proportion to the weights, none longer than 1 / (k + 1) of their sum."""
    weights = weights.double()
    if bool((~weights.isfinite() | (weights < 0)).any()):
        worst = int((~weights.isfinite() | (weights < 0)).nonzero()[0])
        raise DataError(f"class {worst}: weight is {float(weights[worst])}, expected a finite number of at least 0")
    drawable = int(weights.count_nonzero())
    if not 1 <= k < min(drawable, _MOST):
        raise ConfigError(
            f"negatives a row: k is {k}, expected 1 to {min(drawable, _MOST) - 1}, as {drawable} classes can be drawn"
        )
    share = weights / weights.sum()
    capped = torch.zeros_like(share, dtype=torch.bool)
    while bool((over := (share > 1 / (k + 1)) & ~capped).any()):
        capped |= over
        rest = share.masked_fill(capped, 0.0)
        share = torch.where(
            capped, 1 / (k + 1), rest * ((1 - int(capped.sum()) / (k + 1)) / rest.sum().clamp(min=1e-300))
        )
    lengths = (share * _LENGTH).long().clamp(min=1) * (weights > 0)
    while int(lengths.max()) > (most := int(lengths.sum()) // (k + 1)):  # what rounding down has left over
        lengths = lengths.clamp(max=most)
    return lengths
