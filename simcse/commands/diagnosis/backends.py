"""Which backend encodes in each precision on this machine, why, and whether it computes what the reference does."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from simcse.commands.diagnosis.finding import Finding
from simcse.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from simcse.tokens.batch import TokenBatch

__all__ = ["backends", "compiler_and_cache"]

# precision -> the least cosine with the vectors of transformers' own forward pass in fp32
AGREEMENT = {"fp32": 0.9999, "bf16": 0.99, "int8": 0.95}


def compiler_and_cache() -> Iterator[Finding]:
    """What compiles the kernel, and the folder that keeps it."""
    import torch

    from simcse.encoder.backends.native.compile import cache_folder, compiler
    from simcse.encoder.backends.native.instruction_sets import best_instruction_set, why_none

    best = best_instruction_set(torch.bfloat16) or best_instruction_set(torch.float32)
    if best is None:
        yield Finding("kernel", f"none: {why_none(torch.bfloat16)}; torch encodes")
    name = compiler()
    yield Finding(
        "C++ compiler",
        "none" if name is None else first_line(name),
        "install g++ or clang++: with it a kernel of our own encodes faster" if best and name is None else None,
    )
    try:
        folder = cache_folder()
    except ConfigError as error:
        yield Finding("kernel's folder", str(error), "encoding is slower until then" if best else None)
        return
    kept = sorted(folder.glob("*.so"))
    about = f"{folder}, mode {stat.S_IMODE(folder.stat().st_mode):o}, {len(kept)} compiled"
    lasting = folder.name == "simcse"  # not that of this process
    advice = None if lasting else "~/.cache cannot be written to, so each process compiles: set XDG_CACHE_HOME"
    yield Finding("kernel's folder", about, advice)


def first_line(compiler: str) -> str:
    """What a compiler says of its version."""
    try:
        done = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{compiler}, which does not run ({error})"
    return f"{compiler}: {done.stdout.splitlines()[0]}"


def backends() -> Iterator[Finding]:
    """For each precision the backend that `auto` picks for a BERT, tried on a small one with random weights."""
    import torch
    from transformers import BertConfig, BertModel

    from simcse.encoder.device import DTYPES, pick_device, pick_dtype
    from simcse.tokens.batch import TokenBatch

    config = BertConfig(
        vocab_size=99, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
        max_position_embeddings=64,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = BertModel(config, add_pooling_layer=False)
    model.eval()
    batch = TokenBatch.from_lists([[(7 * i + j) % 99 for j in range(3 + 5 * i)] for i in range(9)])
    expected = pooled(model, "huggingface", batch)
    for device in dict.fromkeys([torch.device("cpu"), pick_device("auto")]):
        for precision in AGREEMENT:
            if precision == "int8" and device.type != "cpu":
                continue
            dtype = pick_dtype("int8", device) if precision == "int8" else DTYPES[precision]
            yield backend(precision, deepcopy(model).to(device, dtype), batch, expected)


def backend(precision: str, model: nn.Module, batch: TokenBatch, expected: Tensor) -> Finding:
    """What encodes in a precision where the model lies, and how close it comes to `expected`."""
    from torch.nn.functional import cosine_similarity

    from simcse.encoder.backends.bert_weights import BertWeights
    from simcse.encoder.backends.native.backend import unfit
    from simcse.encoder.backends.select import choose_backend, slower_than_fp32

    device = next(model.parameters()).device
    topic = precision if device.type == "cpu" else f"{precision} on {device.type}"
    asked = "int8" if precision == "int8" else "auto"
    try:
        chosen = choose_backend(model, asked, "dtype")
    except ConfigError as error:
        return Finding(topic, str(error))
    weights = BertWeights.from_hf(model)
    assert weights is not None, "it is a BERT"
    reason = unfit(weights, int8=precision == "int8")
    if reason is None and chosen == "torch":
        reason = slower_than_fp32(model, "native")
    how = "native, compiled for this CPU" if reason is None else f"{chosen.replace('int8', 'torch')}, as {reason}"
    cosine = float(cosine_similarity(pooled(model, asked, batch), expected).min())
    if not cosine >= AGREEMENT[precision]:
        return Finding(
            topic, f"{how}: cosine {cosine:.4f} with the reference, expected {AGREEMENT[precision]} at least",
            "take --device cpu --dtype fp32, and report what this command prints", broken=True,
        )  # fmt: skip
    slow = slower_than_fp32(model, chosen) if device.type == "cpu" else None
    advice = f"leave --dtype auto: {slow}" if slow else None
    return Finding(topic, f"{how}; cosine with the reference {cosine:.4f}", advice)


def pooled(model: nn.Module, backend: str, batch: TokenBatch) -> Tensor:
    """(S, D) means of the last states, in float32 on the CPU."""
    import torch

    from simcse.encoder.backends.select import prepared_backend
    from simcse.tokens.batch import TokenBatch

    there = TokenBatch(batch.ids.to(next(model.parameters()).device), batch.lengths)
    with torch.inference_mode():
        [states] = prepared_backend(model, backend, lambda: there)(there, (-1,))
        starts = torch.tensor([0, *batch.lengths]).cumsum(0).tolist()
        return torch.stack([states[i:j].float().mean(0).cpu() for i, j in pairwise(starts)])
