"""An index on disk: which files belong together.

    manifest.json          names the store; replacing it is how a whole new state appears at once
    store-000001.sqlite    texts, ids, metadata and the committed state: count of vectors, their file and checksums, the
                           plan
    vectors-000001.f32     (n, d) float32, little-endian, append-only
    ann-000001.faiss       the approximate index, if the plan has one

An addition or a deletion is a transaction of the store. Saving over an index and compacting write files of a new
generation number beside the old ones and then replace the manifest. So a kill leaves the old state or the new one;
files of a state that never came to be are removed by the next mutation.

Who opens an index while another process changes it may find a file gone that was there a moment ago. The manifest is
another one then, and `looked_again` reads that.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from simcse import __version__
from simcse.errors import SearchError
from simcse.files import check_version, replaced_file, sync

__all__ = [
    "LOOKS",
    "MANIFEST",
    "changed_at",
    "checked_folder",
    "file_name",
    "folder_size",
    "highest_number",
    "looked_again",
    "part_of",
    "read_manifest",
    "remove_strays",
    "write_manifest",
]

T = TypeVar("T")

MANIFEST = "manifest.json"
FORMAT = "simcse search index"
VERSION = 3  # 2 named the search parameters otherwise; 1 had one checksum for all vectors
SUFFIXES = {"store": "sqlite", "vectors": "f32", "ann": "faiss"}
NAMES = {kind: re.compile(rf"{kind}-(\d{{6,}})\.{suffix}") for kind, suffix in SUFFIXES.items()}
LOOKS = 100  # at an index that changes each time


def checked_folder(folder: Any) -> Path:
    """What a caller names as the folder of an index.

    Raises:
        SearchError: no name, one too long, or one in a folder that may not be read.
    """
    if not isinstance(folder, (str, PathLike)) or "\0" in str(folder):
        raise SearchError(f"folder: found {folder!r}, expected the name of the folder of an index")
    path = Path(folder)
    try:
        path.is_dir()
    except OSError as error:
        raise SearchError(f"{path}: {error.strerror}; expected the folder of an index") from error
    return path


def file_name(kind: str, generation: int) -> str:
    """`vectors-000001.f32` and the like.

    Raises:
        TypeError: no whole number, as a damaged index may hold.
    """
    if type(generation) is not int or generation < 0:
        raise TypeError(f"found {generation!r} as the number of a file")
    return f"{kind}-{generation:06d}.{SUFFIXES[kind]}"


def part_of(folder: Path, kind: str, name: Any) -> Path:
    """The file of an index that another of its files names.

    Raises:
        SearchError: the name is none that `file_name` gives; it could be that of any file.
    """
    if not isinstance(name, str) or not NAMES[kind].fullmatch(name):
        raise SearchError(
            f"{folder}: damaged: names {name!r} as a file of the index, expected {file_name(kind, 1)!r} or another "
            "number; restore a copy or build the index anew"
        )
    return folder / name


def highest_number(folder: Path) -> int:
    """Of all files of an index and of what was left behind; 0 where there are none."""
    found = (pattern.match(path.name) for path in folder.iterdir() for pattern in NAMES.values())
    return max((int(match[1]) for match in found if match), default=0)


def folder_size(folder: Path) -> int:
    """Bytes in the files that are there."""
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process has removed it since
            total += path.stat().st_size
    return total


def changed_at(folder: Path) -> int:
    """A number that is another one after each change of the index; 0 if the folder has gone, which searches survive."""
    try:
        found = (folder / MANIFEST).stat()
    except OSError:
        return 0
    return hash((found.st_ino, found.st_mtime_ns))


def looked_again(folder: Path, read: Callable[[dict[str, Any], int], T]) -> T:
    """`read(manifest, changed_at)`, once more whenever it fails and another process has changed the index meanwhile.

    Files are removed after the manifest has been replaced: where one is missing, the manifest says which is right.

    Raises:
        SearchError: it fails though the index is as it was.
    """
    looks = 0
    while True:
        seen = changed_at(folder)
        manifest = read_manifest(folder)
        looks += 1
        try:
            return read(manifest, seen)
        except (SearchError, OSError) as error:
            if looks < LOOKS and changed_at(folder) != seen:
                continue
            if isinstance(error, SearchError):
                raise
            raise SearchError(f"{folder}: {error.strerror or error}; restore a copy or build the index anew") from error


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
        check_version(path, values["version"], VERSION, SearchError)
        if values["version"] < VERSION:
            raise SearchError(
                f"{path}: found format version {values['version']}, expected {VERSION}; "
                "build it anew: simcse index build --overwrite"
            )
        for key in ("store", "encoder", "dimension"):
            values[key]
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
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
