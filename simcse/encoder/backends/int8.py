"""Feed-forward halves in 8-bit integers, for encoding on CPUs that multiply them faster (AMX, VNNI).

Two thirds of a layer's products are here; attention and its products stay as they are, where integers gained nothing.
Scales are fixed once on sentences of our own, so that a vector never depends on the texts encoded beside it. Channels
of the input with large values would cost the others their precision: half of their size moves over into the weights
(SmoothQuant, arXiv 2211.10438, alpha 0.5), whose scales are one an output channel. The kernel for tiles gives each row
of the input a scale of its own instead of one to all. For oneDNN the input is unsigned, with 128 for 0: VNNI multiplies
unsigned by signed numbers, and where there are no tiles oneDNN takes its slow reference path for signed by signed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from simcse.encoder.backends.bert_weights import read_parts
from simcse.encoder.backends.cpu_features import INT8_PRODUCTS, has_int8_products
from simcse.encoder.backends.native.binding import Integers, amx_layers
from simcse.encoder.backends.torch_packed import FeedForward, PackedForward, pack
from simcse.errors import ConfigError
from simcse.tokens.batch import TokenBatch

__all__ = ["CALIBRATION", "check_int8", "quantized"]

LEAST_GELU = -0.17  # gelu goes no lower
MARGIN = 1.1  # above the largest input seen
MIDDLE = 128  # the unsigned input that stands for 0

CALIBRATION = (
    "A man is playing the guitar on a small stage in front of his friends.",
    "The committee approved the budget on 14 March 2009, by 231 votes to 188.",
    "Why does my computer restart whenever I plug in a second monitor?",
    "She was born in Kraków in 1921 and studied mathematics at the university there.",
    "Heat the oil, add two onions and a clove of garlic, and stir for about five minutes.",
    "The species is found in wet forests between 800 and 2,400 metres above the sea.",
    "Stocks fell sharply on Tuesday after the central bank raised its key rate by 0.5%.",
    '"I never said that," he answered, "and you know it."',
    "Two dogs run across a field.",
    "def mean(values): return sum(values) / len(values)",
    "The protein binds to DNA and represses transcription of genes that control cell growth.",
    "Not a single ticket was left for the final, so we watched it at home.",
    "Der Zug nach Hamburg fährt heute von Gleis 7 ab.",
    "La bibliothèque est ouverte du lundi au samedi, de 9 h à 18 h.",
    "It is one of the funniest and most moving films of the year.",
    "Contact us at help@example.org or visit https://example.org/support (24/7).",
    "In 1789 the estates met for the first time since 1614; within weeks the old order was gone.",
    "yes",
    "The court held that the contract was void because neither party had signed it.",
    "He scored twice in the second half as the visitors won 3-1 at Old Trafford.",
    "Children in red coats are building a snowman beside the frozen river.",
    "What is the capital of Australia?",
    "The bridge, designed by Joseph Strauss, carries six lanes of traffic over the strait.",
    "Patients who received the drug had lower blood pressure than those given placebo (p < 0.01).",
    "#weekend vibes!!! so happy right now :)",
    "Its third album, recorded in Memphis, sold 400,000 copies and won a Grammy Award.",
)


def check_int8(backbone: nn.Module, device: torch.device) -> None:
    """See that 8-bit products are possible and exact.

    Raises:
        ConfigError: the backbone is of another kind, or the device is no CPU that adds 8-bit products up in 32 bits.
    """
    config: Any = backbone.config
    if device.type != "cpu" or read_parts(backbone) is None:
        raise ConfigError(
            f"dtype is int8: for BERT and RoBERTa encoders on the CPU only, not {config.model_type} on "
            f"{device.type}; take dtype auto"
        )
    if not has_int8_products():
        raise ConfigError(
            f"dtype is int8, but this CPU has none of {', '.join(sorted(INT8_PRODUCTS))}: sums of 8-bit products "
            "overflow; take dtype auto"
        )


class Range(NamedTuple):
    """What one layer's feed-forward half saw: largest |x| of each channel (D,), and the largest gelu."""

    inputs: Tensor
    gelu: float


class Watched:
    """A feed-forward half that remembers its ranges."""

    range: Range

    def __init__(self, plain: Callable[[Tensor], Tensor]) -> None:
        assert isinstance(plain, FeedForward)
        self.plain = plain

    def __call__(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        self.range = Range(x.abs().amax(0).float(), float(self.plain.up.gelu(x).max()))
        return self.plain(x)


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, in) weights as int8, and what 1 stands for in each row (out,)."""
    scales = weight.abs().amax(1).clamp(min=1e-12) / 127
    return (weight / scales[:, None]).round().to(torch.int8), scales


def smoothing(weight: Tensor, seen: Range) -> Tensor:
    """(D,) what to divide the input's channels by, and multiply those of `weight` (I, D) with."""
    return (seen.inputs.clamp(min=1e-6) / weight.abs().amax(0).clamp(min=1e-6)).sqrt()


def gelu_levels(seen: Range) -> tuple[float, int]:
    """What 1 of 0..255 stands for, and the integer that stands for 0."""
    scale = (max(seen.gelu, 1e-3) - LEAST_GELU) / 255
    return scale, round(-LEAST_GELU / scale)


def integers(up: nn.Linear, down: nn.Linear, seen: Range) -> Integers:
    """A feed-forward half for the kernel, which scales each row of the input by itself."""
    smooth = smoothing(up.weight.float(), seen)
    whole_up, up_scales = rounded(up.weight.float() * smooth)
    whole_down, down_scales = rounded(down.weight.float())
    scale, zero = gelu_levels(seen)
    down_scales = down_scales * scale
    down_bias = down.bias.float() - zero * down_scales * whole_down.sum(1)
    return Integers(1 / smooth, whole_up, up_scales, (1 / scale, float(zero)), whole_down, down_scales, down_bias)


class Linear8:
    """A linear map of 8-bit integers with weights in oneDNN's own order.

    Args:
        weight: (out, in).
        bias: (out,).
        scale: of the input.
        zero: the input's integer that means 0.
        rows: of the inputs to come.
    """

    def __init__(self, weight: Tensor, bias: Tensor, scale: float, zero: int, rows: int) -> None:
        whole, self.scales = rounded(weight)
        self.weight = torch.ops.onednn.qlinear_prepack(whole, [rows, weight.shape[1]])
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        self.bias, self.scale, self.zero = bias.float(), scale, zero

    def gelu(self, x: Tensor, scale: float, zero: int) -> Tensor:
        """8-bit (T, in) -> 8-bit (T, out): gelu of the linear map."""
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            x, self.scale, self.zero, self.weight, self.scales, self.zeros, self.bias,
            scale, zero, torch.uint8, "gelu", [], "none",
        )  # fmt: skip
        return out

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """8-bit (T, in) -> (T, out): the linear map plus `other`."""
        out: Tensor = torch.ops.onednn.qlinear_pointwise.binary(
            x, self.scale, self.zero, self.weight, self.scales, self.zeros, other, self.bias,
            1.0, 0, other.dtype, 1.0, 0, "add", 1.0, "none", [], "",
        )  # fmt: skip
        return out


class FeedForward8:
    """x (T, D) -> x + down(gelu(up(x))) by 8-bit products."""

    def __init__(self, up: nn.Linear, down: nn.Linear, seen: Range, rows: int) -> None:
        weight = up.weight.float()  # (I, D)
        smooth = smoothing(weight, seen)
        scale = MARGIN * float((seen.inputs / smooth).max().clamp(min=1e-6)) / 127
        self.factors = (1 / (smooth * scale)).to(up.weight.dtype)  # (D,); mixed types would be slow
        smooth = 1 / (self.factors.float() * scale)  # (D,) as rounded
        self.gelu_scale, self.gelu_zero = gelu_levels(seen)
        self.up8 = Linear8(weight * smooth, up.bias, scale, MIDDLE, rows)
        self.down8 = Linear8(down.weight.float(), down.bias, self.gelu_scale, self.gelu_zero, rows)

    def __call__(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        return self.down8.plus(self.up8.gelu(self.unsigned(x), self.gelu_scale, self.gelu_zero), x)

    def unsigned(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, D) uint8 in 1..255, where 128 stands for 0; bf16 holds such integers exactly."""
        return (x * self.factors).clamp_(-127, 127).round_().add_(MIDDLE).to(torch.uint8)


_kept: WeakKeyDictionary[nn.Module, tuple[list[tuple[int, int]], PackedForward]] = WeakKeyDictionary()


def quantized(backbone: nn.Module, calibration: TokenBatch, rows: int) -> PackedForward | None:
    """The forward pass with 8-bit feed-forward halves; None if the backbone is of another kind.

    It is kept until a weight changes: the same text must get the same vector from each call.

    Args:
        backbone: a Hugging Face encoder on the CPU.
        calibration: sentences that fix the scales.
        rows: of the batches to come.
    """
    now = [(weight.data_ptr(), weight._version) for weight in backbone.parameters()]
    if backbone in _kept and _kept[backbone][0] == now:
        return _kept[backbone][1]
    forward = pack(backbone, prepack=rows)
    if forward is None:
        return None
    with torch.no_grad():
        watched = [Watched(layer.feed_forward) for layer in forward.layers]
        for layer, half in zip(forward.layers, watched, strict=True):
            layer.feed_forward = half
        forward(calibration, (-1,))
        blocks = forward.parts.blocks
        forward.kernel = amx_layers(
            forward.parts, [integers(b.up, b.down, half.range) for b, half in zip(blocks, watched, strict=True)]
        )
        if forward.kernel is not None:
            forward.layers.clear()
        else:
            for layer, block, half in zip(forward.layers, blocks, watched, strict=True):
                layer.feed_forward = FeedForward8(block.up, block.down, half.range, rows)
    _kept[backbone] = now, forward
    return forward
