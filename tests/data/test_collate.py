"""The order of rows, and what a batch holds."""

from __future__ import annotations

import math
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from simcse.data.collate import Batches, text_key
from simcse.tokens.tokenize import Tokenize


@pytest.fixture(scope="module")
def tokenize(tiny_bert: Path) -> Tokenize:
    return Tokenize(AutoTokenizer.from_pretrained(tiny_bert), 16)


def batches(tokenize: Tokenize, n: int, batch_size: int, **options: int) -> Batches:
    data = datasets.Dataset.from_dict({"text": [f"the dog {i}" for i in range(n)]})
    return Batches(data, tokenize, batch_size=batch_size, **({"seed": 3} | options))


@settings(max_examples=20, deadline=None)
@given(n=st.integers(8, 60), share=st.integers(1, 2), world=st.sampled_from([1, 2, 4]), seed=st.integers(0, 9))
def test_an_epoch_takes_each_row_at_most_once_and_processes_share_it(
    tokenize: Tokenize, n: int, share: int, world: int, seed: int
) -> None:
    size = share * world
    one = batches(tokenize, n, size, seed=seed)
    parts = [batches(tokenize, n, size, seed=seed, rank=rank, world=world) for rank in range(world)]
    epoch = [one.rows_of(step) for step in range(one.per_epoch)]
    flat = np.concatenate(epoch)
    assert len(flat) == n // size * size == len(set(flat.tolist()))
    for step, rows in enumerate(epoch):
        np.testing.assert_array_equal(np.concatenate([part.rows_of(step) for part in parts]), rows)
    # any step of any epoch can be had without the ones before
    np.testing.assert_array_equal(
        batches(tokenize, n, size, seed=seed).rows_of(one.per_epoch + 0), one.rows_of(one.per_epoch)
    )


def test_seeds_and_epochs_differ(tokenize: Tokenize) -> None:
    first = batches(tokenize, 60, 60)
    assert first.rows_of(0).tolist() != first.rows_of(1).tolist()
    assert first.rows_of(0).tolist() != batches(tokenize, 60, 60, seed=4).rows_of(0).tolist()


def test_a_text_is_its_own_positive(tokenize: Tokenize) -> None:
    batch = batches(tokenize, 8, 4).batch_of(0)
    assert (batch.views, len(batch), len(batch.tokens)) == (2, 4, 8)
    ids = batch.tokens.ids.split(list(batch.tokens.lengths))
    assert all(ids[2 * row].equal(ids[2 * row + 1]) for row in range(4))
    assert batch.keys[0].equal(batch.keys[1])
    assert len(set(batch.keys[0].tolist())) == 4


def test_views_stand_side_by_side(tokenize: Tokenize) -> None:
    columns = {"anchor": ["a", "b"], "positive": ["the dog", "the cat"], "hard_negative": ["red", "red"]}
    batch = Batches(datasets.Dataset.from_dict(columns), tokenize, batch_size=2, seed=0).batch_of(0)
    texts = [[columns[name][row] for name in columns] for row in batch.rows]
    expected, _ = tokenize([text for row in texts for text in row])
    assert [part.tolist() for part in batch.tokens.ids.split(list(batch.tokens.lengths))] == expected
    assert batch.keys[2, 0] == batch.keys[2, 1] == text_key("red")


def test_counts(tokenize: Tokenize) -> None:
    columns = {"anchor": ["a", "b", "c", "d"], "positive": ["x", "x", "x", "y"]}
    data = datasets.Dataset.from_dict(columns)
    batch = Batches(data, tokenize, batch_size=4, seed=0, with_counts=True).batch_of(0)
    assert batch.log_frequency is not None
    share = dict(zip(batch.rows.tolist(), batch.log_frequency[1].exp().tolist(), strict=True))
    assert share[0] == pytest.approx(3 / 4)
    assert share[3] == pytest.approx(1 / 4)
    assert batch.log_frequency[0, 0].item() == pytest.approx(math.log(1 / 4))
