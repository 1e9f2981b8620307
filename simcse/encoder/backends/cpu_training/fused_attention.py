"""Attention by one call of native/training.cpp a layer and direction: in float32, or of short texts in bfloat16."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from simcse.encoder.backends.cpu_training.attention import AttentionLayout, attention_layout
from simcse.encoder.backends.cpu_training.dropout import drop_levels, keep_scale, seed_of_mask
from simcse.encoder.backends.cpu_training.passes import WIDTH, passes_for
from simcse.encoder.backends.native.instruction_sets import AMX, best_instruction_set
from simcse.tokens.batch import TokenBatch

__all__ = ["FusedAttention", "attention_for"]

LONGEST = 128  # tokens in bf16: of longer sequences, torch's products in it are as fast (AMD EPYC, Zen 4)
LONGEST_AMX = 256  # the same with AMX: beyond, heads of 64 gain less than a tenth (Intel Xeon, Emerald Rapids)


def attention_for(
    batch: TokenBatch, rows: int, heads: int, width: int, rate: float, dtype: torch.dtype, *,
    first: bool = False, relative: bool = False,
) -> AttentionLayout | FusedAttention:  # fmt: skip
    """What computes attention over a batch; arguments as of `attention_layout`.

    `relative`: whether scores have a bias by distance.
    """
    slow = dtype == torch.bfloat16 and batch.longest > (LONGEST_AMX if best_instruction_set(dtype) is AMX else LONGEST)
    if relative or slow or width % WIDTH or passes_for(dtype) is None:
        return attention_layout(batch, rows, heads, width, rate, dtype, first=first)
    return FusedAttention.of(batch, heads, width, rate, first)


@dataclass(frozen=True)
class FusedAttention:
    """S sequences, T rows of tokens, N of queries, H heads of d numbers; see `AttentionLayout`.

    Attributes:
        starts, lengths: (S,) of each sequence.
        offsets: (S,) where its weights lie: (H, queries, keys rounded up to 32) each.
        size: how many weights there are.
        tokens: of all sequences; rows behind are padding, read zeros and get zero gradients.
        heads, width: H and d.
        rate: of dropout on the attention weights.
        first: only the first token of each sequence is a query (N = S), instead of all (N = T).
    """

    starts: Tensor
    lengths: Tensor
    offsets: Tensor
    size: int
    tokens: int
    heads: int
    width: int
    rate: float
    first: bool

    @classmethod
    def of(cls, batch: TokenBatch, heads: int, width: int, rate: float, first: bool) -> FusedAttention:
        """That of a batch; arguments as of `attention_layout`."""
        starts, lengths = (one.to(torch.int64).contiguous() for one in (batch.starts, batch.sizes))
        queries = torch.ones_like(lengths) if first else lengths
        sizes = heads * queries * ((lengths + 31) // 32 * 32)  # (S,)
        offsets, size = sizes.cumsum(0) - sizes, int(sizes.sum())
        return cls(starts, lengths, offsets, size, len(batch.ids), heads, width, rate, first)

    @property
    def scale(self) -> float:
        """What dropout multiplies kept weights by; the caller puts it into the values."""
        return keep_scale(self.rate)

    @property
    def queries(self) -> int:
        """How many there are, without padding."""
        return len(self.starts) if self.first else self.tokens

    def attend(
        self, query: Tensor, key_value: Tensor, relative: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...], int]:
        """As `AttentionLayout.attend`: context (N, D), what the backward pass reads, and the seed of the mask."""
        assert relative is None, "attention_for chooses AttentionLayout then"
        seed = seed_of_mask() if self.rate else 0
        weights, context = query.new_empty(self.size), torch.empty_like(query)
        self._call("attention_forward", seed, (query, key_value), (weights, context))
        return clear_behind(context, self.queries), (query, key_value, weights), seed

    def backward(
        self, context_grad: Tensor, gathered: tuple[Tensor, ...], seed: int, relative_grad: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `AttentionLayout.backward`."""
        query, key_value, weights = gathered
        query_grad, key_value_grad = torch.empty_like(query), torch.empty_like(key_value)
        self._call("attention_backward", seed, (context_grad, query, key_value), (weights, query_grad, key_value_grad))
        return clear_behind(query_grad, self.queries), clear_behind(key_value_grad, self.tokens)

    def _call(self, name: str, seed: int, before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> None:
        library = passes_for(before[0].dtype)
        assert library is not None, "attention_for asked for it"
        tensors = (*before, self.starts, self.lengths, self.offsets, *after)
        getattr(library, name)(
            *(tensor.data_ptr() for tensor in tensors), len(self.starts), self.heads, self.width, self.first,
            seed, drop_levels(self.rate), torch.get_num_threads(),
        )  # fmt: skip


def clear_behind(tokens: Tensor, count: int) -> Tensor:
    """Zeros in the rows behind the first so many."""
    if count < len(tokens):
        tokens[count:].zero_()
    return tokens
