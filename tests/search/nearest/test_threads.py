"""A search takes as many threads as it is given, and leaves every library as it found it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext

import faiss
import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_info, threadpool_limits

from simcse.search.nearest import exact, threads
from simcse.search.nearest.exact import exact_search
from simcse.search.nearest.threads import blas_threads, faiss_threads


def blas():
    """Threads of the BLAS that numpy uses; some other library may bring one too."""
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two():
    threads._libraries.cache_clear()  # a library that was loaded since would be seen here, but not there
    with threadpool_limits(2, user_api="blas"):
        release()
        if blas() != {2}:
            pytest.skip("this BLAS has one thread")
        yield


def release():
    """Let any thread set the number, not the one alone that set it last."""
    for library in ThreadpoolController().lib_controllers:
        getattr(library, "clear_controlling_thread", lambda: None)()


def test_the_bound_holds_inside_alone():
    with blas_threads(1):
        assert blas() == {1}
    assert blas() == {2}
    with blas_threads(None):
        assert blas() == {2}


def test_a_second_search_at_the_same_time_leaves_it_to_the_first():
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(blas_threads(1))
        second.enter_context(blas_threads(3))
        assert blas() == {1}
        first.close()
        assert blas() == {2}
    assert blas() == {2}
    with blas_threads(1):
        assert blas() == {1}


def test_any_thread_may_be_the_next():
    def bounded():
        with blas_threads(1):
            return blas()

    assert bounded() == {1}
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(bounded).result(20) == {1}
        assert bounded() == {1}  # while that thread is alive
    assert blas() == {2}


@pytest.mark.parametrize(("asked", "limit", "expected"), [(None, 22_501, {1}), (None, 22_500, {2}), (1, 1, {1})])
def test_little_work_takes_one_thread_and_much_what_it_is_given(monkeypatch, asked, limit, expected):
    seen = []
    monkeypatch.setattr(exact, "PRODUCTS_WORTH_THREADS", limit)
    monkeypatch.setattr(exact, "_merge", lambda *_: seen.append(blas()))
    matrix = np.eye(50, dtype=np.float32)
    exact_search(matrix[:9], matrix, 3, threads=asked)
    assert seen == [expected]
    assert blas() == {2}


@pytest.mark.parametrize(("asked", "limit", "expected"), [(None, 151, 1), (None, 150, None), (3, 151, 3), (3, 1, 3)])
def test_a_scan_of_few_rows_takes_one_thread(monkeypatch, asked, limit, expected):
    seen = []
    monkeypatch.setattr(exact, "WORTH_THREADS", limit)
    monkeypatch.setattr(exact, "faiss_threads", lambda number: seen.append(number) or nullcontext())
    exact_search(np.eye(1, 3, dtype=np.float32), np.ones((50, 3), np.float32), 2, threads=asked)
    assert seen == [expected]


def test_the_threads_of_faiss_come_back_even_after_an_error():
    """Of the thread that asks; others have their own number."""
    before = faiss.omp_get_max_threads()

    def failing(number):
        with faiss_threads(number):
            assert faiss.omp_get_max_threads() == (before if number is None else number)
            raise ZeroDivisionError

    for number in (before + 1, before, None):
        with pytest.raises(ZeroDivisionError):
            failing(number)
        assert faiss.omp_get_max_threads() == before
