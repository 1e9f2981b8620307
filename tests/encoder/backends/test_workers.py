"""Threads side by side: results in order, errors at once, torch's number of threads as before."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from simcse.encoder.backends.workers import in_parallel, worker_count


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_results_in_order_and_torch_single_threaded_inside() -> None:
    seen = set()

    def work(item: int) -> int:
        seen.add((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
        return item * item

    assert worker_count(torch.device("cpu")) == 2
    assert list(in_parallel(work, range(50), 2)) == [item * item for item in range(50)]
    assert seen == {(False, 1)}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_one_item_stays_here_with_all_threads() -> None:
    where = list(in_parallel(lambda _: (threading.current_thread(), torch.get_num_threads()), [0], 2))
    assert where == [(threading.current_thread(), 2)]
    assert worker_count(torch.device("cuda")) == 1


@pytest.mark.usefixtures("two_threads")
def test_an_error_ends_it() -> None:
    begun = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 3:
            raise ValueError("third")
        time.sleep(0.01)  # the caller must get its turn

    with pytest.raises(ValueError, match="third"):
        list(in_parallel(work, range(500), 2))
    assert len(begun) < 500
    assert torch.get_num_threads() == 2
