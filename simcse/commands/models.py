"""What may be called a model: a run folder, one with seeds, a checkpoint, a hub id, a map fitted on an encoder."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simcse.commands.shared import load_encoder
from simcse.errors import ModelError

if TYPE_CHECKING:
    from simcse.evaluation.judge import Encode

__all__ = ["config_of", "encoders_of", "load_encode", "short_names"]


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
            raise ModelError(f"{one}: a run without best/; wait for its first judgement, or leave it out")
    return [str(one / "best") for one in folders]


def config_of(run: str) -> dict[str, Any]:
    """The content of the run's `config.yaml`, that of its first seed where there are several; empty without one."""
    import yaml

    file = next((file for file in (Path(run) / "config.yaml", *sorted(Path(run).glob("seed-*/config.yaml")))
                 if file.is_file()), None)  # fmt: skip
    loaded = yaml.safe_load(file.read_text(encoding="utf-8")) if file else None
    return loaded if isinstance(loaded, dict) else {}


def load_encode(name: str, device: str, dtype: str, *, normalize: bool = True, show_progress: bool = False) -> Encode:
    """The callable of a checkpoint, or of a folder that `simcse postprocess` wrote: its encoder, then the map.

    Raises:
        ModelError: no such model, or a damaged one.
    """
    from simcse.evaluation.postprocess import SETTINGS, Fitted

    if not (Path(name) / SETTINGS).is_file():
        return partial(load_encoder(name, device, dtype).encode, normalize=normalize, show_progress=show_progress)
    fitted = Fitted.load(name)
    if "encoder" not in fitted.about:
        raise ModelError(f"{name}: does not say which encoder it was fitted on; fit it by simcse postprocess")
    encoder = load_encoder(fitted.about["encoder"], device, dtype, pooling=fitted.about.get("pooling"))
    return fitted(partial(encoder.encode, normalize=False, show_progress=show_progress))


def short_names(names: list[str]) -> list[str]:
    """The last parts of paths, as many as it takes to tell them apart."""
    parts = [[part for part in Path(name).parts if part not in ("best", "/")] or [name] for name in names]
    for length in range(1, max(map(len, parts)) + 1):
        short = ["/".join(part[-length:]) for part in parts]
        if len(set(short)) == len(set(names)):
            return short
    return names
