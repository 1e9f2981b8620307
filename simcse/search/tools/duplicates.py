"""Near-duplicates among the texts of an index."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from simcse.display.progress import paced
from simcse.errors import ConfigError
from simcse.search.index import SearchIndex
from simcse.search.rows import Id

__all__ = ["near_duplicates"]

ROWS_AT_ONCE = 1024
NEIGHBOURS = 64  # looked at for each text; where it has more duplicates, the rest goes with these


def near_duplicates(
    index: SearchIndex, threshold: float = 0.95, *, advance: Callable[[int], None] = lambda n: None
) -> Iterator[tuple[Id, list[tuple[Id, float]]]]:
    """Texts that say nearly the same: (the one to keep, [(duplicate, cosine), ...]), in the order of addition.

    The first text of each group is kept; each duplicate has at least `threshold` with it, so that chains of small
    changes do not collapse into one. An approximate index makes the search fast, and may miss a few.

    Args:
        index: what to look through.
        threshold: the least cosine of a duplicate, in (-1, 1].
        advance: called with the number of texts looked at since.

    Raises:
        ConfigError: the threshold is out of range.
    """
    if not isinstance(threshold, (int, float)) or not -1 < threshold <= 1:
        raise ConfigError(f"threshold: found {threshold!r}, expected a cosine in (-1, 1]")
    snapshot = index.storage.snapshot()
    slots = snapshot.slots()
    gone = np.zeros(snapshot.size, bool)
    k = min(NEIGHBOURS, len(slots))
    for some in paced(slots.tolist(), ROWS_AT_ONCE):
        scores, found = snapshot.nearest(snapshot.vectors(np.array(some, np.int64)), k)
        for slot, row_scores, row_found in zip(some, scores, found, strict=True):
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
        advance(len(some))
