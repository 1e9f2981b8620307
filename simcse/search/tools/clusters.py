"""Groups among the texts of an index: k-means, or communities around texts with many near ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simcse.display.progress import paced
from simcse.errors import ConfigError, SearchError
from simcse.search.index import SearchIndex
from simcse.search.rows import Id
from simcse.search.storage import Slots, Snapshot

__all__ = ["Cluster", "cluster", "communities"]

SHOWN = 5  # texts that stand for a cluster
SCORES_AT_ONCE = 2**25  # 128 MiB
ROWS_AT_ONCE = 1024

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Cluster:
    """Texts around one centre.

    Attributes:
        members: (id, cosine with the centre), closest first.
        examples: the closest few texts.
    """

    members: list[tuple[Id, float]]
    examples: list[str]


def cluster(
    index: SearchIndex, k: int, *, iterations: int = 25, seed: int = 0, advance: Advance = lambda n: None
) -> list[Cluster]:
    """k-means on the sphere, by faiss; the largest cluster first.

    Args:
        index: whose texts to group.
        k: number of clusters, at most the number of texts.
        iterations: of k-means.
        seed: of its start.
        advance: called after each iteration.

    Raises:
        SearchError: k is below 1, or more than there are texts.
        ConfigError: iterations are below 1.
    """
    import faiss

    snapshot = index.storage.snapshot()
    slots = snapshot.slots()
    if not isinstance(k, (int, np.integer)) or not 1 <= k <= len(slots):
        raise SearchError(f"clusters: found {k!r}, expected a number from 1 to {len(slots)}, the number of texts")
    if iterations < 1:
        raise ConfigError(f"iterations: found {iterations}, expected at least 1")
    matrix = np.ascontiguousarray(snapshot.vectors(slots))
    means = faiss.Kmeans(
        matrix.shape[1], int(k), niter=1, seed=seed, spherical=True, min_points_per_centroid=1,
        max_points_per_centroid=2048,
    )  # fmt: skip
    for _ in range(iterations):
        means.train(matrix, init_centroids=means.centroids)
        advance(1)
    cosines, labels = (found[:, 0] for found in means.index.search(matrix, 1))
    groups = []
    for label in range(k):
        inside = np.flatnonzero(labels == label)
        inside = inside[np.argsort(-cosines[inside], kind="stable")]
        groups.append(_cluster(snapshot, slots[inside], cosines[inside]))
    return _largest_first(groups)


def communities(
    index: SearchIndex, threshold: float = 0.75, *, min_size: int = 10, advance: Advance = lambda n: None
) -> list[Cluster]:
    """Groups of texts that are close to one of them; the largest first. A text is in one of them, or in none.

    A text with at least `min_size` texts (itself among them) from the threshold on is a centre. In the order of their
    numbers, each centre that is in no group takes those that are in none, if they are still `min_size`. All pairs are
    compared, twice, in bounded memory beside the vectors: the same groups as sentence-transformers'
    `community_detection`.

    Args:
        index: whose texts to group.
        threshold: the least cosine of a member with the centre, in (-1, 1].
        min_size: the fewest members.
        advance: called with the number of rows compared since, in all at most twice that of the texts.

    Raises:
        ConfigError: the threshold or size is out of range.
    """
    if not isinstance(threshold, (int, float)) or not -1 < threshold <= 1:
        raise ConfigError(f"threshold: found {threshold!r}, expected a cosine in (-1, 1]")
    if not isinstance(min_size, (int, np.integer)) or min_size < 1:
        raise ConfigError(f"min_size: found {min_size!r}, expected at least 1")
    snapshot = index.storage.snapshot()
    slots = snapshot.slots()
    matrix, floor = np.ascontiguousarray(snapshot.vectors(slots)), threshold - 1e-6  # equal texts have .9999999
    at_once = max(1, min(ROWS_AT_ONCE, SCORES_AT_ONCE // max(len(slots), 1)))
    counts = np.zeros(len(slots), np.int64)
    for some in paced(range(len(slots)), at_once):
        counts[some] = (matrix[some] @ matrix.T >= floor).sum(axis=1)
        advance(len(some))
    centres = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts >= min_size)]
    taken, groups = np.zeros(len(slots), bool), []
    for some in paced(centres.tolist(), at_once):
        left = [centre for centre in some if not taken[centre]]
        for centre, row in zip(left, matrix[left] @ matrix.T, strict=True):
            inside = np.flatnonzero((row >= floor) & ~taken)
            if taken[centre] or len(inside) < min_size:
                continue
            inside = inside[np.lexsort((inside != centre, -row[inside]))]
            taken[inside] = True
            groups.append(_cluster(snapshot, slots[inside], row[inside]))
        advance(len(some))
    return _largest_first(groups)


def _cluster(snapshot: Snapshot, slots: Slots, cosines: npt.NDArray[Any]) -> Cluster:
    """Of rows, closest first, but for those deleted meanwhile."""
    rows = snapshot.fetch(slots.tolist())
    there = [slot for slot in slots.tolist() if slot in rows]
    scores = dict(zip(slots.tolist(), np.clip(cosines, -1, 1).tolist(), strict=True))
    return Cluster([(rows[slot][0], scores[slot]) for slot in there], [rows[slot][1] for slot in there[:SHOWN]])


def _largest_first(groups: list[Cluster]) -> list[Cluster]:
    return sorted((group for group in groups if group.members), key=lambda group: -len(group.members))
