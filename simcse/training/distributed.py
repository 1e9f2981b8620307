"""The only file that knows ranks."""

from __future__ import annotations

import gc
import logging
import os
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from simcse.errors import SimCSEError
from simcse.training.interrupt import Interrupted
from simcse.training.launch import OURS

__all__ = [
    "first_process_first",
    "gather",
    "greatest",
    "group_left",
    "is_process_lost",
    "local_world",
    "mean_over_processes",
    "rank",
    "start",
    "world",
]

T = TypeVar("T")


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
    computes, it equals one process's gradient on the whole batch; no further factor belongs here.
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


def greatest(value: int, device: torch.device) -> int:
    """The greatest of all processes' values."""
    if world() == 1:
        return value
    found = torch.tensor(value, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found)


def first_process_first(action: Callable[[], T]) -> T:
    """`action()`, of the other processes once the first one has done it; if it fails there, all raise its error."""
    if world() == 1:
        return action()
    failure: list[Exception | None] = [None]
    result = None
    if rank() == 0:
        try:
            result = action()
        except (SimCSEError, OSError) as error:
            failure = [error]
    dist.broadcast_object_list(failure)
    if failure[0] is not None:
        if rank() == 0:
            raise failure[0]
        raise SystemExit(getattr(failure[0], "exit_code", 1))  # one line for all
    return action() if rank() else result  # type: ignore[return-value]


def is_process_lost(error: RuntimeError) -> bool:
    """Whether an exchange failed as another process of the group has gone; gloo's error has no class of its own."""
    return isinstance(error, dist.DistBackendError) or "gloo/transport" in str(error)


@contextmanager
def group_left() -> Iterator[None]:
    """Leave the group of processes behind what is done in it, so that none of its threads is left at this one's end.

    A thread of gloo's frees the tensor of the last exchange at a time of its own, for which it needs the interpreter;
    one that is about to end answers by ending the thread, and that aborts the process (SIGABRT).
    """
    try:
        yield
    except (Interrupted, SimCSEError, SystemExit) as error:  # of others nobody knows what is still being exchanged
        traceback.clear_frames(error.__traceback__)  # they refer to the model
        _leave()
        raise
    _leave()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()  # what DDP refers to keeps the group and its threads alive


def start(processes: int, command: list[str]) -> int:
    """Run a command as that many processes of one group on this machine, as torchrun does, but without a traceback.

    A signal to this process is passed on; where one of them fails, the others are told to stop.

    Returns:
        The exit status: 0, of the first that failed, or 128 and the number of the signal that came.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable()  # the processes tell what is wrong
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, max_restarts=0, run_id=f"{OURS}{uuid.uuid4()}",
        rdzv_backend="c10d", rdzv_endpoint="localhost:0",
    )  # fmt: skip
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        return status if status > 0 else 128 - status
    except SignalException as stop:
        return 128 + stop.sigval
    finally:
        logging.disable(logging.NOTSET)
    return 0
