"""From the views of a batch to the number that training minimises: candidates, then objective; of several sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from simcse.data.collate import Batch
from simcse.errors import ConfigError, DataError
from simcse.objectives import OBJECTIVES, BatchCandidates, ContrastiveLogits, Objective, RowError, keep_negatives
from simcse.objectives.distillation import listwise_kl, margin_mse, vector_loss
from simcse.objectives.scored import ScoredLoss
from simcse.training.distributed import gather, rank
from simcse.training.momentum import MomentumQueue

__all__ = ["ContrastiveLoss", "Criterion", "DistillationLoss", "MatryoshkaLoss", "MixedLoss", "ScoredPairsLoss"]


class Criterion(Protocol):
    """`criterion(views, batch)` -> this process's mean loss, a scalar; the views are (V, B, D)."""

    @property
    def queue(self) -> MomentumQueue | None:
        """Past keys, which the loop updates behind each step."""
        ...

    def __call__(self, views: Tensor, batch: Batch) -> Tensor: ...


@dataclass(frozen=True)
class ContrastiveLoss:
    """`criterion(views, batch)` -> this process's mean loss, a scalar.

    Attributes:
        candidates: which vectors each anchor is compared with.
        objective: what the similarities are trained by.
        num_negatives: random negatives that a row keeps at each step (Contrastive Tension: 7); None: all.
        mask_equal_texts: leave equal texts out of the denominator.
        queue: past keys, further negatives of all anchors.
        mask_margin: leave out negatives that the batch's teacher finds closer to the anchor than the positive less this
            margin of the cosine; None: none.
        source: the training file, for errors.

    Raises:
        ConfigError: parts that do not fit each other.
    """

    candidates: BatchCandidates
    objective: Objective
    num_negatives: int | None = None
    mask_equal_texts: bool = True
    queue: MomentumQueue | None = None
    mask_margin: float | None = None
    source: str = "the training file"

    def __post_init__(self) -> None:
        if self.objective.needs_angles and self.candidates.similarity != "cosine":
            name = next((name for name, kind in OBJECTIVES.items() if isinstance(self.objective, kind)), "")
            raise ConfigError(f"objective={name} needs angles: similarity is dot, expected cosine")

    def __call__(self, views: Tensor, batch: Batch) -> Tensor:
        """Views (V, B, D) of a batch of B rows -> the mean over its rows.

        Raises:
            DataError: a row without a negative; names file and row.
        """
        with naming_rows(batch, self.source):
            logits = self.candidates(
                views,
                keys=batch.keys if self.mask_equal_texts else None,
                log_frequency=batch.log_frequency,
                past=None if self.queue is None else self.queue.past(batch, with_keys=self.mask_equal_texts),
                gather=gather,
                rank=rank(),
            )
        if self.mask_margin is not None and batch.teacher is not None:
            logits = without_close(logits, cosines(self.candidates, batch.teacher), self.mask_margin)
        return self.objective(logits if self.num_negatives is None else keep_negatives(logits, self.num_negatives))


@contextmanager
def naming_rows(batch: Batch, source: str) -> Iterator[None]:
    """Name the row of the training file, counted from 1, in the error of a row of a batch, whose views lie below each
    other.
    """
    try:
        yield
    except RowError as error:
        row = 1 + int(batch.rows[error.row % len(batch)])
        raise DataError(f"{source}: row {row} {error.why}") from error


def cosines(candidates: BatchCandidates, views: Tensor) -> ContrastiveLogits:
    """Plain cosines of a batch's anchors and candidates, by a teacher's vectors or the student's (V, B, D)."""
    plain = replace(candidates, temperature=1.0, hard_negative_weight=1.0, similarity="cosine")
    return plain(views, gather=gather, rank=rank())


def without_close(logits: ContrastiveLogits, guide: ContrastiveLogits, margin: float) -> ContrastiveLogits:
    """The logits without the negatives that the guide finds closer than the positive less a margin (GISTEmbed,
    Solatorio 2024); a row that would lose them all keeps the farthest. Expected counts fall with their number.

    Args:
        logits: (R, C), perhaps with further columns of past keys.
        guide: (R, C) cosines.
        margin: of the cosine.
    """
    compared = guide.logits.shape[1]
    close = guide.logits.masked_fill(~logits.negatives[:, :compared], torch.inf)  # (R, C)
    far = close <= guide.positive[:, None] - margin
    far |= close == close.min(dim=1, keepdim=True).values
    keep = logits.negatives.clone()
    keep[:, :compared] &= far
    noise = logits.log_noise
    if noise is not None:  # fewer negatives, of which each is expected less often
        left = keep.count_nonzero(1) / logits.negatives.count_nonzero(1)  # (R,)
        noise = noise + left.log().to(noise.dtype)[:, None]
    return replace(logits, valid=keep.scatter(1, logits.target[:, None], True), log_noise=noise)


@dataclass(frozen=True)
class ScoredPairsLoss:
    """The loss of pairs with a gold score, over the pairs of all processes.

    Attributes:
        loss: one of `objectives.scored`.
        temperature: divides similarities.
    """

    loss: ScoredLoss
    temperature: float

    def __call__(self, views: Tensor, batch: Batch) -> Tensor:
        """Views (2, B, D) of a batch of B scored pairs -> their loss."""
        assert batch.scores is not None
        pairs = gather(views.float().transpose(0, 1).contiguous())  # (world * B, 2, D)
        return self.loss(pairs, gather(batch.scores), self.temperature)


@dataclass(frozen=True)
class DistillationLoss:
    """The loss of a batch's views against its teacher's vectors.

    Attributes:
        kind: kl, margin_mse, l2 or cosine.
        candidates: which vectors are compared in the first two; their temperature is the student's.
        temperature: the teacher's, in kl.
        sources: the training files, for errors.
    """

    kind: str
    candidates: BatchCandidates
    temperature: float
    sources: Sequence[str] = ("the training file",)

    def __call__(self, views: Tensor, batch: Batch) -> Tensor:
        """Views (V, B, D) in the student's space; for l2 and cosine (V, B, D_t) in the teacher's.

        Of texts without positives (V = 1), each is compared with the others.
        """
        assert batch.teacher is not None
        if self.kind in ("l2", "cosine"):
            return vector_loss(views.float(), batch.teacher, self.kind)
        if len(views) == 1:
            return self(views.expand(2, -1, -1), twice(batch))
        teacher = cosines(self.candidates, batch.teacher)
        if self.kind == "margin_mse":
            return margin_mse(cosines(self.candidates, views), teacher)
        plain = replace(self.candidates, hard_negative_weight=1.0)
        with naming_rows(batch, self.sources[batch.source]):
            student = plain(views, keys=batch.keys, gather=gather, rank=rank())
        scaled = replace(teacher, logits=teacher.logits / self.temperature)
        same = (batch.keys[0] == batch.keys[1]).repeat(len(self.candidates.directions))  # (R,)
        return listwise_kl(student, scaled, same)


def twice(batch: Batch) -> Batch:
    """A batch of texts without positives, each of which is now its own."""
    assert batch.teacher is not None
    return replace(batch, keys=batch.keys.expand(2, -1), teacher=batch.teacher.expand(2, -1, -1))


@dataclass(frozen=True)
class MatryoshkaLoss:
    """The mean of a loss over the first dimensions of the views, for each of several numbers of them (Kusupati et al.
    2022, with equal weights).

    Attributes:
        criterion: the loss of views of any dimension.
        dimensions: how many of them are taken.
    """

    criterion: Criterion
    dimensions: Sequence[int]

    queue: None = None

    def __call__(self, views: Tensor, batch: Batch) -> Tensor:
        """Views (V, B, D) -> their loss."""
        return torch.stack([self.criterion(views[..., :kept], batch) for kept in self.dimensions]).mean()


@dataclass(frozen=True)
class MixedLoss:
    """The loss of the batch's source, and the teacher's beside it.

    Attributes:
        sources: a loss for each source, or None where the teacher alone is learned from.
        weights: of these.
        distillation: the teacher's loss, or None.
        weight: of that.
        dimension: D of the student's own space, in which the views begin; the teacher's may stand behind.
    """

    sources: Sequence[ContrastiveLoss | ScoredPairsLoss | None]
    weights: Sequence[float]
    distillation: DistillationLoss | None
    weight: float
    dimension: int

    queue: None = None

    def __call__(self, views: Tensor, batch: Batch) -> Tensor:
        """Views (V, B, D), or (V, B, D + D_t) where a linear map leads to the teacher's space."""
        own, total = self.sources[batch.source], None
        if own is not None:
            total = self.weights[batch.source] * own(views[..., : self.dimension], batch)
        if self.distillation is not None:
            vectors = self.distillation.kind in ("l2", "cosine") and views.shape[-1] > self.dimension
            there = views[..., self.dimension :] if vectors else views[..., : self.dimension]
            learned = self.weight * self.distillation(there, batch)
            total = learned if total is None else total + learned
        assert total is not None, "the config makes sure that there is something to learn"
        return total
