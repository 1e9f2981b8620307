"""Attention over packed sequences without padding and without gradients.

A softmax is exp, sum, divide; torch's own is slow on the CPU for rows whose length is no multiple of the vector width,
which most sentences are, and so is its fused attention: twice to three times. Here the exponential is one flat pass,
and the sums fall out of the product with the values, to which a column of ones is joined. Without subtracting the
row's maximum the sum could leave the range of the type, so `sums_in_range` tells, and the caller then takes the
careful way. Sequences beyond `LONG` always go the careful way: there the fused attention is the faster one.
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
RANGE = (1e-25, 1e35)  # of sums of exponentials, well inside float32 and bfloat16
ONES = 8  # columns joined to the values; one is read, the others keep rows aligned


class Run(NamedTuple):
    """Neighbouring sequences of one length: tokens `first` to `last` - 1."""

    first: int
    last: int
    sequences: int
    length: int


class PackedAttention:
    """Attention of one batch, the same for each layer.

    Args:
        lengths: S sequence lengths, which add up to T.
        heads: H.
        like: any tensor of the dtype and device to compute in, (..., D).
        careful: use torch's softmax throughout.
    """

    def __init__(self, lengths: Sequence[int], heads: int, like: Tensor, *, careful: bool = False) -> None:
        self.heads, self.width = heads, like.shape[-1] // heads
        self.tokens = sum(lengths)
        self.careful = careful
        self.runs: list[Run] = []
        self._values: list[Tensor | None] = []  # values and ones, one buffer a run, for all layers
        self._extremes: list[Tensor] = []
        first = 0
        for length, same in groupby(lengths):
            count = len(list(same))
            self.runs.append(Run(first, first + count * length, count, length))
            first += count * length
            self._values.append(
                None if careful or length > LONG else like.new_ones(count * heads, length, self.width + ONES)
            )

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> None:
        """Fill `out` (T, D) from (T, D) scaled queries, keys and values; more rows than T are left alone."""
        for run, values in zip(self.runs, self._values, strict=True):
            rows = slice(run.first, run.last)
            part = out[rows].view(run.sequences, run.length, self.heads, self.width)
            q, k, v = (self._by_head(x[rows], run) for x in (query, key, value))  # (n, H, L, d)
            if values is None:
                part.copy_(F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2))
            else:
                self._attend(q, k, v, values, part)

    def _by_head(self, x: Tensor, run: Run) -> Tensor:
        return x.view(run.sequences, run.length, self.heads, self.width).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, values: Tensor, out: Tensor) -> None:
        n, heads, length, width = q.shape
        values.view(n, heads, length, -1)[..., :width].copy_(v)
        q, k = (x.reshape(n * heads, length, width) for x in (q, k))
        weights = torch.bmm(q, k.transpose(1, 2)).exp_()  # (n * H, L, L)
        total = torch.bmm(weights, values).view(n, heads, length, -1).transpose(1, 2)  # (n, L, H, d + ONES)
        sums = total[..., width : width + 1]
        torch.div(total[..., :width], sums, out=out)
        self._extremes.extend(torch.aminmax(sums))

    def sums_in_range(self) -> bool:
        """Whether all that was computed since the batch began is sound."""
        if not self._extremes:
            return True
        seen = torch.stack(self._extremes).float()
        # a comparison with NaN is false, so NaN is out of range too
        return bool(((seen > RANGE[0]) & (seen < RANGE[1])).all())
