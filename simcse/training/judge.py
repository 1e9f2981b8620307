"""Judges that score the encoder again and again while it trains. The first metric decides what is best."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simcse.data.pairs import ScoredPairs
from simcse.errors import DataError
from simcse.evaluation.geometry import uniformity
from simcse.evaluation.judge import Encode, PairJudge, correlate, embed

__all__ = ["Judge", "RetrievalDev", "ScoredDev"]


class Judge(Protocol):
    """`judge(encode)` -> metrics; a higher `metric` is better."""

    metric: str
    n: int

    def __call__(self, encode: Encode) -> dict[str, float]: ...


class ScoredDev:
    """Spearman and Pearson x 100 on scored pairs, and alignment and uniformity on the same sentences.

    Alignment takes the pairs whose gold score is above 4/5 of the highest one: above 4 on STS-B (paper, section 6).
    """

    metric = "spearman"

    def __init__(self, pairs: ScoredPairs) -> None:
        self._pairs = PairJudge(pairs)
        self._gold, self._name = pairs.scores, pairs.name
        self.n = len(pairs)

    def __call__(self, encode: Encode) -> dict[str, float]:
        """Score the encoder."""
        vectors = embed(encode, self._pairs.sentences, self._pairs.where)
        [cosines] = self._pairs.cosines_of(vectors)
        spearman, pearson = correlate(cosines, self._gold, self._name)
        close = cosines[self._gold > 0.8 * self._gold.max()]
        alignment = float(np.mean(2 - 2 * close)) if len(close) else float("nan")
        geometry = {"alignment": alignment, "uniformity": uniformity(vectors)}
        return {"spearman": spearman, "pearson": pearson, **geometry}


class RetrievalDev:
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
        row = {text: number for number, text in enumerate(dict.fromkeys(corpus))}
        for number, text in enumerate(documents, start=1):
            if text not in row:
                raise DataError(
                    f"{name}: row {number}: its document is not among the {len(row)} of --data.dev_corpus "
                    f"({text[:40]!r}...); the corpus must hold every document, word for word"
                )
        self._queries, self._corpus, self._name = queries, list(row), name
        self._own = np.array([row[text] for text in documents])  # (n,)
        self.n = len(queries)

    def __call__(self, encode: Encode) -> dict[str, float]:
        """Score the encoder."""
        queries = embed(encode, self._queries, lambda i: f"{self._name}: query {i + 1}")
        corpus = embed(encode, self._corpus, lambda i: f"--data.dev_corpus: document {i + 1}")
        ranks = self._ranks(queries, corpus)
        own = np.einsum("nd,nd->n", queries, corpus[self._own])
        return {
            "mrr@10": 100 * float(np.mean(np.where(ranks <= 10, 1 / ranks, 0.0))),
            "recall@1": 100 * float(np.mean(ranks <= 1)),
            "recall@10": 100 * float(np.mean(ranks <= 10)),
            "alignment": float(np.mean(2 - 2 * own)),
            "uniformity": uniformity(corpus),
        }

    def _ranks(self, queries: NDArray[np.float32], corpus: NDArray[np.float32], block: int = 512) -> NDArray[np.int64]:
        """(n,) place of each query's own document, from 1; a block of queries at a time bounds the memory."""
        ranks = np.empty(len(queries), dtype=np.int64)
        for start in range(0, len(queries), block):
            cosines = queries[start : start + block] @ corpus.T  # (block, N)
            own = np.take_along_axis(cosines, self._own[start : start + block, None], axis=1)
            ranks[start : start + block] = 1 + np.count_nonzero(cosines > own, axis=1)
        return ranks
