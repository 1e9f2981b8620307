"""SearchIndex: sentences in, the most similar ones out.

index = SearchIndex.build(["A man plays.", "Rain falls."], encoder)
index.save("idx")
index = SearchIndex.load("idx", encoder)
for hit in index.search(["Who plays?"], top_k=5)[0]:
    print(hit.score, hit.text)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simcse.argument_names import knows_other_names
from simcse.display.progress import paced
from simcse.errors import SearchError, shown
from simcse.search.documents import documents
from simcse.search.fingerprint import Identity
from simcse.search.given import check_none_left, next_vectors
from simcse.search.hit import Hit
from simcse.search.nearest.plan import check_budget
from simcse.search.queries import checked_floor, checked_texts, checked_top_k, sampled_vectors, unit_queries
from simcse.search.rows import Document, Id, Row, RowError, check_all_there, numbered, plain_ids, typed_ids
from simcse.search.select import create_storage, open_storage
from simcse.search.storage import Filter, Storage
from simcse.vectors import Encode, Encoder, Matrix, Roles, roles_of, unit_vectors

__all__ = ["Hit", "SearchIndex"]

CHUNK = 8192  # texts encoded at a time: enough to sort by length, few enough for memory


class SearchIndex:
    """Texts with their vectors, searched by cosine similarity.

    An index is built in memory. Once saved, or loaded, it lives in its folder: each `add`, `upsert`, `delete` and
    `compact` is durable there when it returns, and a process killed in the middle leaves the state before.
    Searches may run in several threads, and beside one that changes the index.

    Attributes:
        storage: of the rows, in memory, in a folder or in Milvus.
        threads: of a search; None uses one for little work and all cores for much.
    """

    def __init__(self, storage: Storage, roles: Roles | None) -> None:
        """Use `build` or `load`."""
        if not hasattr(storage, "describe"):
            raise SearchError(f"SearchIndex: found {shown(storage)}; SearchIndex.build(texts, encoder) makes an index")
        self.storage, self._encoders = storage, roles
        self.threads: int | None = None

    @classmethod
    @knows_other_names
    def build(
        cls,
        sentences_or_file: str | Path | Iterable[str],
        encode: Encode | Encoder,
        *,
        ids: Sequence[Id] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        kind: str = "auto",
        target_recall: float = 0.95,
        memory: int | None = None,
        sample_queries: Sequence[str] | npt.NDArray[Any] | None = None,
        vectors: Iterable[npt.ArrayLike] | None = None,
    ) -> SearchIndex:
        """Encode texts and make them searchable, in memory.

        Args:
            sentences_or_file: texts, or a file of them (txt, csv, tsv, jsonl, parquet; `-` is standard input).
            encode: an encoder, whose `encode_document` encodes these texts and whose `encode_query` what is searched
                for, or its method `encode` in its place; or any function, list of n texts -> (n, d) vectors, which
                need not be normalised, or object with such a method `encode`, for both.
            ids: one for each text, a number from 0 on or a text; default 0, 1, 2, ...
            metadata: JSON values to keep, and to filter by, for each text.
            kind: `flat` compares every vector; `hnsw`, `ivf` and `ivf-pq` are approximate; `auto` picks by size and
                memory; anything else is a factory string of faiss, such as `IVF1024,SQ8`. Whatever is approximate is
                measured and tuned; where it misses the recall, or rows are too few, search is exact.
                `milvus:FILE.db` and `milvus:http://HOST:19530` keep the rows in Milvus.
            target_recall: the share of the true 10 nearest that an approximate index must find.
            memory: bytes that the approximate index may need beside the vectors; default half of the machine's.
            sample_queries: queries like those that will come, as texts or vectors (q, d), to measure and tune the
                recall on; some hundreds do, of more than 1,000 that many are drawn. By default rows of the index are
                held out and searched for, whose recall is higher than that of texts of another kind, such as questions.
            vectors: (n, d) of the texts, by the same encoder, where they are known already; see `given.next_vectors`.

        Raises:
            SearchError: no text at all, duplicate ids, NaN vectors, a blank sample query or vectors of another
                dimension, number or encoder.
            DataError: a file that is missing or damaged; names file and line.
        """
        name = str(sentences_or_file) if isinstance(sentences_or_file, (str, Path)) else None
        return cls.build_documents(
            documents(sentences_or_file, ids, metadata), encode, kind=kind, target_recall=target_recall, memory=memory,
            sample_queries=sample_queries, vectors=vectors, name=name,
        )  # fmt: skip

    @classmethod
    def build_documents(
        cls,
        stream: Iterable[Document],
        encode: Encode | Encoder,
        *,
        kind: str = "auto",
        target_recall: float = 0.95,
        memory: int | None = None,
        sample_queries: Sequence[str] | npt.NDArray[Any] | None = None,
        vectors: Iterable[npt.ArrayLike] | None = None,
        name: str | None = None,
        advance: Callable[[int], None] = lambda n: None,
    ) -> SearchIndex:
        """As `build`, from a stream of (id or None, text, metadata) whose `name` stands in errors; `advance` is called
        with the number of texts encoded since.
        """
        check_budget(target_recall, memory)
        index = cls.empty(encode, kind=kind, target_recall=target_recall)
        try:
            if sample_queries is not None:  # refused, where they are wrong, before the texts are encoded
                index.optimize(sample_queries=sample_queries)
            index.add_documents(stream, vectors=vectors, advance=advance)
            if not len(index):
                raise SearchError(f"{f'{name}: ' if name else ''}found no text to index, expected at least one")
            index.optimize(memory=memory)
        except BaseException:
            index.storage.discard()
            raise
        return index

    @classmethod
    def empty(cls, encode: Encode | Encoder, *, kind: str = "auto", target_recall: float = 0.95) -> SearchIndex:
        """An index without texts, in memory; arguments as in `build`."""
        roles = roles_of(encode)
        check_budget(target_recall)
        return cls(create_storage(kind, Identity.of(roles.encode_document), target_recall), roles)

    @classmethod
    def load(cls, folder: str | Path, encode: Encode | Encoder | None = None, *, mmap: bool = True) -> SearchIndex:
        """Open an index that was saved.

        Args:
            folder: where it was saved; or the `milvus:` address it was built at.
            encode: the encoder that built it, in any precision, as in `build`; queries may have another prompt than
                the texts. Without one the index accepts only vectors.
            mmap: leave the vectors on disk and let the operating system read what searches touch; otherwise read them
                all now. Their checksums are compared when they are read; up to 64 MiB are at once in either case.

        Raises:
            SearchError: no index, a damaged one, or one that another encoder built.
        """
        roles = None if encode is None else roles_of(encode)
        storage = open_storage(folder, mmap=mmap)
        if roles is not None:
            try:
                storage.identity.check(Identity.of(roles.encode_document), str(folder))
            except BaseException:
                storage.close()
                raise
        return cls(storage, roles)

    def __len__(self) -> int:
        return len(self.storage)

    def __repr__(self) -> str:
        return (
            f"SearchIndex({self.storage.describe()}, dimension {self.dimension}, encoder {self.storage.identity.name})"
        )

    @property
    def dimension(self) -> int:
        """d of its vectors."""
        return self.storage.identity.dimension

    @property
    def info(self) -> dict[str, Any]:
        """Facts to show: encoder, dimension, count, kind, generation, metadata fields, bytes on disk."""
        facts = self.storage.info()
        return {**self.storage.identity.facts, "dimension": self.dimension, "metric": "cosine", **facts}

    def add(
        self,
        sentences_or_file: str | Path | Iterable[str],
        *,
        ids: Sequence[Id] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> list[Id]:
        """Encode and add texts, all or none.

        Returns:
            Their ids, in order.

        Raises:
            SearchError: an id that is there already or twice in the call; NaN vectors; metadata that is not JSON.
        """
        return self.add_documents(documents(sentences_or_file, ids, metadata))

    def upsert(
        self,
        sentences_or_file: str | Path | Iterable[str],
        *,
        ids: Sequence[Id] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> list[Id]:
        """As `add`, but a text whose id is there already replaces the old one."""
        return self.add_documents(documents(sentences_or_file, ids, metadata), upsert=True)

    def add_documents(
        self,
        stream: Iterable[Document],
        *,
        upsert: bool = False,
        vectors: Iterable[npt.ArrayLike] | None = None,
        note: Mapping[str, Any] | None = None,
        advance: Callable[[int], None] = lambda n: None,
    ) -> list[Id]:
        """As `add` and `upsert`, from a stream of (id or None, text, metadata), in chunks of a second, all or none.

        Args:
            stream: read once; see `documents.file_documents`.
            upsert: whether an id that is there already is replaced, rather than refused.
            vectors: as of `build`, read together with the stream.
            note: JSON values to keep in the index, durable together with the texts; `noted` gives them back.
            advance: called with the number of texts encoded since.
        """
        encode, storage = self._roles().encode_document, self.storage
        added: list[Id] = []
        explicit: set[Id] = set()
        given = None if vectors is None else iter(vectors)
        with storage.transaction():
            following = storage.get("next_id") or 0
            for chunk in paced(stream, CHUNK):
                rows, following = numbered(chunk, explicit, following)
                keys = [key for key, _, _ in rows]
                there = storage.contains(keys)
                if there and not upsert:
                    raise RowError(
                        f"id {next(key for key in keys if key in there)!r} is in the index already; give another id, "
                        "or replace its text by the option upsert"
                    )
                storage.append(rows, next_vectors(encode, [text for _, text, _ in rows], self.dimension, given), there)
                added += keys
                advance(len(keys))
            check_none_left(given, len(added))
            storage.put("next_id", following)
            if note is not None:
                storage.put("note", dict(note))
        return added

    @property
    def noted(self) -> dict[str, Any]:
        """The last note given to `add_documents`."""
        return dict(self.storage.get("note") or {})

    def delete(self, ids: Iterable[Id]) -> int:
        """Remove texts, durably.

        Returns:
            How many were removed.

        Raises:
            SearchError: an id that is not there; nothing is removed then.
        """
        wanted = list(dict.fromkeys(plain_ids(ids)))
        self.storage.remove(wanted)
        return len(wanted)

    def vectors(self, ids: Sequence[Id]) -> Matrix:
        """The unit vectors of these ids, (n, d).

        Raises:
            SearchError: an id that is not there.
        """
        wanted = plain_ids(ids)
        found = self.storage.vectors(wanted)
        check_all_there(wanted, found)
        return np.array([found[key] for key in wanted], np.float32).reshape(-1, self.dimension)

    def fetch(self, ids: Sequence[Id]) -> list[Row]:
        """(id, text, metadata) of each of these ids; raises as `vectors`."""
        wanted = plain_ids(ids)
        found = self.storage.fetch(wanted)
        check_all_there(wanted, found)
        return [found[key] for key in wanted]

    def rows(self) -> Iterator[Row]:
        """All (id, text, metadata), in the order of addition or of Milvus, but for those that are removed meanwhile."""
        return self.storage.rows()

    def typed_ids(self, texts: Sequence[str]) -> list[Id]:
        """Ids as they are stored, from ids typed on a command line; see `rows.typed_ids`."""
        return typed_ids(texts, self.storage.contains(texts))

    @knows_other_names
    def search(
        self,
        queries: str | Sequence[str],
        top_k: int = 5,
        min_score: float | None = None,
        *,
        where: Mapping[str, Any] | None = None,
    ) -> list[list[Hit]]:
        """The most similar texts of each query, best first.

        Args:
            queries: texts; a single one is a list of one.
            top_k: how many at most; fewer where the index, the filter or `min_score` leave fewer.
            min_score: the least cosine similarity of a hit.
            where: metadata that hits must have: `{"lang": "en"}`, `{"lang": ["en", "de"]}`, `{"year": {">=": 2000}}`.

        Returns:
            One list of hits for each query.

        Raises:
            SearchError: an empty query, top_k below 1, an unknown field in `where`.
        """
        listed, top_k, floor = checked_texts(queries), checked_top_k(top_k), checked_floor(min_score)
        if not listed:
            return []
        vectors = unit_vectors(self._roles().encode_query, listed, self.dimension)  # (q, d)
        return self._search(vectors, top_k, floor, where)

    def search_vectors(
        self,
        vectors: npt.ArrayLike,
        top_k: int = 5,
        min_score: float | None = None,
        *,
        where: Filter | None = None,
    ) -> list[list[Hit]]:
        """As `search`, for queries (q, d) that are vectors already; `where` may be a `subset`, too.

        Raises:
            SearchError: another dimension than the index holds, NaN, top_k below 1, an unknown field in `where`.
        """
        queries, top_k, floor = unit_queries(vectors, self.dimension), checked_top_k(top_k), checked_floor(min_score)
        return self._search(queries, top_k, floor, where)

    def _search(self, queries: Matrix, top_k: int, floor: float, where: Filter | None) -> list[list[Hit]]:
        found = self.storage.search(queries, top_k, where, threads=self.threads)
        return [[hit for hit in hits if hit.score >= floor] for hits in found]

    def subset(self, where: Mapping[str, Any], stop: Callable[[], bool] = lambda: False) -> Filter:
        """The rows that a filter leaves now, as a `where` of `search_vectors`; see `Storage.subset`."""
        return self.storage.subset(where, stop)

    def save(self, folder: str | Path) -> None:
        """Write the index to a folder and go on from there: later changes are durable in it at once.

        The folder is new, empty, or an index, which is replaced in one step.

        Raises:
            SearchError: the folder holds something else, or cannot be written; nothing is left half-written.
        """
        self.storage.save(folder)

    def compact(self) -> None:
        """Drop what is deleted from all files, in one step."""
        self.storage.compact()

    def optimize(
        self, *, memory: int | None = None, sample_queries: Sequence[str] | npt.NDArray[Any] | None = None
    ) -> None:
        """Choose, build and measure an approximate index anew; `build` and `compact` do it by themselves.

        Args:
            memory: as in `build`.
            sample_queries: as in `build`; kept for later, and by default those kept before.
        """
        check_budget(memory=memory)
        sampled = None
        if sample_queries is not None:
            sampled = sampled_vectors(sample_queries, lambda: self._roles().encode_query, self.dimension)
        self.storage.optimize(memory, sampled)

    def verify(self) -> None:
        """Read everything and compare checksums.

        Raises:
            SearchError: damage; names the file.
        """
        self.storage.verify()

    def close(self) -> None:
        """Release files and connections; a file of milvus-lite is open in one process at a time."""
        self.storage.close()

    def _roles(self) -> Roles:
        if self._encoders is None:
            raise SearchError(f"{self!r} was loaded without an encoder; load it with {self.storage.identity.name}")
        return self._encoders
