"""The parts of a BERT-like backbone, for the forward passes that are written out here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Block", "Parts", "read_parts"]

# post-norm encoders with absolute positions whose modules go by BERT's names
KINDS = frozenset({"bert", "camembert", "roberta", "xlm-roberta"})


@dataclass(frozen=True)
class Block:
    """One transformer layer: attention, add and norm, feed-forward, add and norm."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_out: nn.Linear
    attention_norm: nn.LayerNorm
    up: nn.Linear
    down: nn.Linear
    output_norm: nn.LayerNorm


@dataclass(frozen=True)
class Parts:
    """A backbone taken apart.

    Attributes:
        word, position, token_type: embedding tables; the token type is always 0.
        norm: what follows the embeddings.
        blocks: the layers.
        heads: attention heads of a layer.
        padding_index: positions count from behind it and skip padding tokens (RoBERTa); None: from 0 (BERT).
        hidden_dropout: rate on embeddings and on the outputs of both halves of a layer.
        attention_dropout: rate on attention weights.
    """

    word: nn.Embedding
    position: nn.Embedding
    token_type: nn.Embedding
    norm: nn.LayerNorm
    blocks: tuple[Block, ...]
    heads: int
    padding_index: int | None
    hidden_dropout: float
    attention_dropout: float

    def position_rows(self, ids: Tensor, starts: Tensor, segments: Tensor) -> Tensor:
        """(T,) rows of the position table for packed ids; starts (S,), segments (T,) as in `TokenBatch`."""
        if self.padding_index is None:
            return torch.arange(len(ids), device=ids.device) - starts[segments]
        real = (ids != self.padding_index).long()
        count = real.cumsum(0)  # (T,)
        before = (count - real)[starts]  # (S,)
        return (count - before[segments]) * real + self.padding_index


def read_parts(backbone: nn.Module) -> Parts | None:
    """The backbone's parts, or None if it is of another kind, or altered: adapters, hooks, other activations."""
    config: Any = backbone.config
    if config.model_type not in KINDS or config.hidden_act != "gelu" or getattr(config, "is_decoder", False):
        return None
    if getattr(config, "position_embedding_type", "absolute") not in ("absolute", None):
        return None
    if any(is_hooked(module) for module in backbone.modules()):
        return None
    try:
        table: Any = backbone.embeddings
        blocks = tuple(read_block(layer) for layer in backbone.encoder.layer)  # type: ignore[union-attr]
        parts = Parts(
            word=table.word_embeddings,
            position=table.position_embeddings,
            token_type=table.token_type_embeddings,
            norm=table.LayerNorm,
            blocks=blocks,
            heads=config.num_attention_heads,
            padding_index=None if config.model_type == "bert" else int(config.pad_token_id),
            hidden_dropout=float(config.hidden_dropout_prob),
            attention_dropout=float(config.attention_probs_dropout_prob),
        )
    except AttributeError:
        return None
    return parts if is_plain(parts) else None


def is_hooked(module: nn.Module) -> bool:
    """Whether someone listens in. transformers does, for good, once hidden states were asked for: that is no change."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return not all(hook.__module__.startswith("transformers.") for hook in hooks)


def read_block(layer: Any) -> Block:
    """One layer of BERT's module names."""
    attention, output = layer.attention, layer.output
    return Block(
        query=attention.self.query,
        key=attention.self.key,
        value=attention.self.value,
        attention_out=attention.output.dense,
        attention_norm=attention.output.LayerNorm,
        up=layer.intermediate.dense,
        down=output.dense,
        output_norm=output.LayerNorm,
    )


def is_plain(parts: Parts) -> bool:
    """Whether every part is exactly the torch module that it is in a fresh backbone."""
    tables = (parts.word, parts.position, parts.token_type)
    linears = [m for b in parts.blocks for m in (b.query, b.key, b.value, b.attention_out, b.up, b.down)]
    norms = [parts.norm, *(m for b in parts.blocks for m in (b.attention_norm, b.output_norm))]
    return (
        all(type(module) is nn.Embedding for module in tables)
        and all(type(module) is nn.Linear and module.bias is not None for module in linears)
        and all(type(module) is nn.LayerNorm and module.weight is not None for module in norms)
    )
