"""The weights of a BERT-like backbone by their roles, for the forward passes that are written out here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BertWeights", "LayerWeights"]

# post-norm encoders with absolute positions whose modules go by BERT's names
KINDS = frozenset({"bert", "camembert", "roberta", "xlm-roberta"})


@dataclass(frozen=True)
class LayerWeights:
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
class BertWeights:
    """A backbone's modules by their roles.

    Attributes:
        word, position, token_type: embedding tables; the token type is always 0.
        norm: what follows the embeddings.
        layers: the transformer layers.
        heads: attention heads of a layer.
        padding_index: positions count from behind it and skip padding tokens (RoBERTa); None: from 0 (BERT).
    """

    word: nn.Embedding
    position: nn.Embedding
    token_type: nn.Embedding
    norm: nn.LayerNorm
    layers: tuple[LayerWeights, ...]
    heads: int
    padding_index: int | None

    @classmethod
    def from_hf(cls, backbone: nn.Module) -> BertWeights | None:
        """The weights, or None of a backbone of another kind, or an altered one: adapters, hooks, other activations."""
        config: Any = backbone.config
        if config.model_type not in KINDS or config.hidden_act != "gelu" or getattr(config, "is_decoder", False):
            return None
        if getattr(config, "position_embedding_type", "absolute") not in ("absolute", None):
            return None
        if any(is_hooked(module) for module in backbone.modules()):
            return None
        try:
            embeddings: Any = backbone.embeddings
            weights = cls(
                word=embeddings.word_embeddings,
                position=embeddings.position_embeddings,
                token_type=embeddings.token_type_embeddings,
                norm=embeddings.LayerNorm,
                layers=tuple(layer_weights(layer) for layer in backbone.encoder.layer),  # type: ignore[union-attr]
                heads=config.num_attention_heads,
                padding_index=None if config.model_type == "bert" else int(config.pad_token_id),
            )
        except AttributeError:
            return None
        return weights if is_plain(weights) else None

    def position_rows(self, ids: Tensor, starts: Tensor, segments: Tensor) -> Tensor:
        """(T,) rows of the position table for packed ids; starts (S,), segments (T,) as in `TokenBatch`."""
        if self.padding_index is None:
            return torch.arange(len(ids), device=ids.device) - starts[segments]
        real = (ids != self.padding_index).long()
        count = real.cumsum(0)  # (T,)
        before = (count - real)[starts]  # (S,)
        return (count - before[segments]) * real + self.padding_index


def is_hooked(module: nn.Module) -> bool:
    """Whether it has hooks other than those of transformers, which stay once hidden states were asked for."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return not all(hook.__module__.startswith("transformers.") for hook in hooks)


def layer_weights(layer: Any) -> LayerWeights:
    """One layer of BERT's module names."""
    attention, output = layer.attention, layer.output
    return LayerWeights(
        query=attention.self.query,
        key=attention.self.key,
        value=attention.self.value,
        attention_out=attention.output.dense,
        attention_norm=attention.output.LayerNorm,
        up=layer.intermediate.dense,
        down=output.dense,
        output_norm=output.LayerNorm,
    )


def is_plain(weights: BertWeights) -> bool:
    """Whether every module is exactly the torch module that it is in a fresh backbone."""
    tables = (weights.word, weights.position, weights.token_type)
    linears = [m for x in weights.layers for m in (x.query, x.key, x.value, x.attention_out, x.up, x.down)]
    norms = [weights.norm, *(m for x in weights.layers for m in (x.attention_norm, x.output_norm))]
    return (
        all(type(module) is nn.Embedding for module in tables)
        and all(type(module) is nn.Linear and module.bias is not None for module in linears)
        and all(type(module) is nn.LayerNorm and module.weight is not None for module in norms)
    )
