"""Attention over packed sequences without padding tokens and without gradients.

A softmax is exp, sum, divide; torch's own is slow on the CPU for rows whose length is no multiple of the vector width,
which most sentences are, and so is its fused attention. Here the exponential is one flat pass, and the sums fall out of
the product with the values, to which columns of ones are joined. A bias of the scores is a factor behind the
exponential, made once a batch for all layers. Without subtracting the row's maximum a sum could leave the range of the
type: `denominators_finite` tells, and the caller then computes the stable (max-shifted) softmax. Sequences beyond
`LONG` always take the stable one: there the fused attention is the faster one.

Work goes in chunks of some hundred tokens, all in the same few buffers, which keeps memory small. Their sides are
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

from simcse.encoder.backends.relative_bias import bias_matrix, window_bias

__all__ = ["PackedAttention"]

LONG = 128  # tokens
RANGE = (1e-35, 1e25)  # of reciprocal denominators, well inside float32 and bfloat16
ONES = 8  # columns joined to the values; one is read, the others keep rows aligned
CHUNK = 512  # tokens
ROUND_LENGTH = 4  # tokens


class LengthGroup(NamedTuple):
    """Neighbouring sequences of equal length.

    Attributes:
        rows: their tokens.
        shape: (n, L, H, d).
    """

    rows: slice
    shape: tuple[int, int, int, int]


class ChunkedAttention:
    """Attention of a group, N sequences at a time; the same for each layer.

    Args:
        group: the sequences.
        like: any tensor of the dtype and device to compute in.
        bias: of the scores, as `relative_bias` keeps it.
    """

    def __init__(self, group: LengthGroup, like: Tensor, bias: Tensor | None) -> None:
        n, self.length, heads, self.width = group.shape
        rounded = up_to(self.length, ROUND_LENGTH)
        most = max(1, CHUNK // rounded)
        count = most if n > most else min(most, up_to(n, max(1, most // 4)))
        self.chunks = [self.chunk(group, first, min(first + count, n)) for first in range(0, n, count)]
        self.queries_keys = like.new_zeros(2, count, heads, rounded, self.width)
        self.values = like.new_zeros(count, heads, rounded, self.width + ONES)
        self.values[:, :, : self.length, self.width :] = 1
        self.weights = like.new_empty(count, heads, rounded, rounded)
        self.factors: Tensor | None = None  # (H, L, L)
        if bias is not None:
            each = bias_matrix(bias, self.length, self.length).float().exp().to(like.dtype)
            self.factors = F.pad(each, (0, rounded - self.length) * 2)
        self.total = torch.empty_like(self.values)

    def chunk(self, group: LengthGroup, first: int, last: int) -> LengthGroup:
        """Sequences first..last - 1."""
        start = group.rows.start
        rows = slice(start + first * self.length, start + last * self.length)
        return LengthGroup(rows, (last - first, *group.shape[1:]))

    def __call__(self, qkv: Tensor, out: Tensor) -> list[Tensor]:
        """Fill the sequences' rows of `out` (T, D) from (T, 3 * D); the reciprocal denominators, flat."""
        length, width = self.length, self.width
        query, key = self.queries_keys.flatten(1, 2)  # (N * H, L, d)
        key, values, total = key.transpose(1, 2), self.values.flatten(0, 1), self.total.flatten(0, 1)
        weights = self.weights.flatten(0, 1)  # (N * H, L, L)
        reciprocals = []
        for rows, shape in self.chunks:
            n, _, heads, _ = shape
            parts = qkv[rows].view(n, length, 3, heads, width).permute(2, 0, 3, 1, 4)  # (3, n, H, l, d)
            self.queries_keys[:, :n, :, :length].copy_(parts[:2])
            self.values[:n, :, :length, :width].copy_(parts[2])
            torch.bmm(query, key, out=weights).exp_()
            if self.factors is not None:
                self.weights.mul_(self.factors)
            torch.bmm(weights, values, out=total)  # (N * H, L, d + ONES)
            sums = self.total[:n, :, :length].transpose(1, 2)  # (n, l, H, d + ONES)
            reciprocal = sums[..., width : width + 1].reciprocal()  # (n, l, H, 1)
            torch.mul(sums[..., :width], reciprocal, out=out[rows].view(shape))
            reciprocals.append(reciprocal.flatten())
        return reciprocals


class PackedAttention:
    """Attention of one batch, the same for each layer.

    Args:
        lengths: S sequence lengths, which add up to T.
        heads: H.
        like: any tensor of the dtype and device to compute in, (..., D).
        bias: of the scores, as `relative_bias` keeps it.
        window: how far a token sees to either side, in place of a bias; default all of its sequence.
        stable: compute the stable softmax throughout.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        heads: int,
        like: Tensor,
        *,
        bias: Tensor | None = None,
        window: int | None = None,
        stable: bool = False,
    ) -> None:
        self.tokens, self._bias, self._window = sum(lengths), bias, window
        if window is not None and window < LONG:
            bias = window_bias(window, LONG, like)
        self._reciprocals: list[Tensor] = []
        self._stable: list[LengthGroup] = []
        self._chunked: list[ChunkedAttention] = []
        width, first = like.shape[-1] // heads, 0
        for length, same in groupby(lengths):
            n = len(list(same))
            group = LengthGroup(slice(first, first + n * length), (n, length, heads, width))
            first = group.rows.stop
            if stable or length > LONG:
                self._stable.append(group)
            else:
                sees_all = window is not None and length <= window + 1
                self._chunked.append(ChunkedAttention(group, like, None if sees_all else bias))

    def __call__(self, qkv: Tensor, out: Tensor) -> None:
        """Fill `out` (T, D) from (T, 3 * D) scaled queries, keys and values; rows behind T are left alone."""
        for attend in self._chunked:
            self._reciprocals += attend(qkv, out)
        for rows, shape in self._stable:
            n, length, heads, width = shape
            q, k, v = qkv[rows].view(n, length, 3, heads, width).permute(2, 0, 3, 1, 4)  # (n, H, L, d)
            if self._window is not None:
                attended = windowed_attention(q, k, v, self._window)
            else:
                mask = None if self._bias is None else bias_matrix(self._bias, length, length)  # (H, L, L)
                attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
            out[rows].view(shape).copy_(attended.transpose(1, 2))

    def denominators_finite(self) -> bool:
        """Whether all denominators since the batch began were finite, with room to spare."""
        if not self._reciprocals:
            return True
        least, most = torch.aminmax(torch.cat(self._reciprocals))
        return bool((least > RANGE[0]) & (most < RANGE[1]))  # a comparison with NaN is false: out of range too


def windowed_attention(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    """Attention of (n, H, L, d) scaled queries to keys at most `window` tokens away: linear in L, stable."""
    length, rows, out = query.shape[2], 2 * window + 1, torch.empty_like(query)
    places = torch.arange(length, device=query.device)
    for first in range(0, length, rows):
        own, near = slice(first, first + rows), slice(max(0, first - window), first + rows + window)
        mask = (places[own, None] - places[near]).abs() <= window
        out[:, :, own] = F.scaled_dot_product_attention(
            query[:, :, own], key[:, :, near], value[:, :, near], attn_mask=mask, scale=1.0
        )
    return out


def up_to(number: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-number // step) * step
