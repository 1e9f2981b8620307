"""Transformer layers by a kernel of our own (`layer.cpp`), for CPUs that multiply bfloat16 in tiles (AMX).

torch runs a layer as a dozen operations, each of which reads and writes all rows: in oneDNN's hands the products
themselves are half of the time. The kernel takes some hundred rows through a whole layer at a time. It is compiled on
the machine that it runs on, as torch.compile does it, and kept in the user's cache folder; where there is no compiler,
torch's operations do the same work.
"""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from simcse.encoder.backends.bert_weights import Block, Parts
from simcse.encoder.backends.cpu_features import cpu_flags
from simcse.encoder.backends.native.compile import compiled
from simcse.tokens.batch import TokenBatch

__all__ = ["AmxLayers", "Integers", "amx_layers", "kernel"]

logger = logging.getLogger(__name__)

SOURCES = tuple(Path(__file__).with_name(name) for name in ("layer.cpp", "microkernel_amx.hpp"))
NEEDED = frozenset({"amx_bf16", "amx_int8", "amx_tile", "avx512_bf16", "avx512bw", "avx512dq", "avx512f", "avx512vl"})
OPTIONS = (
    "-std=c++17", "-O3", "-w", "-shared", "-fPIC", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl",
    "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8",
)  # fmt: skip
MULTIPLE = 32  # of which widths must be one: the kernel multiplies 32 columns by 32; 64 in integers


class NormFields(ctypes.Structure):
    """`Norm` of layer.cpp."""

    _fields_ = (("gamma", ctypes.c_void_p), ("beta", ctypes.c_void_p), ("eps", ctypes.c_float))


class LinearFields(ctypes.Structure):
    """`Linear` of layer.cpp."""

    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("scales", ctypes.c_void_p))


class EmbeddingFields(ctypes.Structure):
    """`Embedding` of layer.cpp."""

    _fields_ = (
        ("width", ctypes.c_long), ("word", ctypes.c_void_p), ("position", ctypes.c_void_p),
        ("token_type", ctypes.c_void_p), ("norm", NormFields),
    )  # fmt: skip


class LayerFields(ctypes.Structure):
    """`Layer` of layer.cpp."""

    _fields_ = (
        ("width", ctypes.c_long), ("heads", ctypes.c_long), ("inner", ctypes.c_long), ("inputs", LinearFields),
        ("out", LinearFields), ("up", LinearFields), ("down", LinearFields), ("attention_norm", NormFields),
        ("output_norm", NormFields), ("factors", ctypes.c_void_p), ("hidden_scale", ctypes.c_float),
        ("hidden_zero", ctypes.c_float),
    )  # fmt: skip


class Integers(NamedTuple):
    """A feed-forward half in 8-bit integers.

    Attributes:
        factors: (D,) on the input, before each row is rounded by a scale of its own.
        up: (I, D) int8.
        up_scales: (I,) what 1 in `up` stands for.
        hidden: scale and zero; round(gelu * scale + zero) is in 0..255.
        down: (D, I) int8.
        down_scales: (D,) what 1 x 1 of hidden times `down` stands for.
        down_bias: (D,) bias, less what `zero` adds.
    """

    factors: Tensor
    up: Tensor
    up_scales: Tensor
    hidden: tuple[float, float]
    down: Tensor
    down_scales: Tensor
    down_bias: Tensor


@cache
def kernel() -> ctypes.CDLL | None:
    """The compiled kernel; None where the CPU, the system or the lack of a compiler forbids it."""
    if not cpu_flags() >= NEEDED:
        return None
    path = compiled(SOURCES, OPTIONS)
    if path is None:
        return None
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:  # a folder shared with a machine that has an older C library
        logger.info("%s: %s; encoding by torch alone", path, error)
        return None
    library.run_layer.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_long] * 2 + [ctypes.c_int, ctypes.c_void_p]
    library.run_layer.restype = None
    library.embed.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_long] + [ctypes.c_void_p] * 2
    library.embed.restype = None
    library.pack_weight.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long, ctypes.c_void_p]
    library.pack_weight.restype = None
    library.scratch_bytes.argtypes = [ctypes.c_void_p, ctypes.c_long]
    library.scratch_bytes.restype = ctypes.c_long
    return library if library.allow_tiles() else None


class AmxLayers:
    """All layers of an encoder; a copy of the weights as they are when it is made.

    Args:
        library: the kernel.
        parts: of the backbone.
        halves: feed-forward halves in integers, one a layer; none: in bfloat16.
    """

    def __init__(self, library: ctypes.CDLL, parts: Parts, halves: Sequence[Integers] = ()) -> None:
        self.library = library
        self.kept: list[Tensor] = []  # what the fields point to
        self.parts = parts
        self.table = EmbeddingFields(
            width=parts.word.embedding_dim,
            word=self.keep(parts.word.weight),
            position=self.keep(parts.position.weight),
            token_type=self.floats(parts.token_type.weight[0]),
            norm=self.norm(parts.norm),
        )
        each: Sequence[Integers | None] = halves or [None] * len(parts.blocks)
        self.layers = [self.layer(block, parts.heads, half) for block, half in zip(parts.blocks, each, strict=True)]

    def __call__(self, batch: TokenBatch, *, cls_only: bool = False) -> list[Tensor]:
        """(T, D) embeddings and states after each layer; with `cls_only` the last are (S, D), of first tokens alone.

        Raises:
            IndexError: a token id or a position is beyond its table.
        """
        sizes = np.array(batch.lengths, dtype=ctypes.c_long)
        scratch_bytes = self.library.scratch_bytes(ctypes.byref(self.layers[0]), batch.longest)
        scratch = torch.empty(scratch_bytes, dtype=torch.uint8)
        states = [self.embed(batch)]
        for layer in self.layers:
            alone = cls_only and layer is self.layers[-1]
            out = states[0].new_empty(len(batch) if alone else len(batch.ids), self.table.width)
            self.library.run_layer(
                ctypes.byref(layer), states[-1].data_ptr(), out.data_ptr(), sizes.ctypes.data, len(sizes),
                batch.longest, alone, scratch.data_ptr(),
            )  # fmt: skip
            states.append(out)
        return states

    def embed(self, batch: TokenBatch) -> Tensor:
        """(T, D) embedding output.

        Raises:
            IndexError: a token id or a position is beyond its table.
        """
        ids, places = batch.ids.contiguous(), self.parts.position_rows(batch.ids, batch.starts, batch.segments)
        for rows, table in ((ids, self.parts.word), (places, self.parts.position)):
            least, most = torch.aminmax(rows)
            if least < 0 or most >= table.num_embeddings:
                raise IndexError(f"rows {int(least)} to {int(most)} of a table of {table.num_embeddings}")
        out = self.parts.word.weight.new_empty(len(ids), self.table.width)
        sums = torch.empty(self.table.width, dtype=torch.float32)
        self.library.embed(
            ctypes.byref(self.table), ids.data_ptr(), places.data_ptr(), len(ids), out.data_ptr(), sums.data_ptr()
        )
        return out

    def layer(self, block: Block, heads: int, half: Integers | None) -> LayerFields:
        """One layer as the kernel reads it."""
        width = block.query.in_features
        inputs = (block.query, block.key, block.value)
        weight = torch.cat([linear.weight for linear in inputs])
        bias = torch.cat([linear.bias for linear in inputs]).float()
        scale = (width // heads) ** -0.5 * math.log2(math.e)  # the kernel's softmax takes powers of 2
        weight[:width] *= scale
        bias[:width] *= scale
        fields = LayerFields(
            width=width,
            heads=heads,
            inner=block.up.out_features,
            inputs=self.linear(weight, bias),
            out=self.linear(block.attention_out.weight, block.attention_out.bias),
            attention_norm=self.norm(block.attention_norm),
            output_norm=self.norm(block.output_norm),
        )
        if half is None:
            fields.up = self.linear(block.up.weight, block.up.bias)
            fields.down = self.linear(block.down.weight, block.down.bias)
        else:
            fields.up = self.linear(half.up, block.up.bias, half.up_scales)
            fields.down = self.linear(half.down, half.down_bias, half.down_scales)
            fields.factors = self.floats(half.factors)
            fields.hidden_scale, fields.hidden_zero = half.hidden
        return fields

    def linear(self, weight: Tensor, bias: Tensor, scales: Tensor | None = None) -> LinearFields:
        """A linear map's weight (out, in), laid out in panels; bias and scales (out,)."""
        weight, panels = weight.contiguous(), torch.empty_like(weight, memory_format=torch.contiguous_format)
        rows, columns = weight.shape
        self.library.pack_weight(weight.data_ptr(), rows, columns * weight.itemsize, panels.data_ptr())
        return LinearFields(self.keep(panels), self.floats(bias), None if scales is None else self.floats(scales))

    def norm(self, module: nn.LayerNorm) -> NormFields:
        """A LayerNorm's weights."""
        return NormFields(self.floats(module.weight), self.floats(module.bias), module.eps)

    def floats(self, values: Tensor) -> int:
        """Where a float32 copy lies."""
        return self.keep(values.detach().to(torch.float32, copy=True).contiguous())

    def keep(self, values: Tensor) -> int:
        """Where a tensor lies, as long as this object lives."""
        self.kept.append(values.detach().contiguous())
        return self.kept[-1].data_ptr()


@torch.no_grad()
def amx_layers(parts: Parts, halves: Sequence[Integers] = ()) -> AmxLayers | None:
    """The layers of a backbone, if its weights are bfloat16 on this CPU, its widths fit, and there is a kernel."""
    if not fits(parts, 2 * MULTIPLE if halves else MULTIPLE):
        return None
    library = kernel()
    return None if library is None else AmxLayers(library, parts, halves)


def fits(parts: Parts, multiple: int) -> bool:
    """Whether each weight is where, what and as large as the kernel, which looks at none of that, takes it to be."""
    width = parts.word.embedding_dim
    if width % multiple or width % parts.heads or width // parts.heads % MULTIPLE:
        return False
    norms, linears, shapes = [parts.norm], [], []
    for block in parts.blocks:
        inner = block.up.out_features
        if inner % multiple:
            return False
        norms += [block.attention_norm, block.output_norm]
        linears += [block.query, block.key, block.value, block.attention_out, block.up, block.down]
        shapes += [(width, width)] * 4 + [(inner, width), (width, inner)]
    tables = [parts.word.weight, parts.position.weight, parts.token_type.weight]
    weights = [*tables, *(weight for module in (*norms, *linears) for weight in module.parameters())]
    return (
        all(weight.device.type == "cpu" and weight.dtype == torch.bfloat16 for weight in weights)
        and all(table.shape[1] == width for table in tables)
        and all(norm.normalized_shape == (width,) and norm.bias is not None for norm in norms)
        and all(tuple(linear.weight.shape) == shape for linear, shape in zip(linears, shapes, strict=True))
    )
