"""The projection head, and the weights files that it is read from."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from simcse.encoder.json_files import entry, read_object
from simcse.errors import ConfigError, ModelError

__all__ = ["ACTIVATIONS", "Projection", "check_finite", "check_truncate_dim", "read_dense", "read_head"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"Tanh": nn.Tanh, "Identity": nn.Identity, "ReLU": nn.ReLU, "GELU": nn.GELU}


class Projection(nn.Module):
    """Linear, then tanh: the head of the paper. New weights are N(0, 0.02), bias 0 (authors' code), never a pooler's.

    Args:
        width_in: D of the pooled vector.
        width_out: D of the result; the same by default.
        activation: a key of `ACTIVATIONS`.
    """

    def __init__(self, width_in: int, width_out: int | None = None, activation: str = "Tanh") -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, width_out or width_in)
        self.activation = ACTIVATIONS[activation]()
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    @classmethod
    def of_weights(cls, weight: Tensor, bias: Tensor, activation: str, place: Path) -> Projection:
        """The head with these weights, (D_out, D_in) and (D_out,).

        Raises:
            ModelError: they have other shapes, or hold NaN or infinity.
        """
        if weight.ndim != 2 or not weight.numel() or bias.shape != weight.shape[:1]:
            raise ModelError(
                f"{place}: the head's weight has shape {tuple(weight.shape)}, its bias {tuple(bias.shape)}, expected "
                "(d, D) and (d,); the checkpoint is damaged"
            )
        check_finite({"linear.weight": weight, "linear.bias": bias}, place)
        head = cls(weight.shape[1], weight.shape[0], activation)
        head.load_state_dict({"linear.weight": weight.float(), "linear.bias": bias.float()})
        return head

    def check_width(self, width: int, folder: Path) -> None:
        """Raise a ModelError if a folder's backbone gives vectors of another width than the head was made for."""
        if self.linear.in_features != width:
            raise ModelError(
                f"{folder}: the head takes vectors of dimension {self.linear.in_features}, but the backbone gives "
                f"{width}; one of the two is another checkpoint's"
            )

    def forward(self, pooled: Tensor) -> Tensor:
        """(S, D) -> (S, D)."""
        return self.activation(self.linear(pooled.to(self.linear.weight.dtype)))  # type: ignore[no-any-return]


def read_dense(place: Path) -> Projection:
    """The head that sentence-transformers keeps as a Dense module.

    Raises:
        ModelError: a file is damaged, or the module does more than Linear and activation.
    """
    file = place / "config.json"
    settings = read_object(file)
    shape = tuple(entry(settings, key, int, file) for key in ("out_features", "in_features"))
    said = "activation_function" in settings
    activation = entry(settings, "activation_function", str, file).rsplit(".", 1)[-1] if said else "Tanh"
    if activation not in ACTIVATIONS:
        raise ModelError(f"{file}: activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    for key, usual in {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}.items():
        if entry(settings, key, str, file, usual) != usual:
            raise ModelError(f"{file}: {key} {settings[key]!r} has no counterpart here, expected {usual!r}")
    if entry(settings, "use_residual", bool, file, False):
        raise ModelError(f"{file}: use_residual has no counterpart here, expected a Dense module without it")
    state = read_weights(place)
    if "linear.weight" not in state:
        raise ModelError(f"{place}: linear.weight is missing; the folder is incomplete")
    weight = state.pop("linear.weight")
    bias = state.pop("linear.bias", None)
    if state:
        raise ModelError(f"{place}: {next(iter(state))!r} has no counterpart here, expected linear.weight, linear.bias")
    if weight.shape != shape:  # before anything of that size is allocated
        raise ModelError(f"{file}: says {shape[1]} -> {shape[0]} features, but linear.weight is {tuple(weight.shape)}")
    if (bias is None) == entry(settings, "bias", bool, file, bias is not None):
        raise ModelError(f"{place}: linear.bias is {'missing' if bias is None else 'there'}, unlike config.json says")
    return Projection.of_weights(weight, weight.new_zeros(shape[0]) if bias is None else bias, activation, place)


def read_head(folder: Path, prefix: str) -> Projection:
    """The head stored under `PREFIX.weight` and `PREFIX.bias`: `mlp.dense` unconverted, `pooler.dense` converted.

    Raises:
        ModelError: the folder lacks these weights; fresh random ones are never put in their place. Weights that are all
            zero, as in a folder that was saved without a head, count as none.
    """
    state = read_weights(folder)
    for key, weight in state.items():
        if key == f"{prefix}.weight" or key.endswith(f".{prefix}.weight"):
            bias = state.get(key.removesuffix("weight") + "bias")
            if bias is not None and weight.any():
                return Projection.of_weights(weight, bias, "Tanh", folder)
    raise ModelError(
        f"{folder}: {prefix}.weight and {prefix}.bias are missing, so the head that this pooling needs is not there; "
        "load it with projection='none', or from the folder that was trained"
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, on the CPU: safetensors, else `pytorch_model.bin` (tensors only, no code)."""
    shards = sorted(folder.glob("model*.safetensors"))
    try:
        if shards:
            return {key: value for shard in shards for key, value in load_file(shard).items()}
        shards = sorted(folder.glob("pytorch_model*.bin"))
        loaded = [torch.load(shard, map_location="cpu", weights_only=True) for shard in shards]
        return {key: value for state in loaded for key, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # damaged files raise whatever the parser stumbles over
        raise ModelError(f"{folder}: the weights cannot be read ({type(error).__name__}: {error})") from error


def check_finite(weights: dict[str, Tensor], place: Path) -> None:
    """Raise a ModelError that names the first tensor which holds NaN or infinity."""
    for name, weight in weights.items():
        # the sum is several times faster than a look at each number; it may overflow, so it only raises the suspicion
        if weight.is_floating_point() and not weight.sum().isfinite() and not weight.isfinite().all():
            bad = int((~weight.isfinite()).sum())
            raise ModelError(
                f"{place}: {bad} of {weight.numel()} numbers of {name} are NaN or infinite; the checkpoint is damaged, "
                "or its training diverged"
            )


def check_truncate_dim(kept: int | None) -> int | None:
    """The number itself.

    Raises:
        ConfigError: it is no integer from 1 on.
    """
    if kept is not None and (type(kept) is not int or kept < 1):
        raise ConfigError(f"truncate_dim is {kept!r:.40}, expected at least 1 dimension, or None for all")
    return kept
