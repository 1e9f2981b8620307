"""The only file that knows ranks."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gather", "local_world", "mean_over_processes", "rank", "world"]


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_world() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def gather(rows: Tensor) -> Tensor:
    """This process's rows (n, ...) -> everyone's (world * n, ...), in rank order, with gradient.

    The gradient of a row is the sum of what all processes' losses ask of it. With the mean over processes that DDP
    takes, it equals one process's gradient on the whole batch; no further factor belongs here.
    """
    if world() == 1:
        return rows
    if rows.is_floating_point():
        return _Gather.apply(rows)  # type: ignore[no-any-return,no-untyped-call]
    return _all_gather(rows)


def _all_gather(rows: Tensor) -> Tensor:
    parts = [torch.empty_like(rows) for _ in range(world())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.own = slice(rank() * len(rows), (rank() + 1) * len(rows))
        return _all_gather(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[ctx.own]


def mean_over_processes(value: Tensor) -> Tensor:
    """Mean of a detached scalar over all processes."""
    if world() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world()
