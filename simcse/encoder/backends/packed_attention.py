"""Attention over packed sequences without padding tokens and without gradients.

A softmax is exp, sum, divide; torch's own is slow on the CPU for rows whose length is no multiple of the vector width,
which most sentences are, and so is its fused attention: twice to three times. Here the exponential is one flat pass,
and the sums fall out of the product with the values, to which columns of ones are joined. Without subtracting the row's
maximum a sum could leave the range of the type, so `sums_in_range` tells, and the caller then takes the careful way.
Sequences beyond `LONG` always go the careful way: there the fused attention is the faster one.

Work goes in pieces of some hundred tokens, all in the same few buffers, which keeps memory small. Their sides are
rounded up: matrix products of odd sizes are slow, and oneDNN compiles and keeps a kernel for each new size. What
rounding adds has values and ones of 0, so no row sees it.
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
PIECE = 512  # tokens
ROUND_LENGTH = 4  # tokens


class Run(NamedTuple):
    """Neighbouring sequences of one length.

    Attributes:
        rows: their tokens.
        shape: (n, L, H, d).
    """

    rows: slice
    shape: tuple[int, int, int, int]


class Pieces:
    """A run's attention, N sequences at a time; the same for each layer.

    Args:
        run: the sequences.
        like: any tensor of the dtype and device to compute in.
    """

    def __init__(self, run: Run, like: Tensor) -> None:
        n, self.length, heads, self.width = run.shape
        rounded = up_to(self.length, ROUND_LENGTH)
        most = max(1, PIECE // rounded)
        count = most if n > most else min(most, up_to(n, max(1, most // 4)))
        self.runs = [self.piece(run, first, min(first + count, n)) for first in range(0, n, count)]
        self.queries_keys = like.new_zeros(2, count, heads, rounded, self.width)
        self.values = like.new_zeros(count, heads, rounded, self.width + ONES)
        self.values[:, :, : self.length, self.width :] = 1
        self.weights = like.new_empty(count * heads, rounded, rounded)
        self.total = torch.empty_like(self.values)

    def piece(self, run: Run, first: int, last: int) -> Run:
        """Sequences first..last - 1."""
        start = run.rows.start
        rows = slice(start + first * self.length, start + last * self.length)
        return Run(rows, (last - first, *run.shape[1:]))

    def __call__(self, qkv: Tensor, out: Tensor) -> list[Tensor]:
        """Fill the sequences' rows of `out` (T, D) from (T, 3 * D); what each sum was divided by, flat."""
        length, width = self.length, self.width
        query, key = self.queries_keys.flatten(1, 2)  # (N * H, L, d)
        key, values, total = key.transpose(1, 2), self.values.flatten(0, 1), self.total.flatten(0, 1)
        shares = []
        for rows, shape in self.runs:
            n, _, heads, _ = shape
            given = qkv[rows].view(n, length, 3, heads, width).permute(2, 0, 3, 1, 4)  # (3, n, H, l, d)
            self.queries_keys[:, :n, :, :length].copy_(given[:2])
            self.values[:n, :, :length, :width].copy_(given[2])
            torch.bmm(query, key, out=self.weights).exp_()  # (N * H, L, L)
            torch.bmm(self.weights, values, out=total)  # (N * H, L, d + ONES)
            part = self.total[:n, :, :length].transpose(1, 2)  # (n, l, H, d + ONES)
            share = part[..., width : width + 1].reciprocal()  # (n, l, H, 1)
            torch.mul(part[..., :width], share, out=out[rows].view(shape))
            shares.append(share.flatten())
        return shares


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
        self._shares: list[Tensor] = []
        self._careful: list[Run] = []
        self._pieces: list[Pieces] = []
        width, first = like.shape[-1] // heads, 0
        for length, same in groupby(lengths):
            n = len(list(same))
            run = Run(slice(first, first + n * length), (n, length, heads, width))
            first = run.rows.stop
            if careful or length > LONG:
                self._careful.append(run)
            else:
                self._pieces.append(Pieces(run, like))

    def __call__(self, qkv: Tensor, out: Tensor) -> None:
        """Fill `out` (T, D) from (T, 3 * D) scaled queries, keys and values; rows behind T are left alone."""
        for pieces in self._pieces:
            self._shares += pieces(qkv, out)
        for rows, shape in self._careful:
            n, length, heads, width = shape
            q, k, v = qkv[rows].view(n, length, 3, heads, width).permute(2, 0, 3, 1, 4)  # (n, H, L, d)
            attended = F.scaled_dot_product_attention(q, k, v, scale=1.0)
            out[rows].view(shape).copy_(attended.transpose(1, 2))

    def sums_in_range(self) -> bool:
        """Whether all that was computed since the batch began is sound."""
        if not self._shares:
            return True
        least, most = torch.aminmax(torch.cat(self._shares))
        return bool((least > RANGE[0]) & (most < RANGE[1]))  # a comparison with NaN is false: out of range too


def up_to(number: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-number // step) * step
