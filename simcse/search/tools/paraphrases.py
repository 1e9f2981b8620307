"""Paraphrase mining: the most similar pairs among many texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from simcse.display.progress import paced, progress
from simcse.errors import ConfigError
from simcse.search.queries import checked_floor
from simcse.vectors import Encode, Encoder, Matrix, encode_of, unit_vectors

__all__ = ["closest_pairs", "paraphrases"]

ENCODED_AT_ONCE = 8192
ROWS, COLUMNS = 1024, 8192  # of cosines at a time, 32 MiB

Pairs = npt.NDArray[np.int64]


def paraphrases(
    texts: Sequence[str],
    encode: Encode | Encoder,
    *,
    count: int = 500,
    min_score: float | None = None,
    show_progress: bool = False,
) -> list[tuple[float, int, int]]:
    """The most similar pairs of n texts: (cosine, i, j) with i < j, best first.

    All pairs are compared, a block at a time: what is found is exact, and memory beyond that of the vectors is bounded.
    Equal texts are pairs, too. Time grows with the square of n; a hundred thousand texts need minutes. Of millions,
    `duplicates.near_duplicates` of an index finds those that say nearly the same.

    Args:
        texts: n of them.
        encode: an encoder, or a function from texts to vectors (n, d).
        count: the most pairs.
        min_score: the least cosine of a pair.
        show_progress: a bar on stderr for the texts, then one for the comparisons.

    Raises:
        ConfigError: a count below 1.
        SearchError: a `min_score` that is no number; a vector that is NaN or infinite.
    """
    _check_count(count)
    floor, encoding, parts = checked_floor(min_score), encode_of(encode), []
    with progress(len(texts), show_progress) as advance:
        for some in paced(texts, ENCODED_AT_ONCE):
            parts.append(unit_vectors(encoding, some))
            advance(len(some))
    if not parts:
        return []
    with progress(len(texts), show_progress, "comparing") as advance:
        scores, pairs = closest_pairs(np.concatenate(parts), count, floor, advance=advance)
    return [(score, i, j) for score, (i, j) in zip(np.clip(scores, -1, 1).tolist(), pairs.tolist(), strict=True)]


def closest_pairs(
    vectors: Matrix, count: int, min_score: float = -np.inf, *, advance: Callable[[int], None] = lambda n: None
) -> tuple[Matrix, Pairs]:
    """The pairs of rows with the largest inner products, best first, equal ones in the order of rows.

    Args:
        vectors: (n, d).
        count: the most pairs.
        min_score: the least inner product.
        advance: called with the number of rows that were compared with all behind them since.

    Returns:
        Scores (m,) and row numbers (m, 2), the smaller one first.

    Raises:
        ConfigError: a count below 1.
    """
    _check_count(count)
    best, where = np.empty(0, np.float32), np.empty((0, 2), np.int64)
    for rows in paced(range(len(vectors)), ROWS):
        begin, end = rows[0], rows[-1] + 1
        for start in range(begin, len(vectors), COLUMNS):
            scores = vectors[begin:end] @ vectors[start : start + COLUMNS].T  # (r, c)
            if start < end:  # the diagonal, and what was compared the other way round
                scores[np.arange(begin, end)[:, None] >= np.arange(start, start + scores.shape[1])] = -np.inf
            least = best[-1] if len(best) == count else np.float32(-np.inf)
            wanted = (scores > least) & (scores >= min_score)
            if np.count_nonzero(wanted) > count:
                wanted &= scores >= np.partition(scores[wanted], -count)[-count]
            i, j = np.nonzero(wanted)
            if len(i):
                best = np.concatenate([best, scores[i, j]])
                where = np.concatenate([where, np.stack([i + begin, j + start], axis=1)])
                order = np.lexsort((where[:, 1], where[:, 0], -best))[:count]
                best, where = best[order], where[order]
        advance(len(rows))
    return best, where


def _check_count(count: int) -> None:
    if not isinstance(count, (int, np.integer)) or isinstance(count, bool) or count < 1:
        raise ConfigError(f"count: found {count!r}, expected a number of pairs from 1 on")
