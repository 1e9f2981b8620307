"""The two sublayers of a post-LN transformer layer, each one autograd node with its backward pass written out.

A node saves the few tensors its backward needs and runs one matrix product for each weight and each input. Weights are
cast to the type of the activations once a forward pass. Scales that would cost a pass over the activations, 1 / sqrt(d)
and dropout's 1 / P(keep), ride on the cast weights instead, and go onto the small weight gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from simcse.encoder.backends.cpu_training.attention import AttentionLayout, rows_and_zero
from simcse.encoder.backends.cpu_training.dropout import keep_mask, keep_scale
from simcse.encoder.backends.cpu_training.fused_attention import FusedAttention
from simcse.encoder.backends.cpu_training.passes import (
    add_norm,
    add_norm_backward,
    column_sums,
    gelu,
    gelu_backward,
    transposed,
)
from simcse.encoder.backends.native.instruction_sets import AMX, best_instruction_set

__all__ = ["AttentionSublayer", "FeedForwardSublayer"]

Gradients = tuple[Tensor | None, ...]


class AttentionSublayer(torch.autograd.Function):
    """x (T, D) -> LayerNorm(x + dropout(attention(x))), for all tokens or for some of them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, wq: Tensor, bq: Tensor, wk: Tensor, bk: Tensor, wv: Tensor, bv: Tensor, wo: Tensor,
        bo: Tensor, gamma: Tensor, beta: Tensor, relative: Tensor | None, eps: float, rate: float,
        layout: AttentionLayout | FusedAttention, query_tokens: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """(N, D). `relative` is as in `attend`; `rate` of dropout on the sublayer's output; `query_tokens` (N,), None:
        all, else the first of each sequence.
        """
        ctx.scales = ((layout.width**-0.5,), (1.0, layout.scale), (keep_scale(rate),))
        w_query, b_query = cast(x.dtype, ctx.scales[0], [wq]), joined(ctx.scales[0], [bq]).to(x.dtype)
        w_key, b_key = cast(x.dtype, ctx.scales[1], [wk, wv]), joined(ctx.scales[1], [bk, bv]).to(x.dtype)
        w_out = cast(x.dtype, ctx.scales[2], [wo])
        own = x if query_tokens is None else x.index_select(0, query_tokens)  # (N, D)
        query, key_value = F.linear(own, w_query, b_query), F.linear(x, w_key, b_key)  # (N, D), (T, 2 D)
        context, gathered, ctx.attention = layout.attend(query, key_value, relative)
        update = F.linear(context, w_out)  # (N, D)
        ctx.keep = keep_mask(update.shape, rate, update.dtype)
        out, *ctx.norm = add_norm(own, update, joined(ctx.scales[2], [bo]), ctx.keep, gamma, beta, eps)
        ctx.layout, ctx.query_tokens, ctx.master = layout, query_tokens, wq.dtype
        ctx.relative = None if relative is None else (relative.shape, relative.dtype)
        ctx.save_for_backward(x, own, context, *gathered, w_query, w_key, w_out, gamma, beta)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        """Gradients of x, of the ten weights and of the relative bias."""
        x, own, context, *gathered, w_query, w_key, w_out, gamma, beta = ctx.saved_tensors
        need = ctx.needs_input_grad
        to_query, to_key, to_out = ctx.scales
        total, grad, *of_norm, sums = add_norm_backward(grad, ctx.norm, ctx.keep, gamma, beta)  # (N, D)
        of_out = weight_grads(ctx.master, to_out, grad, sums, context, need[7:9])
        context_grad = rows_and_zero(grad)  # padding reads the zeros
        torch.mm(grad, w_out, out=context_grad[:-1])
        relative_grad = None
        if ctx.relative is not None and need[11]:
            relative_grad = grad.new_zeros(ctx.relative[0], dtype=ctx.relative[1])
        query_grad, key_grad = ctx.layout.backward(context_grad, tuple(gathered), ctx.attention, relative_grad)
        of_query = weight_grads(ctx.master, to_query, query_grad, column_sums(query_grad), own, need[1:3])
        of_key = weight_grads(ctx.master, to_key, key_grad, column_sums(key_grad), x, need[3:7])
        x_grad = None
        if need[0]:
            total.addmm_(query_grad, w_query)  # (N, D)
            if ctx.query_tokens is None:
                x_grad = total.addmm_(key_grad, w_key)  # (T, D)
            else:
                x_grad = torch.mm(key_grad, w_key).index_add_(0, ctx.query_tokens, total)  # (T, D)
        return x_grad, *of_query, *of_key, *of_out, *of_norm, relative_grad, None, None, None, None


class FeedForwardSublayer(torch.autograd.Function):
    """x (N, D) -> LayerNorm(x + dropout(down(gelu(up(x)))))."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_up: Tensor, b_up: Tensor, w_down: Tensor, b_down: Tensor, gamma: Tensor, beta: Tensor,
        eps: float, rate: float,
    ) -> Tensor:  # fmt: skip
        """(N, D) states. `rate` is of dropout on the sublayer's output."""
        ctx.master, ctx.scale = w_up.dtype, keep_scale(rate)
        w_up, w_down = cast(x.dtype, (1.0,), [w_up]), cast(x.dtype, (ctx.scale,), [w_down])
        hidden = F.linear(x, w_up)  # (N, I), without its bias
        active = gelu(hidden, b_up)
        update = F.linear(active, w_down)  # (N, D)
        ctx.keep = keep_mask(update.shape, rate, update.dtype)
        out, *ctx.norm = add_norm(x, update, joined((ctx.scale,), [b_down]), ctx.keep, gamma, beta, eps)
        ctx.save_for_backward(x, hidden, active, w_up, b_up, w_down, gamma, beta)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        """Gradients of x and of the six weights."""
        x, hidden, active, w_up, b_up, w_down, gamma, beta = ctx.saved_tensors
        need = ctx.needs_input_grad
        total, grad, *of_norm, sums = add_norm_backward(grad, ctx.norm, ctx.keep, gamma, beta)  # (N, D)
        of_down = weight_grads(ctx.master, (ctx.scale,), grad, sums, active, need[3:5])
        hidden_grad, sums = gelu_backward(torch.mm(grad, w_down), hidden, b_up)  # (N, I)
        of_up = weight_grads(ctx.master, (1.0,), hidden_grad, sums, x, need[1:3])
        x_grad = total.addmm_(hidden_grad, w_up) if need[0] else None  # (N, D)
        return x_grad, *of_up, *of_down, *of_norm, None, None


def cast(dtype: torch.dtype, scales: Sequence[float], weights: Sequence[Tensor]) -> Tensor:
    """Weights of linear maps with one input, below each other, scaled, in another type."""
    if len(weights) == 1 and scales[0] == 1 and weights[0].dtype == dtype:
        return weights[0]
    rows, columns = weights[0].shape
    weight = weights[0].new_empty(len(weights) * rows, columns, dtype=dtype)
    for scale, w, part in zip(scales, weights, weight.chunk(len(scales)), strict=True):
        torch.mul(w, scale, out=part)
    return weight


def joined(scales: Sequence[float], biases: Sequence[Tensor]) -> Tensor:
    """Biases of the maps that `cast` puts below each other, scaled alike, in their own type."""
    return torch.cat([b * scale for scale, b in zip(scales, biases, strict=True)])


def weight_grads(
    dtype: torch.dtype, scales: Sequence[float], grad: Tensor, sums: Tensor, x: Tensor, need: Sequence[bool]
) -> Gradients:
    """Gradients of weight, bias, weight, bias ... of what `cast` put below each other, in the type of the masters.

    Args:
        dtype: of the masters.
        scales: as given to `cast`.
        grad: (N, maps x out) of their output.
        sums: (maps x out,) of it over rows.
        x: (N, in) their input.
        need: whether each of the weights and biases wants a gradient.
    """
    of_weights: Sequence[Tensor] = outer(grad, x).chunk(len(scales)) if any(need[::2]) else ()
    of_biases = sums.chunk(len(scales)) if any(need[1::2]) else ()
    grads: list[Tensor | None] = [None] * len(need)
    for first, parts in enumerate((of_weights, of_biases)):
        for number, (part, scale) in enumerate(zip(parts, scales, strict=False)):
            if need[2 * number + first]:
                own = part.to(dtype)
                grads[2 * number + first] = own if scale == 1 else own.mul_(scale)
    return tuple(grads)


def outer(grad: Tensor, x: Tensor) -> Tensor:
    """grad (N, out), x (N, in) -> grad.T @ x (out, in)."""
    narrow, wide = sorted((grad.shape[1], x.shape[1]))
    # oneDNN reads a transposed left side slowly: copying the narrower one first is faster, on AMX of any shape
    if grad.dtype != torch.bfloat16 or (wide < 3 * narrow and best_instruction_set(grad.dtype) is not AMX):
        return grad.t() @ x
    if grad.shape[1] == narrow:
        return transposed(grad) @ x
    return (transposed(x) @ grad).t()
