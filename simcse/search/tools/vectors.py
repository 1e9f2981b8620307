"""Files of vectors beside the files of their texts: those of faiss, too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from simcse.data.opening import check_file
from simcse.data.vectors import ROWS_A_BLOCK, VectorFile, open_vectors
from simcse.errors import DataError
from simcse.search.documents import file_rows
from simcse.search.rows import Document
from simcse.vectors import Matrix

__all__ = ["check_vectors", "with_vectors"]

Paired = tuple[Document, Matrix]


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
    """The vectors of a flat index of faiss; others keep approximations of theirs."""
    import faiss

    check_file(path)
    try:
        whole = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except (RuntimeError, MemoryError) as error:
        said = str(error).splitlines()[-1]
        raise DataError(f"{path}: not a whole index of faiss ({said:.200}); write it anew") from error
    flat = faiss.downcast_index(whole)
    if isinstance(flat, faiss.IndexIDMap):
        flat = faiss.downcast_index(flat.index)
    if not isinstance(flat, faiss.IndexFlat):
        raise DataError(f"{path}: found {type(flat).__name__}, expected a flat index, which keeps the vectors")

    def blocks() -> Iterator[Matrix]:
        for start in range(0, whole.ntotal, ROWS_A_BLOCK):  # `whole` owns what `flat` is
            yield np.asarray(flat.reconstruct_n(start, min(ROWS_A_BLOCK, whole.ntotal - start)))

    return VectorFile(path, whole.ntotal, whole.d, blocks)
