"""ModernBERT for inference: packed tokens, no padding, no gradients.

Pre-norm layers of rotary positions and GeGLU; two of three see a window of neighbours alone. What is between products
and attention is token by token, so only attention knows where one sequence ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simcse.encoder.backends.base import tokens_per_batch
from simcse.encoder.backends.bert_weights import is_hooked
from simcse.encoder.backends.packed_attention import PackedAttention
from simcse.encoder.backends.torch_packed import norm, product, rounded_up
from simcse.tokens.batch import TokenBatch

__all__ = ["ModernBertBackend", "ModernBertWeights", "why_not_modernbert"]


@dataclass(frozen=True)
class LayerWeights:
    """One transformer layer.

    Attributes:
        attention_norm: before attention; None in the first layer, which follows the norm of the embeddings.
        inputs: (3 * D, D): queries, keys, values.
        attention_out: (D, D).
        output_norm: before the feed-forward sublayer.
        up: (2 * I, D): what gelu is of, and what it is multiplied by.
        down: (D, I).
        theta: base of the rotary frequencies.
        window: how far a token sees to either side; None: it sees all.
    """

    attention_norm: nn.LayerNorm | None
    inputs: nn.Linear
    attention_out: nn.Linear
    output_norm: nn.LayerNorm
    up: nn.Linear
    down: nn.Linear
    theta: float
    window: int | None


@dataclass(frozen=True)
class ModernBertWeights:
    """A backbone's modules by their roles; `norm` follows the embeddings, `final_norm` the last layer."""

    word: nn.Embedding
    norm: nn.LayerNorm
    layers: tuple[LayerWeights, ...]
    final_norm: nn.LayerNorm
    heads: int

    @classmethod
    def from_hf(cls, backbone: nn.Module) -> ModernBertWeights | None:
        """The weights, or None: `why_not_modernbert` says why."""
        found = read(backbone)
        return None if isinstance(found, str) else found


def why_not_modernbert(backbone: nn.Module) -> str | None:
    """Why this is no ModernBERT that the pass here computes; None if it is one."""
    found = read(backbone)
    return found if isinstance(found, str) else None


def read(backbone: Any) -> ModernBertWeights | str:
    """The weights; of another kind of backbone, or an altered one, why not."""
    config = backbone.config
    if config.model_type != "modernbert":
        return f"{config.model_type} is no modernbert"
    if config.hidden_activation != "gelu":
        return f"the activation of this modernbert is {config.hidden_activation}, not gelu"
    if any(kind["rope_type"] != "default" for kind in config.rope_parameters.values()):
        return "the rotary positions of this modernbert are scaled"
    for name, module in backbone.named_modules():
        if is_hooked(module):
            return f"this modernbert has a hook on {name or 'the whole'}"
    try:
        weights = ModernBertWeights(
            word=backbone.embeddings.tok_embeddings,
            norm=backbone.embeddings.norm,
            layers=tuple(layer_weights(layer, config) for layer in backbone.layers),
            final_norm=backbone.final_norm,
            heads=config.num_attention_heads,
        )
    except AttributeError as error:
        return f"this modernbert is not as transformers builds it ({error})"
    for module, usual in parts(weights):
        if type(module) is not usual or module.weight is None:
            return f"this modernbert has a {type(module).__name__} in place of a {usual.__name__} with a weight"
    return weights if weights.layers else "this modernbert has no layers"


def layer_weights(layer: Any, config: Any) -> LayerWeights:
    """One layer of ModernBERT's module names."""
    return LayerWeights(
        attention_norm=None if type(layer.attn_norm) is nn.Identity else layer.attn_norm,
        inputs=layer.attn.Wqkv,
        attention_out=layer.attn.Wo,
        output_norm=layer.mlp_norm,
        up=layer.mlp.Wi,
        down=layer.mlp.Wo,
        theta=float(config.rope_parameters[layer.attention_type]["rope_theta"]),
        window=config.sliding_window if layer.attention_type == "sliding_attention" else None,
    )


def parts(weights: ModernBertWeights) -> Iterator[tuple[nn.Module, type[nn.Module]]]:
    """Each module, and exactly which of torch's it is in a fresh backbone."""
    yield from ((weights.word, nn.Embedding), (weights.norm, nn.LayerNorm), (weights.final_norm, nn.LayerNorm))
    for layer in weights.layers:
        yield from ((linear, nn.Linear) for linear in (layer.inputs, layer.attention_out, layer.up, layer.down))
        yield from ((one, nn.LayerNorm) for one in (layer.attention_norm, layer.output_norm) if one is not None)


class Rotation:
    """Rotary positions of a batch's tokens.

    Args:
        theta: base of the frequencies.
        positions: (T,).
        width: d, of a head.
        dtype: to compute in.
    """

    def __init__(self, theta: float, positions: Tensor, width: int, dtype: torch.dtype) -> None:
        powers = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device) / width
        angles = (positions[:, None].float() / theta**powers)[:, None, None]  # (T, 1, 1, d / 2)
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)

    def __call__(self, queries_keys: Tensor) -> None:
        """Rotate (T, 2, H, d) in place."""
        first, second = queries_keys.chunk(2, -1)  # (T, 2, H, d / 2)
        turned = torch.addcmul(first * self.cos, second, self.sin, value=-1)
        second.mul_(self.cos).addcmul_(first, self.sin)
        first.copy_(turned)


class Layer:
    """One transformer layer, prepared."""

    def __init__(self, layer: LayerWeights, heads: int) -> None:
        self.heads, self.theta, self.window = heads, layer.theta, layer.window
        self.attention_norm, self.output_norm = layer.attention_norm, layer.output_norm
        weight, bias = layer.inputs.weight.clone(), layer.inputs.bias
        width = weight.shape[1]
        scales = weight.new_ones(3 * width)
        scales[:width] = (width // heads) ** -0.5
        self.inputs = product(weight * scales[:, None], None if bias is None else bias * scales)
        self.out = product(layer.attention_out.weight, layer.attention_out.bias)
        weights = layer.up.weight.chunk(2)
        biases = (None, None) if layer.up.bias is None else layer.up.bias.chunk(2)
        self.active, self.gate = (product(*pair) for pair in zip(weights, biases, strict=True))
        self.down = product(layer.down.weight, layer.down.bias)

    def context(self, x: Tensor, attend: PackedAttention, rotate: Rotation) -> Tensor:
        """(T, D) -> (T, D): what attention reads at each token; rows behind the last sequence are 0."""
        qkv = self.inputs(x if self.attention_norm is None else norm(self.attention_norm, x))  # (T, 3 * D)
        rotate(qkv.view(len(x), 3, self.heads, -1)[:, :2])
        out = torch.empty_like(x)
        attend(qkv, out)
        out[attend.tokens :].zero_()
        return out

    def after_attention(self, context: Tensor, x: Tensor) -> Tensor:
        """(N, D), (N, D) -> (N, D): the rest, which is token by token."""
        x = self.out.plus(context, x)
        inner = norm(self.output_norm, x)
        return self.down.plus(self.active.gelu(inner).mul_(self.gate(inner)), x)


class ModernBertBackend:
    """A ModernBERT, prepared.

    Args:
        weights: of the backbone.
    """

    name = "torch"
    padded = False

    @torch.no_grad()
    def __init__(self, weights: ModernBertWeights) -> None:
        self.weights = weights
        self.device = weights.word.weight.device
        self.tokens_per_batch = tokens_per_batch(self.device)
        self.layers = [Layer(layer, weights.heads) for layer in weights.layers]

    @torch.no_grad()
    def __call__(self, batch: TokenBatch, layers: Sequence[int], *, cls_only: bool = False) -> list[Tensor]:
        """See `TokenStates`."""
        tokens = len(batch.ids)
        ids = F.pad(batch.ids, (0, rounded_up(tokens) - tokens))
        embedded = norm(self.weights.norm, F.embedding(ids, self.weights.word.weight))  # (T', D)
        states = self.states(embedded, batch, cls_only)
        last = len(states) - 1
        states[last] = norm(self.weights.final_norm, states[last])
        chosen = [layer % len(states) for layer in layers]
        return [states[layer] if cls_only and layer == last else states[layer][:tokens] for layer in chosen]

    def states(self, embedded: Tensor, batch: TokenBatch, cls_only: bool) -> list[Tensor]:
        """States of all layers; with `cls_only` the last are those of first tokens alone."""
        heads = self.weights.heads
        positions = F.pad(batch.positions, (0, len(embedded) - len(batch.ids)))
        rotations = {
            theta: Rotation(theta, positions, embedded.shape[1] // heads, embedded.dtype)
            for theta in {layer.theta for layer in self.layers}
        }
        for stable in (False, True):
            attentions = {
                window: PackedAttention(batch.lengths, heads, embedded, window=window, stable=stable)
                for window in {layer.window for layer in self.layers}
            }
            states = [embedded]
            for layer in self.layers:
                x = states[-1]
                context = layer.context(x, attentions[layer.window], rotations[layer.theta])
                if cls_only and layer is self.layers[-1]:
                    context, x = context.index_select(0, batch.starts), x.index_select(0, batch.starts)
                states.append(layer.after_attention(context, x))
            if all(attend.denominators_finite() for attend in attentions.values()):
                break
        return states
