"""Encoding many texts: length-sorted batches within a token budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from simcse.display.progress import progress
from simcse.encoder.backends.allocator import keep_freed_megabytes
from simcse.encoder.backends.int8 import CALIBRATION, quantized
from simcse.encoder.backends.torch_packed import PackedForward, pack
from simcse.encoder.backends.workers import in_parallel, worker_count
from simcse.errors import ConfigError, DataError, ModelError
from simcse.tokens.batch import TokenBatch, TokenLists, plan_batches
from simcse.tokens.tokenize import Tokenize, wrong_element

if TYPE_CHECKING:
    from simcse.encoder.model import SentenceEncoder

__all__ = ["TEXTS_PER_CHUNK", "TOKENS_HELD", "encode", "laid_out"]

# measured: below, matrix products lose; above, what lies between them falls out of a core's second-level cache
TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 65536}
TOKENS_FOR_TILES = 4096  # the kernel for tiles makes its own blocks: measured, 4 % over 2048, and little more beyond
LEAST_TOKENS = 128  # below this a batch does not pay for its way to another core
TOKENS_HELD = 512  # what weights that are kept between calls are laid out for: some dozens of short texts
PREPACK_FROM = 16  # batches; laying weights out anew takes as long as a batch or two
TEXTS_INLINE = 64  # up to here one thread tokenizes them sooner than others start
TEXTS_PER_SHARE = 1024  # tokenized at a time: a tokenizer's own records take some kilobytes a text
TEXTS_PER_CHUNK = 16384  # tokenized, sorted by length and encoded together; bounds the memory of encode_to


def encode(
    encoder: SentenceEncoder,
    texts: Sequence[str],
    tokenize: Tokenize,
    *,
    normalize: bool = True,
    batch_size: int | None = None,
    show_progress: bool = False,
) -> np.ndarray:
    """(n, d) float32 vectors of n texts; see `SentenceEncoder.encode`."""
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}: at least 1")
    vectors = np.empty((len(texts), encoder.dimension), dtype=np.float32)
    was_training = encoder.training
    if encoder.held is None:  # else it is in evaluation mode already; saying so to each module takes half a millisecond
        encoder.eval()
    try:
        with progress(len(texts), show_progress) as advance:
            for start in range(0, len(texts), TEXTS_PER_CHUNK):
                chunk = texts[start : start + TEXTS_PER_CHUNK]
                out = vectors[start : start + len(chunk)]
                _encode_chunk(encoder, chunk, tokenize, out, normalize, batch_size, advance)
    except DataError as error:  # it counts from the beginning of a thread's share
        raise DataError(wrong_element(texts)) from error
    finally:
        if was_training:
            encoder.train()
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise ModelError(
            f"{encoder.name}: the vector of text {bad[0]} ({texts[bad[0]][:60]!r}) is not finite, as are "
            f"{len(bad) - 1} others; the weights are damaged or overflow in this dtype: try dtype='fp32'"
        )
    return vectors


def _encode_chunk(
    encoder: SentenceEncoder,
    texts: Sequence[str],
    tokenize: Tokenize,
    out: np.ndarray,
    normalize: bool,
    batch_size: int | None,
    advance: Callable[[int], None],
) -> None:
    """Fill `out` (n, d) with the vectors of n texts."""
    device = encoder.device
    workers = worker_count(device)
    if device.type == "cpu" and len(texts) > TEXTS_INLINE:
        keep_freed_megabytes()
    tokens = _tokenize(texts, tokenize, encoder, workers)
    budget = TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cuda"])
    share = max(LEAST_TOKENS, -(-len(tokens.ids) // workers))  # something for each worker
    states = _forward(encoder, tokenize, min(budget, share), len(tokens.ids))
    budget = min(TOKENS_FOR_TILES if states is not None and states.kernel is not None else budget, share)
    plan = plan_batches(tokens.lengths, max_tokens=budget, max_sequences=batch_size, padded=states is None)
    batches = list(tokens.ordered(plan.order).batches(plan.cuts, device))

    @torch.inference_mode()  # holds for a thread, so each batch enters it anew
    def vectors_of(batch: TokenBatch) -> np.ndarray:
        vectors = encoder(batch, states, tokenize.left_out).float()  # (S, d)
        return (F.normalize(vectors, dim=-1) if normalize else vectors).cpu().numpy()

    done = in_parallel(vectors_of, batches, workers)
    for vectors, first, last in zip(done, plan.cuts[:-1], plan.cuts[1:], strict=True):
        out[plan.order[first:last]] = vectors
        advance(last - first)


def _forward(encoder: SentenceEncoder, tokenize: Tokenize, budget: int, tokens: int) -> PackedForward | None:
    """What computes token states; None: the backbone's own forward pass."""
    if encoder.held is not None:
        return encoder.held
    return laid_out(encoder, tokenize, budget if tokens >= PREPACK_FROM * budget else None)


def laid_out(encoder: SentenceEncoder, tokenize: Tokenize, rows: int | None) -> PackedForward | None:
    """The weights as they are now, ready for inference, for batches of so many tokens if that is known.

    The kernel for tiles is taken for one short text too, though laying weights out costs some milliseconds more than it
    saves: vectors are batch invariant.
    """
    if encoder.int8:
        calibration = TokenBatch.from_lists(tokenize(CALIBRATION)[0])
        return quantized(encoder.backbone, calibration, TOKENS_PER_BATCH["cpu"])
    return pack(encoder.backbone, prepack=rows, tiles=True)


def _tokenize(texts: Sequence[str], tokenize: Tokenize, encoder: SentenceEncoder, workers: int) -> TokenLists:
    """Token lists of a chunk; what is cut is counted."""
    share = min(TEXTS_PER_SHARE, -(-len(texts) // workers))
    shares = [texts[start : start + share] for start in range(0, len(texts), share)]
    parts = list(in_parallel(tokenize.flat, shares, workers if len(texts) > TEXTS_INLINE else 1))
    encoder.count_truncated(sum(cut for _, cut in parts), tokenize.max_length)
    return TokenLists.join([tokens for tokens, _ in parts])
