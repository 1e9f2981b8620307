"""The map of the corpus: on two principal axes at once, then by neighbours, which another thread works out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simcse.search.index import SearchIndex
from simcse.search.rows import Id
from simcse.search.storage import Sample
from simcse.serving.cluster_names import named_clusters
from simcse.serving.projection import (
    FEWEST,
    Projection,
    StoppedError,
    can_embed,
    neighbour_embedding,
    principal_axes,
)
from simcse.vectors import Matrix

__all__ = ["CorpusMap"]

log = logging.getLogger(__name__)

SHOWN = 160  # characters of a text on the map
NOT_INSTALLED = "neighbours are kept together once openTSNE is installed: pip install 'simcse-kit[map]'"
FAILED = "keeping neighbours together failed; the server's log says why"


@dataclass(frozen=True)
class _Drawing:
    generation: int
    sample: Sample
    projection: Projection
    points: dict[str, Any]
    """What the page gets."""
    positions: dict[Id, list[float]]

    @property
    def final(self) -> bool:
        """Whether no other method would do better."""
        return self.points["method"] == "t-SNE" or len(self.sample.ids) < FEWEST


class CorpusMap:
    """The map of an index, drawn anew when it is asked for and its texts have changed.

    Args:
        index: to draw.
        size: points at most; a larger index is sampled.
    """

    def __init__(self, index: SearchIndex, size: int) -> None:
        self._index, self._size = index, size
        self._lock = threading.Lock()  # of what follows
        self._drawing: _Drawing | None = None
        self._note: str | None = None
        self._done: float | None = None  # share of the embedding that is under way
        self._worker: threading.Thread | None = None
        self._closing = threading.Event()

    def points(self) -> dict[str, Any]:
        """JSON values: `x`, `y`, `ids`, `texts` of n points, `of` how many texts, `method` and what it says, `clusters`
        with their names, `progress` as of `progress()`, and a `note` on why the method is not the better one.
        """
        drawing = self._current()
        with self._lock:
            return {**drawing.points, **self._progress(), "note": self._note}

    def progress(self) -> dict[str, Any]:
        """`method` of the present map, and `progress`: the share of a better one that is done, None without one."""
        with self._lock:
            return self._progress()

    def place(self, ids: Sequence[Id], vectors: Matrix | None) -> tuple[dict[Id, list[float]], list[list[float]]]:
        """Where texts of the index lie on the map, and where other vectors (m, d) do."""
        drawing = self._drawing or self._current()  # a search does not draw anew
        place = drawing.projection.place
        found = self._index.storage.vectors(ids)
        there = {id: drawing.positions[id] for id in found if id in drawing.positions}
        if rest := [id for id in found if id not in there]:
            there |= zip(rest, _rounded(place(np.stack([found[id] for id in rest]))), strict=True)
        return {id: there[id] for id in found}, [] if vectors is None else _rounded(place(vectors))

    def close(self) -> None:
        """Stop what is under way."""
        self._closing.set()
        if (worker := self._worker) is not None:
            worker.join()

    def _progress(self) -> dict[str, Any]:
        method = None if self._drawing is None else self._drawing.points["method"]
        return {"method": method, "progress": self._done}

    def _current(self) -> _Drawing:
        generation = self._index.storage.generation
        with self._lock:
            if self._drawing is None or self._drawing.generation != generation:
                sample = self._index.storage.sample(self._size)
                vectors = sample.vectors if sample.ids else np.zeros((1, self._index.dimension), np.float32)
                self._drawing = self._drawn(generation, sample, principal_axes(vectors), "principal axes")
                self._improve(self._drawing)
            return self._drawing

    def _improve(self, drawing: _Drawing) -> None:
        """Have another thread keep neighbours together, unless one is at work; it then does so for what is current."""
        self._note = None
        if drawing.final or self._closing.is_set():
            return
        if not can_embed():
            self._note = NOT_INSTALLED
        elif self._done is None:
            self._done = 0.0
            self._worker = threading.Thread(target=self._work, name="corpus map", daemon=True)
            self._worker.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                drawing = self._drawing
                if drawing is None or drawing.final or self._closing.is_set():
                    self._done = None
                    return
            try:
                better = self._embedded(drawing)
            except StoppedError:
                better = None
            except Exception:  # of a library, for vectors that it did not foresee: the map that there is will do
                log.exception("the map of the corpus could not be drawn by neighbours")
                with self._lock:
                    self._note, self._done = FAILED, None
                return
            with self._lock:
                if better is not None and self._drawing is drawing:
                    self._drawing = better

    def _embedded(self, drawing: _Drawing) -> _Drawing:
        begin, sample = time.monotonic(), drawing.sample

        def report(done: float) -> bool:
            with self._lock:
                self._done = round(done, 3)
                return self._closing.is_set() or self._drawing is not drawing

        projection = neighbour_embedding(sample.vectors, report)
        clusters = named_clusters(projection.flat, sample.texts)
        log.info("map of %d texts by t-SNE drawn in %.0f s", len(sample.ids), time.monotonic() - begin)
        return self._drawn(drawing.generation, sample, projection, "t-SNE", clusters)

    def _drawn(
        self,
        generation: int,
        sample: Sample,
        projection: Projection,
        method: str,
        clusters: Sequence[dict[str, Any]] = (),
    ) -> _Drawing:
        positions = dict(zip(sample.ids, _rounded(projection.flat), strict=False))  # without texts there is one point
        points = {
            "x": [x for x, _ in positions.values()], "y": [y for _, y in positions.values()], "ids": sample.ids,
            "texts": [text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…" for text in sample.texts],
            "of": len(self._index), "method": method, "clusters": clusters,
            "shares": projection.shares and [round(share, 4) for share in projection.shares],
        }  # fmt: skip
        return _Drawing(generation, sample, projection, points, positions)


def _rounded(flat: npt.NDArray[np.float64]) -> list[list[float]]:
    return [[round(x, 4), round(y, 4)] for x, y in flat.tolist()]
