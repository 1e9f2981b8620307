"""Vectors as points of a plane: by t-SNE, which keeps neighbours together, or on their two principal axes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from simcse.vectors import Matrix, principal_plane

__all__ = ["FEWEST", "Projection", "StoppedError", "can_embed", "neighbour_embedding", "principal_axes"]

Flat = npt.NDArray[np.float64]

FEWEST = 30  # points: fewer have hardly any neighbours to keep
PERPLEXITY = 15  # neighbours of each point, about
ITERATIONS = (150, 250)  # with attraction exaggerated, and without
EVERY = 10  # iterations between two reports
NEAREST = 5  # points between which a new one is placed


class StoppedError(Exception):
    """The embedding is not wanted any more."""


@dataclass(frozen=True)
class Projection:
    """Positions (n, 2) of the vectors it was made from, and where others lie: (m, d) -> (m, 2)."""

    flat: Flat
    place: Callable[[Matrix], Flat]
    shares: list[float] | None = None
    """Of the variance, on each axis; None where axes mean nothing."""


def principal_axes(vectors: Matrix) -> Projection:
    """Seen along the two directions in which vectors (n, d) differ most."""
    plane = principal_plane(vectors)
    return Projection(plane(vectors), plane, plane.shares)


def can_embed() -> bool:
    """Whether `neighbour_embedding` has what it needs: the package openTSNE."""
    return find_spec("openTSNE") is not None


def neighbour_embedding(vectors: Matrix, report: Callable[[float], bool]) -> Projection:
    """t-SNE of unit vectors (n, d), n >= FEWEST. The same vectors give the same plane.

    It uses one thread, of low priority where the system has one for threads.

    Args:
        vectors: on the unit sphere, where distances rank as cosines do.
        report: called now and then with the share that is done; stops where it returns True.

    Raises:
        StoppedError: `report` said so.
    """
    from openTSNE import TSNE, initialization
    from openTSNE.affinity import PerplexityBasedNN

    _yield_to_others()
    calls = iter(range(1, sum(ITERATIONS) // EVERY + 1))
    stopped = False

    def called(iteration: int, error: float, embedding: Flat) -> bool:
        nonlocal stopped
        stopped = report(next(calls) * EVERY / sum(ITERATIONS))
        return stopped

    options: dict[str, Any] = {"n_jobs": 1, "random_state": 0}
    # a point is its own nearest, and the perplexity is a third of the others at most
    perplexity = min(PERPLEXITY, (len(vectors) - 2) / 3)
    affinities = PerplexityBasedNN(vectors, perplexity, method="exact", metric="euclidean", **options)
    embedding = TSNE(
        early_exaggeration_iter=ITERATIONS[0], n_iter=ITERATIONS[1], negative_gradient_method="bh",
        callbacks=called, callbacks_every_iters=EVERY, **options,
    ).fit(affinities=affinities, initialization=initialization.pca(vectors, random_state=0))  # fmt: skip
    if stopped:
        raise StoppedError
    lock = threading.Lock()  # the library says nothing of threads

    def place(others: Matrix) -> Flat:
        with lock:
            partial = embedding.prepare_partial(others, initialization="median", k=NEAREST)
        return np.asarray(partial, np.float64)

    return Projection(np.asarray(embedding, np.float64), place)


def _yield_to_others() -> None:
    """Let every other thread go first; only Linux has priorities of single threads."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
