"""Parquet files: rows of what JSON knows, and one error for all the ways in which such a file can be damaged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from simcse.data.opening import check_file, reading
from simcse.errors import DataError, SimCSEError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["opened_parquet", "parquet_rows", "unpacking"]

ROWS_A_BATCH = 10_000


def opened_parquet(path: Path) -> pq.ParquetFile:
    """A parquet file, its footer read.

    Raises:
        DataError: no such file, or no parquet; no column.
    """
    import pyarrow.parquet as pq

    check_file(path)
    with unpacking(path, "not a parquet file"):
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
    if not names:
        raise DataError(f"{path}: has no column, expected at least one of text")
    return file


def parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """(row, values of `columns`) of a parquet file, read by row groups.

    Values are those that JSON knows: dates and times become texts as in ISO 8601, decimals numbers, NaN None.

    Raises:
        DataError: as `opened_parquet`; a damaged row group; a column of bytes.
    """
    file, number = opened_parquet(path), 0
    with unpacking(path, "a damaged parquet file"):
        for batch in file.iter_batches(ROWS_A_BATCH, columns=list(columns)):
            cells = [_plain_column(path, name, batch.column(name)) for name in columns]
            for number, values in enumerate(zip(*cells, strict=True), number + 1):  # noqa: B020
                yield number, values


@contextmanager
def unpacking(path: Path, what: str) -> Iterator[None]:
    """Turn what pyarrow raises, which is as much as there are ways to damage a file, into a DataError."""
    try:
        yield
    except SimCSEError:
        raise
    except Exception as error:
        if getattr(error, "errno", None):  # the disk, not the format
            with reading(path):
                raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: {what} ({said}); write it anew") from error


def _plain_column(path: Path, name: str, column: pa.Array) -> list[Any]:
    import pyarrow as pa

    kind, values = column.type, column.to_pylist()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind):
        return list(values)
    try:
        return [_plain(value) for value in values]
    except TypeError as error:
        raise DataError(
            f"{path}: column {name!r} holds {kind}, expected text, numbers or dates; cast it, or name the other "
            "columns to read"
        ) from error


def _plain(value: Any) -> Any:
    """A value of a parquet cell as JSON knows it."""
    match value:
        case None | str() | int():
            return value
        case float():
            return None if math.isnan(value) else value
        case Decimal():
            return int(value) if value == value.to_integral_value() and abs(value) < 2**63 else float(value)
        case date() | time():  # datetime, too
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case UUID():
            return str(value)
        case list() | tuple():
            return [_plain(one) for one in value]
        case dict():
            return {str(key): _plain(one) for key, one in value.items()}
    raise TypeError(type(value))
