"""Evaluators that score the encoder again and again while it trains. The first metric decides what is best."""

from __future__ import annotations

from typing import Protocol

from simcse.data.pairs import ScoredPairs
from simcse.errors import DataError
from simcse.evaluation.geometry import alignment, uniformity
from simcse.evaluation.pairs import PairEvaluator, correlate
from simcse.evaluation.retrieval import Collection, evaluate_retrieval
from simcse.vectors import CachedEncoder, Encode, unit_vectors

__all__ = ["Evaluator", "RetrievalEvaluator", "ScoredPairsEvaluator"]


class Evaluator(Protocol):
    """`evaluator(encode)` -> metrics; a higher `metric` is better."""

    metric: str
    n: int

    def __call__(self, encode: Encode) -> dict[str, float]: ...


class ScoredPairsEvaluator:
    """Spearman and Pearson x 100 on scored pairs, and alignment and uniformity on the same sentences.

    Alignment takes the pairs whose gold score is above 4/5 of the highest one: above 4 on STS-B (paper, section 6).
    """

    metric = "spearman"

    def __init__(self, pairs: ScoredPairs) -> None:
        self._pairs = PairEvaluator(pairs)
        self._gold, self._name = pairs.scores, pairs.name
        self.n = len(pairs)

    def __call__(self, encode: Encode) -> dict[str, float]:
        """Score the encoder."""
        vectors = unit_vectors(encode, self._pairs.sentences, where=self._pairs.where, nonzero=True)
        [cosines] = self._pairs.cosines_of(vectors)
        spearman, pearson = correlate(cosines, self._gold, self._name)
        close = cosines[self._gold > 0.8 * self._gold.max()]
        return {
            "spearman": spearman,
            "pearson": pearson,
            "alignment": float((2 - 2 * close).mean()),  # ||x - y||^2 of unit vectors
            "uniformity": uniformity(vectors),
        }


class RetrievalEvaluator:
    """MRR@10, recall@1 and recall@10 of finding each query's own document among all, and alignment and uniformity.

    Args:
        queries: n queries.
        documents: the document of each.
        corpus: everything that is ranked; equal texts count as one.
        name: of the query file, for errors.

    Raises:
        DataError: a query's document is not in the corpus; names the row.
    """

    metric = "mrr@10"

    def __init__(self, queries: list[str], documents: list[str], corpus: list[str], name: str) -> None:
        texts = dict.fromkeys(corpus)
        for number, text in enumerate(documents, start=1):
            if text not in texts:
                raise DataError(
                    f"{name}: row {number}: its document is not among the {len(texts)} of --data.dev_corpus "
                    f"({text[:40]!r}...); the corpus must hold every document, word for word"
                )
        relevant: dict[str, dict[str, int]] = {}
        for query, document in zip(queries, documents, strict=True):
            relevant.setdefault(query, {})[document] = 1
        own = {text: text for text in texts}
        self._collection = Collection(name, own, {query: query for query in relevant}, relevant, "dev")
        self._queries, self._documents = queries, documents
        self.n = len(queries)

    def __call__(self, encode: Encode) -> dict[str, float]:
        """Score the encoder."""
        once = CachedEncoder(encode)
        found = evaluate_retrieval(once, self._collection)
        queries, documents = (unit_vectors(once, texts, nonzero=True) for texts in (self._queries, self._documents))
        return {
            **{name: 100 * found[name] for name in ("mrr@10", "recall@1", "recall@10")},
            "alignment": alignment(queries, documents),
            "uniformity": uniformity(unit_vectors(once, list(self._collection.documents), nonzero=True)),
        }
