"""The backbone's own forward pass, padded: any architecture, with or without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from simcse.encoder.backends.base import tokens_per_batch
from simcse.encoder.traits import traits_of
from simcse.tokens.batch import TokenBatch

__all__ = ["HuggingFaceBackend", "huggingface_states"]


class HuggingFaceBackend:
    """The backbone itself, which is in evaluation mode while it computes; it needs no preparation."""

    name = "huggingface"
    padded = True

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.device = next(backbone.parameters()).device
        self.tokens_per_batch = tokens_per_batch(self.device)

    def __call__(self, batch: TokenBatch, layers: Sequence[int], *, cls_only: bool = False) -> list[Tensor]:
        """See `TokenStates`."""
        return huggingface_states(self.backbone, batch, layers, cls_only=cls_only)


def huggingface_states(
    backbone: nn.Module, batch: TokenBatch, layers: Sequence[int], *, cls_only: bool = False
) -> list[Tensor]:
    """States as `TokenStates` says; sequences of each length by themselves where padding would change them."""
    if traits_of(backbone).leaks_padding and not batch.is_uniform:
        return states_by_length(backbone, batch, layers, cls_only=cls_only)
    config: Any = backbone.config
    ids, mask = batch.padded(config.pad_token_id or 0)  # (S, L)
    need_all = tuple(layers) != (-1,)
    output = backbone(input_ids=ids, attention_mask=mask, output_hidden_states=need_all)
    if need_all:
        padded = [output.hidden_states[layer] for layer in layers]
        last = len(output.hidden_states) - 1
    else:
        padded, last = [output.last_hidden_state], -1
    first = {-1, last} if cls_only else set()
    return [x[:, 0] if layer in first else batch.unpad(x) for layer, x in zip(layers, padded, strict=True)]


def states_by_length(
    backbone: nn.Module, batch: TokenBatch, layers: Sequence[int], *, cls_only: bool = False
) -> list[Tensor]:
    """The same without padding."""
    parts, rows, tokens = [], [], []
    for length in sorted(set(batch.lengths)):
        these = torch.tensor([row for row, size in enumerate(batch.lengths) if size == length], device=batch.ids.device)
        places = batch.starts[these, None] + torch.arange(length, device=these.device)  # (s, length)
        part = TokenBatch(batch.ids[places.flatten()], (length,) * len(these))
        parts.append(huggingface_states(backbone, part, layers, cls_only=cls_only))
        rows.append(these)
        tokens.append(places.flatten())
    states = [torch.cat(layer) for layer in zip(*parts, strict=True)]  # (T, D) each, or (S, D), by length
    to_rows, to_tokens = torch.cat(rows).argsort(), torch.cat(tokens).argsort()
    return [x.index_select(0, to_rows if len(x) == len(batch) else to_tokens) for x in states]
