"""GradCache (Gao et al. 2021): the gradient of a large batch in the memory of a small one.

The loss needs all vectors of a batch at once, but not all activations: a first pass without graph makes the vectors,
the loss gives each its gradient, and a second pass, a few rows at a time under the same dropout masks, carries those
gradients through the encoder. The last few rows keep the graph of their first pass, which spares them the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from simcse.data.collate import Batch

__all__ = ["backward"]


def backward(
    accelerator: Accelerator,
    model: nn.Module,
    batch: Batch,
    loss_of: Callable[[Tensor], Tensor],
    micro_batch_size: int | None = None,
) -> Tensor:
    """Add the gradient of `loss_of(views)` to the parameters.

    Args:
        accelerator: scales the loss where the precision asks for it.
        model: maps (tokens, views) to (V, B, D).
        batch: B rows.
        loss_of: (V, B, D) -> scalar.
        micro_batch_size: rows in the encoder at a time; None or at least B: all, in one pass.

    Returns:
        The loss, detached.
    """
    if micro_batch_size is None or micro_batch_size >= len(batch):
        loss = loss_of(model(batch.tokens, batch.views))
        accelerator.backward(loss)
        return loss.detach()
    device = batch.tokens.ids.device
    *parts, kept = _parts(batch, micro_batch_size)
    states, vectors = [], []
    with torch.no_grad():
        for part in parts:
            states.append(_random_state(device))
            vectors.append(model(part.tokens, part.views))  # (V, b, D)
    with accelerator.no_sync(model):
        vectors.append(model(kept.tokens, kept.views))  # its graph is small enough to wait for the loss
    after = _random_state(device)
    views = torch.cat([part.detach() for part in vectors], dim=1).requires_grad_()  # (V, B, D)
    loss = loss_of(views)
    accelerator.backward(loss)
    assert views.grad is not None
    *gradients, gradient = torch.split(views.grad, micro_batch_size, dim=1)
    with accelerator.no_sync(model):
        vectors.pop().backward(gradient)  # the loss was scaled already
    for index, (part, state, gradient) in enumerate(zip(parts, states, gradients, strict=True)):
        _set_random_state(device, state)  # the same masks as in the first pass
        last = index == len(parts) - 1
        with nullcontext() if last else accelerator.no_sync(model):
            model(part.tokens, part.views).backward(gradient)
    _set_random_state(device, after)
    return loss.detach()


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    for first in range(0, len(batch), size):
        last = min(first + size, len(batch))
        tokens = batch.tokens.select(first * batch.views, last * batch.views)
        yield Batch(tokens, batch.views, batch.rows[first:last], batch.keys[:, first:last])


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
