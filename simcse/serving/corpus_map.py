"""A flat map of the corpus: the two directions in which its vectors differ most."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from simcse.search.index import SearchIndex
from simcse.search.rows import Id
from simcse.vectors import Matrix, Plane, principal_plane

__all__ = ["CorpusMap"]

SHOWN = 160  # characters of a text on the map


class CorpusMap:
    """The map of an index, drawn anew when its texts have changed.

    Args:
        index: to draw.
        size: points at most; a larger index is sampled.
    """

    def __init__(self, index: SearchIndex, size: int) -> None:
        self._index, self._size = index, size
        self._lock = threading.Lock()
        self._drawn: tuple[int, Plane, dict[str, Any]] | None = None

    def points(self) -> dict[str, Any]:
        """JSON values: `x`, `y`, `ids`, `texts` of n points, `of` how many texts, `shares` of the variance (2,)."""
        return self._current()[2]

    def place(self, ids: Sequence[Id], vectors: Matrix | None) -> tuple[dict[Id, list[float]], list[list[float]]]:
        """Where texts of the index lie on the map, and where other vectors (m, d) do."""
        plane = self._current()[1]
        found = self._index.storage.vectors(ids)
        there = plane(np.stack(list(found.values()))) if found else np.empty((0, 2))  # (n, 2)
        return dict(zip(found, _rounded(there), strict=True)), [] if vectors is None else _rounded(plane(vectors))

    def _current(self) -> tuple[int, Plane, dict[str, Any]]:
        generation = self._index.storage.generation
        with self._lock:
            if self._drawn is None or self._drawn[0] != generation:
                self._drawn = generation, *self._draw()
            return self._drawn

    def _draw(self) -> tuple[Plane, dict[str, Any]]:
        sample = self._index.storage.sample(self._size)
        if not sample.ids:
            empty = np.zeros((1, self._index.dimension), np.float32)
            return principal_plane(empty), {"x": [], "y": [], "ids": [], "texts": [], "of": 0, "shares": [0.0, 0.0]}
        plane = principal_plane(sample.vectors)
        flat = _rounded(plane(sample.vectors))  # (n, 2)
        texts = [text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…" for text in sample.texts]
        return plane, {
            "x": [x for x, _ in flat], "y": [y for _, y in flat], "ids": sample.ids, "texts": texts,
            "of": len(self._index), "shares": [round(share, 4) for share in plane.shares],
        }  # fmt: skip


def _rounded(flat: npt.NDArray[np.float64]) -> list[list[float]]:
    return [[round(x, 4), round(y, 4)] for x, y in flat.tolist()]
