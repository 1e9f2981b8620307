"""An index on disk: which files belong together.

    manifest.json          names the store; replacing it is how a whole new state appears at once
    store-000001.sqlite    texts, ids, metadata and the committed state: count of vectors, their file, the plan
    vectors-000001.f32     (n, d) float32, little-endian, append-only
    ann-000001.faiss       the approximate index, if the plan has one

An addition or a deletion is a transaction of the store. Saving over an index and compacting write files of a new
generation number beside the old ones and then replace the manifest. So a kill leaves the old state or the new one;
files of a state that never came to be are removed by the next mutation.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from simcse import __version__
from simcse.errors import SearchError
from simcse.files import replaced_file, sync

__all__ = ["MANIFEST", "file_name", "read_manifest", "remove_strays", "write_manifest"]

MANIFEST = "manifest.json"
FORMAT = "simcse search index"
VERSION = 1
SUFFIXES = {"store": "sqlite", "vectors": "f32", "ann": "faiss"}


def file_name(kind: str, generation: int) -> str:
    """`vectors-000001.f32` and the like."""
    return f"{kind}-{generation:06d}.{SUFFIXES[kind]}"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an index.

    Raises:
        SearchError: the folder is missing or no index, the manifest is damaged, or of a newer format.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise SearchError(
            f"{folder}: {'is a file' if folder.exists() else 'no such folder'}; expected the folder of an index"
        )
    if not path.is_file():
        raise SearchError(f"{folder}: is no index: it holds no {MANIFEST}; build one with: simcse index build")
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise SearchError(
                f"{path}: found format {values['format']!r}, expected {FORMAT!r}; is it the right folder?"
            )
        if values["version"] > VERSION:
            raise SearchError(
                f"{path}: found format version {values['version']}, this program knows {VERSION}; upgrade simcse"
            )
        for key in ("store", "encoder", "dimension"):
            values[key]
    except (ValueError, KeyError, TypeError) as error:
        raise SearchError(f"{path}: damaged ({error}); restore a copy or build the index anew") from error
    return values


def write_manifest(folder: Path, values: dict[str, Any]) -> None:
    """Replace the manifest in one step, durably."""
    import faiss

    versions = {"simcse": __version__, "faiss": faiss.__version__, "python": platform.python_version()}
    content = {"format": FORMAT, "version": VERSION, **values, "versions": versions}
    sync(folder)  # the files that it names
    with replaced_file(folder / MANIFEST) as beside:
        beside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def remove_strays(folder: Path, keep: set[str]) -> None:
    """Remove files of other generations than the current one: what a killed mutation left, or what compaction
    replaced.
    """
    for kind, suffix in SUFFIXES.items():
        for path in folder.glob(f"{kind}-*.{suffix}*"):  # a journal too
            if path.name.removesuffix("-journal") not in keep:
                path.unlink(missing_ok=True)
