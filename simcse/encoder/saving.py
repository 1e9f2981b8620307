"""Writing a checkpoint that loads here, in `AutoModel` and in `SentenceTransformer`; checking it when it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from simcse.encoder.formats import FORMAT, SETTINGS
from simcse.encoder.json_files import read_object, within, write_json
from simcse.encoder.loading import new_backbone, takes_pooler
from simcse.encoder.pooling import POOLINGS
from simcse.encoder.projection import Projection
from simcse.encoder.prompts import prompts_by_role
from simcse.encoder.quiet import quiet_transformers
from simcse.errors import ModelError
from simcse.files import is_there, sha256_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from simcse.encoder.model import SentenceEncoder

__all__ = ["add_digests", "digest", "verified", "write_checkpoint"]

ST_PREFIX = "sentence_transformers.models."
# files that sentence-transformers or the hub read and this package does not: a digest would forbid to change them
NOT_OURS = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "README.md")


def pooler_weights(backbone: PreTrainedModel, head: Projection | None) -> dict[str, Tensor]:
    """What `AutoModel` looks for behind the last layer, where its architecture has a pooler; empty where it has none.

    It is the head, so that `pooler_output` is the vector before normalisation, if it reads [CLS] by a linear layer and
    tanh, as the pooler does; give None otherwise. Weights that are not there `AutoModel` would draw at random at each
    load. Zeros are there in their place: they say nothing, in all of `pooler_output`, rather than something wrong.
    """
    if not takes_pooler(backbone):
        return {}
    with torch.device("meta"):
        whole: Any = new_backbone(backbone.config, pooler=True)
    own = backbone.state_dict()
    shapes = {key: value.shape for key, value in whole.state_dict().items() if key not in own}
    linear = getattr(whole.pooler, "dense", whole.pooler)
    activation = getattr(whole.pooler, "activation", getattr(whole, "pooler_activation", None))
    if head is not None and type(activation) is nn.Tanh and type(head.activation) is nn.Tanh:
        state = head.linear.state_dict()
        if isinstance(linear, nn.Linear) and linear.weight.shape == state["weight"].shape and len(shapes) == 2:
            return {key: state[key.rpartition(".")[2]] for key in shapes}
    return {key: torch.zeros(shape, dtype=backbone.dtype) for key, shape in shapes.items()}


def write_checkpoint(folder: Path, encoder: SentenceEncoder) -> None:
    """Write backbone, tokenizer and settings into an empty folder."""
    backbone = encoder.backbone
    with quiet_transformers():
        pooler = pooler_weights(backbone, encoder.projection if encoder.pooling == "cls" else None)
        backbone.save_pretrained(folder, state_dict=backbone.state_dict() | pooler)
        encoder.tokenizer.save_pretrained(folder)
    write_settings(folder, encoder)


def write_settings(folder: Path, encoder: SentenceEncoder) -> None:
    """Write `simcse.json`, and the files that make `SentenceTransformer(folder)` give the same vectors, to where
    backbone and tokenizer already lie. The two-layer means become a WeightedLayerPooling module.
    """
    pooling, projection, width = encoder.pooling, encoder.projection, encoder.width
    config: Any = encoder.backbone.config
    layers = config.num_hidden_layers
    modules: list[tuple[str, str]] = [("", "Transformer")]
    settings: dict[str, Any]
    used = [layer % (layers + 1) for layer in POOLINGS[pooling].layers]
    if len(used) > 1:
        start = min(used)
        weights = torch.tensor([float(layer in used) for layer in range(start, layers + 1)])
        settings = {"word_embedding_dimension": width, "layer_start": start, "num_hidden_layers": layers}
        modules.append(("1_WeightedLayerPooling", "WeightedLayerPooling"))
        _write_module(folder / modules[-1][0], settings, {"layer_weights": weights})
        write_json(folder / "config.json", read_object(folder / "config.json") | {"output_hidden_states": True})
    modules.append((f"{len(modules)}_Pooling", "Pooling"))
    mode = {"cls": "cls_token", "last_token": "lasttoken"}.get(pooling, "mean_tokens")
    flags = {f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", "lasttoken")}
    flags["include_prompt"] = encoder.include_prompt
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
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": encoder.max_length, "do_lower_case": False})
    shared = {name: getattr(encoder, name) for name in ("prompts", "default_prompt_name", "truncate_dim")}
    named = {"prompts": prompts_by_role(encoder.prompts, encoder.default_prompt_name)}
    write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"} | shared | named)
    places = [folder] if head is None else [folder, folder / head]
    files = sorted(file for place in places for file in place.iterdir() if file.is_file() and file.name not in NOT_OURS)
    for file in files:  # safetensors leaves weights that their owner alone can read
        file.chmod(S_IMODE((folder / "modules.json").stat().st_mode))
    settings = {"format": FORMAT, "pooling": pooling, "projection": head, "max_length": encoder.max_length, **shared}
    settings["include_prompt"] = encoder.include_prompt
    settings["sha256"] = {file.relative_to(folder).as_posix(): sha256_of(file) for file in files}
    write_json(folder / SETTINGS, settings)


def add_digests(folder: Path, files: Iterable[Path]) -> None:
    """Have `simcse.json` vouch for more files of its folder."""
    settings = read_object(folder / SETTINGS)
    settings["sha256"] |= {file.relative_to(folder).as_posix(): sha256_of(file) for file in sorted(files)}
    write_json(folder / SETTINGS, settings)


def _write_module(place: Path, settings: Mapping[str, Any], state: dict[str, Tensor] | None = None) -> None:
    place.mkdir()
    write_json(place / "config.json", settings)
    if state:
        save_file(state, place / "model.safetensors")


@contextmanager
def verified(folder: Path, digests: Mapping[str, str], *, onnx: bool = False) -> Iterator[None]:
    """Compare files with the digests that were written with them: the small ones first, weights while the block runs.

    Args:
        folder: the checkpoint.
        digests: sha256 by name.
        onnx: whether an exported graph counts, which only one backend reads.

    Raises:
        ModelError: a file is missing, or not the one that was saved.
    """
    graphs = {name for name in digests if name.startswith("onnx/")}
    weights = {name for name in digests if name.endswith((".safetensors", ".bin"))} | graphs
    check_digests(folder, {name: said for name, said in digests.items() if name not in weights})
    if not onnx:
        weights -= graphs
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(check_digests, folder, {name: digests[name] for name in weights})
        yield
        found.result()


def check_digests(folder: Path, digests: Mapping[str, str]) -> None:
    """Raise a ModelError if a file is missing, or not the one that was saved."""
    for name, said in digests.items():
        file = within(folder, Path(name).parent.as_posix(), folder / SETTINGS) / Path(name).name
        if not (is_there(file) and file.is_file()):
            raise ModelError(f"{file}: missing; the checkpoint is incomplete")
        if sha256_of(file) != said:
            raise ModelError(
                f"{file}: not the file that was saved (its sha256 is not the one in {SETTINGS}), so it is damaged or "
                f"another one; copy the folder anew, or delete the line {name!r} there if you meant to change the file"
            )


def digest(settings: str, state: Mapping[str, Tensor]) -> str:
    """16 hex digits of settings and weights, which are the same in fp32 and bf16."""
    total = hashlib.sha256(settings.encode())
    for key, value in state.items():
        total.update(key.encode())
        total.update(value.to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]
