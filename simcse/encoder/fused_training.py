"""The training pass of BERT-shaped backbones on the CPU: no padding, cheap dropout, few kernels.

The same function of the same weights as Hugging Face's own forward in training mode, up to which random numbers decide
what is dropped. A backbone that is not exactly of the known shape is left to its own forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simcse.encoder.batching import TokenBatch
from simcse.encoder.blocks import AttentionBlock, FeedForwardBlock
from simcse.encoder.dropout import keep_mask, keep_scale
from simcse.encoder.heads import plan_heads

__all__ = ["training_states", "trains_fused"]

ARCHITECTURES = {"BertModel", "RobertaModel", "XLMRobertaModel"}
PARTS = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.Dropout)


def trains_fused(backbone: nn.Module) -> bool:
    """Whether `training_states` computes what the backbone's own forward would: its kind, its parts, its state."""
    config: Any = backbone.config
    if type(backbone).__name__ not in ARCHITECTURES or not backbone.training or config.hidden_act != "gelu":
        return False
    if config.is_decoder or config.chunk_size_feed_forward or getattr(backbone, "is_gradient_checkpointing", False):
        return False
    if getattr(config, "position_embedding_type", None) not in (None, "absolute"):
        return False
    weight = next(backbone.parameters())
    if weight.device.type != "cpu" or compute_dtype(weight) not in (torch.float32, torch.bfloat16):
        return False
    return all(is_plain(module) for module in (backbone.embeddings, backbone.encoder) for module in module.modules())


def is_plain(module: nn.Module) -> bool:
    """Whether nothing was put in a part's place (adapters, quantised layers) or hooked onto it."""
    leaf = next(module.children(), None) is None and next(module.parameters(recurse=False), None) is not None
    if leaf and type(module) not in PARTS:
        return False
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values(), *module._backward_hooks.values())
    # transformers hooks its own modules for good once hidden states were asked for
    return all(hook.__module__.startswith("transformers.") for hook in hooks)


def compute_dtype(weight: Tensor) -> torch.dtype:
    """Of the activations: autocast's, else the weights'."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def training_states(
    backbone: Any, batch: TokenBatch, layers: Sequence[int], *, first_only: bool = False
) -> list[Tensor]:
    """States of the given layers in training mode; 0 is the embedding output, -1 the last layer.

    The random numbers of dropout are drawn in the same order with and without gradients, so that a pass under the same
    state of the generator gives the same states.

    Args:
        backbone: one for which `trains_fused` holds.
        batch: S sequences, T tokens.
        layers: which states.
        first_only: the last layer's states are needed for first tokens alone; most of that layer is then left out.

    Returns:
        (T, D) each; for the last layer with `first_only`, (S, D).
    """
    config = backbone.config
    dtype = compute_dtype(next(backbone.parameters()))
    blocks = backbone.encoder.layer
    heads, rate = config.num_attention_heads, blocks[0].attention.self.dropout
    wanted = {layer % (len(blocks) + 1) for layer in layers}
    with torch.autocast("cpu", enabled=False):
        hidden = embed(backbone.embeddings, batch, dtype)  # (T, D)
        states = {0: hidden}
        plan = plan_heads(batch, heads, config.hidden_size // heads, active(rate), dtype)
        asking = None
        for number, block in enumerate(blocks[: max(wanted)], 1):
            if first_only and number == len(blocks):
                asking = batch.starts
                plan = plan_heads(batch, heads, plan.width, plan.rate, dtype, first=True)
            hidden = layer_forward(block, hidden, plan, asking)  # (T, D) or (S, D)
            if number in wanted:
                states[number] = hidden
    return [states[layer % (len(blocks) + 1)] for layer in layers]


def embed(module: Any, batch: TokenBatch, dtype: torch.dtype) -> Tensor:
    """(T, D) output of the embedding layer."""
    word, place, kind = module.word_embeddings, module.position_embeddings, module.token_type_embeddings
    offset = 0 if place.padding_idx is None else place.padding_idx + 1  # RoBERTa counts from behind the padding index
    # stacked views repeat the same tokens: look them up once, dropout alone tells the views apart
    views = repeats(batch)
    ids, positions = batch.ids[: len(batch.ids) // views], batch.positions[: len(batch.ids) // views]
    total = F.embedding(ids, word.weight, word.padding_idx)  # (T / views, D)
    total = total + F.embedding(positions + offset, place.weight, place.padding_idx) + kind.weight[0]
    norm, rate = module.LayerNorm, active(module.dropout)
    hidden = F.layer_norm(total, norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(dtype)
    hidden = hidden.repeat(views, 1)  # (T, D)
    keep = keep_mask(hidden.shape, rate, dtype)
    return hidden if keep is None else hidden * keep.mul_(keep_scale(rate))


def repeats(batch: TokenBatch) -> int:
    """2 if the second half of the batch is the first half again, else 1."""
    sequences, tokens = len(batch) // 2, len(batch.ids) // 2
    same = batch.lengths[:sequences] == batch.lengths[sequences:] and torch.equal(batch.ids[:tokens], batch.ids[tokens:])
    return 2 if same else 1


def layer_forward(block: Any, hidden: Tensor, plan: Any, asking: Tensor | None) -> Tensor:
    """One transformer layer."""
    own, out = block.attention.self, block.attention.output
    parts = (own.query, own.key, own.value, out.dense, out.LayerNorm)
    weights = [tensor for part in parts for tensor in (part.weight, part.bias)]
    hidden = AttentionBlock.apply(hidden, *weights, out.LayerNorm.eps, active(out.dropout), plan, asking)
    up, down = block.intermediate.dense, block.output
    parts = (up, down.dense, down.LayerNorm)
    weights = [tensor for part in parts for tensor in (part.weight, part.bias)]
    state: Tensor = FeedForwardBlock.apply(hidden, *weights, down.LayerNorm.eps, active(down.dropout))
    return state


def active(dropout: nn.Dropout) -> float:
    """The rate at which it drops now."""
    return dropout.p if dropout.training else 0.0
