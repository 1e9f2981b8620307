"""Attention over packed sequences without padding and without gradients.

A softmax is exp, sum, divide; torch's own is slow on the CPU for rows whose length is no multiple of the vector width,
which most sentences are, and so is its fused attention: twice to three times. Here the exponential is one flat pass,
and the sums fall out of the product with the values, to which columns of ones are joined. Without subtracting the row's
maximum a sum could leave the range of the type, so `sums_in_range` tells, and the caller then takes the careful way.
Sequences beyond `LONG` always go the careful way: there the fused attention is the faster one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["PackedAttention"]

LONG = 128  # tokens
RANGE = (1e-35, 1e25)  # of 1 / sum of exponentials, well inside float32 and bfloat16
ONES = 8  # columns joined to the values; one is read, the others keep rows aligned


class Run(NamedTuple):
    """Neighbouring sequences of one length.

    Attributes:
        rows: their tokens.
        shape: (n, L, H, d).
        values: (n * H, L, d + ONES) values and ones, for all layers; None where the careful way is taken.
    """

    rows: slice
    shape: tuple[int, int, int, int]
    values: Tensor | None


class PackedAttention:
    """Attention of one batch, the same for each layer.

    Args:
        lengths: S sequence lengths, which add up to T.
        heads: H.
        like: any tensor of the dtype and device to compute in, (..., D).
        careful: use torch's softmax throughout.
    """

    def __init__(self, lengths: Sequence[int], heads: int, like: Tensor, *, careful: bool = False) -> None:
        self.tokens = sum(lengths)
        self.runs: list[Run] = []
        self._shares: list[Tensor] = []  # what each sum was divided by, (n, L, H, 1)
        width, first = like.shape[-1] // heads, 0
        for length, same in groupby(lengths):
            n = len(list(same))
            plain = careful or length > LONG
            values = None if plain else like.new_ones(n * heads, length, width + ONES)
            self.runs.append(Run(slice(first, first + n * length), (n, length, heads, width), values))
            first += n * length

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> None:
        """Fill `out` (T, D) from (T, D) scaled queries, keys and values; rows behind T are left alone."""
        for run in self.runs:
            q, k, v = (x[run.rows].view(run.shape).transpose(1, 2) for x in (query, key, value))  # (n, H, L, d)
            part = out[run.rows].view(run.shape)  # (n, L, H, d)
            if run.values is None:
                part.copy_(F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2))
            else:
                self._attend(q, k, v, run.values, part)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, values: Tensor, out: Tensor) -> None:
        n, heads, length, width = q.shape
        values.view(n, heads, length, -1)[..., :width].copy_(v)
        q, k = (x.reshape(n * heads, length, width) for x in (q, k))
        weights = torch.bmm(q, k.transpose(1, 2)).exp_()  # (n * H, L, L)
        total = torch.bmm(weights, values).view(n, heads, length, -1).transpose(1, 2)  # (n, L, H, d + ONES)
        share = total[..., width : width + 1].reciprocal()  # (n, L, H, 1)
        torch.mul(total[..., :width], share, out=out)
        self._shares.append(share.flatten())

    def sums_in_range(self) -> bool:
        """Whether all that was computed since the batch began is sound."""
        if not self._shares:
            return True
        least, most = torch.aminmax(torch.cat(self._shares))
        return bool((least > RANGE[0]) & (most < RANGE[1]))  # a comparison with NaN is false: out of range too
