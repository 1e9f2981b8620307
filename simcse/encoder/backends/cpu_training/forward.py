"""The training pass of BERT-like backbones on the CPU: no padding, cheap dropout, few kernels.

The same function of the same weights as Hugging Face's own forward in training mode, up to which random numbers decide
what is dropped. A backbone that is not exactly of the known shape is left to its own forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simcse.encoder.backends.bert_weights import BertWeights, LayerWeights, why_not_bert
from simcse.encoder.backends.cpu_training.attention import AttentionLayout
from simcse.encoder.backends.cpu_training.dropout import keep_mask, keep_scale
from simcse.encoder.backends.cpu_training.embedding import look_up
from simcse.encoder.backends.cpu_training.fused_attention import FusedAttention, attention_for
from simcse.encoder.backends.cpu_training.sublayers import AttentionSublayer, FeedForwardSublayer
from simcse.encoder.backends.relative_bias import bias_by_distance
from simcse.tokens.batch import TokenBatch

__all__ = ["training_states", "why_not_fused"]


def why_not_fused(backbone: nn.Module) -> str | None:
    """Why `training_states` cannot compute what the backbone's own forward would; None if it can."""
    weight = next(backbone.parameters())
    if weight.device.type != "cpu":
        return f"the weights are on {weight.device.type}, not on the CPU"
    if (dtype := compute_dtype(weight)) not in (torch.float32, torch.bfloat16):
        return f"it computes in {str(dtype).removeprefix('torch.')}, not in float32 or bfloat16"
    if any(getattr(module, "gradient_checkpointing", False) for module in backbone.modules()):
        return "gradient checkpointing is on"
    return why_not_bert(backbone)


def compute_dtype(weight: Tensor) -> torch.dtype:
    """Of the activations: autocast's, else the weights'."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def training_states(backbone: Any, batch: TokenBatch, layers: Sequence[int], *, cls_only: bool = False) -> list[Tensor]:
    """States of the given layers in training mode; 0 is the embedding output, -1 the last layer.

    The random numbers of dropout are drawn in the same order with and without gradients, so that a pass under the same
    state of the generator gives the same states.

    Args:
        backbone: one for which `why_not_fused` finds nothing.
        batch: S sequences, T tokens.
        layers: which states.
        cls_only: the last layer's states are needed for first tokens alone; most of that layer is then left out.

    Returns:
        (T, D) each; for the last layer with `cls_only`, (S, D).
    """
    weights = BertWeights.from_hf(backbone)
    assert weights is not None, "ask why_not_fused first"
    dtype, last = compute_dtype(weights.word.weight), len(weights.layers)
    wanted = [layer % (last + 1) for layer in layers]
    with torch.autocast("cpu", enabled=False):  # types are chosen here, a cast for each weight and none for activations
        hidden = embed(weights, batch, dtype)  # (T', D)
        states = [hidden]
        relative = None if weights.relative is None else bias_by_distance(weights.relative, batch.longest)
        width = hidden.shape[1] // weights.heads
        rate = active(weights.layers[0].weight_dropout)
        plan = partial(
            attention_for, batch, len(hidden), weights.heads, width, rate, dtype, relative=relative is not None
        )
        attention = plan()
        for number, layer in enumerate(weights.layers, 1):
            query_tokens = None
            if cls_only and number == last:
                query_tokens = batch.starts
                attention = plan(first=True)
            if number <= max(wanted):
                hidden = layer_forward(layer, hidden, attention, query_tokens, relative)  # (T', D) or (S, D)
                states.append(hidden)
    return [states[layer] if cls_only and layer == last else states[layer][: len(batch.ids)] for layer in wanted]


def embed(weights: BertWeights, batch: TokenBatch, dtype: torch.dtype) -> Tensor:
    """(T', D) output of the embedding layer; rows behind the last of the T tokens belong to no sequence."""
    rows = weights.position_rows(batch.ids, batch.starts, batch.segments)
    total = look_up(weights.word, batch.ids) + look_up(weights.position, rows)  # (T, D)
    if weights.token_type is not None:
        total = total + weights.token_type.weight[0]
    norm, projection = weights.norm, weights.projection
    hidden = F.layer_norm(total, norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(dtype)
    hidden = F.pad(hidden, (0, 0, 0, rounded_up(len(hidden)) - len(hidden)))  # (T', D)
    rate = active(weights.dropout)
    keep = keep_mask(hidden.shape, rate, dtype)
    hidden = hidden if keep is None else hidden * keep.mul_(keep_scale(rate))
    return hidden if projection is None else F.linear(hidden, projection.weight.to(dtype), projection.bias.to(dtype))


def rounded_up(tokens: int) -> int:
    """The next multiple of 1/32 to 1/64 of the number itself.

    oneDNN compiles each matrix product anew for a number of rows that it has not seen, which costs more than the
    product; so few different numbers may occur.
    """
    step = max(16, (1 << (tokens - 1).bit_length()) // 32)
    return -(-tokens // step) * step


def layer_forward(
    layer: LayerWeights,
    hidden: Tensor,
    attention: AttentionLayout | FusedAttention,
    query_tokens: Tensor | None,
    relative: Tensor | None,
) -> Tensor:
    """One transformer layer; dropout may be switched off part by part."""
    linears = (layer.query, layer.key, layer.value, layer.attention_out)
    weights = [tensor for part in (*linears, layer.attention_norm) for tensor in (part.weight, part.bias)]
    rate = active(layer.attention_dropout)
    hidden = AttentionSublayer.apply(  # type: ignore[no-untyped-call]
        hidden, *weights, relative, layer.attention_norm.eps, rate, attention, query_tokens
    )
    weights = [tensor for part in (layer.up, layer.down, layer.output_norm) for tensor in (part.weight, part.bias)]
    rate = active(layer.output_dropout)
    return FeedForwardSublayer.apply(hidden, *weights, layer.output_norm.eps, rate)  # type: ignore[no-any-return, no-untyped-call]


def active(dropout: nn.Dropout | None) -> float:
    """The rate at which it drops now."""
    return dropout.p if dropout is not None and dropout.training else 0.0
