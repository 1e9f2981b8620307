"""What measures an encoder, while it trains and afterwards: one protocol, and the evaluators of a development set."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from simcse.errors import DataError
from simcse.evaluation.geometry import alignment, uniformity
from simcse.evaluation.pairs import PairEvaluator, correlate
from simcse.evaluation.retrieval import Collection, evaluate_retrieval
from simcse.vectors import CachedEncoder, Encode, roles_of, unit_vectors

__all__ = ["Evaluator", "RetrievalEvaluator", "ScoredPairsEvaluator"]


class Evaluator(Protocol):
    """Data to measure an encoder on: `evaluator(encode)` -> metrics by name, the primary one among them.

    Any callable with these attributes is one: `pairs.PairEvaluator`, the tasks of `suite`, those below, your own.
    """

    @property
    def name(self) -> str:
        """Of the data, for errors and reports."""
        ...

    @property
    def n(self) -> int:
        """What is measured on: pairs, rows, queries."""
        ...

    @property
    def primary_metric(self) -> str:
        """The metric that tells which of two encoders is better."""
        ...

    @property
    def greater_is_better(self) -> bool:
        """Whether a higher primary metric is better."""
        ...

    def __call__(self, encode: Encode) -> dict[str, Any]: ...


class ScoredPairsEvaluator(PairEvaluator):
    """Spearman and Pearson x 100 on scored pairs, and alignment and uniformity on the same sentences.

    Alignment counts the pairs whose gold score is above 4/5 of the highest one: above 4 on STS-B (paper, section 6).
    """

    def __call__(self, encode: Encode) -> dict[str, float]:
        """Measure the encoder."""
        vectors = unit_vectors(encode, self.sentences, where=self.where, nonzero=True)
        cosines = np.concatenate(self.cosines_of(vectors))
        spearman, pearson = correlate(cosines, self.gold, self.name)
        close = cosines[self.gold > 0.8 * self.gold.max()]
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

    primary_metric, greater_is_better = "mrr@10", True

    def __init__(self, queries: list[str], documents: list[str], corpus: list[str], name: str) -> None:
        texts = dict.fromkeys(corpus)
        for number, text in enumerate(documents, start=1):
            if text not in texts:
                raise DataError(
                    f"{name}: row {number}: its document is not among the {len(texts)} of data.dev_corpus "
                    f"({text[:40]!r}...); the corpus must contain every document, word for word"
                )
        relevant: dict[str, dict[str, int]] = {}
        for query, document in zip(queries, documents, strict=True):
            relevant.setdefault(query, {})[document] = 1
        own = {text: text for text in texts}
        self._collection = Collection(name, own, {query: query for query in relevant}, relevant, "dev")
        self._queries, self._documents = queries, documents
        self.name, self.n = name, len(queries)

    def __call__(self, encode: Encode) -> dict[str, float]:
        """Measure the encoder."""
        once = roles_of(encode).wrapped(CachedEncoder)
        found = evaluate_retrieval(once, self._collection)
        queries = unit_vectors(once.encode_query, self._queries, nonzero=True)  # (n, d)
        documents = unit_vectors(once.encode_document, self._documents, nonzero=True)  # (n, d)
        return {
            **{name: 100 * found[name] for name in ("mrr@10", "recall@1", "recall@10")},
            "alignment": alignment(queries, documents),
            "uniformity": uniformity(
                unit_vectors(once.encode_document, list(self._collection.documents), nonzero=True)
            ),
        }
