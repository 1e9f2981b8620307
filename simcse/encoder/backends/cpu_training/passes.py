"""The passes over activations between the products of a training step, each a call of native/training.cpp.

Where that does not apply (no compiler, no such instruction set, another type, a width that is no multiple of 32), torch
computes the same in several passes; it is the reference of the tests, too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from simcse.encoder.backends.native import compile as native
from simcse.encoder.backends.native.binding import OPTIONS
from simcse.encoder.backends.native.instruction_sets import best_instruction_set

__all__ = [
    "add_norm",
    "add_norm_backward",
    "column_sums",
    "gather",
    "gelu",
    "gelu_backward",
    "passes_for",
    "transposed",
]

HEADERS = ("random.hpp", "threads.hpp", "training_attention.hpp")
WIDTH = 32  # what widths are multiples of
ARGUMENTS = {  # pointers, sizes, floats, 32- and 64-bit numbers, in the order of training.cpp
    "keep_mask": "uwpll",
    "gelu_forward": "ppplll",
    "gelu_backward": "pppplll",
    "column_sums": "pplll",
    "add_norm": "ppppppfpppplll",
    "add_norm_backward": "ppppppppplll",
    "gather": "ppplll",
    "transpose": "pplll",
    "attention_forward": "ppppppplllluwl",
    "attention_backward": "ppppppppplllluwl",
}
TYPES = {"p": ctypes.c_void_p, "l": ctypes.c_long, "f": ctypes.c_float, "w": ctypes.c_uint32, "u": ctypes.c_uint64}


@cache
def passes_for(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The compiled passes for activations of a type; None where this machine has none."""
    instructions = best_instruction_set(dtype)
    if instructions is None:
        return None
    lanes = instructions.headers[0]
    sources = [Path(native.__file__).with_name(name) for name in ("training.cpp", *instructions.headers, *HEADERS)]
    path = native.compiled(sources, (*OPTIONS, f'-DLANES="{lanes}"', *instructions.options))
    library = None if path is None else native.opened(path)
    if library is None:
        return None
    for name, arguments in ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = [TYPES[one] for one in arguments], None
    return library


def fitting(x: Tensor, *parameters: Tensor) -> ctypes.CDLL | None:
    """The compiled passes, if they apply to rows of this width and type, with parameters in float32."""
    if x.shape[-1] % WIDTH or not all(one.dtype == torch.float32 for one in parameters):
        return None
    return passes_for(x.dtype)


def gelu(x: Tensor, bias: Tensor) -> Tensor:
    """(N, I), contiguous, and (I,) -> the exact GELU of their sum (N, I)."""
    library = fitting(x, bias)
    if library is None:
        return F.gelu(x + bias.to(x.dtype))
    out = torch.empty_like(x)
    library.gelu_forward(x.data_ptr(), bias.data_ptr(), out.data_ptr(), *x.shape, torch.get_num_threads())
    return out


def gelu_backward(grad: Tensor, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of x (N, I), and its sums over rows (I,), that of the bias.

    Args:
        grad: (N, I) that of the output; its memory is used for the result. Contiguous, as x.
        x, bias: (N, I) and (I,), as `gelu` got them.
    """
    library = fitting(x, bias)
    if library is None:
        grad = torch.ops.aten.gelu_backward(grad, x + bias.to(x.dtype))
        return grad, grad.sum(0)
    sums = torch.empty(x.shape[1])
    library.gelu_backward(
        grad.data_ptr(), x.data_ptr(), bias.data_ptr(), sums.data_ptr(), *x.shape, torch.get_num_threads()
    )
    return grad, sums


def column_sums(x: Tensor) -> Tensor:
    """(N, D), contiguous -> (D,)."""
    library = fitting(x)
    if library is None:
        return x.sum(0)
    sums = torch.empty(x.shape[1])
    library.column_sums(x.data_ptr(), sums.data_ptr(), *x.shape, torch.get_num_threads())
    return sums


def add_norm(
    x: Tensor, update: Tensor, bias: Tensor, keep: Tensor | None, gamma: Tensor, beta: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """LayerNorm(x + keep * (update + bias)) in float32 statistics.

    Args:
        x, update, keep: (N, D), contiguous, of one type.
        bias, gamma, beta: (D,).
        eps: of the norm.

    Returns:
        The output (N, D), and what its backward needs: the sum (N, D), and the rows' means and 1 / deviations (N, 1).
    """
    library = fitting(x, bias, gamma, beta)
    if library is None:
        update = update + bias.to(x.dtype)
        total = x + update if keep is None else torch.addcmul(x, update, keep)
        out, mean, rstd = torch.native_layer_norm(total, (x.shape[-1],), gamma, beta, eps)
        return out, total, mean, rstd
    out, total = torch.empty_like(x), torch.empty_like(x)
    mean, rstd = torch.empty(len(x), 1), torch.empty(len(x), 1)
    library.add_norm(
        x.data_ptr(), update.data_ptr(), bias.data_ptr(), pointer(keep), gamma.data_ptr(), beta.data_ptr(), eps,
        total.data_ptr(), out.data_ptr(), mean.data_ptr(), rstd.data_ptr(), *x.shape, torch.get_num_threads(),
    )  # fmt: skip
    return out, total, mean, rstd


def add_norm_backward(
    grad: Tensor, saved: Sequence[Tensor], keep: Tensor | None, gamma: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x (N, D), update (N, D), gamma (D,) and beta (D,), and the sums of update's over rows (D,).

    Without a mask the gradients of x and update are one tensor.

    Args:
        grad: (N, D) that of the output.
        saved: what `add_norm` returned behind its output.
        keep: (N, D) the mask.
        gamma, beta: (D,).
    """
    total, mean, rstd = saved
    library = fitting(total, gamma, beta)
    if library is None:
        exact = total.dtype == gamma.dtype  # else torch adds the rows up in the narrower type, and loses most of many
        x_grad, gamma_grad, beta_grad = torch.ops.aten.native_layer_norm_backward(
            grad, total, (total.shape[-1],), mean, rstd, gamma, beta, (True, exact, exact)
        )
        if not exact:
            wide = grad.float()
            gamma_grad, beta_grad = (wide * ((total.float() - mean) * rstd)).sum(0), wide.sum(0)
        update_grad = x_grad if keep is None else x_grad * keep
        return x_grad, update_grad, gamma_grad, beta_grad, update_grad.sum(0)
    grad = grad.contiguous()
    x_grad, sums = torch.empty_like(total), torch.empty(3, total.shape[1])
    update_grad = x_grad if keep is None else torch.empty_like(total)
    library.add_norm_backward(
        grad.data_ptr(), total.data_ptr(), pointer(keep), gamma.data_ptr(), mean.data_ptr(), rstd.data_ptr(),
        x_grad.data_ptr(), update_grad.data_ptr(), sums.data_ptr(), *total.shape,
        torch.get_num_threads(),
    )  # fmt: skip
    of_gamma, of_beta, of_update = sums
    return x_grad, update_grad, of_gamma, of_beta, of_update


def gather(x: Tensor, rows: Tensor) -> Tensor:
    """(M, d), (R,) rows of it, each below M -> (R, d). Both contiguous."""
    library = passes_for(x.dtype)
    if library is None:
        return x.index_select(0, rows)
    out = x.new_empty(len(rows), x.shape[1])
    size = x.shape[1] * x.itemsize
    library.gather(x.data_ptr(), rows.data_ptr(), out.data_ptr(), len(rows), size, torch.get_num_threads())
    return out


def transposed(x: Tensor) -> Tensor:
    """(N, D) -> (D, N), contiguous; bfloat16 by tiles, several times faster than torch copies it."""
    library = passes_for(x.dtype) if x.dtype == torch.bfloat16 and x.shape[1] % WIDTH == 0 else None
    if library is None:
        return x.t().contiguous()
    x, out = x.contiguous(), x.new_empty(x.shape[1], len(x))
    library.transpose(x.data_ptr(), out.data_ptr(), *x.shape, torch.get_num_threads())
    return out


def pointer(tensor: Tensor | None) -> int | None:
    """Where it lies in memory."""
    return None if tensor is None else tensor.data_ptr()
