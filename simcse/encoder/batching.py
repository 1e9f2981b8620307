"""Token sequences as one flat run without padding, and how many of them go through the encoder at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

__all__ = ["TokenBatch", "plan_batches"]


@dataclass(frozen=True)
class TokenBatch:
    """S token sequences, T tokens in all, one sequence after another.

    Attributes:
        ids: (T,) int64 token ids.
        lengths: S lengths, none of them 0; they add up to T.
    """

    ids: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def from_lists(cls, sequences: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> TokenBatch:
        """Join lists of token ids."""
        lengths = tuple(map(len, sequences))
        flat = np.fromiter((token for sequence in sequences for token in sequence), dtype=np.int64, count=sum(lengths))
        return cls(torch.from_numpy(flat).to(device, non_blocking=True), lengths)

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
        return torch.tensor(self.lengths, device=self.ids.device)

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
        return TokenBatch(self.ids[before : before + sum(lengths)], lengths)


def plan_batches(
    lengths: Sequence[int] | np.ndarray, *, max_tokens: int, max_sequences: int | None = None
) -> Iterator[np.ndarray]:
    """Cut length-sorted rows into batches, each within a token budget and, where there are enough, of one length.

    Args:
        lengths: (n,) token counts, in the caller's order.
        max_tokens: the most tokens that a batch may hold; one sequence always goes through, however long.
        max_sequences: the most sequences that a batch may hold.

    Yields:
        Row numbers of a batch, longest batch first, so that what does not fit in memory fails at once.
    """
    sizes = np.asarray(lengths)
    order = np.argsort(-sizes, kind="stable")
    start = 0
    while start < len(order):
        longest = int(sizes[order[start]])
        room = max(1, max_tokens // max(longest, 1))
        stop = min(start + min(room, max_sequences or room), len(order))
        same = start + int(
            np.searchsorted(-sizes[order[start:stop]], -longest, side="right")
        )  # end of the equally long
        # a batch of one length needs no mask and no copies; worth it once the batch is at least half full
        if same - start >= (stop - start) / 2:
            stop = same
        yield order[start:stop]
        start = stop
