"""Vectors with ids and texts of their rows: npz, parquet and JSON lines, from an `.npy` file, in constant memory."""

from __future__ import annotations

import json
import operator
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simcse.data.columns import VECTOR_COLUMNS
from simcse.data.vectors import arrow_vectors
from simcse.errors import ConfigError, DataError, shown
from simcse.files import replaced_file

__all__ = ["FORMATS", "Rows", "check_format", "write_table"]

ROWS_A_BATCH = 16_384
VECTOR = VECTOR_COLUMNS[0]

Advance = Callable[[int], None]


class Rows:
    """Ids and texts, noted as they pass by in a file without a name, which goes with its process.

    Args:
        folder: on whose disk it lies.

    Attributes:
        numbered: whether all ids are numbers of 64 bits.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile("w+", dir=folder, encoding="utf-8")  # noqa: SIM115
        self.numbered = True

    def noting(self, texts: Iterable[str], ids: Iterable[int | str | None] | None) -> Iterator[str]:
        """The same texts; a row without id gets its number from 0 on.

        Raises:
            DataError: more ids than texts or fewer; an id that is neither text nor whole number; half of a surrogate
                pair.
        """
        keys = None if ids is None else iter(ids)
        for number, text in enumerate(texts):
            key = number if keys is None else next(keys, keys)
            if key is keys:
                raise DataError(f"ids: found {number}, expected one for each text")
            try:
                key = number if key is None else key if isinstance(key, str) else operator.index(key)  # type: ignore[arg-type]
                if isinstance(text, str):  # else it is refused, with its number, where it is encoded
                    self._file.write(f"{json.dumps([key, text], ensure_ascii=False)}\n")
            except TypeError as error:
                raise DataError(f"id {number}: found {shown(key)}, expected a text or a whole number") from error
            except UnicodeEncodeError as error:
                raise DataError(f"text {number}: half of a surrogate pair is no character: {shown(text)}") from error
            self.numbered &= isinstance(key, int) and -(2**63) <= key < 2**63
            yield text
        if keys is not None and next(keys, keys) is not keys:
            raise DataError(f"ids: found more than the {number + 1} texts, expected one for each")

    def batches(self) -> Iterator[tuple[list[int | str], list[str]]]:
        """Ids and texts, some at a time and at least once; ids are all numbers of 64 bits, or all texts."""
        self._file.seek(0)
        lines = list(islice(self._file, ROWS_A_BATCH))
        while True:  # at least once, so that no rows are a table, too
            rows = [json.loads(line) for line in lines]
            yield [key if self.numbered else str(key) for key, _ in rows], [text for _, text in rows]
            if not (lines := list(islice(self._file, ROWS_A_BATCH))):
                return

    def close(self) -> None:
        """Give its disk back."""
        self._file.close()


def check_format(path: Path) -> None:
    """Refuse a file that vectors cannot be written to.

    Raises:
        ConfigError: the extension is none of `FORMATS`.
    """
    if path.suffix not in FORMATS:
        *rest, last = FORMATS
        raise ConfigError(f"output: found {path}, expected a name that ends in {', '.join(rest)} or {last}")


def write_table(path: Path, vectors: Path, rows: Rows, advance: Advance = lambda n: None) -> None:
    """Write a file of vectors, ids and texts; it is there whole or not at all.

    Args:
        path: the file; its extension is one of `FORMATS`.
        vectors: an `.npy` file of n vectors.
        rows: n ids and texts.
        advance: called with the number of rows written since.
    """
    with replaced_file(path) as new:
        WRITERS[path.suffix](new, vectors, rows, advance)


def _write_npz(new: Path, vectors: Path, rows: Rows, advance: Advance) -> None:
    """`vectors` and `ids`; as numpy pads texts to the longest, they are left out."""
    ids = np.array([key for keys, _ in rows.batches() for key in keys])
    with zipfile.ZipFile(new, "w") as archive:
        with vectors.open("rb") as source, archive.open("vectors.npy", "w", force_zip64=True) as target:
            shutil.copyfileobj(source, target)
        with archive.open("ids.npy", "w", force_zip64=True) as target:
            np.lib.format.write_array(target, ids if len(ids) else ids.astype(np.int64))
    advance(len(ids))


def _write_parquet(new: Path, vectors: Path, rows: Rows, advance: Advance) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    try:
        for ids, texts, some in _batches(vectors, rows):
            keys = pa.array(ids, pa.int64() if rows.numbered else pa.string())
            table = pa.table({"id": keys, "text": pa.array(texts, pa.string()), VECTOR: arrow_vectors(some)})
            writer = writer or pq.ParquetWriter(new, table.schema)
            writer.write_table(table)
            advance(len(ids))
    finally:
        if writer is not None:
            writer.close()


def _write_jsonl(new: Path, vectors: Path, rows: Rows, advance: Advance) -> None:
    import pyarrow as pa

    with new.open("w", encoding="utf-8") as file:
        for ids, texts, some in _batches(vectors, rows):
            wide = some.astype(np.float32) if some.dtype.kind == "f" else some
            numbers = pa.array(wide.ravel()).cast(pa.string()).to_pylist()  # the shortest that are read as the same
            for row, (key, text) in enumerate(zip(ids, texts, strict=True)):
                head = json.dumps({"id": key, "text": text}, ensure_ascii=False)[:-1]
                values = ", ".join(numbers[row * some.shape[1] : (row + 1) * some.shape[1]])
                file.write(f'{head}, "{VECTOR}": [{values}]}}\n')
            advance(len(ids))


def _batches(vectors: Path, rows: Rows) -> Iterator[tuple[list[int | str], list[str], npt.NDArray[Any]]]:
    matrix, start = np.load(vectors, mmap_mode="r"), 0  # (n, d)
    for ids, texts in rows.batches():
        yield ids, texts, np.asarray(matrix[start : start + len(ids)])
        start += len(ids)


WRITERS: dict[str, Callable[[Path, Path, Rows, Advance], None]] = {
    ".npz": _write_npz,
    ".parquet": _write_parquet,
    ".jsonl": _write_jsonl,
}
FORMATS = (".npy", *WRITERS)
