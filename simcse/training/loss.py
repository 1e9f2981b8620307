"""From the views of a batch to the number that training minimises: candidates, then objective."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from simcse.data.collate import Batch
from simcse.errors import ConfigError, DataError
from simcse.objectives import OBJECTIVES, BatchCandidates, Objective, RowError, keep_negatives
from simcse.training.distributed import gather, rank
from simcse.training.momentum import MomentumQueue

__all__ = ["ContrastiveLoss"]


@dataclass(frozen=True)
class ContrastiveLoss:
    """`criterion(views, batch)` -> this process's mean loss, a scalar.

    Attributes:
        candidates: which vectors each anchor is compared with.
        objective: what the similarities are trained by.
        num_negatives: random negatives that a row keeps at each step (Contrastive Tension: 7); None: all.
        mask_equal_texts: leave equal texts out of the denominator.
        queue: past keys, further negatives of all anchors.
        source: the training file, for errors.

    Raises:
        ConfigError: parts that do not fit each other.
    """

    candidates: BatchCandidates
    objective: Objective
    num_negatives: int | None = None
    mask_equal_texts: bool = True
    queue: MomentumQueue | None = None
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
        try:
            logits = self.candidates(
                views,
                keys=batch.keys if self.mask_equal_texts else None,
                log_frequency=batch.log_frequency,
                past=None if self.queue is None else self.queue.past(batch, with_keys=self.mask_equal_texts),
                gather=gather,
                rank=rank(),
            )
        except RowError as error:  # as the file has it: views of a batch lie below each other
            row = 1 + int(batch.rows[error.row % len(batch)])
            raise DataError(f"{self.source}: row {row} {error.why}") from error
        return self.objective(logits if self.num_negatives is None else keep_negatives(logits, self.num_negatives))
