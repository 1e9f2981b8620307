"""Vectors that are known already: the index is that of its encoder, and others are refused."""

from __future__ import annotations

import numpy as np
import pytest

from simcse import SearchError, SearchIndex

TEXTS = [f"text number {i} about {i * 7 % 13}" for i in range(200)]


def test_the_index_is_that_of_the_encoder(encoder):
    vectors = 4 * encoder.encode(TEXTS)  # exact
    encoder.calls = 0
    index = SearchIndex.build(TEXTS, encoder, vectors=vectors)
    assert encoder.calls < 10  # the probe sentences, and a text of each chunk
    assert index.search(TEXTS[:20], 3) == SearchIndex.build(TEXTS, encoder).search(TEXTS[:20], 3)
    more = index.add_documents([(None, "one more", {})], vectors=encoder.encode(["one more"]))
    assert index.search("one more", 1)[0][0].id == more[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda v: v[:-1], f"found fewer than texts; {TEXTS[-1]!r} has none, expected one each"),
        (lambda v: np.concatenate([v, v[:1]]), "found more than the 200 texts, expected one each"),
        (lambda v: v[:, :-1], r"found rows of shape \(31,\), but word-sum gives dimension 32"),
        (lambda v: np.roll(v, 1, axis=0), "is another one than word-sum gives"),
        (lambda v: np.where(np.arange(200)[:, None] == 150, np.nan, v), f"the vector of {TEXTS[150]!r} is NaN"),
        (lambda v: np.where(np.arange(200)[:, None] == 150, 0, v), f"the vector of {TEXTS[150]!r} is zero"),
        (lambda v: [["a"]] * 200, "expected rows of 32 numbers"),
    ],
)
def test_others_are_refused(encoder, change, told):
    with pytest.raises(SearchError, match=told):
        SearchIndex.build(TEXTS, encoder, vectors=change(encoder.encode(TEXTS)))
    index = SearchIndex.build(["there"], encoder)
    with pytest.raises(SearchError, match=told):
        index.add_documents(((None, text, {}) for text in TEXTS), vectors=change(encoder.encode(TEXTS)))
    assert len(index) == 1  # all or none


def test_those_of_another_encoder_are_refused(encoder, other_encoder):
    with pytest.raises(SearchError, match=r"cosine -?0\.\d+, expected at least 0.99\): give those of the same texts"):
        SearchIndex.build(TEXTS, encoder, vectors=other_encoder.encode(TEXTS))
