"""An index in Milvus, as a `Storage`: a file of milvus-lite on one machine, a cluster beyond.

    index = SearchIndex.build(sentences, encoder.encode, kind="milvus:idx.db")  # or milvus:http://host:19530#collection
    index = SearchIndex.load("milvus:idx.db", encoder.encode)

Texts, ids, metadata and unit vectors lie in one collection; what belongs to the index as a whole (its encoder, the next
id, names of fields) in the only row of a second, the manifest. A cluster has no transactions over rows: an addition
that fails takes back what it has written, one that is killed leaves whole rows. One process at a time may add texts
without ids of their own.
"""

from __future__ import annotations

import importlib
import json
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from simcse.errors import ConfigError, SearchError
from simcse.files import check_version
from simcse.search.fingerprint import Identity
from simcse.search.hit import Hit
from simcse.search.local.storage import LocalStorage
from simcse.search.local.view import View
from simcse.search.milvus.client import connect, explained, files, is_file, quiet, split_address
from simcse.search.milvus.collections import (
    create_manifest,
    create_rows,
    drop,
    hit_of,
    id_of,
    key_of,
    manifest_name,
    packed,
    row_of,
)
from simcse.search.milvus.filters import expression
from simcse.search.rows import Id, Row, check_all_there, storable
from simcse.search.storage import Filter, Sample, change_inside_change
from simcse.vectors import Matrix

__all__ = ["MilvusStorage"]

log = logging.getLogger(__name__)

CHUNK = 1024  # rows sent at a time: far below the 64 MiB of a message
QUERIES = 256  # searched for at a time
MOST_HITS = 16_384
LAYOUT = 3  # of the collections


class MilvusStorage:
    """Two collections, one of the rows and one of a single row, the manifest; see `Storage`."""

    def __init__(self, client: Any, uri: str, collection: str, manifest: dict[str, Any]) -> None:
        """Use `create` or `open`."""
        self._client, self._uri, self._collection, self._manifest = client, uri, collection, manifest
        self.identity = Identity.from_json(manifest["encoder"])
        self._lock = threading.RLock()
        self._changes: dict[str, Any] = {}  # of the manifest, by the transaction that is open
        self._new: list[Id] = []  # rows that it has added
        self._changing = False  # whether one is open
        self._copy: View | None = None

    @classmethod
    def create(cls, identity: Identity, kind: str) -> MilvusStorage:
        """No rows, in new collections.

        Raises:
            SearchError: the collection exists, or Milvus does not answer.
        """
        uri, collection = split_address(kind)
        client = connect(uri)
        manifest = {"layout": LAYOUT, "encoder": identity.to_json(), "generation": 0, "fields": []}
        with explained(uri):
            if client.has_collection(collection) or client.has_collection(manifest_name(collection)):
                raise SearchError(f"{kind}: the collection {collection!r} exists; load it, or name another by #NAME")
            try:
                create_rows(client, collection, identity.dimension, exact=is_file(uri))
                create_manifest(client, collection)
                storage = cls(client, uri, collection, manifest)
                storage._write_manifest({})
            except BaseException:
                drop(client, collection)
                raise
        return storage

    @classmethod
    def open(cls, kind: str) -> MilvusStorage:
        """What is there.

        Raises:
            SearchError: nothing, or Milvus does not answer.
        """
        uri, collection = split_address(kind)
        if is_file(uri) and not Path(uri).exists():
            raise SearchError(f"{kind}: no such file; build it with kind={kind!r}")
        client = connect(uri)
        with explained(uri):
            if not client.has_collection(manifest_name(collection)):
                raise SearchError(f"{kind}: holds no index called {collection!r}; build it, or name another by #NAME")
            client.load_collection(collection)
            client.load_collection(manifest_name(collection))
            manifest = _read_manifest(client, collection)
        check_version(kind, manifest.get("layout"), LAYOUT, SearchError)
        if manifest["layout"] < LAYOUT:
            raise SearchError(f"{kind}: found format version {manifest['layout']}, expected {LAYOUT}; build it anew")
        return cls(client, uri, collection, manifest)

    @property
    def generation(self) -> int:
        self._refresh()
        return int(self._manifest["generation"])

    def __len__(self) -> int:
        with self._explained():
            found = self._client.query(self._collection, filter="", output_fields=["count(*)"])
        return int(found[0]["count(*)"])

    def describe(self) -> str:
        try:
            count = f"{len(self)} texts"
        except SearchError:
            count = "out of reach"
        return f"{count}, milvus, {self._place}"

    def info(self) -> dict[str, Any]:
        return {
            "count": len(self),
            "deleted": 0,
            "kind": "milvus",
            "plan": None,
            "generation": self.generation,
            "fields": sorted(self._manifest["fields"]),
            "folder": self._place,
            "bytes": sum(path.stat().st_size for path in files(self._uri)) if is_file(self._uri) else None,
        }

    def get(self, key: str) -> Any:
        return self._manifest.get(key)

    def put(self, key: str, value: Any) -> None:
        self._changes[key] = value

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """As `Storage.transaction`, but that others see rows as they come, and what an upsert replaced stays so."""
        with self._lock:
            self._check_not_changing()
            self._refresh()
            self._changes, self._new, self._changing = {"fields": self._manifest["fields"]}, [], True
            try:
                yield
                self._write_manifest(self._changes)
            except BaseException:
                try:
                    self._delete(self._new)
                except SearchError as error:
                    log.warning("%s: rows of the addition that failed may be left: %s", self._place, error)
                raise
            finally:
                self._changing = False

    def _check_not_changing(self) -> None:
        if self._changing:  # by this thread, which has the lock
            raise change_inside_change(self._place)

    def append(self, rows: Sequence[Row], vectors: Matrix, replaced: Collection[Id] = ()) -> None:
        sent = [packed(row, vector) for row, vector in zip(rows, vectors, strict=True)]
        self._new += [key for key, _, _ in rows if key not in replaced]
        fields = {name for _, _, metadata in rows for name in metadata}
        self._changes["fields"] = sorted(fields.union(self._changes["fields"]))
        for start in range(0, len(sent), CHUNK):
            with self._explained():
                (self._client.upsert if replaced else self._client.insert)(
                    self._collection, sent[start : start + CHUNK]
                )

    def remove(self, ids: Sequence[Id]) -> None:
        check_all_there(ids, self.contains(ids), "; nothing was deleted")
        with self._lock:
            self._check_not_changing()
            self._delete(ids)
            self._refresh()
            self._write_manifest({})

    def contains(self, ids: Sequence[Any]) -> set[Id]:
        return {id_of(row["key"]) for row in self._get(ids, [])}

    def vectors(self, ids: Sequence[Id]) -> dict[Id, Matrix]:
        return {id_of(row["key"]): np.asarray(row["vector"], np.float32) for row in self._get(ids, ["vector"])}

    def fetch(self, ids: Sequence[Id]) -> dict[Id, Row]:
        rows = map(row_of, self._get(ids, ["text", "metadata"]))
        return {row[0]: row for row in rows}

    def rows(self) -> Iterator[Row]:
        return map(row_of, self._all(["text", "metadata"]))

    def sample(self, size: int, seed: int = 0) -> Sample:
        """The first `size` rows, in the order of Milvus, whatever the seed: it draws none."""
        rows = list(islice(self._all(["text", "vector"]), size))
        vectors = np.array([row["vector"] for row in rows], np.float32).reshape(-1, self.identity.dimension)
        return Sample([id_of(row["key"]) for row in rows], [row["text"] for row in rows], vectors)

    def subset(self, where: Mapping[str, Any], stop: Callable[[], bool]) -> Filter:
        """The filter itself, once checked: Milvus applies it while it searches."""
        self._expression(where)
        return where

    def search(
        self, queries: Matrix, k: int, where: Filter | None = None, *, threads: int | None = None
    ) -> list[list[Hit]]:
        if k > MOST_HITS:
            raise SearchError(f"top_k: found {k}, Milvus gives at most {MOST_HITS}")
        condition = "" if where is None or where == {} else self._expression(where)
        results = []
        for start in range(0, len(queries), QUERIES):
            with self._explained():
                found = self._client.search(
                    self._collection, queries[start : start + QUERIES].tolist(), limit=k, filter=condition,
                    output_fields=["text", "metadata"],
                )  # fmt: skip
            results += [sorted(map(hit_of, hits), key=lambda hit: -hit.score) for hits in found]
        return results

    def snapshot(self) -> View:
        """All rows, copied into an index in memory: numbers first, each kind of id in its order."""
        generation = self.generation
        if self._copy is None or self._copy.generation != generation:
            found = [
                (row_of(row), np.asarray(row["vector"], np.float32))
                for row in self._all(["text", "metadata", "vector"])
            ]
            found.sort(key=lambda pair: (isinstance(pair[0][0], str), pair[0][0]))
            copy = LocalStorage.create(self.identity, "flat")
            with copy.transaction():
                copy.append([row for row, _ in found], np.array([v for _, v in found], np.float32))
            self._copy = replace(copy.snapshot(), generation=generation)
        return self._copy

    def optimize(self, memory: int | None = None, sample_queries: Matrix | None = None) -> None:
        """Nothing: Milvus builds its index as rows come.

        Raises:
            ConfigError: sample queries, on which it could not be tuned.
        """
        if sample_queries is not None:
            raise ConfigError("sample_queries: Milvus tunes its index itself; leave them out")

    def compact(self) -> None:
        """Nothing: Milvus compacts by itself."""

    def verify(self) -> None:
        for _ in self.rows():
            pass

    def save(self, folder: str | Path) -> None:
        """Refused: the index is durable where it is.

        Raises:
            SearchError: always.
        """
        raise SearchError(f"{self._place}: is durable in Milvus; it is not saved to {folder}")

    def discard(self) -> None:
        with self._explained():
            drop(self._client, self._collection)

    def close(self) -> None:
        """Release the connection, or the file, which one process at a time may have open."""
        self._client.close()
        if is_file(self._uri):
            manager: Any = importlib.import_module("milvus_lite.server_manager")
            manager.server_manager_instance.release_server(self._uri)

    @property
    def _place(self) -> str:
        return f"{self._uri}#{self._collection}"

    def _expression(self, where: Any) -> str:
        self._refresh()
        return expression(where, self._manifest["fields"])

    def _get(self, ids: Sequence[Any], fields: list[str]) -> Iterator[dict[str, Any]]:
        wanted = [key for key in ids if storable(key)]
        for start in range(0, len(wanted), CHUNK):
            keys = [key_of(key) for key in wanted[start : start + CHUNK]]
            with self._explained():
                yield from self._client.get(self._collection, ids=keys, output_fields=["key", *fields])

    def _delete(self, ids: Sequence[Id]) -> None:
        for start in range(0, len(ids), CHUNK):
            with self._explained():
                self._client.delete(self._collection, ids=[key_of(key) for key in ids[start : start + CHUNK]])

    def _all(self, fields: list[str]) -> Iterator[dict[str, Any]]:
        with self._explained(), quiet(is_file(self._uri)):
            pages = self._client.query_iterator(self._collection, batch_size=CHUNK, output_fields=["key", *fields])
        try:
            while page := self._next(pages):
                yield from page
        finally:
            pages.close()

    def _next(self, pages: Any) -> list[dict[str, Any]]:
        with self._explained():
            return list(pages.next())

    def _refresh(self) -> None:
        """Take in what other processes have changed."""
        with self._explained():
            self._manifest = _read_manifest(self._client, self._collection)

    def _write_manifest(self, changes: dict[str, Any]) -> None:
        manifest = self._manifest | changes | {"generation": self._manifest["generation"] + 1}
        row = {"number": 0, "values": json.dumps(manifest), "unused": [0.0, 0.0]}
        with self._explained():
            self._client.upsert(manifest_name(self._collection), [row])
        self._manifest = manifest

    def _explained(self) -> Any:
        return explained(self._uri)


def _read_manifest(client: Any, collection: str) -> dict[str, Any]:
    found = client.get(manifest_name(collection), ids=[0], output_fields=["values"])
    values: dict[str, Any] = json.loads(found[0]["values"])
    return values
