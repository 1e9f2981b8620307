"""What is trained: stacked token sequences in, the views of each row out."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from simcse.encoder.batching import TokenBatch
from simcse.encoder.formats import Projection
from simcse.encoder.model import SentenceEncoder

__all__ = ["ContrastiveModel"]


class ContrastiveModel(nn.Module):
    """The encoder and, if it is for training only, the projection head.

    Args:
        encoder: its own head, if it has one, is where the projection starts from.
        projection: none drops the head; train keeps it here, out of the saved encoder; always makes it part of it.
    """

    def __init__(self, encoder: SentenceEncoder, projection: Literal["none", "train", "always"]) -> None:
        super().__init__()
        head = encoder.projection
        if projection != "none" and head is None:
            head = Projection(encoder.width).to(encoder.device)
        encoder.projection = head if projection == "always" else None
        self.encoder = encoder
        self.head = head if projection == "train" else None

    @property
    def dimension(self) -> int:
        """D of the views."""
        return self.encoder.dimension if self.head is None else self.head.linear.out_features

    def forward(self, tokens: TokenBatch, views: int) -> Tensor:
        """B * V sequences, the views of a row side by side, in one forward pass -> (V, B, D).

        Every sequence has dropout masks of its own, equal texts too: that is what makes a text its own positive.
        """
        vectors = self.encoder(tokens)  # (B * V, D)
        if self.head is not None:
            vectors = self.head(vectors)
        return vectors.view(-1, views, vectors.shape[-1]).transpose(0, 1)  # type: ignore[no-any-return]  # (V, B, D)
