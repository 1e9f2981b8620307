"""Dropout masks at one random draw a mask, or, without a compiler, at a quarter of one an element.

torch's own dropout on the CPU spends one draw of the Mersenne Twister an element, a large share of a training step.
Here one 64-bit draw seeds a generator by counter (native/training.cpp), or gives four 16-bit lanes. It comes from
torch's default generator, so that `torch.manual_seed`, `torch.get_rng_state` and different seeds on different ranks
work as with any dropout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from simcse.encoder.backends.cpu_training.passes import passes_for

__all__ = ["drop_levels", "keep_mask", "keep_scale", "seed_of_mask"]

LEVELS = 1 << 16
LOWEST = -(1 << 15)


def drop_levels(rate: float) -> int:
    """How many of the 65,536 values of a lane mean "drop": the rate is met to 1 / 131,072."""
    return round(rate * LEVELS)


def keep_scale(rate: float) -> float:
    """What kept elements are multiplied by, so that the expectation is that of no dropout: 1 / P(keep), exactly."""
    return LEVELS / (LEVELS - drop_levels(rate))


def seed_of_mask() -> int:
    """One draw of torch's default generator: all that a mask by counter needs, in [0, 2^64)."""
    return int(torch.empty(1, dtype=torch.int64).random_(-(1 << 63), None)) % (1 << 64)  # all 64 bits


def keep_mask(shape: Sequence[int], rate: float, dtype: torch.dtype) -> Tensor | None:
    """A fresh mask: 1 with probability 1 - rate, else 0; None, and nothing drawn, where the rate is 0.

    Args:
        shape: of the mask.
        rate: in [0, 1).
        dtype: that of the tensor it multiplies: mixed types, such as a mask of bools, multiply many times slower.
    """
    if not rate:
        return None
    size, library = math.prod(shape), passes_for(dtype)
    if library is not None:
        keep = torch.empty(*shape, dtype=dtype)
        library.keep_mask(seed_of_mask(), drop_levels(rate), keep.data_ptr(), size, torch.get_num_threads())
        return keep
    draws = torch.empty((size + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)  # all 64 bits
    lanes = draws.view(torch.int16)[:size].view(*shape)
    return torch.ge(lanes, LOWEST + drop_levels(rate), out=torch.empty(*shape, dtype=dtype))
