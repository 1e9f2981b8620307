"""What computes token states for `encode`: one interface for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from simcse.tokens.batch import TokenBatch

__all__ = ["Backend", "TokenStates", "tokens_per_batch"]

# of torch's passes; on the CPU, matrix products lose below, and what lies between them leaves the cache above
TOKENS_PER_BATCH = {"cpu": 2048}
TOKENS_ON_ACCELERATORS = 65536  # not timed on any yet


class TokenStates(Protocol):
    """Token sequences -> token states."""

    def __call__(self, batch: TokenBatch, layers: Sequence[int], *, cls_only: bool = False) -> list[Tensor]:
        """States of the given layers; 0 is the embedding output, -1 the last layer.

        A token's state depends on its own sequence alone (batch invariance).

        Args:
            batch: S sequences, T tokens.
            layers: which states.
            cls_only: the last layer's states are needed for first tokens alone.

        Returns:
            (T, D) each; for the last layer with `cls_only`, (S, D).
        """


class Backend(TokenStates, Protocol):
    """A backbone's weights, prepared for inference: without dropout and without gradients.

    Attributes:
        name: as `backend=` takes it.
        tokens_per_batch: how many tokens a batch should hold.
        padded: whether a sequence costs as much as the longest of its batch.
        device: where the weights lie.
    """

    name: str
    tokens_per_batch: int
    padded: bool
    device: torch.device


def tokens_per_batch(device: torch.device) -> int:
    """Of torch's passes on a device."""
    return TOKENS_PER_BATCH.get(device.type, TOKENS_ON_ACCELERATORS)
