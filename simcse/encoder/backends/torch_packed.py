"""The forward pass of a BERT-like encoder for inference: packed tokens, fused products, no padding, no gradients.

On a CPU with tiles whole layers go to a kernel of our own (`native/`), if the caller asks for it. Else all work but
attention runs on the flat (T, D) run of tokens; on the CPU the matrix products go to oneDNN with the activation or the
sum fused in, and with weights laid out in its own order where many texts will pass. oneDNN compiles a kernel for each
new number of rows, which costs more than the product, so T is rounded up to one of a few numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simcse.encoder.backends.bert_weights import Block, Parts, read_parts
from simcse.encoder.backends.native.binding import amx_layers
from simcse.encoder.backends.packed_attention import PackedAttention
from simcse.tokens.batch import TokenBatch

__all__ = ["FeedForward", "PackedForward", "pack"]


class Product:
    """x (T, in) -> (T, out): a linear map, then gelu or a sum."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
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


class PrepackedProduct(Product):
    """The same with a weight in oneDNN's own order, and what follows fused in."""

    def __init__(self, weight: Tensor, bias: Tensor, rows: int) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows), bias)

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

    def __init__(self, up: Product, down: Product) -> None:
        self.up, self.down = up, down

    def __call__(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        return self.down.plus(self.up.gelu(x), x)


class Layer:
    """One transformer layer."""

    def __init__(self, block: Block, heads: int, prepack: int | None) -> None:
        scale = (block.query.in_features // heads) ** -0.5
        inputs = (block.query, block.key, block.value)
        weight = torch.cat([linear.weight for linear in inputs])
        bias = torch.cat([linear.bias for linear in inputs])
        weight[: len(weight) // 3] *= scale
        bias[: len(bias) // 3] *= scale
        self.inputs = product(weight, bias, prepack)
        self.out = product(block.attention_out.weight, block.attention_out.bias, prepack)
        self.feed_forward: Callable[[Tensor], Tensor] = FeedForward(
            product(block.up.weight, block.up.bias, prepack), product(block.down.weight, block.down.bias, prepack)
        )
        self.attention_norm, self.output_norm = block.attention_norm, block.output_norm

    def __call__(self, x: Tensor, attend: PackedAttention) -> Tensor:
        """(T, D) -> (T, D)."""
        return self.after_attention(self.context(x, attend), x)

    def context(self, x: Tensor, attend: PackedAttention) -> Tensor:
        """(T, D) -> (T, D): what attention reads at each token; rows behind the last sequence are 0."""
        out = torch.empty_like(x)
        attend(self.inputs(x), out)
        out[attend.tokens :].zero_()
        return out

    def first(self, x: Tensor, attend: PackedAttention, starts: Tensor) -> Tensor:
        """(T, D) -> (S, D): first tokens alone, which nothing else behind attention passes."""
        return self.after_attention(self.context(x, attend).index_select(0, starts), x.index_select(0, starts))

    def after_attention(self, context: Tensor, x: Tensor) -> Tensor:
        """(N, D), (N, D) -> (N, D): the rest, which is token by token."""
        x = norm(self.attention_norm, self.out.plus(context, x))
        return norm(self.output_norm, self.feed_forward(x))


class PackedForward:
    """Token states of a backbone; a copy of the weights as they are when it is made.

    Args:
        parts: of the backbone.
        prepack: rows of the batches to come, to lay the weights out for; None: use them as they are.
        tiles: lay the weights out for the kernel for AMX instead, where it runs.
    """

    @torch.no_grad()
    def __init__(self, parts: Parts, *, prepack: int | None = None, tiles: bool = False) -> None:
        self.parts = parts
        self.layers: list[Layer] = []
        self.kernel = amx_layers(parts) if tiles else None
        if self.kernel is not None:
            return
        weight = parts.word.weight
        if weight.device.type != "cpu" or not onednn_multiplies(weight.dtype):
            prepack = None
        self.layers = [Layer(block, parts.heads, prepack) for block in parts.blocks]

    @torch.no_grad()
    def __call__(self, batch: TokenBatch, layers: Sequence[int], *, cls_only: bool = False) -> list[Tensor]:
        """States of the given layers; see `backbone.token_states`."""
        if self.kernel is not None:
            states = self.kernel(batch, cls_only=cls_only)
        else:
            states = self.by_torch(self.embed(batch), batch, cls_only)
        last = len(states) - 1 if cls_only else -1
        chosen = [layer % len(states) for layer in layers]
        return [states[layer] if layer == last else states[layer][: len(batch.ids)] for layer in chosen]

    def by_torch(self, embedded: Tensor, batch: TokenBatch, cls_only: bool) -> list[Tensor]:
        """States of all layers; with `cls_only` the last are those of first tokens alone."""
        for careful in (False, True):
            attend = PackedAttention(batch.lengths, self.parts.heads, embedded, careful=careful)
            states = [embedded]
            for layer in self.layers[: -1 if cls_only else None]:
                states.append(layer(states[-1], attend))
            if cls_only:
                states.append(self.layers[-1].first(states[-1], attend, batch.starts))
            if attend.sums_in_range():
                break
        return states

    def embed(self, batch: TokenBatch) -> Tensor:
        """(T', D) embedding output; T' is T rounded up, and rows behind T belong to no sequence."""
        parts, tokens = self.parts, len(batch.ids)
        ids = F.pad(batch.ids, (0, rounded_up(tokens) - tokens))
        rows = F.pad(parts.position_rows(batch.ids, batch.starts, batch.segments), (0, len(ids) - tokens))
        x = F.embedding(ids, parts.word.weight)
        x += parts.token_type.weight[0]
        x += F.embedding(rows, parts.position.weight)
        return norm(parts.norm, x)


def product(weight: Tensor, bias: Tensor, prepack: int | None) -> Product:
    """Prepacked for a number of rows, or plain."""
    weight, bias = weight.detach(), bias.detach()
    return Product(weight, bias) if prepack is None else PrepackedProduct(weight, bias, prepack)


def onednn_multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN lays weights of a type out in its own order on this CPU: bf16 needs AVX-512 or AVX-NE-CONVERT."""
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


def pack(backbone: nn.Module, *, prepack: int | None = None, tiles: bool = False) -> PackedForward | None:
    """The backbone's weights, as they are now, ready for inference; None if the backbone is of another kind."""
    parts = read_parts(backbone)
    return None if parts is None else PackedForward(parts, prepack=prepack, tiles=tiles)
