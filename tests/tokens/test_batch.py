"""Batches have every sequence once, within their budget, whatever the lengths."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simcse.tokens.batch import TokenBatch, TokenLists, plan_batches

some_lengths = st.lists(st.integers(1, 40), max_size=60)


@settings(max_examples=60, deadline=None)
@given(some_lengths, st.integers(1, 120), st.none() | st.integers(1, 7), st.booleans())
def test_a_plan_holds_each_row_once_within_the_budget(
    lengths: list[int], max_tokens: int, max_sequences: int | None, padded: bool
) -> None:
    order, cuts = plan_batches(lengths, max_tokens=max_tokens, max_sequences=max_sequences, padded=padded)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert cuts[0] == 0
    assert cuts[-1] == len(lengths)
    for first, last in pairwise(cuts):
        sizes = [lengths[row] for row in order[first:last]]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes
        size = max(sizes) * len(sizes) if padded else sum(sizes)
        assert size <= max_tokens or len(sizes) == 1
        assert len(sizes) <= (max_sequences or len(sizes))


def test_a_plan_fills_its_batches() -> None:
    """Eight of length 5 and a budget of 20: four a batch, not fewer."""
    assert plan_batches([5] * 8, max_tokens=20).cuts.tolist() == [0, 4, 8]
    assert plan_batches([], max_tokens=20).cuts.tolist() == [0]


@settings(max_examples=40, deadline=None)
@given(some_lengths.filter(bool), st.randoms(use_true_random=False))
def test_token_lists_in_any_order(lengths: list[int], rng: np.random.Generator) -> None:
    rows = [[100 * row + place for place in range(length)] for row, length in enumerate(lengths)]
    lists = TokenLists(np.concatenate([np.array(row) for row in rows]), np.array(lengths))
    order = list(range(len(rows)))
    rng.shuffle(order)
    got = lists.ordered(np.array(order))
    assert got.ids.tolist() == [token for row in order for token in rows[row]]
    assert got.lengths.tolist() == [lengths[row] for row in order]
    batches = list(got.batches(np.array([0, len(rows) // 2, len(rows)]), torch.device("cpu")))
    assert torch.cat([batch.ids for batch in batches]).tolist() == got.ids.tolist()
    assert [n for batch in batches for n in batch.lengths] == got.lengths.tolist()
    halves = [lists.ordered(np.arange(len(rows) // 2)), lists.ordered(np.arange(len(rows) // 2, len(rows)))]
    assert TokenLists.join(halves).ids.tolist() == lists.ids.tolist()


@pytest.mark.parametrize("rows", [[[1, 2, 3], [4], [5, 6]], [[1, 2], [3, 4]]])
def test_padding_and_back(rows: list[list[int]]) -> None:
    batch = TokenBatch.from_lists(rows)
    ids, mask = batch.padded(0)
    longest = max(map(len, rows))
    assert ids.tolist() == [row + [0] * (longest - len(row)) for row in rows]
    assert mask is None or mask.tolist() == [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    assert (mask is None) == batch.is_uniform == (len({*map(len, rows)}) == 1)
    assert batch.unpad(ids[..., None])[:, 0].tolist() == [token for row in rows for token in row]
    assert batch.positions.tolist() == [place for row in rows for place in range(len(row))]
    assert batch.segments.tolist() == [number for number, row in enumerate(rows) for _ in row]
    assert batch.starts.tolist() == [sum(map(len, rows[:number])) for number in range(len(rows))]


def test_select_is_a_view() -> None:
    batch = TokenBatch.from_lists([[1, 2, 3], [4], [5, 6]])
    part = batch.select(1, 3)
    assert part.ids.tolist() == [4, 5, 6]
    assert part.lengths == (1, 2)
    assert part.ids.data_ptr() == batch.ids[3:].data_ptr()
