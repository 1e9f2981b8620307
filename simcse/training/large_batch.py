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

__all__ = ["cached_backward"]


def cached_backward(
    accelerator: Accelerator,
    model: nn.Module,
    batch: Batch,
    criterion: Callable[[Tensor, Batch], Tensor],
    micro_batch_size: int,
) -> Tensor:
    """Add the gradient of `criterion(model(batch), batch)` to the parameters.

    Args:
        accelerator: scales the loss where the precision asks for it.
        model: maps a batch to its views (V, B, D).
        batch: B rows.
        criterion: views (V, B, D) and their batch -> scalar.
        micro_batch_size: rows in the encoder at a time.

    Returns:
        The loss, detached.
    """
    *parts, kept = _parts(batch, micro_batch_size)
    states, vectors = [], []
    with torch.no_grad():
        for part in parts:
            states.append(random_states(accelerator.device))
            vectors.append(model(part))  # (V, b, D)
    with accelerator.no_sync(model) if parts else nullcontext():
        vectors.append(model(kept))  # its graph is small enough to wait for the loss
    after = random_states(accelerator.device)
    views = torch.cat([part.detach() for part in vectors], dim=1).requires_grad_()  # (V, B, D)
    loss = criterion(views, batch)
    accelerator.backward(loss)
    assert views.grad is not None
    *gradients, gradient = torch.split(views.grad, micro_batch_size, dim=1)
    with accelerator.no_sync(model) if parts else nullcontext():
        vectors.pop().backward(gradient)  # the loss was scaled already
    for index, (part, state, gradient) in enumerate(zip(parts, states, gradients, strict=True)):
        restore(accelerator.device, state)  # the same masks as in the first pass
        last = index == len(parts) - 1
        with nullcontext() if last else accelerator.no_sync(model):
            model(part).backward(gradient)
    restore(accelerator.device, after)
    return loss.detach()


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    for first in range(0, len(batch), size):
        last = min(first + size, len(batch))
        tokens = batch.tokens.select(first * batch.views, last * batch.views)
        yield Batch(tokens, batch.views, batch.rows[first:last], batch.keys[:, first:last])


def random_states(device: torch.device) -> list[Tensor]:
    """The state of the CPU's generator and, if it is another device, of the device's: dropout may draw from either."""
    own = [] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state(device)]
    return [torch.get_rng_state(), *own]


def restore(device: torch.device, states: list[Tensor]) -> None:
    """Go back to what `random_states` gave."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.get_device_module(device).set_rng_state(state, device)
