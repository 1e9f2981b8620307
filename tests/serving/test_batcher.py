"""The queue between requests and work: together, in order, bounded, and never lost."""

from __future__ import annotations

import asyncio
import threading
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcse.serving.batcher import ClosedError, MicroBatcher, QueueFullError


class Doubling:
    """Doubles numbers; notes the batches; `gate` holds it up; refuses negative numbers."""

    def __init__(self):
        self.batches, self.gate, self.entered = [], threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, items):
        self.batches.append(list(items))
        self.entered.set()
        assert self.gate.wait(10)
        if any(item < 0 for item in items):
            raise ValueError(f"negative in {list(items)}")
        return [KeyError(item) if item == 13 else 2 * item for item in items]


def run(coroutine_of, *, max_batch=8, max_wait=0.0, max_queue=100, **threads):
    work = Doubling()
    batcher = MicroBatcher(work, max_batch=max_batch, max_wait=max_wait, max_queue=max_queue, **threads)
    batcher.start()
    try:
        return asyncio.run(coroutine_of(batcher, work)), work
    finally:
        work.gate.set()
        batcher.close()


async def waiting(batcher, count):
    while len(batcher) < count:
        await asyncio.sleep(0.001)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 12), max_size=6), max_size=12),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.002]),
    st.sampled_from([1, 3]),
)
def test_each_request_gets_its_own_results_in_order(requests, max_batch, max_wait, threads):
    async def all_at_once(batcher, work):
        return await asyncio.gather(*(batcher.submit(items) for items in requests))

    results, work = run(all_at_once, max_batch=max_batch, max_wait=max_wait, threads=threads)
    assert results == [[2 * item for item in items] for items in requests]
    assert all(1 <= len(batch) <= max_batch for batch in work.batches)
    assert sorted(chain.from_iterable(work.batches)) == sorted(chain.from_iterable(requests))


def test_what_gathers_during_work_is_the_next_batch():
    async def scenario(batcher, work):
        work.gate.clear()
        first = asyncio.create_task(batcher.submit([0]))
        await asyncio.to_thread(work.entered.wait, 10)
        others = [asyncio.create_task(batcher.submit([i])) for i in range(1, 6)]
        await waiting(batcher, 5)
        work.gate.set()
        return await asyncio.gather(first, *others)

    results, work = run(scenario)
    assert results == [[0], [2], [4], [6], [8], [10]]
    assert work.batches == [[0], [1, 2, 3, 4, 5]]


def test_the_first_waits_for_others_that_come_soon():
    async def scenario(batcher, work):
        first = asyncio.create_task(batcher.submit([1]))
        await asyncio.sleep(0.05)
        return await asyncio.gather(first, batcher.submit([2, 3]))

    results, work = run(scenario, max_batch=3, max_wait=20.0)  # a full batch does not wait on
    assert results == [[2], [4, 6]]
    assert work.batches == [[1, 2, 3]]


def test_a_request_that_does_not_fit_is_refused_whole():
    async def scenario(batcher, work):
        work.gate.clear()
        first = asyncio.create_task(batcher.submit([0]))
        await asyncio.to_thread(work.entered.wait, 10)
        second = asyncio.create_task(batcher.submit([1, 2]))
        await waiting(batcher, 2)
        with pytest.raises(QueueFullError):
            await batcher.submit([3, 4])
        third = asyncio.create_task(batcher.submit([5]))  # fits exactly
        work.gate.set()
        return await asyncio.gather(first, second, third)

    results, work = run(scenario, max_queue=3)
    assert results == [[0], [2, 4], [10]]
    assert 3 not in chain.from_iterable(work.batches)


def test_only_the_item_at_fault_fails():
    async def scenario(batcher, work):
        tasks = [asyncio.create_task(batcher.submit([item])) for item in (1, -2, 13, 4)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    results, _ = run(scenario, max_batch=4, max_wait=5.0)
    assert results[0] == [2]
    assert results[3] == [8]
    assert isinstance(results[1], ValueError)
    assert isinstance(results[2], KeyError)


def test_a_request_given_up_while_it_waits_is_not_worked_on():
    async def scenario(batcher, work):
        work.gate.clear()
        first = asyncio.create_task(batcher.submit([0]))
        await asyncio.to_thread(work.entered.wait, 10)
        given_up = asyncio.create_task(batcher.submit([7]))
        kept = asyncio.create_task(batcher.submit([8]))
        await waiting(batcher, 2)
        given_up.cancel()
        await asyncio.sleep(0)
        work.gate.set()
        return await asyncio.gather(first, kept)

    results, work = run(scenario)
    assert results == [[0], [16]]
    assert work.batches == [[0], [8]]


def test_threads_with_nothing_to_do_share_what_waits():
    async def scenario(batcher, work):
        while batcher._idle < 3:
            await asyncio.sleep(0.001)
        work.gate.clear()
        request = asyncio.create_task(batcher.submit(list(range(20, 50))))
        while len(work.batches) < 3:  # side by side: the gate is closed
            await asyncio.sleep(0.001)
        work.gate.set()
        return await request

    results, work = run(scenario, max_batch=64, threads=3)
    assert results == [2 * i for i in range(20, 50)]
    assert sorted(map(len, work.batches)) == [10, 10, 10]


def test_a_few_items_are_not_shared():
    async def scenario(batcher, work):
        while batcher._idle < 3:
            await asyncio.sleep(0.001)
        return await batcher.submit(list(range(20, 28)))

    _, work = run(scenario, max_batch=64, threads=3)
    assert work.batches == [list(range(20, 28))]


def test_each_thread_begins_once():
    began = []

    async def scenario(batcher, work):
        return await batcher.submit([1])

    run(scenario, threads=3, begin=lambda: began.append(threading.get_ident()))
    assert len(set(began)) == len(began) == 3


@pytest.mark.parametrize("threads", [1, 3])
def test_closing_finishes_what_waits_and_takes_no_more(threads):
    async def scenario(batcher, work):
        work.gate.clear()
        tasks = [asyncio.create_task(batcher.submit([i])) for i in range(20, 40)]
        await asyncio.to_thread(work.entered.wait, 10)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        while batcher.alive:
            await asyncio.sleep(0.001)
        with pytest.raises(ClosedError):
            await batcher.submit([1])
        work.gate.set()
        await closing
        return await asyncio.gather(*tasks)

    results, _ = run(scenario, max_batch=3, threads=threads)
    assert results == [[2 * i] for i in range(20, 40)]
