"""Where an encoder computes, and in which precision."""

from __future__ import annotations

import torch

from simcse.encoder.backends.cpu_features import cpu_flags
from simcse.errors import ConfigError

__all__ = ["DTYPES", "has_native_bf16", "pick_device", "pick_dtype"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TORCH_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}  # float32, ...
NAMES = DTYPES | TORCH_NAMES | {f"torch.{name}": dtype for name, dtype in TORCH_NAMES.items()}


def pick_device(device: str | torch.device) -> torch.device:
    """`auto` is the accelerator, if there is one, else the CPU.

    Raises:
        ConfigError: the device does not exist here.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except Exception as error:  # torch raises RuntimeError, AssertionError or NotImplementedError
        raise ConfigError(f"device {str(device)!r} is not available here; try auto or cpu") from error
    return place


def pick_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """`auto` is bf16 where the device computes in it natively, else fp32; torch's own names are taken, too.

    Raises:
        ConfigError: an unknown name.
    """
    if isinstance(dtype, torch.dtype) and dtype in (*DTYPES.values(), torch.float64):
        return dtype
    if dtype in ("auto", "int8"):
        return torch.bfloat16 if has_native_bf16(device) else torch.float32
    if not isinstance(dtype, str) or dtype not in NAMES:
        raise ConfigError(f"dtype {str(dtype)!r} is not one of auto, {', '.join((*DTYPES, *TORCH_NAMES))}, int8")
    return NAMES[dtype]


def has_native_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 are faster than in fp32 on this device."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # AVX512-BF16 or AMX; without them torch emulates bf16, slower than fp32
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})
    return False
