"""Search speed, beside plain faiss in the same process.

    python benchmarks/search.py --rows 1000000 --vectors wiki.npy [--kinds flat auto ivf-pq]

`--vectors` holds real sentence vectors (n, d), for instance of `simcse encode sentences.txt --output wiki.npy`. Where
it has fewer rows than asked for, a mixture fitted to it (256 cells, each with the mean and the leading directions of
its rows) makes the rest; queries are then drawn from the same mixture.

Prints, for each kind: build time, recall@10 on fresh queries, queries/s one at a time and in batches of 64, each with
its ratio to flat search by plain faiss, bytes of the approximate index, and the time and memory to open the saved
index.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from simcse.search.exact import exact_search
from simcse.search.index import SearchIndex
from simcse.search.nearest import nearest_rows

QUERIES = 512
OPEN = """
import resource, sys, time
from simcse.search.index import SearchIndex
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
index = SearchIndex.load(sys.argv[1])
seconds = time.perf_counter() - start
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def mixture(real: np.ndarray, rows: int, seed: int = 0) -> np.ndarray:
    """`rows` unit vectors from a mixture of 256 Gaussians fitted to real ones: means and 32 leading directions each."""
    rng = np.random.default_rng(seed)
    cells = faiss.Kmeans(real.shape[1], 256, niter=10, seed=seed, min_points_per_centroid=1)
    cells.train(real)
    label = cells.index.search(real, 1)[1][:, 0]
    picked = rng.choice(label, rows)
    made = np.empty((rows, real.shape[1]), np.float32)
    for cell in range(256):
        own, where = real[label == cell], np.flatnonzero(picked == cell)
        if not len(where):
            continue
        centred = own - own.mean(0)
        _, scale, directions = np.linalg.svd(centred, full_matrices=False)
        scale, directions = scale[:32] / max(len(own) - 1, 1) ** 0.5, directions[:32]
        left = np.sqrt(np.maximum((centred**2).sum() / len(own) - (scale**2).sum(), 0) / real.shape[1])
        noise = rng.standard_normal((len(where), len(scale)), dtype=np.float32) * scale.astype(np.float32)
        rest = left * rng.standard_normal((len(where), real.shape[1]), dtype=np.float32)
        made[where] = own.mean(0) + noise @ directions + rest
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def rate(search: Callable[[np.ndarray], object], queries: np.ndarray, batch: int, seconds: float = 3.0) -> float:
    """Queries a second: the best of rounds of `batch` queries within some seconds, so that a busy moment does not
    count.
    """
    search(queries[:batch])
    best, begin, at = np.inf, time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        some = np.ascontiguousarray(queries[at : at + batch])
        start = time.perf_counter()
        search(some)
        best = min(best, time.perf_counter() - start)
        at = (at + batch) % (len(queries) - batch)
    return batch / best


def build(vectors: np.ndarray, kind: str) -> tuple[SearchIndex, float, float]:
    """An index over given vectors; seconds to store them, seconds to plan."""

    def encode(texts: list[str]) -> np.ndarray:
        if not texts[0].isdigit():
            return np.eye(len(texts), vectors.shape[1])
        return vectors[[int(text) for text in texts]]

    index = SearchIndex.empty(encode, kind=kind)
    start = time.perf_counter()
    index.add(str(number) for number in range(len(vectors)))
    stored = time.perf_counter()
    index.optimize()
    return index, stored - start, time.perf_counter() - stored


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=["flat", "auto", "ivf", "ivf-pq"])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each rate")
    options = parser.parse_args()
    real = np.load(options.vectors)
    enough = len(real) >= options.rows + QUERIES
    everything = real if enough else mixture(real, options.rows + QUERIES)
    vectors, queries = everything[: options.rows], np.ascontiguousarray(everything[-QUERIES:])
    plain = faiss.IndexFlatIP(vectors.shape[1])
    plain.add(vectors)
    peer = {batch: rate(lambda q: plain.search(q, 10), queries, batch, options.seconds) for batch in (1, 64)}
    true = exact_search(queries, vectors, 10)[1]

    title = f"{len(vectors):,} x {vectors.shape[1]}, {'real' if enough else 'mixture'}, {os.cpu_count()} cores"
    heads = "kind|built as|build s|recall@10|1 at a time /s|64 at a time /s|MiB|open s|open MiB"
    table = Table(*heads.split("|"))
    size = f"{vectors.nbytes / 2**20:.0f}"
    table.add_row("plain faiss", "Flat", "", "1", f"{peer[1]:.1f}", f"{peer[64]:.1f}", size, "", "")
    for kind in options.kinds:
        index, stored, planned = build(vectors, kind)
        view = index.view
        rates = {
            batch: rate(lambda q, v=view: nearest_rows(q, v.matrix, 10, ann=v.ann), queries, batch, options.seconds)
            for batch in (1, 64)
        }
        found = nearest_rows(queries, view.matrix, 10, ann=view.ann)[1]
        recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, true, strict=True)])
        with tempfile.TemporaryDirectory() as folder:
            index.save(Path(folder) / "idx")
            size = sum(path.stat().st_size for path in (Path(folder) / "idx").glob("ann-*")) or vectors.nbytes
            del index, view
            opened = subprocess.run(
                [sys.executable, "-c", OPEN, str(Path(folder) / "idx")], capture_output=True, text=True, check=True
            ).stdout.split()
            plan = SearchIndex.load(Path(folder) / "idx").info["plan"]
        table.add_row(
            kind, f"{plan['factory'] or 'flat'} ({plan['effort']})", f"{stored:.0f} + {planned:.0f}", f"{recall:.3f}",
            *(f"{rates[batch]:.1f} ({rates[batch] / peer[batch]:.2f}x)" for batch in (1, 64)),
            f"{size / 2**20:.0f}", f"{float(opened[0]):.2f}", f"{float(opened[1]):.0f}",
        )  # fmt: skip
        print(f"{kind}: {plan}", file=sys.stderr)
    table.title = f"{title}, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
