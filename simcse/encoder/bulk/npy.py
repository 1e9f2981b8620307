"""Encoding any number of texts into a file, in constant memory; a killed call goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from simcse.display.progress import paced, progress
from simcse.encoder.bulk.tables import Rows, check_format, write_table
from simcse.encoder.encode import TEXTS_PER_CHUNK
from simcse.errors import ConfigError, DataError
from simcse.files import check_version, check_writable, make_folder, moved, naming_target, removed, replaced_file, sweep
from simcse.vectors import Matrix, Quantize
from simcse.vectors import quantize as quantized

__all__ = ["encode_to", "write_array"]

NOTE_FORMAT = 1  # of `_Progress`
HEADER = 128  # bytes: an .npy header padded to a fixed size, so that the row count can be filled in at the end


@dataclass
class _Progress:
    """How far an unfinished `encode_to` came; lies beside the vectors and is replaced as a whole after each chunk."""

    encoder: str  # its fingerprint, and the options that change a vector
    dimension: int  # of a row as it is written
    rows: int = 0
    texts: str = ""  # running hash of the texts behind these rows
    format: int = NOTE_FORMAT


def encode_to(
    path: str | Path,
    texts: Iterable[str],
    encode: Callable[[list[str]], Matrix],
    *,
    made_by: str,
    ids: Iterable[int | str | None] | None = None,
    quantize: Quantize = "none",
    resume: bool = True,
    total: int | None = None,
    show_progress: bool = False,
) -> int:
    """Encode any number of texts into a file, in constant memory.

    `.npy` holds the vectors (n, d); `.npz` these as `vectors`, and `ids`; `.parquet` and `.jsonl` a row for each text:
    `id`, `text` and `vector`. Until all is encoded the vectors lie in `PATH.partial`; a killed call goes on there when
    called again with the same texts.

    Args:
        path: the file, which appears when all is done.
        texts: any iterable, read once.
        encode: m texts -> (m, d) float32.
        made_by: the encoder's fingerprint, and the options that change a vector.
        ids: of the texts, a number or a text each; default, and where one is None, the number of the row from 0 on.
        quantize: what is made of the vectors, as in `vectors.quantize`.
        resume: go on from an unfinished call, skipping the texts already encoded; False starts anew.
        total: expected number of texts, for the progress bar.
        show_progress: a bar on stderr.

    Returns:
        n, the number of rows.

    Raises:
        DataError: `texts` is no iterable, or an element of it no string; ids that are none, or not one a text.
        ConfigError: an unfinished file is of another encoder, other options or other texts, or damaged; a name whose
            extension is no format; no such kind to quantize to.
        OSError: the file cannot be written; the rows that were stay in `PATH.partial`, and the next call goes on there.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise DataError(f"texts is of type {type(texts).__name__}, expected an iterable of texts")
    path = Path(path)
    check_format(path)
    check_writable(path)
    make_folder(path.parent)
    partial = path.with_name(path.name + ".partial")
    sweep(path.parent, _state_file(partial).name)
    made_by += f", {quantize}" if quantize != "none" else ""

    def vectors(some: list[str]) -> npt.NDArray[Any]:
        return quantized(encode(some), quantize)

    if path.suffix == ".npy":
        with naming_target(path, partial):
            rows = _encode_rows(partial, texts, vectors, made_by, resume, total, show_progress)
            moved(partial, path)
    else:
        with naming_target(path, partial), closing(Rows(path.parent)) as noted:
            texts = noted.noting(texts, ids)
            rows = _encode_rows(partial, texts, vectors, made_by, resume, total, show_progress)
            with progress(rows, show_progress, "writing", "rows") as advance:
                write_table(path, partial, noted, advance)
        partial.unlink()
    _state_file(partial).unlink(missing_ok=True)
    return rows


def _encode_rows(
    partial: Path,
    texts: Iterable[str],
    encode: Callable[[list[str]], npt.NDArray[Any]],
    made_by: str,
    resume: bool,
    total: int | None,
    show_progress: bool,
) -> int:
    """Encode texts into `.npy` rows behind those that are there already; returns how many there are then."""
    like = encode([])  # (0, d)
    state, state_file, source = _Progress(made_by, like.shape[1]), _state_file(partial), iter(texts)
    row_bytes = like.shape[1] * like.itemsize
    if resume and partial.is_file() and state_file.is_file():
        state = _skip_done(_read_progress(state_file, partial, like.itemsize), state, source, partial)
    if not state.rows:
        removed(state_file)  # before the rows that it speaks of are overwritten
    try:
        with partial.open("r+b" if state.rows else "wb") as file, progress(total, show_progress) as advance:
            advance(state.rows)
            file.truncate(HEADER + state.rows * row_bytes)  # rows behind the last noted chunk are done again
            file.seek(0, os.SEEK_END)
            for chunk in paced(source, TEXTS_PER_CHUNK):
                file.write(encode(chunk).tobytes())
                file.flush()
                os.fsync(file.fileno())
                state = _Progress(state.encoder, state.dimension, state.rows + len(chunk), _hash(state.texts, chunk))
                with replaced_file(state_file) as new:
                    new.write_text(json.dumps(asdict(state)), encoding="utf-8")
                advance(len(chunk))
            _write_header(file, like.dtype, state.rows, state.dimension)
    except BaseException:
        if not state.rows:  # there is nothing to go on from
            with suppress(OSError):
                partial.unlink()
        raise
    return state.rows


def _state_file(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def _read_progress(file: Path, partial: Path, itemsize: int) -> _Progress:
    """What an unfinished call noted.

    Raises:
        ConfigError: it is no such note, or a newer one, or says more than there is in the file of vectors.
    """
    try:
        noted = json.loads(file.read_bytes())
        check_version(file, noted.get("format", 1), NOTE_FORMAT, ConfigError)
        done = _Progress(**noted)
        ints = isinstance(done.rows, int) and isinstance(done.dimension, int) and done.rows >= 0 < done.dimension
        if not (ints and isinstance(done.texts, str)):
            raise ValueError
        if partial.stat().st_size < HEADER + done.rows * done.dimension * itemsize:
            raise ValueError
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
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
    """Of a text and all before it, whatever the chunks were."""
    for text in texts:
        before = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=before.encode()).hexdigest()
    return before


def _write_header(file: BinaryIO, kind: np.dtype[Any], rows: int, dimension: int) -> None:
    """The .npy 1.0 header: magic, version, length, and a dict padded with blanks up to a newline."""
    header = f"{{'descr': '{kind.str}', 'fortran_order': False, 'shape': ({rows}, {dimension}), }}"
    file.seek(0)
    file.write(b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + header.ljust(HEADER - 11).encode() + b"\n")


def write_array(file: BinaryIO, vectors: npt.NDArray[Any]) -> None:
    """Write vectors (n, d) as `.npy` to a stream; unlike `np.save` it says of a failed write which and why.

    Raises:
        OSError: the stream accepts no more.
    """
    header = np.lib.format.header_data_from_array_1_0(vectors)
    np.lib.format.write_array_header_1_0(file, header)
    file.write(vectors.data)
