"""Files of vectors beside the files of their texts: those of faiss, too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from simcse.data.opening import check_file, reading
from simcse.data.vectors import ROWS_A_BLOCK, VectorFile, open_vectors
from simcse.errors import DataError
from simcse.search.documents import file_rows
from simcse.search.rows import Document
from simcse.vectors import Matrix

__all__ = ["check_vectors", "with_vectors"]

Paired = tuple[Document, Matrix]

# what a file of faiss begins with
HEADER = np.dtype(
    [("kind", "S4"), ("dimension", "<i4"), ("rows", "<i8"), ("unused", "V16"), ("trained", "u1"), ("metric", "<i4")]
)
FLAT, WITH_IDS = (b"IxFI", b"IxF2", b"IxFl"), (b"IxMp", b"IxM2")


def check_vectors(inputs: Sequence[str | Path], vectors: Sequence[str | Path], dimension: int, **columns: Any) -> None:
    """Make sure, before any work, that there is a vector of that dimension for each row; arguments as `with_vectors`.

    Raises:
        DataError: a missing or damaged file; another dimension; other numbers of rows.
    """
    files = [_opened(Path(path)) for path in vectors]
    for file in files:
        if file.dimension != dimension:
            raise DataError(f"{file.path}: found vectors of dimension {file.dimension}, the encoder has {dimension}")
    if "-" in map(str, inputs):
        return  # told where it ends
    texts = sum(1 for source in inputs for _ in file_rows(source, **columns))
    if (rows := sum(file.rows for file in files)) != texts:
        raise DataError(
            f"{', '.join(map(str, vectors))}: found {rows} vectors for {texts} rows of {', '.join(map(str, inputs))}, "
            "expected one for each, those without text included"
        )


def with_vectors(inputs: Sequence[str | Path], vectors: Sequence[str | Path], **columns: Any) -> Iterator[Paired]:
    """The documents of files, each with the vector (d,) of its row; rows without text are left out with theirs.

    Args:
        inputs: files of texts, as in `documents.file_documents`.
        vectors: files of vectors: npy, npz, parquet, or a flat index of faiss; in all as many rows as `inputs` have.
        columns: `text_column`, `id_column`, `metadata_columns`.

    Raises:
        DataError: a missing or damaged file, or other numbers of rows.
    """
    missing = object()
    rows = chain.from_iterable(file_rows(source, **columns) for source in inputs)
    matrices = chain.from_iterable(block for path in vectors for block in _opened(Path(path)).blocks())
    for document, vector in zip_longest(rows, matrices, fillvalue=missing):
        if document is missing or vector is missing:
            more, fewer = ("vectors", "texts") if document is missing else ("texts", "vectors")
            raise DataError(
                f"{', '.join(map(str, vectors))}: found more {more} than {fewer}, expected one for each row"
            )
        if document is not None and document[1].strip():  # type: ignore[index]
            yield document, vector  # type: ignore[misc]


def _opened(path: Path) -> VectorFile:
    return _open_faiss(path) if path.suffix in (".faiss", ".index") else open_vectors(path)


def _open_faiss(path: Path) -> VectorFile:
    """The vectors of a flat index of faiss; others keep approximations of theirs.

    Read without faiss, which reads beyond the end of a mapped file that was cut, and crashes (1.15).
    """
    check_file(path)
    try:
        with reading(path):
            matrix = _flat_vectors(path)
    except ValueError as error:
        raise DataError(f"{path}: not a whole index of faiss ({error}); write it anew") from error

    def blocks() -> Iterator[Matrix]:
        for start in range(0, len(matrix), ROWS_A_BLOCK):
            yield np.array(matrix[start : start + ROWS_A_BLOCK])  # aligned

    rows, dimension = matrix.shape
    return VectorFile(path, rows, dimension, blocks)


def _flat_vectors(path: Path) -> Matrix:
    """(n, d) mapped from an IndexFlat, alone or in an IndexIDMap; raises ValueError, if the file is not whole."""
    content = np.memmap(path, np.uint8, "r")
    start, ids = 0, None
    while True:
        if len(content) < start + HEADER.itemsize:
            raise ValueError(f"{len(content)} bytes")
        header = content[start : start + HEADER.itemsize].view(HEADER)[0]
        start += HEADER.itemsize + 4 * bool(header["metric"] > 1)  # some have an argument
        if bytes(header["kind"]) in FLAT:
            break
        if ids is not None or bytes(header["kind"]) not in WITH_IDS:
            kind = header["kind"].decode("ascii", "replace")
            raise DataError(f"{path}: found an index of kind {kind!r}, expected a flat one, which keeps the vectors")
        ids = int(header["rows"])  # behind the vectors
    rows, dimension = int(header["rows"]), int(header["dimension"])
    expected = start + 8 + 4 * rows * dimension + (0 if ids is None else 8 + 8 * rows)
    if rows < 0 or dimension < 1 or ids not in (None, rows) or len(content) < expected:
        raise ValueError(f"{len(content)} bytes, expected {expected} for {rows} vectors of dimension {dimension}")
    if (found := int(content[start : start + 8].view("<u8")[0])) != rows * dimension:
        raise ValueError(f"{found} numbers, expected {rows * dimension}")
    return content[start + 8 : start + 8 + 4 * rows * dimension].view("<f4").reshape(rows, dimension)
