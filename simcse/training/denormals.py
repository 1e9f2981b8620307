"""Numbers too small to matter, which slow a CPU down."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["drop_denormals"]

TINY = torch.finfo(torch.float32).tiny


@torch.no_grad()
def drop_denormals(optimizers_state: Iterable[dict[str, Any]]) -> None:
    """Set moments of weights that are no normal float32, below 1.2e-38, to 0.

    A moment falls by a tenth at each step that has no gradient for it, as for words that a batch lacks, is a denormal
    after some 700 steps, and never gets to 0, as nine tenths of the least ones are rounded up to what they were. A step
    of AdamW over them takes 15 times as long. What they would move a weight by is below 1e-30 times the learning rate.

    Args:
        optimizers_state: of each weight, by name.
    """
    for moment in chain.from_iterable(state.values() for state in optimizers_state):
        if isinstance(moment, torch.Tensor) and moment.ndim:  # the number of steps is left alone
            moment.copy_(F.hardshrink(moment, TINY))
