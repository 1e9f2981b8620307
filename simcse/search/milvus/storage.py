"""The same index, kept by Milvus: a file of milvus-lite on one machine, a cluster beyond.

    index = SearchIndex.build(sentences, encoder.encode, kind="milvus:idx.db")            # or milvus:http://host:19530
    index = SearchIndex.load("milvus:idx.db", encoder.encode)

Texts, ids, metadata and unit vectors lie in one collection; what belongs to the index as a whole (its encoder, the next
id, names of fields) in the only row of a second. A cluster has no transactions over rows: an addition that fails takes
back what it has written, one that is killed leaves whole rows.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from simcse.errors import ConfigError, SearchError
from simcse.search.fingerprint import Encode, Identity, Matrix, unit_vectors
from simcse.search.index import Hit, SearchIndex
from simcse.search.local.store import Store
from simcse.search.local.vectors import Vectors
from simcse.search.local.view import Filter, View
from simcse.search.milvus.client import connect, explained, files, is_file, quiet, split_address
from simcse.search.milvus.collections import (
    about_name,
    create_about,
    create_rows,
    drop,
    hit_of,
    id_of,
    key_of,
    packed,
)
from simcse.search.milvus.filters import expression
from simcse.search.rows import Document, Id, Row, check_all_there, numbered, plain_ids, storable, typed_ids

__all__ = ["MilvusIndex"]

CHUNK = 1024  # rows sent at a time: far below the 64 MiB of a message
QUERIES = 256  # searched for at a time
MOST_HITS = 16_384
LAYOUT = 2  # of the rows


class MilvusIndex(SearchIndex):
    """A `SearchIndex` whose rows Milvus keeps; every change is durable when it returns. One process at a time may add
    texts without ids of their own.
    """

    def __init__(
        self, client: Any, address: str, collection: str, about: dict[str, Any], encode: Encode | None
    ) -> None:
        """Use `create` or `open`, or `SearchIndex.build` and `SearchIndex.load`."""
        self._client, self._address, self._collection, self._about = client, address, collection, about
        self._encode, self._identity = encode, Identity.from_json(about["encoder"])
        self.threads = None
        self._copy: View | None = None

    @classmethod
    def create(cls, encode: Encode, kind: str) -> MilvusIndex:
        """A new index without texts.

        Raises:
            SearchError: the collection exists, or Milvus does not answer.
        """
        uri, collection = split_address(kind)
        identity = Identity.of(encode)
        client = connect(uri)
        about = {"layout": LAYOUT, "encoder": identity.to_json(), "next_id": 0, "fields": [], "note": {}}
        with explained(uri):
            if client.has_collection(collection) or client.has_collection(about_name(collection)):
                raise SearchError(f"{kind}: the collection {collection!r} exists; load it, or name another by #NAME")
            try:
                create_rows(client, collection, identity.dimension, exact=is_file(uri))
                create_about(client, collection)
                index = cls(client, uri, collection, about, encode)
                index._tell({})
            except BaseException:
                drop(client, collection)
                raise
        return index

    @classmethod
    def open(cls, kind: str, encode: Encode | None = None) -> MilvusIndex:
        """An index that is there.

        Raises:
            SearchError: there is none, or another encoder built it.
        """
        uri, collection = split_address(kind)
        if is_file(uri) and not Path(uri).exists():
            raise SearchError(f"{kind}: no such file; build it with kind={kind!r}")
        client = connect(uri)
        with explained(uri):
            if not client.has_collection(about_name(collection)):
                raise SearchError(f"{kind}: holds no index called {collection!r}; build it, or name another by #NAME")
            client.load_collection(collection)
            client.load_collection(about_name(collection))
            about = json.loads(client.get(about_name(collection), ids=[0], output_fields=["values"])[0]["values"])
        if about.get("layout") != LAYOUT:
            raise SearchError(f"{kind}: has layout {about.get('layout')}, this program knows {LAYOUT}; build it anew")
        index = cls(client, uri, collection, about, encode)
        if encode is not None:
            index._identity.check(Identity.of(encode), kind)
        return index

    def __len__(self) -> int:
        with self._explained():
            found = self._client.query(self._collection, filter="", output_fields=["count(*)"])
        return int(found[0]["count(*)"])

    def __repr__(self) -> str:
        return f"MilvusIndex({len(self)} texts, dimension {self.dimension}, {self._address}#{self._collection})"

    @property
    def dimension(self) -> int:
        """d of its vectors."""
        return self._identity.dimension

    @property
    def info(self) -> dict[str, Any]:
        """Facts to show, as `SearchIndex.info`."""
        self._refresh()
        size = sum(path.stat().st_size for path in files(self._address)) if is_file(self._address) else None
        return {
            **self._identity.facts,
            "count": len(self),
            "deleted": 0,
            "dimension": self.dimension,
            "metric": "cosine",
            "kind": "milvus",
            "plan": None,
            "generation": self._about.get("generation", 0),
            "fields": sorted(self._about["fields"]),
            "folder": f"{self._address}#{self._collection}",
            "bytes": size,
        }

    @property
    def view(self) -> View:
        """All rows, copied into memory, for work on the whole: numbers first, each kind of id in its order."""
        self._refresh()
        generation = self._about["generation"]
        if self._copy is None or self._copy.generation != generation:
            found = [
                (id_of(row["key"]), row["text"], json.loads(row["metadata"]), np.asarray(row["vector"], np.float32))
                for row in self._all(["text", "metadata", "vector"])
            ]
            found.sort(key=lambda row: (isinstance(row[0], str), row[0]))
            store, vectors = Store(), Vectors(self.dimension)
            store.insert(0, [row[:3] for row in found])
            vectors.append(np.array([row[3] for row in found], np.float32).reshape(-1, self.dimension))
            self._copy = View(
                generation, store, vectors.matrix, vectors.blocks, None, len(found), None, settings={}, plan=None
            )
        return self._copy

    @property
    def noted(self) -> dict[str, Any]:
        """The last note given to `add_documents`."""
        return dict(self._about["note"])

    def add_documents(
        self, stream: Iterable[Document], *, upsert: bool = False, note: Mapping[str, Any] | None = None
    ) -> list[Id]:
        """As `SearchIndex.add_documents`; what was written is taken back if the stream fails (not what it replaced)."""
        encode, stream = self._encoder(), iter(stream)
        self._refresh()
        added: list[Id] = []
        given: set[Id] = set()
        fields = set(self._about["fields"])
        following = self._about["next_id"]
        try:
            while chunk := list(islice(stream, CHUNK)):
                rows, following = numbered(chunk, given, following)
                keys = [key for key, _, _ in rows]
                there = self._there(keys)
                if there and not upsert:
                    raise SearchError(
                        f"id {next(key for key in keys if key in there)!r} is in the index already; give another id, "
                        "or use upsert to replace its text"
                    )
                vectors = unit_vectors(encode, [text for _, text, _ in rows], self.dimension)  # (m, d)
                sent = [packed(row, vector) for row, vector in zip(rows, vectors, strict=True)]
                added += [key for key in keys if key not in there]
                with self._explained():
                    (self._client.upsert if upsert else self._client.insert)(self._collection, sent)
                fields.update(name for _, _, metadata in rows for name in metadata)
                if upsert:
                    added += [key for key in keys if key in there]
            changes = {"next_id": following, "fields": sorted(fields)}
            self._tell(changes if note is None else changes | {"note": dict(note)})
        except BaseException:
            if not upsert and added:
                self._client.delete(self._collection, ids=[key_of(one) for one in added])
            raise
        return added

    def delete(self, ids: Iterable[Id]) -> int:
        """Remove texts.

        Returns:
            How many were removed.

        Raises:
            SearchError: an id that is not there; nothing is removed then.
        """
        wanted = list(dict.fromkeys(plain_ids(ids)))
        check_all_there(wanted, self._there(wanted), "; nothing was deleted")
        for start in range(0, len(wanted), CHUNK):
            with self._explained():
                self._client.delete(self._collection, ids=[key_of(key) for key in wanted[start : start + CHUNK]])
        self._tell({})
        return len(wanted)

    def vectors(self, ids: Sequence[Id]) -> Matrix:
        """The unit vectors of these ids, (n, d).

        Raises:
            SearchError: an id that is not there.
        """
        wanted = plain_ids(ids)
        found = self.vectors_found(wanted)
        check_all_there(wanted, found)
        return np.stack([found[key] for key in wanted]) if wanted else np.empty((0, self.dimension), np.float32)

    def vectors_found(self, ids: Sequence[Id]) -> dict[Id, Matrix]:
        """Unit vector (d,) of each id that is there."""
        return {id_of(row["key"]): np.asarray(row["vector"], np.float32) for row in self._get(ids, ["vector"])}

    def sample(self, size: int) -> tuple[list[Id], list[str], Matrix]:
        """Ids, texts and vectors (n, d) of at most `size` rows, in the order that Milvus keeps."""
        rows = list(islice(self._all(["text", "vector"]), size))
        vectors = np.array([row["vector"] for row in rows], np.float32).reshape(-1, self.dimension)
        return [id_of(row["key"]) for row in rows], [row["text"] for row in rows], vectors

    def rows(self) -> Iterator[Row]:
        """All (id, text, metadata), in the order that Milvus keeps."""
        for row in self._all(["text", "metadata"]):
            yield id_of(row["key"]), row["text"], json.loads(row["metadata"])

    def typed_ids(self, texts: Sequence[str]) -> list[Id]:
        """Ids as they are stored, from ids typed on a command line."""
        return typed_ids(texts, self._there(texts))

    def optimize(self, *, memory: int | None = None, sample_queries: Any = None) -> None:
        """Nothing: Milvus builds its index as rows come.

        Raises:
            ConfigError: sample queries, on which it could not be tuned.
        """
        if sample_queries is not None:
            raise ConfigError("sample_queries: Milvus tunes its index itself; leave them out")

    def compact(self) -> None:
        """Nothing: Milvus compacts by itself."""

    def verify(self) -> None:
        """Read all rows.

        Raises:
            SearchError: Milvus cannot.
        """
        for _ in self.rows():
            pass

    def save(self, folder: str | Path) -> None:
        """Refused: the index is durable where it is.

        Raises:
            SearchError: always.
        """
        raise SearchError(f"{self._address}#{self._collection}: is durable in Milvus; it is not saved to {folder}")

    def _discard(self) -> None:
        with self._explained():
            drop(self._client, self._collection)

    def close(self) -> None:
        """Let the connection, or the file, go; one process at a time holds a file."""
        self._client.close()
        if is_file(self._address):
            manager: Any = importlib.import_module("milvus_lite.server_manager")
            manager.server_manager_instance.release_server(self._address)

    def subset(self, where: Mapping[str, Any], stop: Callable[[], bool] = lambda: False) -> Filter:
        """The filter itself, once checked: Milvus applies it while it searches."""
        self._refresh()
        expression(where, self._about["fields"])
        return where

    def _search(self, queries: Matrix, top_k: int, floor: float, where: Filter | None) -> list[list[Hit]]:
        if top_k > MOST_HITS:
            raise SearchError(f"top_k: found {top_k}, Milvus gives at most {MOST_HITS}")
        condition = ""
        if where is not None and where != {}:
            self._refresh()
            condition = expression(where, self._about["fields"])
        results = []
        for start in range(0, len(queries), QUERIES):
            with self._explained():
                found = self._client.search(
                    self._collection, queries[start : start + QUERIES].tolist(), limit=top_k, filter=condition,
                    output_fields=["text", "metadata"],
                )  # fmt: skip
            for hits in found:
                listed = [hit_of(one) for one in hits]
                results.append(sorted((h for h in listed if h.score >= floor), key=lambda h: -h.score))
        return results

    def _encoder(self) -> Encode:
        if self._encode is None:
            raise SearchError(f"{self!r} was loaded without an encoder; load it with {self._identity.name}")
        return self._encode

    def _get(self, ids: Sequence[Id], fields: list[str]) -> Iterator[dict[str, Any]]:
        wanted = [key for key in ids if storable(key)]
        for start in range(0, len(wanted), CHUNK):
            keys = [key_of(key) for key in wanted[start : start + CHUNK]]
            with self._explained():
                yield from self._client.get(self._collection, ids=keys, output_fields=["key", *fields])

    def _there(self, ids: Sequence[Id]) -> set[Id]:
        return {id_of(row["key"]) for row in self._get(ids, [])}

    def _all(self, fields: list[str]) -> Iterator[dict[str, Any]]:
        with self._explained(), quiet(is_file(self._address)):
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
        """Take in what other processes have told."""
        with self._explained():
            name = about_name(self._collection)
            self._about = json.loads(self._client.get(name, ids=[0], output_fields=["values"])[0]["values"])

    def _tell(self, changes: dict[str, Any]) -> None:
        about = self._about | changes | {"generation": self._about.get("generation", 0) + 1}
        row = {"number": 0, "values": json.dumps(about), "nothing": [0.0, 0.0]}
        with self._explained():
            self._client.upsert(about_name(self._collection), [row])
        self._about = about

    def _explained(self) -> Any:
        return explained(self._address)
