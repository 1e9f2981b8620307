"""Token states in, one vector a sequence out: a dict of poolings, each with the layers that it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from simcse.encoder.backends.base import TokenStates
from simcse.errors import ConfigError, did_you_mean
from simcse.tokens.batch import TokenBatch

__all__ = ["POOLINGS", "Pooling", "check_pooling", "cls", "mean", "pool"]


class Pooling(NamedTuple):
    """`reduce(states, batch) -> (S, D)`, where `states` are the (T, D) outputs of `layers`.

    Layer 0 is the embedding layer's output, layer 1 the first transformer layer's, layer -1 the last one's. With
    `cls_only` only the first token of each sequence counts: the last layer's output is then (S, D), and most of that
    layer's work is left out.
    """

    layers: tuple[int, ...]
    reduce: Callable[[Sequence[Tensor], TokenBatch], Tensor]
    cls_only: bool = False


def cls(states: Sequence[Tensor], batch: TokenBatch) -> Tensor:
    """The first token's row. The backbone's own pooler is never used."""
    return states[-1]  # (S, D)


def mean(states: Sequence[Tensor], batch: TokenBatch) -> Tensor:
    """Mean over layers, then over all tokens of a sequence, special ones included; summed in float32."""
    hidden = states[0] if len(states) == 1 else torch.stack(tuple(states)).float().mean(0)  # (T, D)
    if batch.is_uniform:
        return hidden.view(len(batch), batch.longest, -1).mean(1, dtype=torch.float32)  # (S, D)
    total = hidden.new_zeros((len(batch), hidden.shape[-1]), dtype=torch.float32)
    total = total.index_add(0, batch.segments, hidden.float())
    return total / batch.sizes[:, None]  # (S, D)


def last_token(states: Sequence[Tensor], batch: TokenBatch) -> Tensor:
    """The last token's row: the only one that has seen the whole text where each token sees those before it alone."""
    return states[-1].index_select(0, batch.starts + batch.sizes - 1)  # (S, D)


# first_last_mean reads the first *transformer* layer, as the authors' code does since their fix (their issue 285)
POOLINGS: dict[str, Pooling] = {
    "cls": Pooling((-1,), cls, cls_only=True),
    "mean": Pooling((-1,), mean),
    "last_token": Pooling((-1,), last_token),
    "first_last_mean": Pooling((1, -1), mean),
    "top2_mean": Pooling((-2, -1), mean),
}


def pool(name: str, states: TokenStates, batch: TokenBatch) -> Tensor:
    """S sequences -> (S, D), of the tokens that the batch does not leave out.

    Args:
        name: a key of `POOLINGS`.
        states: what computes token states.
        batch: the sequences.
    """
    pooling = POOLINGS[name]
    hidden = states(batch, pooling.layers, cls_only=pooling.cls_only and not any(batch.left_out))  # (T, D) each
    if any(batch.left_out):
        first = torch.tensor(batch.left_out, device=batch.ids.device)[batch.segments]  # (T,)
        kept = torch.nonzero(batch.positions >= first)[:, 0]
        counted = tuple(n - out for n, out in zip(batch.lengths, batch.left_out, strict=True))
        batch = TokenBatch(batch.ids[kept], counted)
        if pooling.cls_only:
            kept = kept[batch.starts]
        hidden = [layer.index_select(0, kept) for layer in hidden]
    return pooling.reduce(hidden, batch)  # (S, D)


def check_pooling(name: str) -> str:
    """The name itself.

    Raises:
        ConfigError: it is none; lists the known ones.
    """
    if name not in POOLINGS:
        raise ConfigError(f"pooling {name!r} is not one of {', '.join(POOLINGS)}{did_you_mean(name, POOLINGS)}")
    return name
