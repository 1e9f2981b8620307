"""A queue of past keys as further negatives, made by an exponential moving average of the model (MoCo; ESimCSE)."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from simcse.data.collate import Batch
from simcse.objectives import PastKeys
from simcse.training.distributed import gather
from simcse.training.model import ContrastiveModel

__all__ = ["MomentumQueue"]


class MomentumQueue:
    """The last Q positives as an exponential moving average (EMA) of the model saw them, without dropout.

    Args:
        model: what is trained; the average starts as its equal.
        size: Q, vectors kept (ESimCSE, table 6: 2.5 times the batch).
        ema_decay: of the average, at each step (ESimCSE, section 3.2: 0.995).
    """

    def __init__(self, model: ContrastiveModel, size: int, ema_decay: float) -> None:
        self.size = size
        ema = get_ema_multi_avg_fn(ema_decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(model, multi_avg_fn=ema).eval().requires_grad_(False)
        self.average.update_parameters(model)  # the first call copies the weights: the average starts from them
        self.vectors = torch.empty(0, model.dimension, device=model.encoder.device)  # (<= Q, D), newest last
        self.keys = torch.empty(0, dtype=torch.int64, device=model.encoder.device)  # (<= Q,)
        self.log_frequency = torch.empty(0, device=model.encoder.device)  # (<= Q,), empty where batches have no counts

    @torch.no_grad()
    def update(self, model: ContrastiveModel, batch: Batch) -> None:
        """Behind an optimizer step: update the average, and put the batch's positives of all processes in."""
        self.average.update_parameters(model)
        average: ContrastiveModel = self.average.module  # type: ignore[assignment]
        positives = batch.tokens.take(range(1, len(batch.tokens), batch.views))
        new = gather(average.stack(positives, 1)[0].float())  # (world * B, D)
        self.vectors = torch.cat([self.vectors, new])[-self.size :]
        self.keys = torch.cat([self.keys, gather(batch.keys[1])])[-self.size :]
        if batch.log_frequency is not None:
            self.log_frequency = torch.cat([self.log_frequency, gather(batch.log_frequency[1])])[-self.size :]

    def past(self, batch: Batch, *, with_keys: bool) -> PastKeys:
        """The queue as further candidates of a batch, with counts if the batch has them."""
        counts = None if batch.log_frequency is None else self.log_frequency
        return PastKeys(self.vectors, self.keys if with_keys else None, counts)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        queue = {"vectors": self.vectors, "keys": self.keys, "log_frequency": self.log_frequency}
        return {"average": self.average.state_dict(), **queue}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.average.load_state_dict(state["average"])
        device = self.vectors.device
        self.vectors, self.keys = state["vectors"].to(device), state["keys"].to(device)
        self.log_frequency = state["log_frequency"].to(device)
