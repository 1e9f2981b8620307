"""The modules of a BERT-like backbone by the names that transformers gives them, without its classes.

To import those takes longer than all else from a process's start to its first vector, and what computes here reads the
weights alone. `encoder/loading.py` makes transformers' own backbone of these modules once one is asked for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from simcse.encoder.backbone import padding_position
from simcse.encoder.backends.bert_weights import KINDS, Names

__all__ = ["BertModules"]

LAYER_NORM_EPS = 1e-12  # DistilBERT's, which its configuration does not hold


class BertModules(nn.Module):
    """Embeddings and layers as transformers orders them, their weights yet to be set; it computes nothing.

    Args:
        config: of transformers, whose `model_type` is a key of `bert_weights.KINDS`.

    Raises:
        ValueError: a size or a rate that no module can have.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        names, heads = KINDS[config.model_type], config.num_attention_heads
        if config.hidden_size % heads:
            raise ValueError(f"{heads} heads do not divide a width of {config.hidden_size}")
        for role, path in names.table.items():
            if path and role != "relative":
                put(self, path, embedding_part(config, names, role))
        if (table_width := width_of_tables(config)) != config.hidden_size:
            self.embeddings_project = nn.Linear(table_width, config.hidden_size)
        if (padding := padding_position(config)) is not None:
            vars(self.get_submodule("embeddings"))["padding_idx"] = padding
        for number in range(config.num_hidden_layers):
            for role, path in names.layer.items():
                if path:
                    put(self, f"{names.layers}.{number}.{path}", layer_part(config, names, role))
        if names.table["relative"]:
            put(self, names.table["relative"], table(config.relative_attention_num_buckets, heads))

    def get_input_embeddings(self) -> nn.Module:
        """The table of words."""
        return self.get_submodule(KINDS[self.config.model_type].table["word"])


def embedding_part(config: Any, names: Names, role: str) -> nn.Module:
    """A module of the embeddings by its name in `BertWeights`."""
    width, padding = width_of_tables(config), padding_position(config)
    match role:
        case "word":
            rows = config.vocab_size
            return table(rows, width, config.pad_token_id if padding is None else padding)
        case "position":
            return table(config.max_position_embeddings, width, padding)
        case "token_type":
            return table(config.type_vocab_size, width)
        case "norm":
            return layer_norm(config, width)
    return nn.Dropout(getattr(config, names.dropout))


def layer_part(config: Any, names: Names, role: str) -> nn.Module:
    """A module of a layer by its name in `LayerWeights`."""
    width, inner = config.hidden_size, getattr(config, names.inner)
    match role:
        case "query" | "key" | "value" | "attention_out":
            return nn.Linear(width, width)
        case "up":
            return nn.Linear(width, inner)
        case "down":
            return nn.Linear(inner, width)
        case "attention_norm" | "output_norm":
            return layer_norm(config, width)
        case "weight_dropout":
            return nn.Dropout(getattr(config, names.weight_dropout))
    return nn.Dropout(getattr(config, names.dropout))


def table(rows: int, width: int, padding: int | None = None) -> nn.Embedding:
    """An embedding table of what was in memory: to draw normal numbers on torch's meta device imports its compiler."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False, padding_idx=padding)  # type: ignore[no-untyped-call,no-any-return]


def layer_norm(config: Any, width: int) -> nn.LayerNorm:
    """Of so many features."""
    return nn.LayerNorm(width, eps=LAYER_NORM_EPS if config.model_type == "distilbert" else config.layer_norm_eps)


def width_of_tables(config: Any) -> int:
    """E: that of the layers, but for ELECTRA."""
    return int(config.embedding_size if config.model_type == "electra" else config.hidden_size)


def put(root: nn.Module, path: str, module: nn.Module) -> None:
    """Place a module, and what has to lie around it."""
    *outer, name = path.split(".")
    for part in outer:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(name, module)
