"""Transformer layers by a kernel of our own (`layer.cpp`), for CPUs that there is a micro-kernel for.

torch runs a layer as a dozen operations, each of which reads and writes all rows. The kernel takes some hundred rows
through a whole layer at a time. It is compiled on the machine that it runs on, as torch.compile does it, and kept in
the user's cache folder; where there is no compiler, torch's operations do the same work.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simcse.encoder.backends.bert_weights import BertWeights, LayerWeights
from simcse.encoder.backends.int8 import (
    LEAST_GELU,
    ActivationRange,
    QuantizedLinear,
    quantize_hidden_to_output,
    quantize_linear,
)
from simcse.encoder.backends.native.binding import (
    EmbeddingFields,
    LayerFields,
    LinearFields,
    NormFields,
    load_kernel,
)
from simcse.encoder.backends.native.instruction_sets import InstructionSet, best_instruction_set, why_none
from simcse.encoder.backends.relative_bias import bias_by_distance
from simcse.encoder.backends.torch_packed import product, rounded_up
from simcse.tokens.batch import TokenBatch

__all__ = ["NativeBackend", "unfit"]

MULTIPLE = 32  # of which widths must be one: the kernel multiplies 32 columns by 32; 64 in integers


class NativeBackend:
    """A BERT-like backbone, prepared: all layers' weights in the kernel's own order.

    Args:
        weights: of the backbone, for which `unfit` finds nothing.
        ranges: of each layer's activations, for linear maps in integers; by default they are in bfloat16.
        instructions: which the processor has; default the fastest for the type of the weights.
    """

    name = "native"
    padded = False
    device = torch.device("cpu")
    tokens_per_batch = 4096  # it makes its own blocks: more than for torch, and little is gained beyond

    @torch.no_grad()
    def __init__(
        self,
        weights: BertWeights,
        ranges: Sequence[ActivationRange] | None = None,
        instructions: InstructionSet | None = None,
    ) -> None:
        chosen = instructions or best_instruction_set(weights.word.weight.dtype, int8=ranges is not None)
        library = load_kernel(chosen)
        assert chosen is not None, "ask `unfit` first"
        assert library is not None, "ask `unfit` first"
        self.library, self.instructions = library, chosen
        self.kept: list[Tensor] = []  # what the fields point to
        self.weights = weights
        self.table = EmbeddingFields(
            width=weights.word.embedding_dim,
            word=self.keep(weights.word.weight),
            position=self.keep(weights.position.weight),
            token_type=self.floats(weights.token_type_row),
            norm=self.norm(weights.norm),
        )
        projection = weights.projection
        self.projection = None if projection is None else product(projection.weight, projection.bias)
        self.span, relative = weights.position.num_embeddings, None
        if weights.relative is not None:
            bias = bias_by_distance(weights.relative, self.span).float() * math.log2(math.e)  # (H, 2 * span - 1)
            relative = self.floats(F.pad(bias, (1, MULTIPLE)))
        self.relative = relative
        each: Sequence[ActivationRange | None] = ranges or [None] * len(weights.layers)
        self.layers = [self.layer(*pair, weights.heads) for pair in zip(weights.layers, each, strict=True)]

    def __call__(self, batch: TokenBatch, layers: Sequence[int], *, cls_only: bool = False) -> list[Tensor]:
        """See `TokenStates`.

        Raises:
            IndexError: a token id or a position is beyond its table.
        """
        sizes = np.array(batch.lengths, dtype=ctypes.c_long)
        scratch_bytes = self.library.scratch_bytes(ctypes.byref(self.layers[0]), batch.longest)
        scratch = torch.empty(scratch_bytes, dtype=torch.uint8)
        states = [self.embed(batch)]
        for layer in self.layers:
            alone = cls_only and layer is self.layers[-1]
            out = states[0].new_empty(len(batch) if alone else len(batch.ids), self.weights.width)
            self.library.run_layer(
                ctypes.byref(layer), states[-1].data_ptr(), out.data_ptr(), sizes.ctypes.data, len(sizes),
                batch.longest, alone, scratch.data_ptr(),
            )  # fmt: skip
            states.append(out)
        return [states[layer] for layer in layers]

    def embed(self, batch: TokenBatch) -> Tensor:
        """(T, D) embedding output.

        Raises:
            IndexError: a token id or a position is beyond its table.
        """
        ids, places = batch.ids.contiguous(), self.weights.position_rows(batch.ids, batch.starts, batch.segments)
        for rows, table in ((ids, self.weights.word), (places, self.weights.position)):
            least, most = torch.aminmax(rows)
            if least < 0 or most >= table.num_embeddings:
                raise IndexError(f"rows {int(least)} to {int(most)} of a table of {table.num_embeddings}")
        out = self.weights.word.weight.new_empty(len(ids), self.table.width)  # (T, E)
        sums = torch.empty(self.table.width, dtype=torch.float32)
        self.library.embed(
            ctypes.byref(self.table), ids.data_ptr(), places.data_ptr(), len(ids), out.data_ptr(), sums.data_ptr()
        )
        if self.projection is None:
            return out
        return self.projection(F.pad(out, (0, 0, 0, rounded_up(len(ids)) - len(ids))))[: len(ids)]  # (T, D)

    def layer(self, layer: LayerWeights, seen: ActivationRange | None, heads: int) -> LayerFields:
        """One layer as the kernel reads it."""
        width = layer.query.in_features
        inputs = (layer.query, layer.key, layer.value)
        weight = torch.cat([linear.weight for linear in inputs])
        bias = torch.cat([linear.bias for linear in inputs]).float()
        scale = (width // heads) ** -0.5 * math.log2(math.e)  # the kernel's softmax takes powers of 2
        weight[:width] *= scale
        bias[:width] *= scale
        out, up, down = layer.attention_out, layer.up, layer.down
        if seen is None:
            maps = [self.linear(weight, bias), *(self.linear(one.weight, one.bias) for one in (out, up, down))]
        else:
            shared = self.instructions.in_16_bits
            whole = (
                quantize_linear(weight, bias, seen.inputs, in_16_bits=shared),
                quantize_linear(out.weight, out.bias, in_16_bits=shared),  # whose channels are alike
                quantize_linear(up.weight, up.bias, seen.feed_forward, in_16_bits=shared),
                quantize_hidden_to_output(down.weight, down.bias, in_16_bits=shared),
            )
            maps = [self.integers(one) for one in whole]
        return LayerFields(
            width, heads, up.out_features, *maps, self.norm(layer.attention_norm), self.norm(layer.output_norm),
            self.relative, self.span, LEAST_GELU,
        )  # fmt: skip

    def linear(self, weight: Tensor, bias: Tensor) -> LinearFields:
        """A linear map's weight (out, in), packed in panels, and its bias (out,)."""
        weight, panels = weight.contiguous(), torch.empty_like(weight, memory_format=torch.contiguous_format)
        rows, columns = weight.shape
        self.library.pack_weight(weight.data_ptr(), rows, columns * weight.itemsize, panels.data_ptr())
        return LinearFields(self.keep(panels), self.floats(bias))

    def integers(self, linear: QuantizedLinear) -> LinearFields:
        """The same in integers."""
        fields = self.linear(linear.weight, linear.bias)
        fields.scales = self.floats(linear.scales)
        if linear.smoothing is not None:  # signed inputs
            fields.smoothing = self.floats(linear.smoothing)
            fields.begins = self.keep(-self.library.added() * linear.weight.sum(1, dtype=torch.int32))
        return fields

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


def unfit(weights: BertWeights, *, int8: bool = False) -> str | None:
    """Why the kernel cannot compute with these weights; None if it can. Which it does not check again.

    Args:
        weights: of the backbone.
        int8: whether the linear maps are quantized.
    """
    tables = [table.weight for table in weights.tables]
    norms = [norm for layer in weights.layers for norm in (layer.attention_norm, layer.output_norm)]
    linears = [linear for layer in weights.layers for linear in layer.linears]
    every = [*tables, *(weight for module in (weights.norm, *norms, *linears) for weight in module.parameters())]
    dtype = weights.word.weight.dtype
    if any(weight.device.type != "cpu" or weight.dtype != dtype for weight in every):
        return "the weights are not of one type, or not on the CPU"
    if (instructions := best_instruction_set(dtype, int8=int8)) is None:
        return why_none(dtype, int8=int8)
    if not widths_fit(weights, 2 * MULTIPLE if int8 else MULTIPLE):
        return f"the width of a head or of a layer is no multiple of {2 * MULTIPLE if int8 else MULTIPLE}"
    width, wide = weights.word.embedding_dim, weights.width
    shaped = [(weights.norm, width), *((norm, wide) for norm in norms)]
    if any(table.shape[1] != width for table in tables) or any(
        norm.normalized_shape != (size,) or norm.bias is None for norm, size in shaped
    ):
        return "an embedding table or a LayerNorm is not of the usual shape"
    return None if load_kernel(instructions) is not None else "there is no compiled kernel; the log says why"


def widths_fit(weights: BertWeights, multiple: int) -> bool:
    """Whether the kernel's blocks divide the layers, whose products are of the usual shapes."""
    width = weights.width
    if any(size % MULTIPLE for size in (weights.word.embedding_dim, width // weights.heads)):
        return False
    if width % multiple or width % weights.heads:
        return False
    for layer in weights.layers:
        inner = layer.up.out_features
        shapes = [(width, width)] * 4 + [(inner, width), (width, inner)]
        if inner % multiple or [tuple(linear.weight.shape) for linear in layer.linears] != shapes:
            return False
    return True
