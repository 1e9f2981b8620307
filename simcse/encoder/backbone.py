"""A Hugging Face encoder over sequences without padding: its token states, dropout rates and longest input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from simcse.encoder.backends.cpu_training.forward import training_states, trains_fused
from simcse.encoder.backends.torch_packed import pack
from simcse.encoder.traits import traits_of
from simcse.errors import ConfigError
from simcse.tokens.batch import TokenBatch

__all__ = ["TokenStates", "longest_input", "override_dropout", "own_states", "token_states", "usual_length"]

TokenStates = Callable[..., list[Tensor]]  # (batch, layers, *, cls_only), as `token_states` without the backbone

# parts of names of rates that do not act on token states: heads' own, and those at which whole layers are left out
OTHER_RATES = ("classif", "summary", "qa_", "pooler", "head", "layerdrop", "drop_path")
NO_LIMIT = 1_000_000  # tokens; what stands for a backbone that takes any number, and a tokenizer that allows it


def override_dropout(config: PretrainedConfig, rate: float) -> None:
    """Set every dropout rate that the configuration has.

    Raises:
        ConfigError: the rate is outside [0, 1), or the architecture has no dropout to set.
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"--model.dropout is {rate}: a rate is at least 0 and below 1")
    known = dropout_rates(config)
    if not known:
        raise ConfigError(f"--model.dropout: a {config.model_type} backbone has no dropout rate to set; leave it out")
    for key in known:
        setattr(config, key, rate)


def dropout_rates(config: PretrainedConfig) -> dict[str, float]:
    """The rates that act on hidden states and attention weights: each kind of backbone has its own names for them."""
    return {
        key: value
        for key, value in config.to_dict().items()
        if "drop" in key and not any(part in key for part in OTHER_RATES)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def longest_input(config: PretrainedConfig, tokenizer_limit: int) -> int:
    """The most tokens, special ones included, that the backbone has positions for and its tokenizer allows.

    A backbone without a table of positions (T5), or with -1 of them (XLNet), takes any number.
    """
    positions = getattr(config, "max_position_embeddings", None) or -1
    limit = positions - position_offset(config) if positions > 0 else NO_LIMIT
    return int(min(limit, tokenizer_limit, NO_LIMIT))


def usual_length(limit: int) -> int:
    """The tokens to keep of each text where nobody says: all that the backbone takes, 512 where it takes any number."""
    return 512 if limit >= NO_LIMIT else limit


def position_offset(config: PretrainedConfig) -> int:
    """Where positions begin: RoBERTa and its kin count from behind the padding index."""
    is_roberta = config.model_type in {"roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "mpnet", "longformer"}
    return int(config.pad_token_id) + 1 if is_roberta and config.pad_token_id is not None else 0


def token_states(
    backbone: nn.Module, batch: TokenBatch, layers: Sequence[int], *, cls_only: bool = False
) -> list[Tensor]:
    """States of the given layers; 0 is the embedding output, -1 the last layer.

    A token's state depends on its own sequence alone. Backbones of the known shape take a forward pass that is written
    out for the purpose, one for inference and one for training; all others take their own.

    Args:
        backbone: a Hugging Face encoder.
        batch: S sequences, T tokens.
        layers: which states.
        cls_only: the last layer's states are needed for first tokens alone.

    Returns:
        (T, D) each; for the last layer with `cls_only`, (S, D).
    """
    if not backbone.training and not torch.is_grad_enabled():
        packed = pack(backbone)
        if packed is not None:
            return packed(batch, layers, cls_only=cls_only)
    if trains_fused(backbone):
        return training_states(backbone, batch, layers, cls_only=cls_only)
    return own_states(backbone, batch, layers, cls_only=cls_only)


def own_states(
    backbone: nn.Module, batch: TokenBatch, layers: Sequence[int], *, cls_only: bool = False
) -> list[Tensor]:
    """The same by the backbone's own forward pass, padded; by equal lengths where padding would change the states."""
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
    """The same without padding: sequences of each length by themselves."""
    parts, rows, tokens = [], [], []
    for length in sorted(set(batch.lengths)):
        these = torch.tensor([row for row, size in enumerate(batch.lengths) if size == length], device=batch.ids.device)
        places = batch.starts[these, None] + torch.arange(length, device=these.device)  # (s, length)
        part = TokenBatch(batch.ids[places.flatten()], (length,) * len(these))
        parts.append(own_states(backbone, part, layers, cls_only=cls_only))
        rows.append(these)
        tokens.append(places.flatten())
    states = [torch.cat(layer) for layer in zip(*parts, strict=True)]  # (T, D) each, or (S, D), by length
    to_rows, to_tokens = torch.cat(rows).argsort(), torch.cat(tokens).argsort()
    return [x.index_select(0, to_rows if len(x) == len(batch) else to_tokens) for x in states]
