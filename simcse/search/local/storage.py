"""An index in memory or in a folder, as a `Storage`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from simcse.search.fingerprint import Identity
from simcse.search.hit import Hit
from simcse.search.local.copies import compact, compact_if_due, save
from simcse.search.local.files import checked_folder, folder_size
from simcse.search.local.state import State
from simcse.search.local.view import Subset, View, found
from simcse.search.nearest.plan import check_budget, check_kind
from simcse.search.rows import Id, Row, check_all_there
from simcse.search.storage import Filter, Sample
from simcse.vectors import Matrix

__all__ = ["LocalStorage"]


class LocalStorage:
    """SQLite and a matrix of vectors; see `Storage`.

    Once saved, or opened, it lives in its folder: a process killed in the middle of a change leaves the state before.
    Searches read a `View`, which never changes, beside a thread or process that changes the index.
    """

    def __init__(self, state: State) -> None:
        """Use `create` or `open`."""
        self.state = state

    @classmethod
    def create(cls, identity: Identity, kind: str, target_recall: float = 0.95) -> LocalStorage:
        """No rows, in memory.

        Raises:
            ConfigError: no such kind, or no such recall.
        """
        check_budget(target_recall)
        check_kind(kind, identity.dimension)
        return cls(State.empty(identity, {"kind": kind, "target_recall": target_recall}))

    @classmethod
    def open(cls, folder: str | Path, *, mmap: bool) -> LocalStorage:
        """What lies in a folder.

        Raises:
            SearchError: no index, or a damaged one.
        """
        return cls(State.open(checked_folder(folder), mmap=mmap))

    @property
    def identity(self) -> Identity:
        return self.state.identity

    @property
    def generation(self) -> int:
        return self.state.current().generation

    def __len__(self) -> int:
        return self.state.current().count

    def describe(self) -> str:
        view = self.state.view
        return f"{view.count} texts, {view.kind}, {self.state.folder or 'in memory'}"

    def info(self) -> dict[str, Any]:
        view, folder = self.state.current(), self.state.folder
        return {
            "count": view.count,
            "deleted": view.size - view.count,
            "kind": view.kind,
            "plan": view.plan,
            "generation": view.generation,
            "fields": view.store.fields(),
            "folder": str(folder) if folder else None,
            "bytes": folder_size(folder) if folder else None,
        }

    def get(self, key: str) -> Any:
        return self.state.store[key]

    def put(self, key: str, value: Any) -> None:
        self.state.store[key] = value

    def transaction(self) -> AbstractContextManager[None]:
        return self.state.mutation()

    def append(self, rows: Sequence[Row], vectors: Matrix, replaced: Collection[Id] = ()) -> None:
        state = self.state
        state.store.remove(state.store.slots(list(replaced)).values())
        state.store.insert(state.vectors.count, rows)
        state.vectors.append(vectors)

    def remove(self, ids: Sequence[Id]) -> None:
        """As `Storage.remove`. Texts, ids and metadata leave the disk at once; vectors with the next `compact`, which
        happens by itself when more than a quarter is dead.
        """
        state = self.state
        with state.mutation():
            slots = state.store.slots(ids)
            check_all_there(ids, slots, "; nothing was deleted")
            state.store.remove(slots.values())
        compact_if_due(state)

    def contains(self, ids: Sequence[Any]) -> set[Id]:
        return set(self.state.store.slots(ids))

    def vectors(self, ids: Sequence[Id]) -> dict[Id, Matrix]:
        view, slots = found(self.state.current, ids)
        return dict(zip(slots, view.vectors(np.array(list(slots.values()), np.int64)), strict=True))

    def fetch(self, ids: Sequence[Id]) -> dict[Id, Row]:
        view, slots = found(self.state.current, ids)
        return {row[0]: row for row in view.fetch(list(slots.values())).values()}

    def rows(self) -> Iterator[Row]:
        return (row for _, row in self.state.current().rows())

    def sample(self, size: int, seed: int = 0) -> Sample:
        view = self.state.current()
        slots = view.slots()
        if len(slots) > size:
            slots = np.sort(np.random.default_rng(seed).choice(slots, size, replace=False))
        rows = view.fetch(slots.tolist())
        there = sorted(rows)  # one may have been deleted just now
        vectors = view.vectors(np.array(there, np.int64))
        return Sample([rows[slot][0] for slot in there], [rows[slot][1] for slot in there], vectors)

    def subset(self, where: Mapping[str, Any], stop: Callable[[], bool]) -> Subset:
        return self.state.current().subset(where, stop)

    def search(
        self, queries: Matrix, k: int, where: Filter | None = None, *, threads: int | None = None
    ) -> list[list[Hit]]:
        view, allowed = self.state.current(), None
        if where is not None and where != {}:
            subset = where if isinstance(where, Subset) else view.subset(where)
            view, allowed = subset.view, subset.allowed
        k = min(k, view.count if allowed is None else int(np.count_nonzero(allowed)))
        if k == 0:
            return [[] for _ in queries]
        scores, slots = view.nearest(queries, k, allowed=allowed, threads=threads)  # (q, k)
        rows = view.fetch(np.unique(slots).tolist())
        return [
            [
                Hit(rows[slot][1], score, rows[slot][0], rows[slot][2])
                for score, slot in zip(row_scores, row_slots, strict=True)
                if slot in rows
            ]
            for row_scores, row_slots in zip(np.clip(scores, -1, 1).tolist(), slots.tolist(), strict=True)
        ]

    def snapshot(self) -> View:
        return self.state.current()

    def optimize(self, memory: int | None = None, sample_queries: Matrix | None = None) -> None:
        self.state.optimize(memory, sample_queries)

    def compact(self) -> None:
        compact(self.state)

    def verify(self) -> None:
        self.state.current()
        self.state.verify()

    def save(self, folder: str | Path) -> None:
        """As `Storage.save`. The folder is new, empty, or an index, which is replaced in one step.

        Raises:
            SearchError: the folder holds something else, or cannot be written; nothing is left half-written.
        """
        save(self.state, checked_folder(folder))

    def discard(self) -> None:
        """Nothing: it lies in memory."""

    def close(self) -> None:
        self.state.store.close()
