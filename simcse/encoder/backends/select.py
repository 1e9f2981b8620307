"""The only place that chooses a forward pass, and the one cache of prepared weights."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from simcse.encoder.backends.base import Backend, TokenStates
from simcse.encoder.backends.bert_weights import BertWeights, why_not_bert
from simcse.encoder.backends.cpu_features import INT8_PRODUCTS, has_int8_products
from simcse.encoder.backends.cpu_training.forward import training_states, why_not_fused
from simcse.encoder.backends.cuda_varlen import CudaVarlenBackend, unfit_for_varlen, varlen_states
from simcse.encoder.backends.huggingface import HuggingFaceBackend, huggingface_states
from simcse.encoder.backends.int8 import OnednnFeedForward, calibrate
from simcse.encoder.backends.modernbert import ModernBertBackend, ModernBertWeights, why_not_modernbert
from simcse.encoder.backends.native.backend import NativeBackend, unfit
from simcse.encoder.backends.onnx import OnnxBackend, unfit_for_onnx
from simcse.encoder.backends.probe import Shape, probe, probe_batch, shape_of, stand_in
from simcse.encoder.backends.torch_packed import TorchPackedBackend
from simcse.encoder.device import has_native_bf16, pick_dtype
from simcse.encoder.on_demand import whole_backbone
from simcse.errors import ConfigError
from simcse.tokens.batch import TokenBatch

__all__ = [
    "BACKENDS",
    "bf16_pays",
    "choose_backend",
    "choose_dtype",
    "prepared_backend",
    "release",
    "slower_than_fp32",
    "slower_to_train",
    "training_pass",
    "why_not",
]

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "huggingface", "torch", "native", "int8", "onnx", "cuda_varlen")
BASE = Shape(width=768, inner=3072, heads=12)  # BERT-base's


def choose_backend(backbone: nn.Module, backend: str = "auto", option: str = "backend") -> str:
    """The backend that `encode` uses for a backbone where it lies now; never `auto`.

    Args:
        backbone: a Hugging Face encoder.
        backend: one of `BACKENDS`.
        option: that asked for it; shown in errors.

    Raises:
        ConfigError: an unknown backend, or one that cannot compute this backbone on this device, or slower than fp32.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"{option} {backend!r:.40} is not one of {', '.join(BACKENDS)}")
    if backend == "auto":
        for name in ("native", "torch"):  # int8 changes vectors, and onnx needs a graph: only if they are asked for
            if (reason := why_not(backbone, name)) is None:
                return name
            logger.info("the backend %s is left out, as %s", name, reason)
        return "huggingface"
    if (reason := why_not(backbone, backend)) is not None:
        raise ConfigError(f"{option} is {backend}, but {reason}{'' if backend == 'onnx' else f'; take {option} auto'}")
    return backend


def why_not(backbone: nn.Module, backend: str) -> str | None:
    """Why a backend cannot compute a backbone where it lies now, or is slower than fp32 there; None if it can.

    Args:
        backbone: a Hugging Face encoder.
        backend: one of `BACKENDS`, but not `auto`.
    """
    config: Any = backbone.config
    if backend == "huggingface":
        return None
    if backend == "onnx":
        return unfit_for_onnx(backbone)
    if backend == "torch" and config.model_type == "modernbert":
        return why_not_modernbert(backbone)
    weights = BertWeights.from_hf(backbone)
    if weights is None:
        return why_not_bert(backbone)
    if backend == "torch":
        return None
    if backend == "cuda_varlen":
        return unfit_for_varlen(weights)
    device = next(backbone.parameters()).device
    if backend == "int8" and device.type != "cpu":
        return f"integers are multiplied on the CPU alone, not on {device.type}"
    if backend == "int8" and not has_int8_products() and (reason := unfit(weights, int8=True)) is not None:
        return (
            f"torch's sums of 8-bit products overflow on a CPU without {', '.join(sorted(INT8_PRODUCTS))}, and {reason}"
        )
    if backend == "native" and (reason := unfit(weights)) is not None:
        return reason
    return slower_than_fp32(backbone, backend)


def choose_dtype(
    backbone: nn.Module, dtype: str | torch.dtype, device: torch.device, backend: str = "auto"
) -> torch.dtype:
    """The precision to encode in: as `pick_dtype`, but on a CPU none in which a layer is slower than in fp32.

    Args:
        backbone: a Hugging Face encoder with its weights in float32.
        dtype: what was asked for.
        device: to encode on.
        backend: to encode by.

    Raises:
        ConfigError: an unknown name, or that of a precision that is slower than fp32 here.
    """
    picked, shape = pick_dtype(dtype, device), shape_of(backbone.config)
    timed = backend in ("auto", "huggingface", "torch") or (backend == "int8" and has_int8_products())
    if device.type != "cpu" or picked not in (torch.bfloat16, torch.float16) or shape is None or not timed:
        return picked
    chosen = backend
    if backend == "auto":  # of a BERT in that precision, which may be native then
        chosen = choose_backend(backbone if BertWeights.from_hf(backbone) is None else stand_in(shape, picked))
    reason = None if chosen == "native" else slower_than_fp32(backbone, chosen, picked)  # native was timed just now
    if reason is None:
        return picked
    if dtype not in ("auto", "int8"):
        raise ConfigError(f"dtype is {str(dtype).removeprefix('torch.')}, but {reason}; take dtype auto")
    logger.info("dtype %s computes in fp32, as %s", dtype, reason)
    return torch.float32


def slower_than_fp32(backbone: nn.Module, chosen: str, dtype: torch.dtype | None = None) -> str | None:
    """Why not to take a backend on this CPU: a layer of the backbone's shape takes longer by it than in fp32.

    In fp32 it is computed by what `auto` takes then; by torch for the kernel in fp32, by its own forward for that.

    Args:
        backbone: a Hugging Face encoder.
        chosen: a backend that can compute it; never `auto`.
        dtype: of its weights, if they were in it; default what they are in.

    Returns:
        The reason; None if it takes no longer, or if the layers are too small to tell.
    """
    dtype, shape = dtype or next(backbone.parameters()).dtype, shape_of(backbone.config)
    if shape is None or (dtype == torch.float32 and chosen not in ("int8", "native")):
        return None
    calibration = partial(probe_batch, shape)

    def fp32(backbone: nn.Module) -> Backend:
        plain = {"huggingface": "huggingface", "native": "torch" if dtype == torch.float32 else "auto"}
        return prepare(backbone, choose_backend(backbone, plain.get(chosen, "auto")), calibration)

    verdict = probe(chosen, shape, dtype, partial(prepare, chosen=chosen, calibration=calibration), fp32)
    if not verdict.slower:
        return None
    what = f"by {chosen} in {str(dtype).removeprefix('torch.')}"
    return (
        f"on this CPU a layer of width {shape.width} takes {1000 * verdict.seconds:.3g} ms {what}, and "
        f"{1000 * verdict.fp32_seconds:.3g} ms in fp32"
    )


def bf16_pays(device: torch.device) -> bool:
    """Whether to train in bf16 on a device: it computes in it, and on a CPU torch's layers are not slower in it."""
    if not has_native_bf16(device) or device.type != "cpu":
        return has_native_bf16(device)
    return slower_than_fp32(stand_in(BASE, torch.bfloat16), "torch") is None


def slower_to_train(backbone: nn.Module, dtype: torch.dtype) -> str | None:
    """Why not to train a backbone on this CPU in a precision: torch's layers take longer in it than in fp32.

    Args:
        backbone: a Hugging Face encoder with its weights in float32.
        dtype: of the activations.
    """
    chosen = "huggingface" if BertWeights.from_hf(backbone) is None else "torch"
    return slower_than_fp32(backbone, chosen, dtype)


def prepared_backend(backbone: nn.Module, backend: str, calibration: Callable[[], TokenBatch]) -> Backend:
    """What computes token states for `encode`, with weights prepared once until one changes.

    A change is seen by a weight's storage address and version counter: an optimizer step, `load_state_dict` and `to`
    are, a write in place through `.data` is not, which autograd does not see either, nor is the step of an optimizer
    with `fused=True`: in training mode `encode` prepares them anew, in evaluation mode `encoder.train().eval()` does.

    Args:
        backbone: a Hugging Face encoder.
        backend: one of `BACKENDS`.
        calibration: gives the texts that fix the scales of int8.

    Raises:
        ConfigError: as `choose_backend`.
    """
    found = _prepared.get(backbone)
    if found is not None and found.asked == backend and found.is_current():
        return found.backend
    with _preparing:
        found = _prepared.get(backbone)
        if found is not None and found.asked == backend and found.is_current():  # another thread prepared it
            return found.backend
        chosen = choose_backend(backbone, backend)
        if chosen == "huggingface":  # a value that holds its key would live for ever
            return prepare(backbone, chosen, calibration)
        modules = list(backbone.modules())
        parts = [(one._parameters, one._modules, one._forward_hooks, one._forward_pre_hooks) for one in modules]
        state, aliases = weights_state(parts), [weight.detach() for weight in backbone.parameters()]
        _prepared[backbone] = Prepared(backend, parts, state, aliases, prepare(backbone, chosen, calibration))
        return _prepared[backbone].backend


def prepare(backbone: nn.Module, chosen: str, calibration: Callable[[], TokenBatch]) -> Backend:
    """A backend with the weights as they are now."""
    if chosen == "onnx":
        return OnnxBackend(backbone)
    if chosen == "huggingface":
        return HuggingFaceBackend(whole_backbone(backbone))
    if (modern := ModernBertWeights.from_hf(backbone)) is not None:
        return ModernBertBackend(modern)
    weights = BertWeights.from_hf(backbone)
    assert weights is not None, "choose_backend says huggingface then"
    if chosen == "native":
        return NativeBackend(weights)
    if chosen == "cuda_varlen":
        return CudaVarlenBackend(weights)
    if chosen == "torch":
        return TorchPackedBackend(weights)
    ranges = calibrate(weights, calibration())
    if unfit(weights, int8=True) is None:
        return NativeBackend(weights, ranges)
    pairs = zip(weights.layers, ranges, strict=True)
    return TorchPackedBackend(weights, [OnednnFeedForward(layer.up, layer.down, seen) for layer, seen in pairs])


def training_pass(backbone: nn.Module, backend: str = "auto") -> TokenStates:
    """What computes token states with gradients, and with dropout in training mode; nothing is prepared.

    Args:
        backbone: a Hugging Face encoder.
        backend: `huggingface` forces the backbone's own, `cuda_varlen` the pass of that name; all others take the
            written-out pass on the CPU, or the backbone's own.

    Raises:
        ConfigError: `cuda_varlen` cannot compute this backbone on this device in this precision.
    """
    if backend == "cuda_varlen":
        choose_backend(backbone, backend)
        weights = BertWeights.from_hf(backbone)
        assert weights is not None, "choose_backend raises then"
        return partial(varlen_states, weights)
    if backend != "huggingface" and why_not_fused(backbone) is None:
        return partial(training_states, backbone)
    return partial(huggingface_states, backbone)


Parts = list[tuple[dict[str, Any], dict[str, Any], dict[int, Any], dict[int, Any]]]


class Prepared(NamedTuple):
    """A backend, and the state of the weights that it was made of.

    Attributes:
        asked: the backend that was asked for, `auto` perhaps.
        parts: each module's weights, children, hooks and pre-hooks, as torch keeps them.
        state: `weights_state` of the parts.
        aliases: of the weights: while an alias lives, no other weight can come to lie at its address.
        backend: made of them.
    """

    asked: str
    parts: Parts
    state: list[object]
    aliases: list[Tensor]
    backend: Backend

    def is_current(self) -> bool:
        """Whether the weights are still those that the backend was made of."""
        return weights_state(self.parts) == self.state


_prepared: WeakKeyDictionary[nn.Module, Prepared] = WeakKeyDictionary()
_preparing = threading.Lock()


def release(backbone: nn.Module, *, unless_current: bool = False) -> None:
    """Free the memory of prepared weights; the next call of `encode` prepares them again.

    Args:
        backbone: whose.
        unless_current: keep them if they are those of the weights as they are now.
    """
    found = _prepared.get(backbone)
    if found is not None and not (unless_current and found.is_current()):
        _prepared.pop(backbone, None)


def weights_state(parts: Parts) -> list[object]:
    """Storage address and version of each weight, and what else decides how a backbone computes: modules and hooks.

    A text that is encoded alone pays for each word of memory that this reads, so it does not ask the modules.
    """
    state: list[object] = []
    for weights, children, hooks, pre_hooks in parts:
        if hooks or pre_hooks:
            state.append((len(hooks), len(pre_hooks)))
        for weight in weights.values():
            if weight is not None:
                # weights made in inference mode have no version: they never count as unchanged
                state.append(object() if weight.is_inference() else weight._version)
                state.append(weight.data_ptr())
        if children:
            state.extend(map(id, children.values()))
    return state
