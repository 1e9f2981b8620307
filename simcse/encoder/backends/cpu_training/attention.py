"""Attention over a flat run of sequences: from tokens to one small matrix a head and a sequence, and back.

Only here do sequences get padding, and only those that have it as short neighbours: sequences whose lengths round up to
the same multiple of `STRIDE` share a group, as wide as its longest member; long ones make several groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from simcse.encoder.backends.cpu_training.dropout import keep_mask, keep_scale
from simcse.encoder.backends.cpu_training.passes import gather
from simcse.encoder.backends.relative_bias import bias_matrix, distance_columns
from simcse.tokens.batch import TokenBatch

__all__ = ["AttentionLayout", "Saved", "attention_layout", "rows_and_zero"]

STRIDE = 32
GROUP_BYTES = 24 << 20  # of scores: freed blocks beyond 32 MB go back to the system, and fault anew page by page


class Group(NamedTuple):
    """Sequences of about one length: G matrices (sequences x heads) of Lq queries and Lk keys.

    Attributes:
        queries, keys: where the group's rows lie in the gathered rows.
        query_shape, key_shape: (G, Lq, d) and (G, Lk, d).
        bias: (G, 1, Lk), 0 for a token and -inf for padding; None where nothing is padding.
    """

    queries: slice
    keys: slice
    query_shape: tuple[int, int, int]
    key_shape: tuple[int, int, int]
    bias: Tensor | None


@dataclass(frozen=True)
class AttentionLayout:
    """Gather and scatter indices of rows of one head, d numbers each.

    N query tokens, T key tokens, H heads; Rq and Rk rows gathered, with padding.

    N and T may exceed the tokens: what is there behind the last sequence reads zeros and gets zero gradients.

    Attributes:
        groups: the groups of sequences.
        query_rows: (Rq,) rows of the (N * H, d) queries; padding is any row.
        context_rows: (Rq,) the same, but padding is row N * H: a row of zeros.
        key_rows: (2 * Rk,) rows of the (T * 2 * H, d) keys and values, first of all keys, then of all values.
        query_back: (N * H,) the gathered row of each query; Rq, a row of zeros, behind the last sequence.
        key_back: (T * 2 * H,) the gathered row of each key and value; 2 * Rk, a row of zeros, behind the last sequence.
        rate: of dropout on the attention weights.
    """

    groups: tuple[Group, ...]
    query_rows: Tensor
    context_rows: Tensor
    key_rows: Tensor
    query_back: Tensor
    key_back: Tensor
    rate: float

    @property
    def width(self) -> int:
        """d, of one head."""
        return self.groups[0].key_shape[-1]

    @property
    def scale(self) -> float:
        """What dropout multiplies kept weights by; the caller puts it into the values."""
        return keep_scale(self.rate)

    def attend(
        self, query: Tensor, key_value: Tensor, relative: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...], list[Saved]]:
        """Softmax attention with dropout on its weights.

        Args:
            query: (N, D), 1 / sqrt(d) already in it.
            key_value: (T, 2 D), keys then values; the scale of dropout is already in the values.
            relative: (H, 2 * span - 1) bias of the scores, as `relative_bias` keeps it, where each query has the place
                that it has in its group.

        Returns:
            (N, D) context; gathered queries, keys and values; and what each group saved.
        """
        width = self.width
        queries = gather(query.view(-1, width), self.query_rows)  # (Rq, d)
        keys, values = gather(key_value.view(-1, width), self.key_rows).chunk(2)  # (Rk, d)
        context = rows_and_zero(queries)
        saved = []
        for group in self.groups:
            q, k, v = pick(group, queries, keys, values)
            scores = k.transpose(1, 2)  # (G, d, Lk)
            scores = torch.bmm(q, scores) if group.bias is None else torch.baddbmm(group.bias, q, scores)  # (G, Lq, Lk)
            if relative is not None:
                per_head = bias_matrix(relative, *scores.shape[1:]).to(scores.dtype)  # (H, Lq, Lk)
                scores.view(-1, *per_head.shape).add_(per_head)
            weights = torch.softmax(scores, -1)
            keep = keep_mask(weights.shape, self.rate, weights.dtype)
            dropped = weights if keep is None else weights * keep
            torch.bmm(dropped, v, out=context[group.queries].view(group.query_shape))
            saved.append(Saved(weights, dropped, keep))
        back = gather(context, self.query_back).view_as(query)  # (N, D)
        return back, (queries, keys, values), saved

    def backward(
        self,
        context_grad: Tensor,
        gathered: tuple[Tensor, ...],
        saved: list[Saved],
        relative_grad: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Gradients of query (N, D) and key_value (T, 2 D), from that of the context: (N + 1, D), its last row zeros.

        That of the relative bias is added to `relative_grad` (H, 2 * span - 1).
        """
        width = self.width
        grads = gather(context_grad.view(-1, width), self.context_rows)  # (Rq, d)
        query_grad, key_value_grad = rows_and_zero(grads), rows_and_zero(grads, len(self.key_rows))
        key_grad, value_grad = key_value_grad[:-1].chunk(2)
        for group, (weights, dropped, keep) in zip(self.groups, saved, strict=True):
            q, k, v = pick(group, *gathered)
            grad = grads[group.queries].view(group.query_shape)  # (G, Lq, d)
            torch.bmm(dropped.transpose(1, 2), grad, out=value_grad[group.keys].view(group.key_shape))
            grad = torch.bmm(grad, v.transpose(1, 2))  # (G, Lq, Lk)
            if keep is not None:
                grad.mul_(keep)
            grad = torch._softmax_backward_data(grad, weights, -1, weights.dtype)
            if relative_grad is not None:
                add_by_distance(relative_grad, grad)
            torch.bmm(grad, k, out=query_grad[group.queries].view(group.query_shape))
            torch.bmm(grad.transpose(1, 2), q, out=key_grad[group.keys].view(group.key_shape))
        tokens = len(context_grad) - 1
        return (
            gather(query_grad, self.query_back).view(tokens, -1),  # (N, D)
            gather(key_value_grad, self.key_back).view(-1, 2 * context_grad.shape[1]),  # (T, 2 D)
        )


class Saved(NamedTuple):
    """What the backward pass of a group needs: weights before and after dropout, and the mask."""

    weights: Tensor
    dropped: Tensor
    keep: Tensor | None


def attention_layout(
    batch: TokenBatch, rows: int, heads: int, width: int, rate: float, dtype: torch.dtype, *, first: bool = False
) -> AttentionLayout:
    """The gather and scatter indices of a batch.

    Args:
        batch: S sequences.
        rows: T, no less than the batch has tokens.
        heads: H.
        width: d, of one head.
        rate: of dropout on the attention weights.
        dtype: of the scores.
        first: only the first token of each sequence is a query (N = S), instead of all (N = T).
    """
    query_indices, key_indices, groups = [], [], []
    queries = keys = 0
    count = len(batch) if first else rows  # N
    for members, longest in by_length(batch.lengths, GROUP_BYTES // (heads * dtype.itemsize)):
        sequences = torch.tensor(members)
        offsets = torch.arange(longest)  # (Lk,)
        real = offsets < batch.sizes[sequences, None]  # (S', Lk)
        tokens = torch.where(real, batch.starts[sequences, None] + offsets, -1)  # (S', Lk)
        query_tokens = sequences[:, None] if first else tokens  # (S', Lq)
        query_indices.append(per_head(query_tokens, heads))
        key_indices.append(per_head(tokens, heads))
        matrices = len(members) * heads
        padding = torch.zeros(real.shape, dtype=dtype).masked_fill_(~real, float("-inf"))
        query_end, key_end = queries + matrices * query_tokens.shape[1], keys + matrices * longest
        groups.append(
            Group(
                queries=slice(queries, query_end),
                keys=slice(keys, key_end),
                query_shape=(matrices, query_tokens.shape[1], width),
                key_shape=(matrices, longest, width),
                bias=None if real.all() else padding.repeat_interleave(heads, 0)[:, None],  # (G, 1, Lk)
            )
        )
        queries, keys = query_end, key_end
    query_token, query_head = (torch.cat(parts) for parts in zip(*query_indices, strict=True))  # (Rq,)
    key_token, key_head = (torch.cat(parts) for parts in zip(*key_indices, strict=True))  # (Rk,)
    is_key, is_query = key_token >= 0, query_token >= 0
    query_row = query_token * heads + query_head
    key_row = key_token.clamp(min=0) * 2 * heads + key_head
    key_rows = torch.cat([key_row, key_row + heads])
    return AttentionLayout(
        groups=tuple(groups),
        query_rows=query_row.clamp(min=0),
        context_rows=torch.where(is_query, query_row, count * heads),
        key_rows=key_rows,
        query_back=scatter_index(query_row, is_query, count * heads),
        key_back=scatter_index(key_rows, is_key.repeat(2), rows * 2 * heads),
        rate=rate,
    )


def by_length(lengths: tuple[int, ...], most: int) -> Iterator[tuple[list[int], int]]:
    """Rows whose lengths round up to the same multiple of STRIDE, and the longest length among them.

    A group has at most `most` scores a head, but always one row.
    """
    order = sorted(range(len(lengths)), key=lambda row: -(-lengths[row] // STRIDE))
    for _, rows in groupby(order, key=lambda row: -(-lengths[row] // STRIDE)):
        members = list(rows)
        longest = max(lengths[row] for row in members)
        count = max(1, most // longest**2)
        for first in range(0, len(members), count):
            yield members[first : first + count], longest


def per_head(tokens: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """(S', L) tokens -> token and head of each row, sequence by sequence, head by head: two of (S' * H * L,)."""
    shape = (tokens.shape[0], heads, tokens.shape[1])
    head = torch.arange(heads)[:, None].expand(shape)
    return tokens[:, None].expand(shape).reshape(-1), head.reshape(-1)


def scatter_index(rows: Tensor, real: Tensor, size: int) -> Tensor:
    """Where each of `size` rows went; behind all gathered rows, if nowhere."""
    back = torch.full((size,), len(rows))
    back[rows[real]] = real.nonzero().squeeze(1)
    return back


def add_by_distance(total: Tensor, grad: Tensor) -> None:
    """Add gradients of scores, (G, Lq, Lk), to those of the bias by distance (H, 2 * span - 1)."""
    heads, (_, queries, keys) = len(total), grad.shape
    columns = distance_columns((total.shape[1] + 1) // 2, queries, keys, grad.device)
    per_head = grad.view(-1, heads, queries * keys).sum(0, dtype=total.dtype)
    total.index_add_(1, columns.flatten(), per_head)


def rows_and_zero(like: Tensor, rows: int | None = None) -> Tensor:
    """Uninitialised rows, as many as `like` has or the number given, and one of zeros behind them."""
    new = like.new_empty((len(like) if rows is None else rows) + 1, like.shape[1])
    new[-1].zero_()
    return new


def pick(group: Group, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A group's matrices, as views of the gathered rows."""
    return (
        queries[group.queries].view(group.query_shape),
        keys[group.keys].view(group.key_shape),
        values[group.keys].view(group.key_shape),
    )
