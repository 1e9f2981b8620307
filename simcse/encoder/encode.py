"""Encoding many texts: length-sorted batches within a token budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from simcse.display.progress import progress
from simcse.encoder.backends.allocator import keep_freed_megabytes
from simcse.encoder.backends.base import Backend
from simcse.encoder.backends.workers import in_parallel, worker_count
from simcse.errors import ConfigError, DataError, ModelError, shown
from simcse.tokens.batch import TokenBatch, TokenLists, plan_batches
from simcse.tokens.tokenize import Tokenize, wrong_element

__all__ = ["TEXTS_PER_CHUNK", "check_no_vectors", "encode"]

LEAST_TOKENS = 128  # below this a batch does not pay for its way to another core
TEXTS_INLINE = 64  # up to here one thread tokenizes them sooner than others start
TEXTS_PER_SHARE = 1024  # tokenized at a time: a tokenizer's own records need some kilobytes a text
TEXTS_PER_CHUNK = 16384  # tokenized, sorted by length and encoded together; bounds the memory of encode_to


def encode(
    texts: Sequence[str],
    tokenize: Tokenize,
    backend: Backend,
    pooled: Callable[[TokenBatch], Tensor],
    *,
    name: str,
    dimension: int,
    normalize: bool = True,
    batch_size: int | None = None,
    show_progress: bool = False,
) -> tuple[np.ndarray, int]:
    """Vectors of n texts, (n, d) float32, and how many texts were cut.

    Args:
        texts: n of them.
        tokenize: what makes token ids of them.
        backend: what computes token states; says how many tokens a batch should hold.
        pooled: S sequences -> (S, d) vectors, by that backend.
        name: of the encoder; shown in errors.
        dimension: d.
        normalize: to unit length.
        batch_size: the most texts in a batch.
        show_progress: a bar on stderr.

    Raises:
        ConfigError: batch_size is below 1.
        DataError: an element of `texts` is no string.
        ModelError: a vector is not finite; names the text.
    """
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ConfigError(f"batch_size is {batch_size!r}: at least 1, a whole number")

    def vectors_of(batch: TokenBatch) -> np.ndarray:
        with torch.inference_mode():  # holds for a thread, so each batch enters it anew
            found = pooled(batch).float()  # (S, d)
            return (F.normalize(found, dim=-1) if normalize else found).cpu().numpy()

    if len(texts) == 1:  # nothing to sort or cut, and planning is felt in so short a call
        rows, cut = tokenize(texts)
        left_out = (tokenize.left_out,) if tokenize.left_out else ()
        vectors = vectors_of(TokenBatch.from_lists(rows, backend.device, left_out))
    else:
        vectors = np.empty((len(texts), dimension), dtype=np.float32)
        with progress(len(texts), show_progress) as advance:
            cut = _encode_batches(texts, tokenize, backend, vectors_of, vectors, batch_size, advance)
    if not np.isfinite(vectors).all():
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        raise ModelError(
            f"{name}: the vector of text {bad[0]} ({texts[bad[0]][:60]!r}) is not finite, as are "
            f"{len(bad) - 1} others; the weights are damaged or overflow in this dtype: try dtype='fp32'"
        )
    return vectors, cut


def _encode_batches(
    texts: Sequence[str],
    tokenize: Tokenize,
    backend: Backend,
    vectors_of: Callable[[TokenBatch], np.ndarray],
    vectors: np.ndarray,
    batch_size: int | None,
    advance: Callable[[int], None],
) -> int:
    """Fill the (n, d) vectors; returns how many texts were cut."""
    cut, workers = 0, worker_count(backend.device)
    if backend.device.type == "cpu" and len(texts) > TEXTS_INLINE:
        keep_freed_megabytes()
    for start in range(0, len(texts), TEXTS_PER_CHUNK):
        chunk = texts[start : start + TEXTS_PER_CHUNK]
        out = vectors[start : start + len(chunk)]
        try:
            tokens, cut_here = _tokenize(chunk, tokenize, workers)
        except DataError as error:  # it counts from the beginning of a thread's share
            raise DataError(wrong_element(texts)) from error
        cut += cut_here
        share = max(LEAST_TOKENS, -(-len(tokens.ids) // workers))  # something for each worker
        plan = plan_batches(
            tokens.lengths, max_tokens=min(backend.tokens_per_batch, share), max_sequences=batch_size,
            padded=backend.padded,
        )  # fmt: skip
        batches = list(tokens.ordered(plan.order).batches(plan.cuts, backend.device, tokenize.left_out))
        done = in_parallel(vectors_of, batches, workers)
        for found, first, last in zip(done, plan.cuts[:-1], plan.cuts[1:], strict=True):
            out[plan.order[first:last]] = found
            advance(last - first)
    return cut


def check_no_vectors(texts: object) -> None:
    """Raise a DataError if vectors stand where texts to compare belong."""
    if isinstance(texts, Tensor) or (isinstance(texts, np.ndarray) and texts.dtype.kind == "f"):
        raise DataError(
            f"similarity compares texts, found vectors of shape {tuple(texts.shape)}; those of length 1, as "
            "encode gives them, are compared by a @ b.T"
        )


def checked_batch(batch: Any) -> TokenBatch:
    """What an encoder is called with, as a module.

    Raises:
        DataError: texts, which `encode` accepts.
    """
    if not isinstance(batch, TokenBatch):
        raise DataError(f"found {shown(batch)}, expected a TokenBatch; encoder.encode(texts) gives vectors of texts")
    return batch


def _tokenize(texts: Sequence[str], tokenize: Tokenize, workers: int) -> tuple[TokenLists, int]:
    """Token lists of a chunk, and how many were cut."""
    share = min(TEXTS_PER_SHARE, -(-len(texts) // workers))
    shares = [texts[start : start + share] for start in range(0, len(texts), share)]
    parts = list(in_parallel(tokenize.flat, shares, workers if len(texts) > TEXTS_INLINE else 1))
    return TokenLists.join([tokens for tokens, _ in parts]), sum(cut for _, cut in parts)
