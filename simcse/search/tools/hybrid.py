"""Dense and lexical search together: what either finds high up comes first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simcse.errors import ConfigError
from simcse.search.index import Hit, SearchIndex
from simcse.search.queries import checked_texts, checked_top_k
from simcse.search.storage import Slots, Snapshot

__all__ = ["HybridSearch"]

DAMPING = 60  # Cormack, Clarke and Buettcher 2009: 1 / (60 + rank)
DEPTH = 100  # ranks of each list that count


class HybridSearch:
    """An index searched by cosine and by BM25, fused by reciprocal rank.

    Words that an encoder knows little about (names, numbers, codes) are found by BM25; paraphrases by the vectors.

        hybrid = HybridSearch(index)
        hybrid.search(["who plays the violin"], top_k=5)

    BM25 (bm25s, Lucene's variant, k1 1.5, b 0.75) is computed over the texts when it is first needed, and again after
    the index has changed.
    """

    def __init__(self, index: SearchIndex, *, stopwords: str | Sequence[str] = "en") -> None:
        """Search `index`; words in `stopwords` (a language code of bm25s, or a list) do not count.

        Raises:
            ConfigError: bm25s is not installed.
        """
        try:
            import bm25s  # noqa: F401
        except ImportError as error:
            raise ConfigError("hybrid search needs bm25s: pip install 'simcse-kit[hybrid]'") from error
        self.index = index
        self.stopwords = stopwords if isinstance(stopwords, str) else list(stopwords)
        self._generation = -1
        self._lexical: Any = None
        self._slots: Slots = np.empty(0, np.int64)

    def search(
        self,
        queries: str | Sequence[str],
        top_k: int = 5,
        *,
        where: Mapping[str, Any] | None = None,
        weight: float = 0.7,
    ) -> list[list[Hit]]:
        """The best texts of each query by fused rank, best first.

        Args:
            queries: texts; a single one is a list of one.
            top_k: how many at most.
            where: metadata that hits must have, as in `SearchIndex.search`.
            weight: share of the vectors in the fused score; the rest is BM25's. 1 is the order of the vectors alone.
                The default's source is benchmarks/RESULTS.md; `benchmarks/retrieval.py` fits it to other queries.

        Returns:
            Hits whose score is the fused one, `weight / (60 + rank) + (1 - weight) / (60 + rank)`, scaled so that the
            first rank in both lists gives 1.

        Raises:
            SearchError: an empty query, top_k below 1, an unknown field in `where`.
            ConfigError: a weight outside [0, 1].
        """
        if not isinstance(weight, (int, float)) or not 0 <= weight <= 1:
            raise ConfigError(f"weight: found {weight!r}, expected a share in [0, 1]")
        listed, top_k = checked_texts(queries), checked_top_k(top_k)
        dense = self.index.search(listed, max(top_k, DEPTH), where=where)
        lexical = self._words(listed, max(top_k, DEPTH), where)
        return [self._fused(a, b, top_k, weight) for a, b in zip(dense, lexical, strict=True)]

    def _fused(self, dense: list[Hit], lexical: list[Hit], top_k: int, weight: float) -> list[Hit]:
        hits = {hit.id: hit for hit in (*lexical, *dense)}
        scores = dict.fromkeys(hits, 0.0)
        for share, ranked in ((weight, dense), (1 - weight, lexical)):
            for rank, hit in enumerate(ranked, 1):
                scores[hit.id] += share * (DAMPING + 1) / (DAMPING + rank)
        best = sorted((key for key in scores if scores[key] > 0), key=lambda key: -scores[key])[:top_k]
        return [Hit(hits[key].text, scores[key], key, hits[key].metadata) for key in best]

    def _words(self, queries: list[str], k: int, where: Mapping[str, Any] | None) -> list[list[Hit]]:
        """BM25's ranking: texts that share no word with the query are left out."""
        snapshot = self._prepare()
        if self._lexical is None or not queries:
            return [[] for _ in queries]
        mask = None
        if where is not None and where != {}:
            mask = np.isin(self._slots, snapshot.matching(where)).astype(np.float32)
        found, scores = self._lexical.retrieve(
            self._tokens(queries), k=min(k, len(self._slots)), show_progress=False, weight_mask=mask
        )
        slots = self._slots[found]  # (q, k)
        rows = snapshot.fetch(np.unique(slots).tolist())
        return [
            [
                Hit(rows[slot][1], score, rows[slot][0], rows[slot][2])
                for slot, score in zip(row, row_scores, strict=True)
                if score > 0 and slot in rows
            ]
            for row, row_scores in zip(slots.tolist(), scores.tolist(), strict=True)
        ]

    def _prepare(self) -> Snapshot:
        """Take in the texts of the index; what is found by their slots must be read from the same one."""
        import bm25s

        snapshot = self.index.storage.snapshot()
        if snapshot.generation == self._generation:
            return snapshot
        slots, texts = [], []
        for slot, (_, text, _) in snapshot.rows():
            slots.append(slot)
            texts.append(text)
        self._slots = np.array(slots, np.int64)
        tokens = self._tokens(texts)
        self._lexical = None
        if any(tokens):
            self._lexical = bm25s.BM25(method="lucene")
            self._lexical.index(tokens, show_progress=False)
        self._generation = snapshot.generation
        return snapshot

    def _tokens(self, texts: list[str]) -> list[list[str]]:
        import bm25s

        found: list[list[str]] = bm25s.tokenize(texts, stopwords=self.stopwords, return_ids=False, show_progress=False)
        return found
