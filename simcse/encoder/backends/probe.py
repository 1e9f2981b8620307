"""Whether a layer takes longer by a backend, or in a precision, than in fp32 on this machine: timed once, then kept.

Instruction sets say what a CPU can do and not what pays: a virtual machine may hide AMX and leave AVX512-BF16, whose
products are no faster than fp32 on some CPUs; a CPU without either emulates bf16, and most CPUs emulate fp16. So one
layer of the model's shape is run both ways, and the two times lie beside the compiled kernel in the user's cache
folder. They are CPU time of one thread, as `encode` gives each core a batch of its own, and waiting for a core that
another program has does not count. What was found once stands as long as machine, versions and shape do: a verdict
that changed from process to process would change vectors.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from simcse import __version__
from simcse.encoder.backends.base import Backend
from simcse.encoder.backends.bert_modules import BertModules
from simcse.encoder.backends.cpu_features import cpu_flags, cpu_model
from simcse.encoder.backends.native.binding import sources_digest
from simcse.encoder.backends.native.compile import user_folder
from simcse.encoder.backends.workers import in_parallel, worker_count
from simcse.encoder.configuration import PlainConfig
from simcse.errors import ConfigError
from simcse.files import replaced_file
from simcse.tokens.batch import TokenBatch

__all__ = ["Shape", "Verdict", "probe", "probe_batch", "shape_of", "stand_in"]

MARGIN = 1.05  # what is less is noise
ROUNDS, MOST_ROUNDS = 3, 9  # runs of each; more before something is found slower
HOPELESS = 3.0  # times as slow: more runs change nothing
LEAST_WEIGHTS = 100_000  # of a layer; in smaller ones the products are not what takes the time
WIDEST, INNERMOST = 1024, 4096  # of the layer that is run in place of a wider one
PRODUCTS = 500_000_000  # of a run, about
LENGTH, FEWEST, MOST = 32, 4, 16  # tokens of a sequence; sequences of a run
VOCABULARY = 64

Prepare = Callable[[nn.Module], Backend]


class Shape(NamedTuple):
    """Of a transformer layer: width D, width of the feed-forward sublayer, attention heads."""

    width: int
    inner: int
    heads: int

    @property
    def weights(self) -> int:
        """How many its matrices have."""
        return 4 * self.width**2 + 2 * self.width * self.inner


class Verdict(NamedTuple):
    """Seconds that a layer takes, and seconds that it takes in fp32."""

    seconds: float
    fp32_seconds: float

    @property
    def slower(self) -> bool:
        """Than fp32, by more than noise."""
        return self.seconds > MARGIN * self.fp32_seconds


_known: dict[str, Verdict] = {}
_probing = threading.RLock()  # to prepare a backend may ask for a verdict on another


def shape_of(config: Any) -> Shape | None:
    """The shape of a backbone's layers, made smaller if they are huge; None if they are too small to be timed."""
    width, heads = config.hidden_size, getattr(config, "num_attention_heads", None)
    inner = getattr(config, "intermediate_size", None)
    inner = inner if isinstance(inner, int) else 4 * width
    if not isinstance(heads, int) or width % heads or Shape(width, inner, heads).weights < LEAST_WEIGHTS:
        return None
    if width > WIDEST:
        head = min(width // heads, WIDEST)
        width, heads = WIDEST // head * head, WIDEST // head
    return Shape(width, min(inner, INNERMOST), heads)


def stand_in(shape: Shape, dtype: torch.dtype) -> BertModules:
    """A BERT of one layer of that shape on the CPU, whose weights are what was in memory."""
    settings = {
        "vocab_size": VOCABULARY, "hidden_size": shape.width, "intermediate_size": shape.inner, "num_hidden_layers": 1,
        "num_attention_heads": shape.heads, "max_position_embeddings": LENGTH, "type_vocab_size": 2, "pad_token_id": 0,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "layer_norm_eps": 1e-12,
    }  # fmt: skip
    with torch.device("meta"):
        model = BertModules(PlainConfig("bert", settings, Path("config.json")))
    state = {name: torch.empty(weight.shape, dtype=dtype) for name, weight in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def probe_batch(shape: Shape) -> TokenBatch:
    """What is timed: sequences of equal length."""
    sequences = min(max(PRODUCTS // (shape.weights * LENGTH), FEWEST), MOST)
    return TokenBatch.from_lists(
        [[(7 * row + place) % VOCABULARY for place in range(LENGTH)] for row in range(sequences)]
    )


def probe(name: str, shape: Shape, dtype: torch.dtype, candidate: Prepare, fp32: Prepare) -> Verdict:
    """How long a layer takes by a candidate, and in fp32: the verdict that was kept, else one made now.

    Args:
        name: of the candidate; each way to compute has its own.
        shape: of the layer.
        dtype: of the candidate's weights.
        candidate: makes a backend of a stand-in with weights in `dtype`.
        fp32: makes the backend to compare with of a stand-in in float32.
    """
    with _probing:
        key = f"{name} {dtype} {shape}; {machine()}"
        if key not in _known:
            found = kept(key)
            if found is None:
                made = race(backend_of(shape, dtype, candidate), backend_of(shape, torch.float32, fp32), shape)
                found = kept(key) or keep(key, made)  # another process may have been sooner
            _known[key] = found
        return _known[key]


def machine() -> str:
    """All that a time depends on but the work."""
    flags = " ".join(sorted(cpu_flags()))
    versions = f"simcse {__version__}, kernel {sources_digest()}, torch {torch.__version__}"
    return f"{versions}, {torch.get_num_threads()} threads, {cpu_model()}: {flags}"


def backend_of(shape: Shape, dtype: torch.dtype, prepare: Prepare) -> Backend:
    """The backend of a stand-in with weights of plausible size."""
    model = stand_in(shape, dtype)
    noise = 0.05 * torch.randn(max(shape), generator=torch.Generator().manual_seed(0))  # not the user's generator
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(noise[: weight.shape[-1]])
    return prepare(model)


def race(candidate: Backend, fp32: Backend, shape: Shape) -> Verdict:
    """The least CPU time of each, interleaved; on two cores side by side where there are two."""
    batch = probe_batch(shape)

    def trial(_: int) -> Verdict:
        best = Verdict(math.inf, math.inf)
        with torch.inference_mode():
            for backend in (candidate, fp32):  # the first run compiles
                backend(batch, (-1,))
            for run in range(1, MOST_ROUNDS + 1):
                new = Verdict(timed(candidate, batch), timed(fp32, batch))
                best = Verdict(min(best.seconds, new.seconds), min(best.fp32_seconds, new.fp32_seconds))
                hopeless = run > 1 and best.seconds > HOPELESS * best.fp32_seconds
                if hopeless or (run >= ROUNDS and not best.slower):
                    break
        return best

    cores = min(2, worker_count(torch.device("cpu")))
    trials = list(in_parallel(trial, range(cores), cores))
    return Verdict(min(found.seconds for found in trials), min(found.fp32_seconds for found in trials))


def timed(backend: Backend, batch: TokenBatch) -> float:
    """Seconds of this thread's CPU time."""
    start = time.thread_time()
    backend(batch, (-1,))
    return time.thread_time() - start


def verdict_file(key: str) -> Path | None:
    """Where the verdict of a key lies; None where there is no safe place."""
    with suppress(ConfigError):
        if (folder := user_folder()) is not None:
            return folder / f"probe-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    return None


def kept(key: str) -> Verdict | None:
    """The verdict of an earlier process; None if there is none, or what is there is damaged."""
    file = verdict_file(key)
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file is not None else {}
        verdict = Verdict(float(found["seconds"]), float(found["fp32_seconds"]))
        return verdict if found["key"] == key and all(0 < second < math.inf for second in verdict) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def keep(key: str, verdict: Verdict) -> Verdict:
    """Write a verdict, where there is a folder for it that can be written; returns it."""
    file = verdict_file(key)
    if file is not None:
        with suppress(OSError), replaced_file(file) as new:
            new.write_text(json.dumps({"key": key, **verdict._asdict()}, indent=1) + "\n", encoding="utf-8")
    return verdict
