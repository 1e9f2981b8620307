"""Exact search against a sort of all scores, for all shapes of the work."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcse.search.nearest import exact
from simcse.search.nearest.exact import exact_search, refine


def by_sorting(queries, matrix, k, allowed=None, first=0):
    """Score everything, leave out what is not allowed, sort by falling score and rising row."""
    scores = queries @ matrix.T
    out = np.zeros(len(matrix), bool) if allowed is None else ~allowed
    out[:first] = True
    scores[:, out] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, 1)
    order[best == -np.inf] = -1
    pad = k - order.shape[1]
    return (
        np.pad(best, ((0, 0), (0, pad)), constant_values=-np.inf),
        np.pad(order, ((0, 0), (0, pad)), constant_values=-1),
    )


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 300), q=st.integers(1, 9), k=st.integers(1, 40), first=st.integers(0, 320),
    share=st.sampled_from([None, 0.0, 0.1, 0.5, 0.9]), seed=st.integers(0, 10_000),
)  # fmt: skip
def test_equals_sorting_all_scores(n, q, k, first, share, seed):
    """Small integers as coordinates make scores exact, and ties frequent: their order must be that of the rows."""
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-2, 3, (n, 4)).astype(np.float32)
    queries = rng.integers(-2, 3, (q, 4)).astype(np.float32)
    allowed = None if share is None else rng.random(n) < share
    first = min(first, n)
    block, exact.BLOCK = exact.BLOCK, 37
    few, exact.FEW_QUERIES = exact.FEW_QUERIES, 0
    try:
        scores, slots = exact_search(queries, matrix, k, allowed=allowed, first=first)
    finally:
        exact.BLOCK, exact.FEW_QUERIES = block, few
    expected_scores, expected_slots = by_sorting(queries, matrix, k, allowed, first)
    np.testing.assert_array_equal(scores, expected_scores)
    np.testing.assert_array_equal(slots, expected_slots)


def test_few_queries_are_searched_by_faiss_with_the_same_answer(monkeypatch):
    rng = np.random.default_rng(0)
    matrix, queries = (rng.standard_normal((m, 16), dtype=np.float32) for m in (500, 2))
    scores, slots = exact_search(queries, matrix, 10)
    monkeypatch.setattr(exact, "FEW_QUERIES", 0)
    by_blocks, slots_by_blocks = exact_search(queries, matrix, 10)
    np.testing.assert_array_equal(slots, slots_by_blocks)
    np.testing.assert_allclose(scores, by_blocks, rtol=1e-5)


@pytest.mark.parametrize("n", [4, 50, 700])
def test_of_equal_rows_the_first_are_found(n):
    """However many stand around the k-th place, of which faiss itself keeps any."""
    rng = np.random.default_rng(0)
    matrix, queries = (rng.integers(-1, 2, (m, 4)).astype(np.float32) for m in (n, 2))
    for k in range(1, min(n, 40) + 1):
        for some in (queries, queries[:1]):
            scores, slots = exact_search(some, matrix, k)
            expected_scores, expected_slots = by_sorting(some, matrix, k, None, 0)
            np.testing.assert_array_equal(slots, expected_slots)
            np.testing.assert_array_equal(scores, expected_scores)
            assert (scores.dtype, slots.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("k", [1, 3, 10, 20])
@pytest.mark.parametrize("queries", [1, 3, 4])
@pytest.mark.parametrize("rows", [None, [0, 1, 4], [1, 2, 3], [9], range(1, 10)], ids=str)
def test_which_rows_are_read(k, queries, rows):
    """Only those that may be found; all at once by few queries."""
    rng = np.random.default_rng(0)
    matrix, asked = (rng.integers(-2, 3, (m, 4)).astype(np.float32) for m in (10, queries))
    allowed = None if rows is None else np.isin(np.arange(10), rows)
    read = []
    found = exact_search(asked, matrix, k, allowed=allowed, check=read.append)
    for one, expected in zip(found, by_sorting(asked, matrix, k, allowed), strict=True):
        np.testing.assert_array_equal(one, expected)
    assert [one.dtype for one in found] == [np.float32, np.int64]
    if rows is None and queries <= exact.FEW_QUERIES and k <= 10:
        assert read == [None]
    else:
        [block] = read
        assert block.tolist() == (list(range(10)) if rows is None or len(rows) > 5 else list(rows))


@pytest.mark.parametrize("slots", [[[0, 2, 1]], [[2, -1, -1]]])
def test_refine_is_the_inner_product_of_each_candidate(slots):
    matrix = np.eye(3, dtype=np.float32) * [[1], [2], [3]]
    scores = refine(np.ones((1, 3), np.float32), matrix.astype(np.float32), np.array(slots))
    assert scores.tolist() == [[-np.inf if slot < 0 else slot + 1 for slot in slots[0]]]
