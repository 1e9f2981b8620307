"""The nearest rows of an index: approximately where it pays, exactly where it must be, with the same answer shape."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simcse.search.nearest.ann import Ann, search_parameters
from simcse.search.nearest.exact import Check, exact_search, in_order, refine
from simcse.vectors import Matrix

__all__ = ["approximate", "nearest_rows"]

Slots = npt.NDArray[np.int64]

QUERIES_AT_ONCE = 64  # bounds the memory of refining: 64 x 100 candidates x 384 dimensions are 10 MiB
EXACT_SHARE = 0.1  # where k asks for more of the rows that are left, comparing all of them is as fast


def approximate(
    ann: Ann,
    queries: Matrix,
    matrix: Matrix,
    m: int,
    *,
    allowed: npt.NDArray[np.bool_] | None = None,
    parameter: int | None = None,
    threads: int | None = None,
    check: Check = lambda slots: None,
) -> tuple[Matrix, Slots]:
    """About the m nearest allowed rows that the index covers: exact scores and slots, (q, m); -inf and -1 where fewer.

    faiss proposes `k_factor` times as many, by compressed vectors; they are refined with the vectors themselves.
    `parameter` is nprobe or efSearch, by default the one that was tuned.
    """
    ann.check()
    wanted = ann.wanted(m)
    m = min(m, wanted)
    parameters = search_parameters(ann.index, max(parameter or ann.parameter, 1), wanted, allowed)
    best, where = np.empty((len(queries), m), np.float32), np.empty((len(queries), m), np.int64)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        some = slice(start, start + QUERIES_AT_ONCE)
        slots = ann.candidates(queries[some], wanted, parameters, threads=threads)  # (q, wanted)
        check(slots)
        scores, slots = in_order(refine(queries[some], matrix, slots), slots)
        best[some], where[some] = scores[:, :m], slots[:, :m]
    return best, where


def nearest_rows(
    queries: Matrix,
    matrix: Matrix,
    k: int,
    *,
    ann: Ann | None = None,
    allowed: npt.NDArray[np.bool_] | None = None,
    threads: int | None = None,
    check: Check = lambda slots: None,
) -> tuple[Matrix, Slots]:
    """The k nearest allowed rows of each query, best first: (q, k) scores and slots.

    Rows that the approximate index does not cover yet are compared exactly; a query for which it finds fewer than k
    allowed rows is searched exactly.

    Args:
        queries: (q, d).
        matrix: (n, d).
        k: at most the number of allowed rows.
        ann: over the first rows of the matrix; None for exact search.
        allowed: (n,); default all.
        threads: default one for a few queries or few rows, else all cores.
        check: called with the numbers of rows that are about to be read, None for all.
    """
    if ann is None:
        return exact_search(queries, matrix, k, allowed=allowed, threads=threads, check=check)
    share = 1.0 if allowed is None else np.count_nonzero(allowed[: ann.covered]) / max(ann.covered, 1)
    parameter = ann.parameter_for(k, share)
    if parameter is None or k * ann.k_factor > EXACT_SHARE * share * ann.covered:
        return exact_search(queries, matrix, k, allowed=allowed, threads=threads, check=check)
    scores, slots = approximate(
        ann, queries, matrix, k, allowed=allowed, parameter=parameter, threads=threads, check=check
    )
    if ann.covered < len(matrix):
        left = min(k, len(matrix) - ann.covered)
        tail = exact_search(queries, matrix, left, allowed=allowed, first=ann.covered, threads=threads, check=check)
        scores, slots = np.concatenate([scores, tail[0]], 1), np.concatenate([slots, tail[1]], 1)
    scores, slots = in_order(scores, slots)
    scores, slots = scores[:, :k], slots[:, :k]
    short = np.flatnonzero(scores[:, -1] == -np.inf)
    if len(short):
        rest = exact_search(queries[short], matrix, k, allowed=allowed, threads=threads, check=check)
        scores[short], slots[short] = rest
    return scores, slots
