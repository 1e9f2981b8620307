"""The only place that chooses a storage: by `kind` for a new index, by its place for one that is there."""

from __future__ import annotations

from pathlib import Path

from simcse.search.fingerprint import Identity
from simcse.search.local.storage import LocalStorage
from simcse.search.storage import Storage

__all__ = ["create_storage", "is_milvus", "open_storage"]


def is_milvus(kind: object) -> bool:
    """Whether a kind, or the place of an index, is one in Milvus: `milvus` or `milvus:ADDRESS`."""
    return isinstance(kind, str) and (kind == "milvus" or kind.startswith("milvus:"))


def create_storage(kind: str, identity: Identity, target_recall: float) -> Storage:
    """A storage without rows; arguments as of `SearchIndex.build`.

    Raises:
        ConfigError: no such kind.
        SearchError: it cannot be made there.
    """
    if is_milvus(kind):
        from simcse.search.milvus.storage import MilvusStorage

        return MilvusStorage.create(identity, kind)
    return LocalStorage.create(identity, kind, target_recall)


def open_storage(place: str | Path, *, mmap: bool = True) -> Storage:
    """The storage in a folder or at a `milvus:` address; arguments and errors as of `SearchIndex.load`."""
    if is_milvus(place):
        from simcse.search.milvus.storage import MilvusStorage

        return MilvusStorage.open(str(place))
    return LocalStorage.open(place, mmap=mmap)
