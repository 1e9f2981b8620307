"""Token sequences as one flat run without padding, and how many of them go through the encoder at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["BatchPlan", "TokenBatch", "TokenLists", "plan_batches"]


@dataclass(frozen=True)
class TokenBatch:
    """S token sequences, T tokens in all, one sequence after another.

    Attributes:
        ids: (T,) int64 token ids.
        lengths: S lengths, none of them 0; they add up to T.
        left_out: how many tokens at the beginning of each sequence do not count in the pooling, fewer than it has, as
            they are a prompt's; empty where all count.
    """

    ids: Tensor
    lengths: tuple[int, ...]
    left_out: tuple[int, ...] = ()

    @classmethod
    def from_lists(
        cls, sequences: Sequence[Sequence[int]], device: torch.device | str = "cpu", left_out: tuple[int, ...] = ()
    ) -> TokenBatch:
        """Join lists of token ids."""
        lengths = tuple(map(len, sequences))
        flat = np.fromiter((token for sequence in sequences for token in sequence), dtype=np.int64, count=sum(lengths))
        return cls(moved(torch.from_numpy(flat), device), lengths, left_out)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, L."""
        return max(self.lengths)

    @property
    def is_uniform(self) -> bool:
        """Whether all sequences are equally long, so that (T, D) is (S, L, D) by a mere view."""
        return self.longest * len(self.lengths) == len(self.ids)

    @cached_property
    def sizes(self) -> Tensor:
        """(S,) int64 lengths, on the device of the ids."""
        return moved(torch.tensor(self.lengths), self.ids.device)

    @cached_property
    def starts(self) -> Tensor:
        """(S,) int64: where each sequence begins in the flat run."""
        return self.sizes.cumsum(0) - self.sizes

    @cached_property
    def segments(self) -> Tensor:
        """(T,) int64: which sequence each token belongs to."""
        return torch.repeat_interleave(
            torch.arange(len(self), device=self.ids.device), self.sizes, output_size=len(self.ids)
        )

    @cached_property
    def positions(self) -> Tensor:
        """(T,) int64: 0, 1, 2, ... within each sequence."""
        return torch.arange(len(self.ids), device=self.ids.device) - self.starts[self.segments]

    @cached_property
    def padded_rows(self) -> Tensor:
        """(T,) int64: row of each token in the (S * L, D) padded layout."""
        return self.segments * self.longest + self.positions

    def padded(self, pad_id: int) -> tuple[Tensor, Tensor | None]:
        """(S, L) ids and their (S, L) mask, which is None where nothing is padding."""
        shape = (len(self), self.longest)
        if self.is_uniform:
            return self.ids.view(shape), None
        ids = torch.full((shape[0] * shape[1],), pad_id, dtype=self.ids.dtype, device=self.ids.device)
        mask = torch.zeros_like(ids)
        ids[self.padded_rows] = self.ids
        mask[self.padded_rows] = 1
        return ids.view(shape), mask.view(shape)

    def unpad(self, hidden: Tensor) -> Tensor:
        """(S, L, D) -> (T, D): the rows that are no padding."""
        flat = hidden.flatten(0, 1)  # (S * L, D)
        # index_select, not a boolean mask: the backward of boolean indexing is many times slower
        return flat if self.is_uniform else flat.index_select(0, self.padded_rows)

    def select(self, first: int, last: int) -> TokenBatch:
        """Sequences first..last - 1, as a view."""
        before = sum(self.lengths[:first])
        lengths = self.lengths[first:last]
        return TokenBatch(self.ids[before : before + sum(lengths)], lengths, self.left_out[first:last])

    def take(self, numbers: Sequence[int]) -> TokenBatch:
        """The sequences with these numbers, in their order, as a copy."""
        sequences: tuple[Tensor, ...] = self.ids.split(list(self.lengths))  # type: ignore[no-untyped-call]
        left_out = tuple(self.left_out[i] for i in numbers) if self.left_out else ()
        return TokenBatch(torch.cat([sequences[i] for i in numbers]), tuple(self.lengths[i] for i in numbers), left_out)


def moved(values: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the host on a device; on its way to CUDA it lies in pinned memory, so that nobody waits for it."""
    return (values.pin_memory() if torch.device(device).type == "cuda" else values).to(device, non_blocking=True)


class BatchPlan(NamedTuple):
    """n sequences in order of length, longest first, cut into batches.

    Attributes:
        order: (n,) row numbers.
        cuts: (b + 1,) batch i is order[cuts[i]:cuts[i + 1]].
    """

    order: np.ndarray
    cuts: np.ndarray


def plan_batches(
    lengths: Sequence[int] | np.ndarray, *, max_tokens: int, max_sequences: int | None = None, padded: bool = False
) -> BatchPlan:
    """Sort by length, longest first (too little memory shows at once), and cut into batches within a token budget.

    Args:
        lengths: (n,) token counts, in the caller's order.
        max_tokens: the most tokens in a batch; one sequence always goes through, however long.
        max_sequences: the most sequences in a batch.
        padded: whether sequences count as long as the longest of their batch.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    sizes = sizes[order]
    ends = np.concatenate(([0], np.cumsum(sizes)))  # (n + 1,) tokens up to each sequence
    cuts = [0]
    while (start := cuts[-1]) < len(order):
        if padded:
            stop = start + max_tokens // max(int(sizes[start]), 1)
        else:
            stop = int(np.searchsorted(ends, ends[start] + max_tokens, side="right")) - 1
        stop = min(max(stop, start + 1), start + (max_sequences or len(order)), len(order))
        cuts.append(stop)
    return BatchPlan(order, np.array(cuts))


class TokenLists(NamedTuple):
    """n token sequences of any lengths, one after another.

    Attributes:
        ids: (T,) int64 token ids.
        lengths: (n,) int64.
    """

    ids: np.ndarray
    lengths: np.ndarray

    @classmethod
    def join(cls, parts: Sequence[TokenLists]) -> TokenLists:
        """One after another."""
        return cls(np.concatenate([part.ids for part in parts]), np.concatenate([part.lengths for part in parts]))

    def ordered(self, order: np.ndarray) -> TokenLists:
        """The sequences in another order, or some of them."""
        starts, sizes = (np.cumsum(self.lengths) - self.lengths)[order], self.lengths[order]
        ends = np.cumsum(sizes)
        shift = np.repeat(starts - (ends - sizes), sizes)  # (T,) from place to place
        return TokenLists(self.ids[np.arange(len(shift)) + shift], sizes)

    def batches(self, cuts: np.ndarray, device: torch.device, left_out: int = 0) -> Iterator[TokenBatch]:
        """Neighbouring sequences cuts[i]..cuts[i + 1] - 1 as batches; `left_out` as in `TokenBatch`, of each."""
        ends = np.concatenate(([0], np.cumsum(self.lengths)))
        for first, last in pairwise(cuts):
            ids = torch.from_numpy(self.ids[ends[first] : ends[last]])
            lengths = tuple(self.lengths[first:last].tolist())
            yield TokenBatch(moved(ids, device), lengths, (left_out,) * len(lengths) if left_out else ())
