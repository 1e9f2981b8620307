"""Several sources in one run: which one a step is of, and the thread that prepares batches ahead."""

from __future__ import annotations

import threading
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from simcse.data.collate import Batches, text_key
from simcse.data.mixture import Mixture
from simcse.errors import ConfigError, DataError
from simcse.tokens.tokenize import Tokenize


@pytest.fixture(scope="module")
def tokenize(tiny_bert: Path) -> Tokenize:
    return Tokenize(AutoTokenizer.from_pretrained(tiny_bert), 16)


def source(tokenize: Tokenize, n: int, name: str = "dog", **options: int) -> Batches:
    data = datasets.Dataset.from_dict({"text": [f"the {name} {i}" for i in range(n)]})
    return Batches(data, tokenize, **({"batch_size": 4, "seed": 3} | options))


@settings(max_examples=25, deadline=None)
@given(
    shares=st.lists(st.floats(0.01, 9.0), min_size=1, max_size=4), steps=st.integers(1, 200), late=st.integers(0, 199)
)
def test_every_source_gets_its_share_and_any_step_can_be_had_alone(
    tokenize: Tokenize, shares: list[float], steps: int, late: int
) -> None:
    def mixed() -> Mixture:
        return Mixture([source(tokenize, 8) for _ in shares], shares)

    one = mixed()
    places = [one.place_of(step) for step in range(steps)]
    for number, share in enumerate(np.asarray(shares) / sum(shares)):
        own = [place for chosen, place in places if chosen == number]
        assert own == list(range(len(own)))  # each source's own steps, none left out
        assert abs(len(own) - share * steps) < len(shares)
    alone = mixed()
    assert alone.place_of(late) == (mixed().place_of(late) if late >= steps else places[late])


def test_a_batch_is_of_one_source(tokenize: Tokenize) -> None:
    dogs, cats = source(tokenize, 12, "dog"), source(tokenize, 8, "cat")
    mixture = Mixture([dogs, cats])  # by rows: 3 to 2
    assert mixture.per_epoch == 5
    batches = [mixture.batch_of(step) for step in range(10)]
    assert [batch.source for batch in batches].count(0) == 6
    for batch in batches:
        texts = [f"the {('dog', 'cat')[batch.source]} {row}" for row in batch.rows]
        assert batch.keys[0].tolist() == [text_key(text) for text in texts]


def test_shares_must_be_positive(tokenize: Tokenize) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        Mixture([source(tokenize, 8)] * 2, [1.0, 0.0])


def test_any_two_draws_two_columns_of_a_row(tokenize: Tokenize) -> None:
    names = [f"text{i}" for i in range(5)]
    data = datasets.Dataset.from_dict({name: [f"{name} of {row}" for row in range(16)] for name in names})
    known = {text_key(data[name][row]): (name, row) for name in names for row in range(16)}

    def batch(step: int, **options: int) -> list[list[tuple[str, int]]]:
        made = Batches(data, tokenize, any_two=True, **({"batch_size": 8, "seed": 1} | options)).batch_of(step)
        assert made.views == 2
        return [[known[key] for key in view] for view in made.keys.tolist()]

    drawn = set()
    for step in range(8):
        first, second = batch(step)
        for (one, row), (two, same) in zip(first, second, strict=True):
            assert row == same
            assert one != two
            drawn.add((one, two))
    assert len(drawn) > 15  # of 20
    whole = batch(3)
    parts = [batch(3, rank=rank, world=2) for rank in range(2)]
    assert whole == [parts[0][view] + parts[1][view] for view in range(2)]  # whatever the number of processes


def test_the_thread_ahead_gives_the_same_batches_and_its_errors(tokenize: Tokenize) -> None:
    own = source(tokenize, 40)
    with Mixture([own]).ahead(3, 14) as stream:
        rows = [batch.rows.tolist() for batch in stream]
    assert rows == [own.rows_of(step).tolist() for step in range(3, 14)]
    broken = Batches(datasets.Dataset.from_dict({"text": [1, 2]}), tokenize, batch_size=2, seed=0)
    with pytest.raises((DataError, AttributeError)), Mixture([broken]).ahead(0, 1) as stream:
        next(stream)


def test_leaving_early_ends_the_thread(tokenize: Tokenize) -> None:
    with Mixture([source(tokenize, 400)]).ahead(0, 100) as stream:
        next(stream)
    assert not any(thread.name == "simcse-batches" for thread in threading.enumerate())
