"""A Hugging Face encoder over sequences without padding: its token states, dropout rates and longest input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from simcse.encoder.batching import TokenBatch
from simcse.encoder.fused_training import training_states, trains_fused
from simcse.encoder.packed_forward import pack
from simcse.errors import ConfigError

__all__ = ["TokenStates", "active_dropout", "longest_input", "override_dropout", "own_states", "token_states"]

TokenStates = Callable[..., list[Tensor]]  # (batch, layers, *, first_only), as `token_states` without the backbone

# names under which backbones keep the dropout rates that act on hidden states and on attention weights
DROPOUT_KEYS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "activation_dropout",
)


def override_dropout(config: PretrainedConfig, rate: float) -> None:
    """Set every dropout rate that the configuration has.

    Raises:
        ConfigError: the rate is outside [0, 1), or the architecture has no dropout to set.
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"--model.dropout is {rate}: a rate is at least 0 and below 1")
    known = [key for key in DROPOUT_KEYS if isinstance(getattr(config, key, None), int | float)]
    if not known:
        raise ConfigError(f"--model.dropout: a {config.model_type} backbone has no dropout rate to set; leave it out")
    for key in known:
        setattr(config, key, rate)


def active_dropout(module: nn.Module) -> float:
    """The largest dropout rate that acts inside `module` in training mode; 0 if none does."""
    rates = [child.p for child in module.modules() if isinstance(child, nn.Dropout)]
    config = getattr(module, "config", None)
    rates += [float(getattr(config, key, 0) or 0) for key in ("attention_probs_dropout_prob", "attention_dropout")]
    return max(rates, default=0.0)


def longest_input(config: PretrainedConfig, tokenizer_limit: int) -> int:
    """The most tokens, special ones included, that the backbone has positions for and its tokenizer allows."""
    limit = int(getattr(config, "max_position_embeddings", 0) or 512)
    if position_offset(config):
        limit -= position_offset(config)
    return int(min(limit, tokenizer_limit))


def position_offset(config: PretrainedConfig) -> int:
    """Where positions begin: RoBERTa and its kin count from behind the padding index."""
    is_roberta = config.model_type in {"roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "mpnet", "longformer"}
    return int(config.pad_token_id) + 1 if is_roberta and config.pad_token_id is not None else 0


def token_states(
    backbone: nn.Module, batch: TokenBatch, layers: Sequence[int], *, first_only: bool = False
) -> list[Tensor]:
    """States of the given layers; 0 is the embedding output, -1 the last layer.

    A token's state depends on its own sequence alone. Backbones of the known shape take a forward pass that is written
    out for the purpose, one for inference and one for training; all others take their own.

    Args:
        backbone: a Hugging Face encoder.
        batch: S sequences, T tokens.
        layers: which states.
        first_only: the last layer's states are needed for first tokens alone.

    Returns:
        (T, D) each; for the last layer with `first_only`, (S, D).
    """
    if not backbone.training and not torch.is_grad_enabled():
        packed = pack(backbone)
        if packed is not None:
            return packed(batch, layers, first_only=first_only)
    if trains_fused(backbone):
        return training_states(backbone, batch, layers, first_only=first_only)
    return own_states(backbone, batch, layers, first_only=first_only)


def own_states(
    backbone: nn.Module, batch: TokenBatch, layers: Sequence[int], *, first_only: bool = False
) -> list[Tensor]:
    """The same by the backbone's own forward pass, padded."""
    config: Any = backbone.config
    ids, mask = batch.padded(config.pad_token_id or 0)  # (S, L)
    need_all = tuple(layers) != (-1,)
    output = backbone(input_ids=ids, attention_mask=mask, output_hidden_states=need_all)
    if need_all:
        padded = [output.hidden_states[layer] for layer in layers]
        last = len(output.hidden_states) - 1
    else:
        padded, last = [output.last_hidden_state], -1
    first = {-1, last} if first_only else set()
    return [x[:, 0] if layer in first else batch.unpad(x) for layer, x in zip(layers, padded, strict=True)]
