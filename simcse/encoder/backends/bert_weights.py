"""The weights of a BERT-like backbone by their roles, for the forward passes that are written out here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["KINDS", "BertWeights", "LayerWeights", "Names", "why_not_bert"]


@dataclass(frozen=True)
class LayerWeights:
    """One transformer layer: attention, add and norm, feed-forward, add and norm.

    Attributes:
        weight_dropout: on the attention weights.
        attention_dropout: on what attention adds; None: there is none.
        output_dropout: on what the feed-forward sublayer adds.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_out: nn.Linear
    attention_norm: nn.LayerNorm
    up: nn.Linear
    down: nn.Linear
    output_norm: nn.LayerNorm
    weight_dropout: nn.Dropout
    attention_dropout: nn.Dropout | None
    output_dropout: nn.Dropout

    @property
    def linears(self) -> tuple[nn.Linear, ...]:
        """All its linear maps."""
        return self.query, self.key, self.value, self.attention_out, self.up, self.down


@dataclass(frozen=True)
class BertWeights:
    """A backbone's modules by their roles.

    Attributes:
        word, position: embedding tables.
        token_type: the third, whose first row each token gets; None: there is none (DistilBERT).
        norm: what follows the embeddings.
        dropout: what follows the norm.
        projection: from the width of the tables to that of the layers, where it is another one (ELECTRA).
        relative: biases of the attention scores by the distance of two tokens, shared by all layers (MPNet); None.
        layers: the transformer layers.
        heads: attention heads of a layer.
        padding_index: positions count from behind it and skip padding tokens (RoBERTa); None: from 0 (BERT).
    """

    word: nn.Embedding
    position: nn.Embedding
    token_type: nn.Embedding | None
    norm: nn.LayerNorm
    dropout: nn.Dropout
    projection: nn.Linear | None
    relative: nn.Embedding | None
    layers: tuple[LayerWeights, ...]
    heads: int
    padding_index: int | None

    @classmethod
    def from_hf(cls, backbone: nn.Module) -> BertWeights | None:
        """The weights, or None: `why_not_bert` says why."""
        found = read(backbone)
        return None if isinstance(found, str) else found

    @property
    def width(self) -> int:
        """D of the token states."""
        return self.layers[0].query.in_features

    @property
    def tables(self) -> tuple[nn.Embedding, ...]:
        """The embedding tables that there are."""
        return tuple(table for table in (self.word, self.position, self.token_type) if table is not None)

    @property
    def token_type_row(self) -> Tensor:
        """(E,) what each token gets of the table of token types; zeros where there is none."""
        word = self.word.weight
        return word.new_zeros(word.shape[1]) if self.token_type is None else self.token_type.weight[0]

    def position_rows(self, ids: Tensor, starts: Tensor, segments: Tensor) -> Tensor:
        """(T,) rows of the position table for packed ids; starts (S,), segments (T,) as in `TokenBatch`."""
        if self.padding_index is None:
            return torch.arange(len(ids), device=ids.device) - starts[segments]
        real = (ids != self.padding_index).long()
        count = real.cumsum(0)  # (T,)
        before = (count - real)[starts]  # (S,)
        return (count - before[segments]) * real + self.padding_index


def why_not_bert(backbone: nn.Module) -> str | None:
    """Why a backbone has no pass written out here; None if it has one."""
    found = read(backbone)
    return found if isinstance(found, str) else None


def read(backbone: nn.Module) -> BertWeights | str:
    """The weights; of another kind of backbone, or an altered one (adapters, hooks, other activations), why not."""
    config: Any = backbone.config
    kind = config.model_type
    if kind not in KINDS:
        return f"it has no pass for {kind}, only for {', '.join(KINDS)}"
    if getattr(config, "is_decoder", False):
        return f"this {kind} is a decoder"
    if (activation := config.activation if kind == "distilbert" else config.hidden_act) != "gelu":
        return f"the activation of this {kind} is {activation}, not gelu"
    if (positions := getattr(config, "position_embedding_type", None) or "absolute") != "absolute":
        return f"the positions of this {kind} are {positions}, not absolute"
    for name, module in backbone.named_modules():
        if is_hooked(module):
            return f"this {kind} has a hook on {name or 'the whole'}"
    try:
        weights = KINDS[kind].weights(backbone)
    except AttributeError as error:
        return f"this {kind} is not as transformers builds it ({error})"
    for module, usual in parts(weights):
        if type(module) is not usual:
            return f"this {kind} has a {type(module).__name__} in place of a {usual.__name__}"
        if not isinstance(module, nn.Dropout) and module.weight is None:
            return f"this {kind} has a {usual.__name__} without weight"
        if isinstance(module, nn.Linear) and module.bias is None:
            return f"this {kind} has a Linear without bias"
    return weights if weights.layers else f"this {kind} has no layers"


def is_hooked(module: nn.Module) -> bool:
    """Whether it has hooks other than those of transformers, which stay once hidden states were asked for."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return not all(hook.__module__.startswith("transformers.") for hook in hooks)


def parts(weights: BertWeights) -> Iterator[tuple[nn.Module, type[nn.Module]]]:
    """Each module, and exactly which of torch's it is in a fresh backbone."""
    for table in (*weights.tables, *([] if weights.relative is None else [weights.relative])):
        yield table, nn.Embedding
    yield from ((weights.norm, nn.LayerNorm), (weights.dropout, nn.Dropout))
    if weights.projection is not None:
        yield weights.projection, nn.Linear
    for layer in weights.layers:
        yield from ((linear, nn.Linear) for linear in layer.linears)
        yield from ((norm, nn.LayerNorm) for norm in (layer.attention_norm, layer.output_norm))
        dropouts = (layer.weight_dropout, layer.attention_dropout, layer.output_dropout)
        yield from ((dropout, nn.Dropout) for dropout in dropouts if dropout is not None)


class Names(NamedTuple):
    """What an architecture calls the modules of `BertWeights`; an empty path is a module that it does not have.

    Both tables are in the order of a checkpoint's weights.

    Attributes:
        table: of the backbone's, by the names of `BertWeights`.
        layers: where the layers lie.
        layer: of a layer's, by the names of `LayerWeights`.
        heads: their number in the config.
        inner: there, too, the width of the feed-forward sublayer.
        dropout, weight_dropout: there, too, the rates of token states and of attention weights.
    """

    table: dict[str, str]
    layers: str
    layer: dict[str, str]
    heads: str = "num_attention_heads"
    inner: str = "intermediate_size"
    dropout: str = "hidden_dropout_prob"
    weight_dropout: str = "attention_probs_dropout_prob"

    def weights(self, backbone: nn.Module) -> BertWeights:
        """Of a backbone.

        Raises:
            AttributeError: a module is not there.
        """
        table: Any = backbone.get_submodule("embeddings")
        if getattr(table, "task_type_embeddings", None) is not None:  # ERNIE's
            raise AttributeError("it has task_type_embeddings")
        layers = backbone.get_submodule(self.layers).children()
        return BertWeights(
            **modules(backbone, self.table),
            projection=getattr(backbone, "embeddings_project", None),  # ELECTRA's, where the widths differ
            layers=tuple(LayerWeights(**modules(layer, self.layer)) for layer in layers),
            heads=getattr(backbone.config, self.heads),
            padding_index=getattr(table, "padding_idx", None),
        )


def modules(inside: nn.Module, paths: dict[str, str]) -> dict[str, Any]:
    """The modules at these paths; None for an empty one."""
    return {name: inside.get_submodule(path) if path else None for name, path in paths.items()}


FEED_FORWARD = {
    "up": "intermediate.dense",
    "down": "output.dense",
    "output_norm": "output.LayerNorm",
    "output_dropout": "output.dropout",
}
BERT = Names(
    table={
        "word": "embeddings.word_embeddings",
        "position": "embeddings.position_embeddings",
        "token_type": "embeddings.token_type_embeddings",
        "norm": "embeddings.LayerNorm",
        "dropout": "embeddings.dropout",
        "relative": "",
    },
    layers="encoder.layer",
    layer={
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "weight_dropout": "attention.self.dropout",
        "attention_out": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "attention_dropout": "attention.output.dropout",
        **FEED_FORWARD,
    },
)
ROBERTA = BERT._replace(
    table={role: BERT.table[role] for role in ("word", "token_type", "norm", "dropout", "position", "relative")}
)
MPNET = Names(
    table=BERT.table | {"token_type": "", "relative": "encoder.relative_attention_bias"},
    layers="encoder.layer",
    layer={
        "query": "attention.attn.q",
        "key": "attention.attn.k",
        "value": "attention.attn.v",
        "attention_out": "attention.attn.o",
        "weight_dropout": "attention.attn.dropout",
        "attention_norm": "attention.LayerNorm",
        "attention_dropout": "attention.dropout",
        **FEED_FORWARD,
    },
)
DISTILBERT = Names(
    table=BERT.table | {"token_type": ""},
    layers="transformer.layer",
    layer={
        "weight_dropout": "attention.dropout",
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "attention_out": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "attention_dropout": "",
        "output_dropout": "ffn.dropout",
        "up": "ffn.lin1",
        "down": "ffn.lin2",
        "output_norm": "output_layer_norm",
    },
    heads="n_heads",
    inner="hidden_dim",
    dropout="dropout",
    weight_dropout="attention_dropout",
)
# post-norm encoders with absolute positions, MPNet's with relative ones beside them
KINDS = {
    "bert": BERT,
    "camembert": ROBERTA,
    "data2vec-text": ROBERTA,
    "distilbert": DISTILBERT,
    "electra": BERT,
    "ernie": BERT,
    "mpnet": MPNET,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
}
