"""What keeps the rows of an index, as `SearchIndex` and the tools know it: `local/` and `milvus/` implement it.

A new storage is a class with these methods and a line in `select.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from simcse.errors import SearchError
from simcse.search.fingerprint import Identity
from simcse.search.hit import Hit
from simcse.search.rows import Id, Row
from simcse.vectors import Matrix

__all__ = ["Filter", "Sample", "Slots", "Snapshot", "Storage", "change_inside_change"]

Slots = npt.NDArray[np.int64]
Filter = Any  # a mapping as in `search.filters`, or what `Storage.subset` made of it


@dataclass(frozen=True)
class Sample:
    """Some rows: ids and texts, n each, and their unit vectors (n, d)."""

    ids: list[Id]
    texts: list[str]
    vectors: Matrix


class Snapshot(Protocol):
    """All rows as they were at one moment, numbered by slot in the order of addition; for work on the whole index.

    Texts deleted since may be missing from `fetch` and `rows`.
    """

    @property
    def generation(self) -> int:
        """Rises with each change of the storage."""

    @property
    def size(self) -> int:
        """n: slots, those of deleted rows included."""

    def slots(self) -> Slots:
        """Slots of the rows that are alive, rising."""

    def rows(self) -> Iterator[tuple[int, Row]]:
        """(slot, (id, text, metadata)) of all rows."""

    def fetch(self, slots: Sequence[int]) -> dict[int, Row]:
        """The rows under these slots."""

    def vectors(self, slots: Slots) -> Matrix:
        """(m,) -> (m, d)."""

    def matching(self, where: Mapping[str, Any]) -> Slots:
        """Slots of the rows that a filter leaves."""

    def nearest(self, queries: Matrix, k: int) -> tuple[Matrix, Slots]:
        """Scores and slots (q, k) of the nearest rows to unit vectors (q, d), best first."""


class Storage(Protocol):
    """Rows (id, text, metadata) with their unit vectors. Safe to use from several threads.

    What comes in was checked by `SearchIndex`. Each method raises SearchError where the storage is damaged, cannot be
    reached, or was built anew by another encoder; and ConfigError for an option that it has no use for.
    """

    @property
    def identity(self) -> Identity:
        """The encoder whose vectors these are."""

    @property
    def generation(self) -> int:
        """Rises with each change, by any process."""

    def __len__(self) -> int:
        """Number of rows."""

    def describe(self) -> str:
        """Count, kind and place in a few words, as far as they are known; raises nothing."""

    def info(self) -> dict[str, Any]:
        """JSON values: count, deleted, kind, plan, generation, fields (of metadata), folder, bytes (on disk)."""

    def get(self, key: str) -> Any:
        """A JSON value kept beside the rows; None if there is none."""

    def put(self, key: str, value: Any) -> None:
        """Keep a JSON value; inside a transaction."""

    def transaction(self) -> AbstractContextManager[None]:
        """All that is appended and put inside becomes durable when the block ends, or is undone when it fails.

        Raises:
            SearchError: a change inside another one, see `change_inside_change`; from `remove`, too.
        """

    def append(self, rows: Sequence[Row], vectors: Matrix, replaced: Collection[Id] = ()) -> None:
        """Add m rows with unit vectors (m, d) in place of those whose ids are `replaced`; inside a transaction."""

    def remove(self, ids: Sequence[Id]) -> None:
        """Delete rows, all or none, durably.

        Raises:
            SearchError: an id that is not there.
        """

    def contains(self, ids: Sequence[Any]) -> set[Id]:
        """Those of the ids that are there."""

    def vectors(self, ids: Sequence[Id]) -> dict[Id, Matrix]:
        """Unit vector (d,) of each of the ids that is there."""

    def fetch(self, ids: Sequence[Id]) -> dict[Id, Row]:
        """The row of each of the ids that is there."""

    def rows(self) -> Iterator[Row]:
        """All rows, a batch at a time, but for those that are removed meanwhile."""

    def sample(self, size: int, seed: int = 0) -> Sample:
        """At most `size` rows without repetition: the same rows for the same seed while nothing changes."""

    def subset(self, where: Mapping[str, Any], stop: Callable[[], bool]) -> Filter:
        """A filter in the form that this storage searches fastest by.

        Args:
            where: field -> condition; see `search.filters.conditions`.
            stop: asked now and then; true ends the work.

        Raises:
            FilterError: an unknown field or operator, a value of the wrong type.
            TimeoutError: it was stopped.
        """

    def search(
        self, queries: Matrix, k: int, where: Filter | None = None, *, threads: int | None = None
    ) -> list[list[Hit]]:
        """At most k hits of each unit vector (q, d), best first; raises FilterError as `subset`.

        Args:
            queries: (q, d).
            k: from 1 on.
            where: a filter, or what `subset` made of one; None and {} leave all rows.
            threads: of the search, where it runs in this process; None uses one for little work, all cores for much.
        """

    def snapshot(self) -> Snapshot:
        """All rows as they are now. A storage elsewhere copies them into memory."""

    def optimize(self, memory: int | None = None, sample_queries: Matrix | None = None) -> None:
        """Choose and tune an approximate index for the rows that are there.

        Args:
            memory: bytes that it may need.
            sample_queries: (q, d) unit vectors to tune it on; kept for later.
        """

    def compact(self) -> None:
        """Free the room of what was deleted."""

    def verify(self) -> None:
        """Read everything; raises SearchError for damage."""

    def save(self, folder: str | Path) -> None:
        """Write all to a folder, and go on from there."""

    def discard(self) -> None:
        """Leave nothing of a storage that could not be filled."""

    def close(self) -> None:
        """Release files and connections; the storage is not used any more."""


def change_inside_change(place: object) -> SearchError:
    """What a storage raises where a thread begins a change in the middle of another: all or none would mean neither."""
    return SearchError(
        f"{place}: found a change inside another one, such as a deletion by the stream that is being added; finish the "
        "first one before"
    )
