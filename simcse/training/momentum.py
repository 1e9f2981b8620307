"""A queue of past keys as further negatives, made by a slowly following copy of the model (MoCo; ESimCSE)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from simcse.data.collate import Batch
from simcse.encoder.batching import TokenBatch
from simcse.training.distributed import gather
from simcse.training.model import ContrastiveModel

__all__ = ["MomentumQueue"]


class MomentumQueue:
    """The last Q positives as a momentum copy of the model saw them, without dropout.

    Args:
        model: what is trained; the copy starts as its equal.
        size: Q, vectors kept (ESimCSE, table 6: 2.5 times the batch).
        momentum: share of the copy that stays at each step (ESimCSE, section 3.2: 0.995).
    """

    def __init__(self, model: ContrastiveModel, size: int, momentum: float) -> None:
        self.size, self.momentum = size, momentum
        self.copy = copy.deepcopy(model).eval().requires_grad_(False)
        self.vectors = torch.empty(0, model.dimension, device=model.encoder.device)  # (<= Q, D), newest last
        self.keys = torch.empty(0, dtype=torch.int64, device=model.encoder.device)  # (<= Q,)
        self.log_frequency = torch.empty(0, device=model.encoder.device)  # (<= Q,), empty where batches have no counts

    @torch.no_grad()
    def update(self, model: ContrastiveModel, batch: Batch) -> None:
        """Behind an optimizer step: let the copy follow, and put the batch's positives of all processes in."""
        for mine, theirs in zip(self.copy.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs, 1 - self.momentum)
        new = gather(self.copy(positives(batch), 1)[0].float())  # (world * B, D)
        self.vectors = torch.cat([self.vectors, new])[-self.size :]
        self.keys = torch.cat([self.keys, gather(batch.keys[1])])[-self.size :]
        if batch.log_frequency is not None:
            self.log_frequency = torch.cat([self.log_frequency, gather(batch.log_frequency[1])])[-self.size :]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        held = {"vectors": self.vectors, "keys": self.keys, "log_frequency": self.log_frequency}
        return {"copy": self.copy.state_dict(), **held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.copy.load_state_dict(state["copy"])
        device = self.vectors.device
        self.vectors, self.keys = state["vectors"].to(device), state["keys"].to(device)
        self.log_frequency = state["log_frequency"].to(device)


def positives(batch: Batch) -> TokenBatch:
    """The B token sequences of view 1."""
    sequences: tuple[Tensor, ...] = batch.tokens.ids.split(list(batch.tokens.lengths))  # type: ignore[no-untyped-call]
    return TokenBatch(torch.cat(sequences[1 :: batch.views]), batch.tokens.lengths[1 :: batch.views])
