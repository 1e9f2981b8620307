"""`simcse info`: what a model is, which backend encodes by it here, and why none of the others does."""

from __future__ import annotations

from typing import Any

from simcse.commands.models import open_model
from simcse.commands.shared import Format, as_text, print_json

__all__ = ["info"]


def info(model: str, *, device: str = "auto", dtype: str = "auto", format: Format = "auto") -> None:
    """Say what a model is, which backend encodes by it here, and why no other.

    Args:
        model: a run's folder, a checkpoint, or a hub id
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision: auto (bf16 where the device computes in it, else fp32), fp32, bf16, fp16, int8 (AVX2, AMX)
        format: text, or json; auto is text on a terminal, and json where output is piped
    """
    facts = facts_of(model, device, dtype)
    if not as_text(format):
        print_json(facts)
        return
    why = facts.pop("backends")
    for name, value in facts.items():
        print(f"{name:<12} {value}")
    for name, reason in why.items():
        print(f"  {name:<12}{'runs' if name == facts['backend'] else reason or 'can run, if it is asked for'}")


def facts_of(name: str, device: str, dtype: str) -> dict[str, Any]:
    """Facts about a model, in the order that they are printed."""
    from simcse.encoder.backends.cpu_training.forward import why_not_fused
    from simcse.encoder.backends.select import BACKENDS, why_not

    model = open_model(name, device, dtype)
    encoder = model.encoder
    backbone, config = encoder.loaded, encoder.config
    trains = why_not_fused(backbone)
    return {
        "model": encoder.name,
        "architecture": f"{config.model_type}, {config.num_hidden_layers} layers of width {encoder.width}",
        "parameters": sum(weight.numel() for weight in encoder.parameters()),
        "dimension": encoder.dimension,
        "max_length": encoder.max_length,
        **model.settings,
        "fingerprint": encoder.fingerprint,
        "training": "without padding" if trains is None else f"padded, as {trains}",
        "backend": encoder.backend,
        "backends": {backend: why_not(backbone, backend) for backend in BACKENDS if backend != "auto"},
    }
