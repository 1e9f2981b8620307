"""Encoding many texts: length-sorted batches within a token budget, and streaming to a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch.nn import functional as F

from simcse.display.progress import progress
from simcse.encoder.backends.allocator import keep_freed_megabytes
from simcse.encoder.backends.int8 import CALIBRATION, quantized
from simcse.encoder.backends.torch_packed import PackedForward, pack
from simcse.encoder.backends.workers import in_parallel, worker_count
from simcse.errors import ConfigError, DataError, ModelError
from simcse.files import check_writable, moved, naming_target, replaced_file
from simcse.tokens.batch import TokenBatch, TokenLists, plan_batches
from simcse.tokens.tokenize import Tokenize, wrong_element

if TYPE_CHECKING:
    from simcse.encoder.model import SentenceEncoder

__all__ = ["TOKENS_HELD", "encode", "encode_to", "laid_out"]

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


HEADER = 128  # bytes: an .npy header padded to a fixed size, so that the row count can be filled in at the end


@dataclass
class _Progress:
    """How far an unfinished `encode_to` came; lies beside the vectors and is replaced as a whole after each chunk."""

    encoder: str  # its fingerprint, and the options that change a vector
    dimension: int
    rows: int = 0
    texts: str = ""  # running hash of the texts behind these rows


def encode_to(
    encoder: SentenceEncoder,
    path: str | Path,
    texts: Iterable[str],
    *,
    resume: bool = True,
    prompt: str | None = None,
    prompt_name: str | None = None,
    normalize: bool = True,
    batch_size: int | None = None,
    max_length: int | None = None,
    total: int | None = None,
    show_progress: bool = False,
) -> int:
    """Encode any number of texts into an `.npy` file of float32 (n, d), in constant memory.

    Until it is done the rows lie in `PATH.partial`; a killed call goes on there when called again with the same texts.

    Args:
        encoder: what encodes.
        path: the file, which appears when all is done.
        texts: any iterable, read once.
        resume: go on from an unfinished call, skipping the texts already encoded; False starts anew.
        prompt: put before each text, as in `SentenceEncoder.encode`.
        prompt_name: a key of `encoder.prompts`.
        normalize: to unit length.
        batch_size: the most texts in a batch; default: as many as the token budget holds.
        max_length: tokens kept of each text.
        total: expected number of texts, for the progress bar.
        show_progress: a bar on stderr.

    Returns:
        n, the number of rows.

    Raises:
        DataError: `texts` is no iterable, or an element of it no string.
        ConfigError: an unfinished file is of another encoder, other options or other texts, or damaged.
        OSError: the file cannot be written; the rows that were stay in `PATH.partial`, and the next call goes on there.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise DataError(f"texts is of type {type(texts).__name__}, expected an iterable of texts")
    path = Path(path)
    partial, state_file = path.with_name(path.name + ".partial"), path.with_name(path.name + ".partial.json")
    check_writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenize = encoder.tokenize(max_length, encoder.resolve_prompt(prompt, prompt_name))
    behind = f", prompt {tokenize.prompt!r}" if tokenize.prompt else ""
    about = f"{encoder.fingerprint}, max_length {tokenize.max_length}, normalize {normalize}{behind}"
    state = _Progress(about, encoder.dimension)
    source = iter(texts)
    if resume and partial.is_file() and state_file.is_file():
        state = _skip_done(_read_progress(state_file, partial), state, source, partial)
    try:
        with (
            naming_target(path, partial),
            partial.open("r+b" if state.rows else "wb") as file,
            progress(total, show_progress) as advance,
        ):
            advance(state.rows)
            file.truncate(HEADER + state.rows * state.dimension * 4)  # rows behind the last noted chunk are done again
            file.seek(0, os.SEEK_END)
            while chunk := list(islice(source, TEXTS_PER_CHUNK)):
                vectors = encode(encoder, chunk, tokenize, normalize=normalize, batch_size=batch_size)
                file.write(vectors.tobytes())
                file.flush()
                os.fsync(file.fileno())
                state = _Progress(state.encoder, state.dimension, state.rows + len(chunk), _hash(state.texts, chunk))
                with replaced_file(state_file) as new:
                    new.write_text(json.dumps(asdict(state)), encoding="utf-8")
                advance(len(chunk))
            _write_header(file, state.rows, state.dimension)
        moved(partial, path)
        state_file.unlink(missing_ok=True)
    finally:
        if not state.rows:  # there is nothing to go on from
            with suppress(OSError):
                partial.unlink(missing_ok=True)
    return state.rows


def _read_progress(file: Path, partial: Path) -> _Progress:
    """What an unfinished call noted.

    Raises:
        ConfigError: it is no such note, or says more than there is in the file of vectors.
    """
    try:
        done = _Progress(**json.loads(file.read_bytes()))
        ints = isinstance(done.rows, int) and isinstance(done.dimension, int) and done.rows >= 0 < done.dimension
        if not (
            ints and isinstance(done.texts, str) and HEADER + done.rows * done.dimension * 4 <= partial.stat().st_size
        ):
            raise ValueError
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{file}: damaged, it does not say how far {partial.name} came; delete both, or start anew with "
            "resume=False"
        ) from error
    return done


def _skip_done(done: _Progress, fresh: _Progress, source: Iterator[str], partial: Path) -> _Progress:
    """The recorded progress, after reading the texts behind it from `source` and checking that they are the same."""
    if (done.encoder, done.dimension) != (fresh.encoder, fresh.dimension):
        raise ConfigError(
            f"{partial}: begun with encoder {done.encoder}, d={done.dimension}, but this one is {fresh.encoder}, "
            f"d={fresh.dimension}; finish with the first, or start anew with resume=False"
        )
    seen, left = "", done.rows
    while left and (chunk := list(islice(source, min(left, TEXTS_PER_CHUNK)))):
        seen, left = _hash(seen, chunk), left - len(chunk)
    if left or seen != done.texts:
        raise ConfigError(
            f"{partial}: begun on other texts (its {done.rows} rows are not the first {done.rows} of these); "
            "give the same texts, or start anew with resume=False"
        )
    return done


def _hash(before: str, texts: Sequence[str]) -> str:
    digest = hashlib.blake2b(before.encode(), digest_size=16)
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _write_header(file: BinaryIO, rows: int, dimension: int) -> None:
    """The .npy 1.0 header: magic, version, length, and a dict padded with blanks up to a newline."""
    about = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dimension}), }}"
    file.seek(0)
    file.write(b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + about.ljust(HEADER - 11).encode() + b"\n")
