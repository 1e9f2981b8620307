"""What a search returns, and how it is found in a view of an index."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simcse.search.fingerprint import Matrix
from simcse.search.local.view import Filter, Subset, View
from simcse.search.rows import Id

__all__ = ["Hit", "find"]


@dataclass(frozen=True)
class Hit:
    """One answer.

    Attributes:
        text: the text as it was given.
        score: cosine similarity with the query, in [-1, 1].
        id: the id it was given, or the number that it got; never -1.
        metadata: what was stored with it.
    """

    text: str
    score: float
    id: Id
    metadata: dict[str, Any] = field(default_factory=dict)


def find(
    view: View,
    queries: Matrix,
    top_k: int,
    floor: float,
    where: Filter | None,
    threads: int | None,
) -> list[list[Hit]]:
    """Hits of unit vectors (q, d), best first; arguments as of `SearchIndex.search_vectors`, checked."""
    allowed = view.live
    if where is not None and where != {}:
        subset = where if isinstance(where, Subset) else view.subset(where)
        view, allowed = subset.view, subset.allowed
    k = min(top_k, view.size if allowed is None else int(np.count_nonzero(allowed)))
    if k == 0:
        return [[] for _ in queries]
    scores, slots = view.nearest(queries, k, allowed=allowed, threads=threads)  # (q, k)
    rows = view.store.fetch(np.unique(slots).tolist())
    scores = np.clip(scores, -1, 1)
    return [
        [
            Hit(rows[slot][1], score, rows[slot][0], rows[slot][2])
            for score, slot in zip(row_scores, row_slots, strict=True)
            if slot in rows and score >= floor
        ]
        for row_scores, row_slots in zip(scores.tolist(), slots.tolist(), strict=True)
    ]
