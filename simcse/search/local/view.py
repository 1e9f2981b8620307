"""What a search sees of an index: one committed state, which never changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simcse.search.local.blocks import Blocks
from simcse.search.local.store import Id, Row, Store
from simcse.search.nearest.ann import Ann
from simcse.search.nearest.nearest import nearest_rows
from simcse.search.storage import Slots
from simcse.vectors import Matrix

__all__ = ["Subset", "View", "found"]

LOOKS = 100


@dataclass(frozen=True)
class View:
    """One generation of an index, as a `Snapshot`. A row's number, dead rows included, is its slot.

    Attributes:
        generation: rises with each change.
        store: of the texts; it may be ahead of the view, with rows added behind it and others removed.
        raw: (n, d) as they lie on the disk, not compared with their checksums: see `matrix`, `vectors`, `nearest`.
        blocks: the checksums.
        live: (n,), which rows are alive; None for all.
        count: of living rows.
        ann: the approximate index, if there is one.
        settings: what the index was made with.
        plan: how it is searched, as `plan.Plan` in plain values.
    """

    generation: int
    store: Store
    raw: Matrix
    blocks: Blocks
    live: npt.NDArray[np.bool_] | None
    count: int
    ann: Ann | None
    settings: dict[str, Any]
    plan: dict[str, Any] | None

    @property
    def size(self) -> int:
        """n: rows, dead ones included."""
        return len(self.raw)

    @property
    def kind(self) -> str:
        """Of the index, or as it was asked for."""
        return str((self.plan or self.settings).get("kind", "unknown"))

    @property
    def matrix(self) -> Matrix:
        """(n, d), all of them compared with their checksums; raises as `vectors`."""
        self.blocks.check(self.raw)
        return self.raw

    def subset(self, where: Mapping[str, Any], stop: Callable[[], bool] = lambda: False) -> Subset:
        """The rows that a filter leaves; arguments and errors as of `store.Store.matching`."""
        allowed = np.zeros(self.size, bool)
        allowed[self.matching(where, stop)] = True
        return Subset(self, np.packbits(allowed))

    def matching(self, where: Mapping[str, Any], stop: Callable[[], bool] = lambda: False) -> Slots:
        """Slots of the rows that a filter leaves; arguments and errors as of `store.Store.matching`."""
        slots = self.store.matching(where, stop)
        return slots[slots < self.size]

    def slots(self) -> Slots:
        """Of the living rows, in the order in which they were added."""
        return np.arange(self.size) if self.live is None else np.flatnonzero(self.live)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """(slot, (id, text, metadata)) of all rows, but for those that the store removes meanwhile."""
        return self.store.rows(end=self.size)

    def fetch(self, slots: Sequence[int]) -> dict[int, Row]:
        """The rows under these slots, but for those that the store has removed."""
        return self.store.fetch(slots)

    def vectors(self, slots: Slots) -> Matrix:
        """Rows (m, d), compared with their checksums.

        Raises:
            SearchError: they are damaged; names the file.
        """
        self.blocks.check(self.raw, slots)
        return self.raw[slots]

    def nearest(
        self, queries: Matrix, k: int, *, allowed: npt.NDArray[np.bool_] | None = None, threads: int | None = None
    ) -> tuple[Matrix, Slots]:
        """Scores and slots (q, k) of the nearest allowed rows, by default all living ones; see `nearest.nearest_rows`.

        Raises:
            SearchError: what the search touches is damaged; names the file.
        """
        return nearest_rows(
            queries, self.raw, k, ann=self.ann, allowed=self.live if allowed is None else allowed, threads=threads,
            check=lambda slots: self.blocks.check(self.raw, slots),
        )  # fmt: skip


@dataclass(frozen=True)
class Subset:
    """The rows of a view that a filter leaves, a bit for each."""

    view: View
    bits: npt.NDArray[np.uint8]

    @property
    def allowed(self) -> npt.NDArray[np.bool_]:
        """(n,)"""
        return np.unpackbits(self.bits, count=self.view.size).view(bool)


def found(current: Callable[[], View], ids: Sequence[Id]) -> tuple[View, dict[Id, int]]:
    """A current view, and the slots of those of the ids that it has."""
    for _ in range(LOOKS):
        view = current()
        slots = view.store.slots(ids)
        if all(slot < view.size for slot in slots.values()):
            break
        time.sleep(0.001)  # a text was put in the place of another one just now: the next view has it
    return view, {key: slot for key, slot in slots.items() if slot < view.size}
