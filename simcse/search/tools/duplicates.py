"""Near-duplicates and clusters among the texts of an index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from simcse.errors import ConfigError, SearchError
from simcse.search.index import SearchIndex
from simcse.search.rows import Id

__all__ = ["Cluster", "cluster", "near_duplicates"]

ROWS_AT_ONCE = 1024
NEIGHBOURS = 64  # looked at for each text; where it has more duplicates, the rest goes with these
SHOWN = 5  # texts that stand for a cluster


def near_duplicates(index: SearchIndex, threshold: float = 0.95) -> Iterator[tuple[Id, list[tuple[Id, float]]]]:
    """Texts that say nearly the same: (the one to keep, [(duplicate, cosine), ...]), in the order of addition.

    The first text of each group is kept; each duplicate has at least `threshold` with it, so that chains of small
    changes do not collapse into one. An approximate index makes the search fast, and may miss a few.

    Args:
        index: what to look through.
        threshold: the least cosine of a duplicate, in (-1, 1].

    Raises:
        ConfigError: the threshold is out of range.
    """
    if not isinstance(threshold, (int, float)) or not -1 < threshold <= 1:
        raise ConfigError(f"threshold: found {threshold!r}, expected a cosine in (-1, 1]")
    snapshot = index.storage.snapshot()
    slots = snapshot.slots()
    gone = np.zeros(snapshot.size, bool)
    k = min(NEIGHBOURS, len(slots))
    for start in range(0, len(slots), ROWS_AT_ONCE):
        some = slots[start : start + ROWS_AT_ONCE]
        scores, found = snapshot.nearest(snapshot.vectors(some), k)
        for slot, row_scores, row_found in zip(some.tolist(), scores, found, strict=True):
            if gone[slot]:
                continue
            close = (row_scores >= threshold - 1e-6) & (row_found > slot) & ~gone[row_found]
            if close.any():
                gone[row_found[close]] = True
                rows = snapshot.fetch([slot, *row_found[close].tolist()])
                listed = zip(row_found[close].tolist(), row_scores[close].tolist(), strict=True)
                there = [(rows[other][0], min(score, 1.0)) for other, score in listed if other in rows]
                if slot in rows and there:  # else they were deleted meanwhile
                    yield rows[slot][0], there


@dataclass(frozen=True)
class Cluster:
    """Texts around one centre.

    Attributes:
        members: (id, cosine with the centre), closest first.
        examples: the closest few texts.
    """

    members: list[tuple[Id, float]]
    examples: list[str]


def cluster(index: SearchIndex, k: int, *, iterations: int = 25, seed: int = 0) -> list[Cluster]:
    """k-means on the sphere, by faiss; the largest cluster first.

    Args:
        index: whose texts to group.
        k: number of clusters, at most the number of texts.
        iterations: of k-means.
        seed: of its start.

    Raises:
        SearchError: k is below 1, or more than there are texts.
    """
    import faiss

    snapshot = index.storage.snapshot()
    slots = snapshot.slots()
    if not isinstance(k, (int, np.integer)) or not 1 <= k <= len(slots):
        raise SearchError(f"clusters: found {k!r}, expected a number from 1 to {len(slots)}, the number of texts")
    matrix = np.ascontiguousarray(snapshot.vectors(slots))
    means = faiss.Kmeans(
        matrix.shape[1], int(k), niter=iterations, seed=seed, spherical=True, min_points_per_centroid=1,
        max_points_per_centroid=2048,
    )  # fmt: skip
    means.train(matrix)
    cosines, labels = (found[:, 0] for found in means.index.search(matrix, 1))
    groups = []
    for label in range(k):
        inside = np.flatnonzero(labels == label)
        inside = inside[np.argsort(-cosines[inside], kind="stable")]
        rows = snapshot.fetch(slots[inside].tolist())
        inside = np.array([i for i in inside if slots[i] in rows], np.int64)  # but for texts deleted meanwhile
        members = [(rows[slots[i]][0], float(np.clip(cosines[i], -1, 1))) for i in inside]
        groups.append(Cluster(members, [rows[slots[i]][1] for i in inside[:SHOWN]]))
    return sorted((group for group in groups if group.members), key=lambda group: -len(group.members))
