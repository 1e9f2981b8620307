"""What is trained: stacked token sequences in, the views of each row out."""

from __future__ import annotations

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simcse.data.collate import Batch
from simcse.encoder.model import SentenceEncoder
from simcse.encoder.projection import Projection
from simcse.tokens.batch import TokenBatch

__all__ = ["ContrastiveModel"]


class ContrastiveModel(nn.Module):
    """The encoder and, if it is for training only, the projection head.

    Args:
        encoder: its own head, if it has one, is where the projection starts from.
        projection: none drops the head; train keeps it here, out of the saved encoder; always makes it part of it.
        fixed_dropout_mask: view 0 is computed alone and stands for all views, as if each had the same dropout masks.
        two_encoders: a second encoder, a copy trained with weights of its own, makes all views but view 0.

    Attributes:
        map: linear, from vectors of unit length to a teacher's space, for training only; None: there is none.
    """

    def __init__(
        self,
        encoder: SentenceEncoder,
        projection: Literal["none", "train", "always"],
        *,
        fixed_dropout_mask: bool = False,
        two_encoders: bool = False,
    ) -> None:
        super().__init__()
        head = encoder.projection
        encoder.projection = None
        width = encoder.width if projection == "always" else encoder.dimension  # a checkpoint may keep fewer of them
        if projection != "none" and (head is None or head.linear.in_features != width):
            head = Projection(width).to(encoder.device)
        encoder.projection = head if projection == "always" else None
        self.encoder = encoder.whole()
        self.head = head if projection == "train" else None
        self.fixed_dropout_mask = fixed_dropout_mask
        self.map: nn.Linear | None = None
        self.second: ContrastiveModel | None = None
        if two_encoders:
            self.second = copy.deepcopy(self)

    @property
    def dimension(self) -> int:
        """D of the views."""
        return self.encoder.dimension if self.head is None else self.head.linear.out_features

    def forward(self, batch: Batch) -> Tensor:
        """The views of B rows, B * V sequences, in one forward pass -> (V, B, D), or (V, B, D + D_t) with a map.

        Every sequence has dropout masks of its own, equal texts too: that is what makes a text its own positive.
        """
        vectors = self._stacked(batch)  # (V, B, D)
        if self.map is None:
            return vectors
        return torch.cat([vectors, self.map(F.normalize(vectors.float(), dim=-1))], dim=-1)  # (V, B, D + D_t)

    def _stacked(self, batch: Batch) -> Tensor:
        """The views by one encoder or by two -> (V, B, D)."""
        tokens, views = batch.tokens, batch.views
        if not self.fixed_dropout_mask and self.second is None:
            return self.stack(tokens, views)
        anchors = self.stack(tokens.take(range(0, len(tokens), views)), 1)  # (1, B, D)
        if self.second is None:
            return anchors.expand(views, -1, -1)  # (V, B, D)
        others = tokens.take([i for i in range(len(tokens)) if i % views])
        return torch.cat([anchors, self.second.stack(others, views - 1)])  # (V, B, D)

    def stack(self, tokens: TokenBatch, views: int) -> Tensor:
        """B * V sequences, the views of a row side by side -> (V, B, D)."""
        vectors = self.encoder(tokens)  # (B * V, D)
        if self.head is not None:
            vectors = self.head(vectors)
        return vectors.view(-1, views, vectors.shape[-1]).transpose(0, 1)  # type: ignore[no-any-return]  # (V, B, D)
