"""Files of vectors, (n, d) numbers, some rows at a time: npy, npz and parquet."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from simcse.data.columns import VECTOR_COLUMNS
from simcse.data.opening import check_file, reading
from simcse.data.parquet import opened_parquet, unpacking
from simcse.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["VectorFile", "arrow_vectors", "mapped_npy", "open_vectors", "vector_column"]

Block = npt.NDArray[Any]

ROWS_A_BLOCK = 8192


@dataclass(frozen=True)
class VectorFile:
    """A file of vectors.

    Attributes:
        path: the file.
        rows: n.
        dimension: d.
        blocks: gives the vectors in order, (m, d) at a time.
    """

    path: Path
    rows: int
    dimension: int
    blocks: Callable[[], Iterator[Block]]


def open_vectors(path: Path) -> VectorFile:
    """A file of vectors: an `.npy` (n, d); the array `vectors`, or the only one, of an `.npz`; the column `vector`,
    `embedding`, or the only one of lists of numbers, of a `.parquet`.

    Raises:
        DataError: no such file, a damaged one, or one without vectors.
    """
    openers = {".npy": _open_npy, ".npz": _open_npz, ".parquet": _open_parquet}
    check_file(path)
    if path.suffix not in openers:
        raise DataError(
            f"{path}: unknown extension {path.suffix or '(none)'} of vectors; known are {', '.join(openers)}"
        )
    return openers[path.suffix](path)


@contextmanager
def _unpacking_numpy(path: Path) -> Iterator[None]:
    try:
        with reading(path):
            yield
    except (ValueError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, KeyError, EOFError,
            NotImplementedError, MemoryError, OverflowError, RuntimeError) as error:  # fmt: skip
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: not a whole numpy file of numbers ({said}); write it anew") from error


def _checked(path: Path, shape: tuple[int, ...], kind: np.dtype[Any]) -> tuple[int, int]:
    if len(shape) != 2 or shape[0] < 0 or shape[1] < 1 or kind.kind not in "fi":
        bits = "; unpack bits by np.unpackbits, or write quantize=int8" if kind == np.uint8 else ""
        raise DataError(f"{path}: found {kind.name} of shape {shape}, expected vectors (n, d) of numbers{bits}")
    return shape[0], shape[1]


def mapped_npy(path: Path) -> Block:
    """(n, d) the vectors of an `.npy`, read from the disk as they are used.

    Raises:
        DataError: a damaged file, or one without vectors.
    """
    with _unpacking_numpy(path):
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(matrix, np.ndarray):
        raise DataError(f"{path}: not an array of numpy; write it by np.save")
    _checked(path, matrix.shape, matrix.dtype)
    return matrix


def _open_npy(path: Path) -> VectorFile:
    matrix = mapped_npy(path)
    rows, dimension = matrix.shape

    def blocks() -> Iterator[Block]:
        for start in range(0, rows, ROWS_A_BLOCK):
            yield matrix[start : start + ROWS_A_BLOCK]

    return VectorFile(path, rows, dimension, blocks)


def _open_npz(path: Path) -> VectorFile:
    """Read as a stream: numpy itself would load all of it."""
    with _unpacking_numpy(path), zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        name = "vectors.npy" if "vectors.npy" in names else names[0] if len(names) == 1 else None
        if name is None:
            known = ", ".join(name.removesuffix(".npy") for name in names) or "none"
            raise DataError(f"{path}: found the arrays {known}, expected one called vectors")
        with archive.open(name) as stream:
            shape, column_major, kind = _header(stream)
    rows, dimension = _checked(path, shape, kind)
    if column_major and rows > 1:
        raise DataError(f"{path}: {name} lies by columns; write it anew from np.ascontiguousarray(...)")

    def blocks() -> Iterator[Block]:
        with _unpacking_numpy(path), zipfile.ZipFile(path) as archive, archive.open(name) as stream:
            _header(stream)
            for start in range(0, rows, ROWS_A_BLOCK):
                count = min(ROWS_A_BLOCK, rows - start)
                read = stream.read(count * dimension * kind.itemsize)
                yield np.frombuffer(read, kind).reshape(count, dimension)

    return VectorFile(path, rows, dimension, blocks)


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether by columns, and type of an `.npy` in a stream, which then stands at its values."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, column_major, kind = read(stream)
    return shape, column_major, kind


def vector_column(path: Path) -> str | None:
    """The column of a parquet file that holds vectors, by its name and as lists of numbers; None if there is none."""
    schema = opened_parquet(path).schema_arrow
    return next(
        (name for name in VECTOR_COLUMNS if name in schema.names and _of_numbers(schema.field(name).type)), None
    )


def _of_numbers(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return False
    return bool(pa.types.is_floating(kind.value_type) or pa.types.is_signed_integer(kind.value_type))


def _open_parquet(path: Path) -> VectorFile:
    file = opened_parquet(path)
    lists = [field.name for field in file.schema_arrow if _of_numbers(field.type)]
    name = vector_column(path) or (lists[0] if len(lists) == 1 else None)
    if name is None:
        columns = ", ".join(f"{field.name} ({field.type})" for field in file.schema_arrow)
        raise DataError(f"{path}: found columns {columns}, expected one called vector, of lists of float or signed int")
    rows, column = file.metadata.num_rows, name

    def blocks() -> Iterator[Block]:
        start = 0
        with unpacking(path, "a damaged parquet file"):
            for batch in opened_parquet(path).iter_batches(ROWS_A_BLOCK, columns=[column]):
                lists, numbers = batch.column(0), batch.column(0).flatten()
                lengths = lists.value_lengths().fill_null(0).to_numpy()
                for row in np.flatnonzero(lengths != dimension)[:1]:
                    raise DataError(
                        f"{path}: row {start + row + 1}: found {lengths[row]} values in {column}, expected {dimension}"
                    )
                yield numbers.to_numpy(zero_copy_only=False).reshape(-1, dimension)
                start += len(lists)

    dimension = 0
    with unpacking(path, "a damaged parquet file"):
        for batch in file.iter_batches(1, columns=[column]):
            dimension = len(batch.column(0)[0].as_py() or ())
            break
    _checked(path, (rows, dimension), np.dtype(np.float32))
    return VectorFile(path, rows, dimension, blocks)


def arrow_vectors(vectors: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    """Vectors (n, d) as a column of a parquet file: lists of d numbers."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).reshape(-1)), vectors.shape[1])
