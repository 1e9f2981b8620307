"""Exact search: every row is compared, in blocks that stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from simcse.search.nearest.threads import blas_threads, faiss_threads
from simcse.vectors import Matrix

__all__ = ["Check", "exact_search", "refine"]

Slots = npt.NDArray[np.int64]
Check = Callable[[Slots | None], None]  # called with the rows that are about to be read, None for all

FEW_QUERIES = 3  # up to here faiss's scan is faster than a matrix product, which reads the queries for each row anew
WORTH_THREADS = 2**24  # values, 64 MiB: below, one thread reads them faster than others wake
PRODUCTS_WORTH_THREADS = 2**30  # multiplications
BLOCK = 8192  # rows; (64, 8192) scores are 2 MiB


def exact_search(
    queries: Matrix,
    matrix: Matrix,
    k: int,
    *,
    allowed: npt.NDArray[np.bool_] | None = None,
    first: int = 0,
    threads: int | None = None,
    check: Check = lambda slots: None,
) -> tuple[Matrix, Slots]:
    """The k rows of largest inner product for each query, best first; equal scores in the order of rows.

    Up to `FEW_QUERIES` without a filter, equal rows have equal scores; beyond, a matrix product may round the last bit
    of one or the other.

    Args:
        queries: (q, d).
        matrix: (n, d), may be memory-mapped.
        k: how many, at least 1; where fewer rows are allowed, the rest is -inf and -1.
        allowed: (n,), which rows may be found; default all.
        first: only rows from here on.
        threads: default one where little is to be done, else all cores.
        check: called with the numbers of rows that are about to be read, None for all.

    Returns:
        Scores (q, k) and row numbers (q, k).
    """
    if allowed is None and first == 0 and len(queries) <= FEW_QUERIES and k <= len(matrix):
        check(None)
        return _faiss_scan(queries, matrix, k, threads)
    if allowed is not None and 2 * np.count_nonzero(allowed[first:]) < len(matrix) - first:
        rows = np.flatnonzero(allowed[first:]) + first
        blocks = [rows[i : i + BLOCK] for i in range(0, len(rows), BLOCK)]
    else:
        blocks = [np.arange(i, min(i + BLOCK, len(matrix))) for i in range(first, len(matrix), BLOCK)]
    best, where = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)  # (q, k)
    little = len(queries) * matrix.shape[1] * sum(map(len, blocks)) < PRODUCTS_WORTH_THREADS
    with blas_threads(threads or (1 if little else None)):
        for rows in blocks:
            check(rows)
            contiguous = rows[-1] - rows[0] + 1 == len(rows)
            scores = queries @ (matrix[rows[0] : rows[-1] + 1] if contiguous else matrix[rows]).T  # (q, b)
            if allowed is not None:
                scores[:, ~allowed[rows]] = -np.inf
            _merge(best, where, scores, rows)
    return best, where


def _faiss_scan(queries: Matrix, matrix: Matrix, k: int, threads: int | None) -> tuple[Matrix, Slots]:
    import faiss

    found = min(k + 1, len(matrix))
    with faiss_threads(threads or (1 if matrix.size < WORTH_THREADS else None)):
        while True:
            scores, slots = faiss.knn(queries, matrix, found, metric=faiss.METRIC_INNER_PRODUCT)  # (q, found)
            if found == len(matrix) or (scores[:, -1] < scores[:, k - 1]).all():
                break
            found = min(8 * found, len(matrix))  # faiss keeps any of those that are as near as the k-th
    scores, slots = in_order(scores, slots)
    return scores[:, :k], slots[:, :k]


def _merge(best: Matrix, where: Slots, scores: Matrix, rows: Slots) -> None:
    """Put what beats the k-th best so far into `best` and `where`, which stay sorted. All but few blocks change
    nothing.
    """
    k = best.shape[1]
    beats = scores > best[:, -1:]  # (q, b)
    for query in np.flatnonzero(beats.any(axis=1)):
        columns = np.flatnonzero(beats[query])
        values, slots = scores[query, columns], rows[columns]
        if len(values) > 4 * k:
            top = np.partition(values, len(values) - k)[len(values) - k]
            values, slots = values[values >= top], slots[values >= top]
        values, slots = np.concatenate([best[query], values]), np.concatenate([where[query], slots])
        order = np.lexsort((slots, -values))[:k]
        best[query], where[query] = values[order], slots[order]


def in_order(scores: Matrix, slots: Slots) -> tuple[Matrix, Slots]:
    """Each row sorted by falling score, then by rising row number, as stable results need it. (q, k) -> (q, k)"""
    order = np.lexsort((slots, -scores), axis=1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(slots, order, 1)


def refine(queries: Matrix, matrix: Matrix, slots: Slots) -> Matrix:
    """Inner product of each query with its own candidates; -inf where the row number is -1. (q, d), (q, m) -> (q, m)"""
    scores: Matrix = np.einsum("qd,qmd->qm", queries, matrix[np.maximum(slots, 0)])  # (q, m)
    scores[slots < 0] = -np.inf
    return scores
