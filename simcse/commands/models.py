"""What may be called a model: a run folder, one with seeds, a checkpoint, a hub id, a map fitted on an encoder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simcse.commands.shared import load_encoder
from simcse.errors import ConfigError, DataError, ModelError

if TYPE_CHECKING:
    from simcse.encoder.model import SentenceEncoder
    from simcse.evaluation.postprocess import Fitted
    from simcse.vectors import Encode

__all__ = ["Model", "config_of", "encoder_of", "encoders_of", "load_encode", "open_model", "short_names"]


def encoders_of(run: str) -> list[str]:
    """The encoders behind a name: best/ of each seed of a run, best/ of a run, or the name itself.

    Raises:
        ModelError: a run folder without best/ yet.
    """
    folder = Path(run)
    if seeds := sorted(folder.glob("seed-*"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)]):
        folders = seeds
    elif (folder / "best").is_dir() or (folder / "log.jsonl").is_file():
        folders = [folder]
    else:
        return [run]
    for one in folders:
        if not (one / "best").is_dir():
            raise ModelError(f"{one}: a run without best/; wait for its first evaluation, or leave it out")
    return [str(one / "best") for one in folders]


def encoder_of(run: str) -> str:
    """The one encoder behind a name.

    Raises:
        ConfigError: a run of several seeds.
        ModelError: a run folder without best/ yet.
    """
    found = encoders_of(run)
    if len(found) > 1:
        raise ConfigError(
            f"--model {run}: holds {len(found)} seeds, expected one encoder; name one of them, such as {found[0]} "
            "(simcse compare accepts them all)"
        )
    return found[0]


def config_of(run: str) -> dict[str, Any]:
    """The content of the run's `config.yaml`, that of its first seed where there are several; empty without one.

    Raises:
        DataError: it is no YAML of names and values.
    """
    import yaml

    from simcse.data.tabular import lines
    from simcse.errors import shown

    file = next((file for file in (Path(run) / "config.yaml", *sorted(Path(run).glob("seed-*/config.yaml")))
                 if file.is_file()), None)  # fmt: skip
    if file is None:
        return {}
    try:
        loaded = yaml.safe_load("\n".join(lines(file)))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: not YAML ({error}); restore it, or remove it: a comparison does without") from error
    if not isinstance(loaded, dict):
        raise DataError(f"{file}: found {shown(loaded)}, expected the options of a run; restore it, or remove it")
    return loaded


@dataclass(frozen=True)
class Model:
    """An encoder, and the map that was fitted on its vectors, if there is one."""

    encoder: SentenceEncoder
    fitted: Fitted | None = None

    def encoding(self, **options: Any) -> Encode:
        """Texts -> (n, k) unit vectors; the options are those of `SentenceEncoder.encode`."""
        if self.fitted is None:
            return partial(self.encoder.encode, **options)
        return self.fitted(partial(self.encoder.encode, normalize=False, **options))

    @property
    def settings(self) -> dict[str, Any]:
        """What a report's protocol says of it."""
        said = {
            "pooling": self.encoder.pooling,
            "max_length": self.encoder.max_length,
            "dtype": "int8" if self.encoder.backend == "int8" else str(self.encoder.dtype).removeprefix("torch."),
            "device": str(self.encoder.device),
        }
        if prompt := self.encoder.resolve_prompt():
            said["prompt"] = prompt
        for role in ("query", "document"):  # in retrieval; a map encodes both alike
            own = self.encoder.resolve_prompt(role=role)
            if own != self.encoder.resolve_prompt() and self.fitted is None:
                said[f"{role}_prompt"] = own
        if self.encoder.truncate_dim is not None:
            said["truncate_dim"] = self.encoder.truncate_dim
        if self.fitted is not None:
            metadata = self.fitted.metadata
            said["encoder"] = metadata["encoder"]
            said["postprocess"] = (
                f"{self.fitted.kind}, {metadata['d']} -> {metadata['k']}, fitted on {metadata['texts']:,} texts"
            )
        return said


def open_model(name: str, device: str, dtype: str, *, pooling: str | None = None) -> Model:
    """A checkpoint, or a folder that `simcse postprocess` wrote: its encoder, and the map.

    Raises:
        ConfigError: a pooling is asked of a map, which was fitted on one.
        ModelError: no such model, or a damaged one; the encoder of a map is not the one that it was fitted on.
    """
    from simcse.evaluation.postprocess import SETTINGS, Fitted

    if not (Path(name) / SETTINGS).is_file():
        return Model(load_encoder(name, device, dtype, pooling=pooling))
    fitted = Fitted.load(name)
    metadata = fitted.metadata
    if "encoder" not in metadata:
        raise ModelError(f"{name}: does not say which encoder it was fitted on; fit it by simcse postprocess")
    if pooling not in (None, metadata.get("pooling")):
        raise ConfigError(
            f"--pooling {pooling}: {name} was fitted on pooling {metadata.get('pooling')}; leave it out, or fit "
            "anew by simcse postprocess --pooling"
        )
    try:
        encoder = load_encoder(metadata["encoder"], device, dtype, pooling=metadata.get("pooling"))
    except ModelError as error:
        raise ModelError(f"{name}: its encoder does not load: {error}") from error
    if metadata.get("fingerprint", encoder.fingerprint) != encoder.fingerprint:
        raise ModelError(
            f"{name}: {metadata['encoder']} has other weights or settings ({encoder.fingerprint}) than at the fit "
            f"({metadata['fingerprint']}); fit anew by simcse postprocess"
        )
    return Model(encoder, fitted)


def load_encode(name: str, device: str, dtype: str, *, show_progress: bool = False) -> Encode:
    """The callable of `open_model`."""
    return open_model(name, device, dtype).encoding(show_progress=show_progress)


def short_names(names: list[str]) -> list[str]:
    """The last parts of paths, as many as tell them apart."""
    parts = [[part for part in Path(name).parts if part not in ("best", "/")] or [name] for name in names]
    for length in range(1, max(map(len, parts)) + 1):
        short = ["/".join(part[-length:]) for part in parts]
        if len(set(short)) == len(set(names)):
            return short
    return names
