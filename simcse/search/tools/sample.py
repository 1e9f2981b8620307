"""Vectors back out of an index: of some of its texts, or of given ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simcse.search.fingerprint import Matrix
from simcse.search.index import SearchIndex
from simcse.search.local.store import Id
from simcse.search.local.view import found
from simcse.search.milvus.storage import MilvusIndex

__all__ = ["Sample", "sample_of", "vectors_of"]


@dataclass(frozen=True)
class Sample:
    """Rows of an index: ids and texts, n each, and their unit vectors (n, d)."""

    ids: list[Id]
    texts: list[str]
    vectors: Matrix


def sample_of(index: SearchIndex, size: int, seed: int = 0) -> Sample:
    """At most `size` texts, drawn without replacement; all of them, in order, where there are no more.

    Args:
        index: to draw from.
        size: how many.
        seed: the same index and seed give the same sample. Rows in Milvus are its first ones: it draws none.
    """
    if isinstance(index, MilvusIndex):
        return Sample(*index.sample(size))
    view = index.view
    slots = view.slots()
    if len(slots) > size:
        slots = np.sort(np.random.default_rng(seed).choice(slots, size, replace=False))
    rows = view.store.fetch(slots.tolist())
    there = sorted(rows)  # one may have been deleted just now
    vectors = view.vectors(np.array(there, np.int64))
    return Sample([rows[slot][0] for slot in there], [rows[slot][1] for slot in there], vectors)


def vectors_of(index: SearchIndex, ids: Sequence[Id]) -> dict[Id, Matrix]:
    """Unit vector (d,) of each id; ids that are not there are left out."""
    if isinstance(index, MilvusIndex):
        return index.vectors_found(ids)
    view, slots = found(lambda: index.view, list(ids))
    return dict(zip(slots, view.vectors(np.array(list(slots.values()), np.int64)), strict=True))
