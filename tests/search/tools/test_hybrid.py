"""Fusing two rankings: by hand, against a naive BM25, and with the filters of the index."""

from __future__ import annotations

import math
import sys

import pytest

from simcse import ConfigError, SearchError
from simcse.search.tools.hybrid import HybridSearch

TEXTS = [
    "zebra crossing seven",
    "zebra zebra stripes",
    "the lion sleeps",
    "a river in the city",
    "seven lions by the river",
]


def built(storage, encoder):
    return storage.build(TEXTS, encoder.encode, metadata=[{"n": i} for i in range(5)])


@pytest.fixture(scope="module")
def index(storage, module_encoder):
    return built(storage, module_encoder)


def bm25(query, texts, k1=1.5, b=0.75):
    """Lucene's formula: idf = ln(1 + (N - df + .5) / (df + .5)); tf / (tf + k1 (1 - b + b |d| / mean |d|))."""
    stop = {"the", "a", "in", "by"}
    split = [[w for w in text.split() if w not in stop] for text in texts]
    mean = sum(map(len, split)) / len(split)
    scores = []
    for words in split:
        total = 0.0
        for word in query.split():
            df = sum(word in other for other in split)
            tf = words.count(word)
            total += (
                math.log(1 + (len(texts) - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * len(words) / mean))
            )
        scores.append(total)
    return scores


def test_the_lexical_ranking_is_bm25(index):
    scores = bm25("zebra seven", TEXTS)
    expected = sorted((i for i in range(5) if scores[i] > 0), key=lambda i: -scores[i])
    hits = HybridSearch(index).search("zebra seven", top_k=5, weight=0.0)[0]
    assert [hit.id for hit in hits] == expected


def test_the_fused_score_is_the_sum_of_reciprocal_ranks(index):
    hybrid = HybridSearch(index)
    dense = [hit.id for hit in index.search("zebra seven", top_k=5)[0]]
    words = [hit.id for hit in hybrid.search("zebra seven", top_k=5, weight=0.0)[0]]
    hits = hybrid.search("zebra seven", top_k=5, weight=0.5)[0]
    for hit in hits:
        expected = 0.5 * 61 / (61 + dense.index(hit.id))
        expected += 0.5 * 61 / (61 + words.index(hit.id)) if hit.id in words else 0
        assert hit.score == pytest.approx(expected)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].score <= 1


def test_weight_one_is_the_order_of_the_vectors(index):
    hybrid = HybridSearch(index).search(TEXTS, top_k=3, weight=1.0)
    assert [[hit.id for hit in hits] for hits in hybrid] == [
        [h.id for h in hits] for hits in index.search(TEXTS, top_k=3)
    ]


def test_it_follows_the_index(storage, encoder):
    index = built(storage, encoder)
    hybrid = HybridSearch(index)
    assert 0 in {hit.id for hit in hybrid.search("crossing", top_k=9)[0]}
    index.delete([0])
    index.add(["quagga crossing"], metadata=[{"n": 9}])
    assert hybrid.search("quagga", top_k=1)[0][0].text == "quagga crossing"
    assert 0 not in {hit.id for hit in hybrid.search("crossing", top_k=9)[0]}
    assert {hit.id for hit in hybrid.search("zebra", top_k=9, where={"n": [1, 2]})[0]} == {1, 2}


def test_words_that_nobody_knows_leave_the_vectors(index):
    query = "xylophone"
    assert [h.id for h in HybridSearch(index).search(query)[0]] == [h.id for h in index.search(query)[0]]


def test_wrong_use_is_told(index, monkeypatch):
    with pytest.raises(ConfigError, match="weight: found 2"):
        HybridSearch(index).search("a lion", weight=2)
    with pytest.raises(SearchError, match="top_k: found 0"):
        HybridSearch(index).search("a lion", top_k=0)
    with pytest.raises(SearchError, match="query 0"):
        HybridSearch(index).search("")
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ConfigError, match=r"hybrid search needs bm25s: pip install 'simcse-kit\[hybrid\]'"):
        HybridSearch(index)
