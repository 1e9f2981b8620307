"""A layer's linear maps in 8-bit integers, for encoding on CPUs that multiply them faster (AMX, VNNI, AVX2).

The native kernel takes all four, and gives each row of an input a scale of its own, so a vector never depends on the
texts encoded beside it; attention's own products stay as they are. Channels of an input with large values would cost
the others their precision: half of their size moves over into the weights (SmoothQuant, arXiv 2211.10438, alpha 0.5),
whose scales are one an output channel. How large channels are is seen once, on sentences of our own. Where products
are added in 16 bits before they are in 32 (AVX2 without VNNI), weights are rounded to numbers whose sums fit there.

For weights that the kernel does not take, oneDNN multiplies the feed-forward sublayers, two thirds of a layer, with
scales fixed on the same sentences. A few channels of the inner width, which would set the scale of all, stay as they
are. Its input is unsigned, with 128 for 0: VNNI multiplies unsigned by signed numbers, and where there is no AMX oneDNN
takes its slow reference path for signed by signed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from simcse.encoder.backends.bert_weights import BertWeights
from simcse.encoder.backends.torch_packed import FeedForward, TorchPackedBackend, product
from simcse.tokens.batch import TokenBatch

__all__ = [
    "CALIBRATION",
    "LEAST_GELU",
    "ActivationRange",
    "OnednnFeedForward",
    "QuantizedLinear",
    "calibrate",
    "calibration_batch",
    "quantize_hidden_to_output",
    "quantize_linear",
]

PACKED_ROWS = 2048  # what oneDNN packs weights for
LEAST_GELU = -0.17  # gelu goes no lower: what 0 stands for in the inner width
MARGIN = 1.1  # above the largest input seen
OUTLIERS = 16  # channels of the inner width that stay as they are: their gelu can be twenty times that of all others
MIDDLE = 128  # the unsigned input that stands for 0
MOST_IN_16_BITS = (2**15 - 1) // 255  # sum of weights, each times an input of at most 255, that fits into 16 bits

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


def calibration_batch(tokenize: Callable[[Sequence[str]], tuple[list[list[int]], int]]) -> TokenBatch:
    """The sentences that fix the scales."""
    return TokenBatch.from_lists(tokenize(CALIBRATION)[0])


class ActivationRange(NamedTuple):
    """Of one layer: the largest |x| of each channel (D,), of its input and of its feed-forward's; the largest gelu of
    each channel of the inner width (I,).
    """

    inputs: Tensor
    feed_forward: Tensor
    gelu: Tensor


class CalibrationObserver:
    """A feed-forward sublayer that notes the range of its activations."""

    inputs: Tensor
    gelu: Tensor

    def __init__(self, feed_forward: FeedForward) -> None:
        self.feed_forward = feed_forward

    def __call__(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        self.inputs, self.gelu = x.abs().amax(0).float(), self.feed_forward.up.gelu(x).amax(0).float()
        return self.feed_forward(x)


@torch.no_grad()
def calibrate(weights: BertWeights, calibration: TokenBatch) -> list[ActivationRange]:
    """The range of each layer's activations on a batch."""
    observers = [CalibrationObserver(FeedForward(layer)) for layer in weights.layers]
    inputs = TorchPackedBackend(weights, observers)(calibration, range(len(observers)))
    return [
        ActivationRange(x.abs().amax(0).float(), observer.inputs, observer.gelu)
        for x, observer in zip(inputs, observers, strict=True)
    ]


def quantize_weight(weight: Tensor, in_16_bits: int = 0) -> tuple[Tensor, Tensor]:
    """(out, in) weights as int8, and the scale of each row (out,).

    Args:
        weight: (out, in).
        in_16_bits: as in `InstructionSet`: no sum of so many products, whatever the inputs, leaves 16 bits then.
    """
    scales = weight.abs().amax(1).clamp(min=1e-12) / 127
    if in_16_bits:
        scales = torch.maximum(scales, largest_sums(weight, in_16_bits) / MOST_IN_16_BITS)
        while ((over := largest_sums(rounded(weight, scales), in_16_bits) / MOST_IN_16_BITS) > 1).any():
            scales = scales * over.clamp(min=1)  # rounding made a sum a little larger
    return rounded(weight, scales).to(torch.int8), scales


def rounded(weight: Tensor, scales: Tensor) -> Tensor:
    """(out, in) weights in whole numbers of each row's scale (out,)."""
    return (weight / scales[:, None]).round()


def largest_sums(weight: Tensor, lines: int) -> Tensor:
    """(out,) the largest sum of weights of one sign that `lines` lines of a panel add up in 16 bits.

    A line has four inputs of each output: two products go into one sum, and two into another.
    """
    sums = weight.reshape(len(weight), -1, lines, 2, 2)  # (out, block, line, sum, product)
    positive, negative = (part.sum((2, 4)).flatten(1).amax(1) for part in (sums.clamp(min=0), (-sums).clamp(min=0)))
    return torch.maximum(positive, negative)


def smoothing_scales(weight: Tensor, seen: Tensor) -> Tensor:
    """(in,) what to divide the input's channels by, and multiply those of `weight` (out, in) with."""
    return (seen.clamp(min=1e-6) / weight.abs().amax(0).clamp(min=1e-6)).sqrt()


def gelu_scale(largest: float) -> tuple[float, int]:
    """Scale and zero point of the gelu in 0..255."""
    scale = (max(largest, 1e-3) - LEAST_GELU) / 255
    return scale, round(-LEAST_GELU / scale)


class QuantizedLinear(NamedTuple):
    """A linear map for the native kernel, which scales each row of the input by itself.

    Attributes:
        weight: (out, in) int8.
        bias: (out,).
        scales: (out,) of the rows of `weight`.
        smoothing: (in,) on the input, before each row is rounded; None for the inner width.
    """

    weight: Tensor
    bias: Tensor
    scales: Tensor
    smoothing: Tensor | None


def quantize_linear(
    weight: Tensor, bias: Tensor, seen: Tensor | None = None, *, in_16_bits: int = 0
) -> QuantizedLinear:
    """A linear map (out, in) in integers; `seen` (in,) is the largest |x| of each channel, None if they are alike."""
    weight = weight.float()
    smooth = torch.ones(weight.shape[1]) if seen is None else smoothing_scales(weight, seen)
    whole, scales = quantize_weight(weight * smooth, in_16_bits)
    return QuantizedLinear(whole, bias.float(), scales, 1 / smooth)


def quantize_hidden_to_output(weight: Tensor, bias: Tensor, *, in_16_bits: int = 0) -> QuantizedLinear:
    """The map (D, I) of the inner width, whose integers 0..255 begin at `LEAST_GELU`: the bias holds what that adds."""
    whole, scales = quantize_weight(weight.float(), in_16_bits)
    return QuantizedLinear(whole, bias.float() + LEAST_GELU * scales * whole.sum(1), scales, None)


class OnednnLinear:
    """A linear map of 8-bit integers with weights in oneDNN's own order.

    Args:
        weight: (out, in).
        bias: (out,).
        scale: of the input.
        zero: zero point of the input.
    """

    def __init__(self, weight: Tensor, bias: Tensor, scale: float, zero: int) -> None:
        whole, self.scales = quantize_weight(weight)
        self.weight = torch.ops.onednn.qlinear_prepack(whole, [PACKED_ROWS, weight.shape[1]])
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


class OnednnFeedForward:
    """x (T, D) -> x + down(gelu(up(x))) by 8-bit products of oneDNN, but for outlying channels of the inner width."""

    @torch.no_grad()
    def __init__(self, up: nn.Linear, down: nn.Linear, seen: ActivationRange) -> None:
        weight = up.weight.float()  # (I, D)
        smooth = smoothing_scales(weight, seen.feed_forward)
        scale = MARGIN * float((seen.feed_forward / smooth).max().clamp(min=1e-6)) / 127
        self.smoothing = (1 / (smooth * scale)).to(up.weight.dtype)  # (D,); mixed types would be slow
        smooth = 1 / (self.smoothing.float() * scale)  # (D,) as rounded
        order = seen.gelu.argsort(descending=True)
        apart = order[: min(OUTLIERS, -(-len(order) // 16))]
        self.apart_up = product(up.weight[apart], up.bias[apart])
        self.apart_down = product(down.weight[:, apart], None)
        self.gelu_scale, self.gelu_zero = gelu_scale(float(seen.gelu[order[len(apart)]]))
        self.up = OnednnLinear(weight * smooth, up.bias, scale, MIDDLE)
        rest = down.weight.float().index_fill(1, apart, 0)  # (D, I)
        self.down = OnednnLinear(rest, down.bias, self.gelu_scale, self.gelu_zero)

    def __call__(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        apart = self.apart_down.plus(self.apart_up.gelu(x), x)
        return self.down.plus(self.up.gelu(self.unsigned(x), self.gelu_scale, self.gelu_zero), apart)

    def unsigned(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, D) uint8 in 1..255, where 128 stands for 0; bf16 holds such integers exactly."""
        return (x * self.smoothing).clamp_(-127, 127).round_().add_(MIDDLE).to(torch.uint8)
