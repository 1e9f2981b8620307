"""Attention over packed sequences without padding tokens and without gradients.

A softmax is exp, sum, divide; torch's own is slow on the CPU for rows whose length is no multiple of the vector width,
which most sentences are, and so is its fused attention: twice to three times. Here the exponential is one flat pass,
and the sums fall out of the product with the values, to which columns of ones are joined. Without subtracting the row's
maximum a sum could leave the range of the type, so `sums_in_range` tells, and the caller then takes the careful way.
Sequences beyond `LONG` always go the careful way: there the fused attention is the faster one.

Sequences of about one length lie in one block, whose sides are rounded up: matrix products of odd sizes are slow, and
oneDNN compiles and keeps a kernel for each new size. What rounding adds has values and ones of 0: no row sees it.
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
ROUND_LENGTH = 4  # tokens


class Run(NamedTuple):
    """Neighbouring sequences of one length.

    Attributes:
        rows: their tokens.
        shape: (n, L, H, d).
        first: the first one's place in its block.
    """

    rows: slice
    shape: tuple[int, int, int, int]
    first: int


class Block:
    """Neighbouring sequences of about one length, N of them with L tokens after rounding up; the same for each layer.

    Args:
        runs: of the sequences.
        like: any tensor of the dtype and device to compute in.
    """

    def __init__(self, runs: Sequence[Run], like: Tensor) -> None:
        _, length, heads, width = runs[0].shape
        length, count = up_to(length, ROUND_LENGTH), sum(run.shape[0] for run in runs)
        count = up_to(count, max(1, (1 << (count - 1).bit_length()) // 16))
        self.runs = runs
        self.queries_keys = like.new_zeros(2, count, heads, length, width)
        self.values = like.new_zeros(count, heads, length, width + ONES)
        for run in runs:
            self.part(self.values, run)[..., width:] = 1

    def part(self, whole: Tensor, run: Run) -> Tensor:
        """(..., N, H, L, x) -> (..., n, H, l, x): a run's sequences."""
        return whole[..., run.first : run.first + run.shape[0], :, : run.shape[1], :]

    def __call__(self, qkv: Tensor, out: Tensor) -> list[Tensor]:
        """Fill the sequences' rows of `out` (T, D) from (T, 3 * D); what each sum was divided by, flat."""
        for run in self.runs:
            n, length, heads, width = run.shape
            given = qkv[run.rows].view(n, length, 3, heads, width).permute(2, 0, 3, 1, 4)  # (3, n, H, l, d)
            self.part(self.queries_keys, run).copy_(given[:2])
            self.part(self.values, run)[..., :width].copy_(given[2])
        query, key = self.queries_keys.flatten(1, 2)  # (N * H, L, d)
        weights = torch.bmm(query, key.transpose(1, 2)).exp_()  # (N * H, L, L)
        total = torch.bmm(weights, self.values.flatten(0, 1)).view_as(self.values)  # (N, H, L, d + ONES)
        shares = []
        for run in self.runs:
            width = run.shape[-1]
            part = self.part(total, run).transpose(1, 2)  # (n, l, H, d + ONES)
            share = part[..., width : width + 1].reciprocal()  # (n, l, H, 1)
            torch.mul(part[..., :width], share, out=out[run.rows].view(run.shape))
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
        runs, width, first = [], like.shape[-1] // heads, 0
        for length, same in groupby(lengths):
            n = len(list(same))
            runs.append(Run(slice(first, first + n * length), (n, length, heads, width), 0))
            first += n * length
        self._careful = [run for run in runs if careful or run.shape[1] > LONG]
        self._blocks = blocks([run for run in runs if not careful and run.shape[1] <= LONG], like)

    def __call__(self, qkv: Tensor, out: Tensor) -> None:
        """Fill `out` (T, D) from (T, 3 * D) scaled queries, keys and values; rows behind T are left alone."""
        for block in self._blocks:
            self._shares += block(qkv, out)
        for run in self._careful:
            n, length, heads, width = run.shape
            q, k, v = qkv[run.rows].view(n, length, 3, heads, width).permute(2, 0, 3, 1, 4)  # (n, H, L, d)
            attended = F.scaled_dot_product_attention(q, k, v, scale=1.0)
            out[run.rows].view(run.shape).copy_(attended.transpose(1, 2))

    def sums_in_range(self) -> bool:
        """Whether all that was computed since the batch began is sound."""
        if not self._shares:
            return True
        least, most = torch.aminmax(torch.cat(self._shares))
        return bool((least > RANGE[0]) & (most < RANGE[1]))  # a comparison with NaN is false: out of range too


def blocks(runs: Sequence[Run], like: Tensor) -> list[Block]:
    """Runs in blocks of one rounded length."""
    found = []
    for _, group in groupby(runs, key=lambda run: up_to(run.shape[1], ROUND_LENGTH)):
        placed, first = [], 0
        for run in group:
            placed.append(run._replace(first=first))
            first += run.shape[0]
        found.append(Block(placed, like))
    return found


def up_to(number: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-number // step) * step
