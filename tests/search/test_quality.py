"""The index ranks as the evaluator does: the same documents score the same nDCG@10."""

from __future__ import annotations

import numpy as np
import pytest

from simcse import SearchIndex
from simcse.evaluation.retrieval import Collection, evaluate_retrieval, ranking_metrics
from simcse.search.nearest import plan

WORDS = "river stone music winter garden market engine letter doctor island mirror ladder".split()  # noqa: SIM905


@pytest.fixture
def collection():
    """Documents of six words; a query is three of a document's words, which it and what shares two of them answer."""
    rng = np.random.default_rng(0)
    words = {f"d{i}": rng.choice(WORDS, 6) for i in range(1500)}
    queries = {f"q{i}": rng.choice(words[f"d{7 * i}"], 3, replace=False) for i in range(60)}
    relevant = {
        query: {name: int(shared) for name, there in words.items() if (shared := np.isin(asked, there).sum()) > 1}
        for query, asked in queries.items()
    }
    texts = ({name: " ".join(some) for name, some in group.items()} for group in (words, queries))
    return Collection("words", *texts, relevant, "test")


@pytest.mark.parametrize(("kind", "most"), [("flat", 1e-9), ("auto", 0.02), ("ivf-pq", 0.02)])
def test_it_scores_as_the_evaluator_does(collection, encoder, monkeypatch, kind, most):
    monkeypatch.setattr(plan, "FLAT_BELOW", 1000)
    index = SearchIndex.build(
        list(collection.documents.values()), encoder.encode, ids=list(collection.documents), kind=kind
    )
    found = index.search(list(collection.queries.values()), 10)
    rankings = {query: [hit.id for hit in hits] for query, hits in zip(collection.queries, found, strict=True)}
    evaluated = evaluate_retrieval(encoder.encode, collection)["ndcg@10"]
    assert 0.5 < evaluated < 1
    assert abs(ranking_metrics(rankings, collection.relevant)["ndcg@10"] - evaluated) <= most
    assert (index.info["plan"]["factory"] is None) == (kind == "flat")
