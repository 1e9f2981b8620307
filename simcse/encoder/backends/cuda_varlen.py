"""BERT-like encoders on CUDA by torch's variable-length attention: without padding, with gradients and without.

The fused attention reads packed sequences by their bounds, so that a layer is a few large operations on (T, D) rows
and one attention, dropout on its weights included. A batch is filled up to a bucket: tokens, sequences and the longest
length take a few values alone, which a compiled pass or a CUDA graph of it would see. What fills it are sequences of
their own, so no other token sees them, and none of their rows is garbage that a gradient could carry on. Nothing here
waits for the device. The pass is chosen by name alone, as it has yet to be timed on a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from simcse.encoder.backends.base import tokens_per_batch
from simcse.encoder.backends.bert_weights import BertWeights, LayerWeights
from simcse.tokens.batch import TokenBatch, moved

__all__ = ["CudaVarlenBackend", "layer_forward", "packed_layout", "unfit_for_varlen", "varlen_states"]

OLDEST = (8, 0)  # compute capability that torch's fused attention needs
HEAD_MULTIPLE, WIDEST_HEAD = 8, 256  # what it accepts
LENGTHS = 32  # the longest length is rounded up to a multiple
FEWEST_TOKENS, FEWEST_SEQUENCES = 256, 16  # the smallest buckets


class PackedLayout(NamedTuple):
    """A batch of S sequences, T tokens, in a bucket of S' and T'.

    Attributes:
        ids: (T',) token ids; 0 behind T.
        rows: (T',) rows of the position table; 0 behind T.
        bounds: (S' + 1,) int32, where each sequence begins, and T'.
        longest: no sequence is longer.
    """

    ids: Tensor
    rows: Tensor
    bounds: Tensor
    longest: int


class CudaVarlenBackend:
    """A BERT-like backbone for which `unfit_for_varlen` finds nothing; its weights as they are."""

    name = "cuda_varlen"
    padded = False

    def __init__(self, weights: BertWeights) -> None:
        self.weights = weights
        self.device = weights.word.weight.device
        self.tokens_per_batch = tokens_per_batch(self.device)

    @torch.no_grad()
    def __call__(self, batch: TokenBatch, layers: Sequence[int], *, cls_only: bool = False) -> list[Tensor]:
        """See `TokenStates`."""
        return varlen_states(self.weights, batch, layers, cls_only=cls_only)


def varlen_states(
    weights: BertWeights, batch: TokenBatch, layers: Sequence[int], *, cls_only: bool = False
) -> list[Tensor]:
    """States as `TokenStates` says, with gradients where they are enabled; modules in training mode drop."""
    layout, last = packed_layout(weights, batch), len(weights.layers)
    states = [embed(weights, layout)]  # (T', D)
    for number, layer in enumerate(weights.layers, 1):
        starts = batch.starts if cls_only and number == last else None
        states.append(layer_forward(layer, states[-1], layout.bounds, layout.longest, weights.heads, starts))
    chosen = [layer % len(states) for layer in layers]
    return [states[layer] if cls_only and layer == last else states[layer][: len(batch.ids)] for layer in chosen]


def packed_layout(weights: BertWeights, batch: TokenBatch) -> PackedLayout:
    """A batch filled up to its bucket."""
    tokens, longest = bucket(len(batch.ids), FEWEST_TOKENS), -(-batch.longest // LENGTHS) * LENGTHS
    spare = tokens - len(batch.ids)
    lengths = [*batch.lengths, *[longest] * (spare // longest), *([spare % longest] if spare % longest else [])]
    bounds = np.full(bucket(len(lengths), FEWEST_SEQUENCES) + 1, tokens, dtype=np.int32)  # the last ones are empty
    bounds[0] = 0
    bounds[1 : len(lengths) + 1] = np.cumsum(lengths)
    rows = weights.position_rows(batch.ids, batch.starts, batch.segments)
    device = batch.ids.device
    return PackedLayout(
        F.pad(batch.ids, (0, spare)), F.pad(rows, (0, spare)), moved(torch.from_numpy(bounds), device), longest
    )


def bucket(number: int, fewest: int) -> int:
    """The next multiple of an eighth to a sixteenth of the number itself, and of `fewest`."""
    step = max(fewest, (1 << (number - 1).bit_length()) // 16)
    return -(-number // step) * step


def embed(weights: BertWeights, layout: PackedLayout) -> Tensor:
    """(T', D) output of the embedding layer."""
    x = F.embedding(layout.ids, weights.word.weight) + F.embedding(layout.rows, weights.position.weight)
    if weights.token_type is not None:
        x = x + weights.token_type.weight[0]
    x = weights.dropout(weights.norm(x))
    return x if weights.projection is None else weights.projection(x)  # type: ignore[no-any-return]


def layer_forward(
    layer: LayerWeights, x: Tensor, bounds: Tensor, longest: int, heads: int, starts: Tensor | None = None
) -> Tensor:
    """One transformer layer: (T', D) -> (T', D), or (S, D) of the tokens at `starts` (S,) alone."""
    inputs = (layer.query, layer.key, layer.value)
    weight = torch.cat([linear.weight for linear in inputs])
    bias = torch.cat([linear.bias for linear in inputs])
    qkv = F.linear(x, weight, bias).view(len(x), 3, heads, -1)  # (T', 3, H, d)
    rate = layer.weight_dropout.p if layer.weight_dropout.training else 0.0
    query, key, value = qkv.unbind(1)
    context: Tensor = torch.ops.aten._flash_attention_forward(
        query, key, value, bounds, bounds, longest, longest, rate, False, False
    )[0].flatten(1)  # (T', D)
    if starts is not None:
        context, x = context.index_select(0, starts), x.index_select(0, starts)
    added = layer.attention_out(context)
    x = layer.attention_norm(x + (added if layer.attention_dropout is None else layer.attention_dropout(added)))
    added = layer.output_dropout(layer.down(F.gelu(layer.up(x))))
    return layer.output_norm(x + added)  # type: ignore[no-any-return]


def unfit_for_varlen(weights: BertWeights) -> str | None:
    """Why the fused attention cannot compute with these weights where they lie; None if it can."""
    weight = weights.layers[0].query.weight
    if weight.device.type != "cuda":
        return f"it runs on CUDA alone, and the weights are on {weight.device.type}"
    if (found := torch.cuda.get_device_capability(weight.device)) < OLDEST:
        return f"it needs compute capability {OLDEST[0]}.{OLDEST[1]}, and this device has {found[0]}.{found[1]}"
    return unfit_shape(weights)


def unfit_shape(weights: BertWeights) -> str | None:
    """Why not, on any device: the precision of products, or what the layers are like."""
    weight = weights.layers[0].query.weight
    kind = weight.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it computes in bf16 and fp16, not in {str(dtype).removeprefix('torch.')}"
    if weights.relative is not None:
        return "it has no relative position bias"
    head = weight.shape[0] // weights.heads
    if head % HEAD_MULTIPLE or head > WIDEST_HEAD:
        return f"heads are {head} wide, expected a multiple of {HEAD_MULTIPLE} up to {WIDEST_HEAD}"
    return None
