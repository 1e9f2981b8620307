"""The forward pass of a BERT-like encoder for inference: packed tokens, fused products, no padding, no gradients.

All work but attention runs on the flat (T, D) run of tokens. On CPUs with AVX-512 the matrix products go to oneDNN,
with weights packed in its own order and the activation or the sum fused in; with AVX2 alone torch's own products are
faster. oneDNN compiles a kernel for each new number of rows, which costs more than the product, so T is rounded up to
one of a few numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simcse.encoder.backends.base import tokens_per_batch
from simcse.encoder.backends.bert_weights import BertWeights, LayerWeights
from simcse.encoder.backends.cpu_features import cpu_flags
from simcse.encoder.backends.packed_attention import PackedAttention
from simcse.encoder.backends.relative_bias import bias_by_distance
from simcse.tokens.batch import TokenBatch

__all__ = ["FeedForward", "TorchPackedBackend"]

PACKED_ROWS = 512  # what oneDNN packs weights for: some dozens of short texts


class Product:
    """x (T, in) -> (T, out): a linear map, then gelu or a sum."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """The linear map."""
        return F.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """Gelu of the linear map."""
        return torch.ops.aten.gelu_(self(x))  # type: ignore[no-any-return]

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The linear map plus `other` (T, out)."""
        return self(x).add_(other)


class OnednnProduct(Product):
    """The same with a weight in oneDNN's own order, and what follows fused in."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_ROWS), bias)

    def __call__(self, x: Tensor) -> Tensor:
        """The linear map."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")  # type: ignore[no-any-return]

    def gelu(self, x: Tensor) -> Tensor:
        """Gelu of the linear map."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "none")  # type: ignore[no-any-return]

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The linear map plus `other` (T, out)."""
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "add")  # type: ignore[no-any-return]


class FeedForward:
    """x (T, D) -> x + down(gelu(up(x)))."""

    def __init__(self, layer: LayerWeights) -> None:
        self.up, self.down = product(layer.up.weight, layer.up.bias), product(layer.down.weight, layer.down.bias)

    def __call__(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        return self.down.plus(self.up.gelu(x), x)


class PackedLayer:
    """One transformer layer."""

    def __init__(self, layer: LayerWeights, heads: int, feed_forward: Callable[[Tensor], Tensor]) -> None:
        scale = (layer.query.in_features // heads) ** -0.5
        inputs = (layer.query, layer.key, layer.value)
        weight = torch.cat([linear.weight for linear in inputs])
        bias = torch.cat([linear.bias for linear in inputs])
        weight[: len(weight) // 3] *= scale
        bias[: len(bias) // 3] *= scale
        self.inputs = product(weight, bias)
        self.out = product(layer.attention_out.weight, layer.attention_out.bias)
        self.feed_forward = feed_forward
        self.attention_norm, self.output_norm = layer.attention_norm, layer.output_norm

    def __call__(self, x: Tensor, attend: PackedAttention) -> Tensor:
        """(T, D) -> (T, D)."""
        return self.after_attention(self.context(x, attend), x)

    def context(self, x: Tensor, attend: PackedAttention) -> Tensor:
        """(T, D) -> (T, D): what attention reads at each token; rows behind the last sequence are 0."""
        out = torch.empty_like(x)
        attend(self.inputs(x), out)
        out[attend.tokens :].zero_()
        return out

    def cls_only(self, x: Tensor, attend: PackedAttention, starts: Tensor) -> Tensor:
        """(T, D) -> (S, D): the states of first tokens alone."""
        return self.after_attention(self.context(x, attend).index_select(0, starts), x.index_select(0, starts))

    def after_attention(self, context: Tensor, x: Tensor) -> Tensor:
        """(N, D), (N, D) -> (N, D): the rest, which is token by token."""
        x = norm(self.attention_norm, self.out.plus(context, x))
        return norm(self.output_norm, self.feed_forward(x))


class TorchPackedBackend:
    """A BERT-like backbone, prepared: a copy of some weights, the others as they are.

    Args:
        weights: of the backbone.
        feed_forwards: x (T, D) -> x + feed-forward(x) of each layer, in place of the backbone's own.
    """

    name = "torch"
    padded = False

    @torch.no_grad()
    def __init__(self, weights: BertWeights, feed_forwards: Sequence[Callable[[Tensor], Tensor]] | None = None) -> None:
        self.weights = weights
        self.device = weights.word.weight.device
        self.tokens_per_batch = tokens_per_batch(self.device)
        each = feed_forwards or [FeedForward(layer) for layer in weights.layers]
        projection = weights.projection
        self.projection = None if projection is None else product(projection.weight, projection.bias)
        relative = weights.relative
        self.bias = None if relative is None else bias_by_distance(relative, weights.position.num_embeddings)
        self.layers = [
            PackedLayer(layer, weights.heads, feed_forward)
            for layer, feed_forward in zip(weights.layers, each, strict=True)
        ]

    @torch.no_grad()
    def __call__(self, batch: TokenBatch, layers: Sequence[int], *, cls_only: bool = False) -> list[Tensor]:
        """See `TokenStates`."""
        states = self.states(self.embed(batch), batch, cls_only)
        last = len(states) - 1 if cls_only else -1
        chosen = [layer % len(states) for layer in layers]
        return [states[layer] if layer == last else states[layer][: len(batch.ids)] for layer in chosen]

    def states(self, embedded: Tensor, batch: TokenBatch, cls_only: bool) -> list[Tensor]:
        """States of all layers; with `cls_only` the last are those of first tokens alone."""
        for stable in (False, True):
            attend = PackedAttention(batch.lengths, self.weights.heads, embedded, bias=self.bias, stable=stable)
            states = [embedded]
            for layer in self.layers[: -1 if cls_only else None]:
                states.append(layer(states[-1], attend))
            if cls_only:
                states.append(self.layers[-1].cls_only(states[-1], attend, batch.starts))
            if attend.denominators_finite():
                break
        return states

    def embed(self, batch: TokenBatch) -> Tensor:
        """(T', D) embedding output; T' is T rounded up, and rows behind T belong to no sequence."""
        weights, tokens = self.weights, len(batch.ids)
        ids = F.pad(batch.ids, (0, rounded_up(tokens) - tokens))
        rows = F.pad(weights.position_rows(batch.ids, batch.starts, batch.segments), (0, len(ids) - tokens))
        x = F.embedding(ids, weights.word.weight)
        if weights.token_type is not None:
            x += weights.token_type.weight[0]
        x += F.embedding(rows, weights.position.weight)
        x = norm(weights.norm, x)
        return x if self.projection is None else self.projection(x)


def product(weight: Tensor, bias: Tensor | None) -> Product:
    """By oneDNN where it is the faster one, else by torch."""
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    by_onednn = weight.device.type == "cpu" and onednn_is_faster(weight.dtype)
    return (OnednnProduct if by_onednn else Product)(weight, bias)


def onednn_is_faster(dtype: torch.dtype) -> bool:
    """Whether oneDNN's products, with what follows fused in, are faster than torch's own on this CPU."""
    flags = cpu_flags()
    if "avx2" in flags and "avx512f" not in flags:  # its gelu costs half of the product there
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def norm(module: nn.LayerNorm, x: Tensor) -> Tensor:
    """LayerNorm, past the module's hooks and bookkeeping."""
    return torch.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)


def rounded_up(tokens: int) -> int:
    """The next multiple of an eighth to a quarter of the number itself, and of 16."""
    step = max(16, (1 << (tokens - 1).bit_length()) // 8)
    return -(-tokens // step) * step
