"""Rows of an embedding table, with a gradient in memory that is kept from step to step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, UntypedStorage, nn
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["look_up"]


def look_up(embedding: nn.Embedding, ids: Tensor) -> Tensor:
    """(T,) ids -> (T, D) rows of the table.

    The gradient is dense, as optimizers want it. A word table is larger than what the C library keeps when it is freed
    (32 MB), so that a gradient made anew faults page by page; memory that is there already does not.
    """
    return Rows.apply(embedding.weight, ids, embedding.padding_idx)  # type: ignore[no-any-return, no-untyped-call]


class Rows(torch.autograd.Function):
    """(V, D) table, (T,) ids -> (T, D)."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        """The rows; `padding` is an id that gets no gradient."""
        ctx.save_for_backward(ids)
        ctx.table, ctx.padding = table, padding
        return F.embedding(ids, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of the table (V, D)."""
        (ids,) = ctx.saved_tensors
        total = reused_zeros(ctx.table).index_add_(0, ids, grad)
        if ctx.padding is not None:
            total[ctx.padding].zero_()
        return total, None, None


_gradients: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # table -> storages of its gradients


def reused_zeros(table: Tensor) -> Tensor:
    """Zeros like a table, in a storage of an earlier gradient that nobody holds any more, or in a new one.

    Two are enough: where gradients add up, one holds the sum and one the summand.
    """
    storages: list[UntypedStorage] = _gradients.setdefault(table, [])  # type: ignore[no-untyped-call]
    for storage in storages:
        if torch._C._storage_Use_Count(storage._cdata) == 1:  # only this list's
            return torch.empty(0, dtype=table.dtype).set_(storage, 0, table.shape, table.stride()).zero_()
    zeros = torch.zeros(table.shape, dtype=table.dtype)
    if len(storages) < 2:
        storages.append(zeros.untyped_storage())
    return zeros
