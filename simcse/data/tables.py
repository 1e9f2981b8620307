"""Files as rows: which format a name means, and every row with the line it stands on.

The lowest layer of the readers. It opens (gzip too), decodes and splits, one line at a time, and turns whatever is
wrong with a file into a `DataError` that names file and line.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from simcse.errors import DataError, nearest

__all__ = [
    "FORMATS",
    "check_file",
    "delimited_rows",
    "format_of",
    "json_rows",
    "lines",
    "named_rows",
    "parquet_rows",
    "shown",
]

FORMATS = {
    ".csv": "csv",
    ".json": "jsonl",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".tsv": "tsv",
    ".txt": "txt",
}

Row = tuple[int, Sequence[Any]]


def shown(text: object, width: int = 40) -> str:
    """`text` quoted for an error message, cut to `width` characters."""
    quoted = repr(text)
    return quoted if len(quoted) <= width else f"{quoted[: width - 3]}...{quoted[0]}"


def format_of(path: Path) -> str:
    """The format that a file's name stands for: `txt`, `csv`, `tsv`, `jsonl` or `parquet`.

    Raises:
        DataError: the extension is none of `FORMATS`, each of which but parquet may end in `.gz`.
    """
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    kind = FORMATS.get(suffix.lower())
    if kind is None or (kind == "parquet" and path.suffix == ".gz"):
        raise DataError(
            f"{path}: unknown extension {''.join(path.suffixes[-2:]) or '(none)'}{nearest(suffix.lower(), FORMATS)}; "
            f"known are {', '.join(FORMATS)}, each but .parquet also with .gz"
        )
    return kind


def check_file(path: Path) -> None:
    """Raise a DataError, with the nearest name in its folder, where `path` is no file."""
    if path.is_dir():
        raise DataError(f"{path}: is a folder; a file is expected")
    if not path.exists():
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file{nearest(path.name, beside)}")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    check_file(path)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            yield stream  # type: ignore[misc]
    except (gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}); fetch or compress it again") from error
    except PermissionError as error:
        raise DataError(f"{path}: no permission to read it") from error


def _decoded(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """Lines with their ends, decoded one by one so that a wrong byte has a line number."""
    with _opened(path) as stream:
        for number, raw in enumerate(stream, 1):
            try:
                yield raw.decode("utf-8-sig" if number == 1 and encoding == "utf-8" else encoding)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}:{number}: byte 0x{raw[error.start]:02x} at position {error.start + 1} of the line is not "
                    "UTF-8; convert the file, e.g. iconv -f latin1 -t utf-8"
                ) from error


def lines(path: Path, *, encoding: str = "utf-8") -> Iterator[str]:
    """Lines without their ends. Only a line feed ends a line; `-` is standard input."""
    for line in _decoded(path, encoding):
        yield line.rstrip("\r\n")


def delimited_rows(path: Path, kind: str) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of a csv or tsv file, the header among them; an empty line has no fields.

    A csv is RFC 4180: fields may be quoted and then hold commas, quotes and line ends; the line is the row's first.
    A tsv has no quoting: tabs separate, a `"` is a plain character.

    Raises:
        DataError: a quote that is never closed or that is followed by more text.
    """
    if kind == "tsv":
        for number, line in enumerate(lines(path), 1):
            yield number, line.split("\t") if line.strip() else []
        return
    reader = csv.reader(_decoded(path), strict=True)
    first = 1
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}:{first}: no valid csv row ({error}); close every quote, double one inside a field"
            ) from error
        yield first, row if any(field.strip() for field in row) else []
        first = reader.line_num + 1


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of a JSON-lines file; an empty line is an empty object.

    Raises:
        DataError: a line that is not one JSON object.
    """
    for number, line in enumerate(lines(path), 1):
        if not line.strip():
            yield number, {}
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}:{number}: not JSON ({error.msg} at column {error.colno}); expected one object a line"
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: found {shown(line)}; expected one JSON object a line, such as {{...}}")
        yield number, row


def parquet_rows(path: Path, columns: Sequence[str] | None = None) -> tuple[list[str], Iterator[Row]]:
    """Column names, and (row, values) of a parquet file, read by row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_file(path)
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from error

    def rows() -> Iterator[Row]:
        number = 0
        for batch in file.iter_batches(10_000, columns=columns):
            for number, values in enumerate(zip(*(c.to_pylist() for c in batch.columns), strict=True), number + 1):  # noqa: B020
                yield number, values

    return list(file.schema_arrow.names), rows()


def named_rows(path: Path, *, columns: Sequence[str] | None = None) -> tuple[list[str], Iterator[Row]]:
    """Column names, and (line, values) of a csv, tsv, jsonl or parquet file, restricted to `columns` if given.

    Names are the header of a csv or tsv, the keys of a jsonl's first object, a parquet's schema. An empty line has no
    values.

    Raises:
        DataError: empty file, unknown column, a row with fewer or more fields than names, a key missing in an object.
    """
    kind = format_of(path)
    if kind == "parquet":
        names, _ = parquet_rows(path)
        known = _picked(path, names, columns)
        return known, parquet_rows(path, known)[1]
    if kind == "jsonl":
        objects = json_rows(path)
        first = next(((number, row) for number, row in objects if row), None)
        if first is None:
            raise DataError(f"{path}: is empty; expected one JSON object a line")
        keys = _picked(path, list(first[1]), columns)
        return keys, _by_key(path, keys, _chained(first, objects))
    table = delimited_rows(path, kind)
    header = next((fields for _, fields in table if fields), None)
    if header is None:
        raise DataError(f"{path}: is empty; expected a header line and rows")
    names = [name.strip() for name in header]
    chosen = _picked(path, names, columns)
    return chosen, _by_position(path, names, [names.index(name) for name in chosen], table)


def _chained(first: tuple[int, dict[str, Any]], rest: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[Any]:
    yield first
    yield from rest


def _picked(path: Path, names: list[str], columns: Sequence[str] | None) -> list[str]:
    for name in columns or ():
        if name not in names:
            raise DataError(f"{path}: no column {name!r} among {', '.join(names)}{nearest(name, names)}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}:1: two columns are called {twice!r}; give each its own name")
    return list(columns or names)


def _by_key(path: Path, keys: list[str], objects: Iterator[tuple[int, Mapping[str, Any]]]) -> Iterator[Row]:
    for number, row in objects:
        if not row:
            yield number, ()
            continue
        try:
            yield number, [row[key] for key in keys]
        except KeyError as error:
            raise DataError(
                f"{path}:{number}: no key {error}; it has {', '.join(row)}, expected {', '.join(keys)}"
            ) from error


def _by_position(path: Path, names: list[str], at: list[int], table: Iterator[tuple[int, list[str]]]) -> Iterator[Row]:
    for number, fields in table:
        if not fields:
            yield number, ()
        elif len(fields) != len(names):
            raise DataError(
                f"{path}:{number}: found {len(fields)} columns, expected {len(names)} ({', '.join(names)}) as in the "
                "header; quote a field that holds the separator"
            )
        else:
            yield number, [fields[i] for i in at]
