"""Files as rows: which format a name means, and every row with the line it stands on.

It splits what `opening` reads, a row at a time, and turns whatever is wrong with a row into a `DataError` that names
file and line.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from simcse.data.opening import MAX_LINE, check_file, count_lines, lines, name_of, text_lines
from simcse.data.parquet import opened_parquet, parquet_rows
from simcse.errors import DataError, did_you_mean, shown

__all__ = [
    "FORMATS",
    "check_file",
    "count_rows",
    "delimited_rows",
    "format_of",
    "json_object",
    "json_rows",
    "lines",
    "named_rows",
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

SNIFFED = 50  # lines that tell what separates fields

Row = tuple[int, Sequence[Any]]


def format_of(path: Path) -> str:
    """The format that a file's name stands for: `txt`, `csv`, `tsv`, `jsonl` or `parquet`.

    Raises:
        DataError: the extension is none of `FORMATS`, each of which but parquet may end in `.gz`.
    """
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    kind = FORMATS.get(suffix.lower())
    if kind is None or (kind == "parquet" and path.suffix == ".gz"):
        raise DataError(
            f"{path}: unknown extension {''.join(path.suffixes[-2:]) or '(none)'}"
            f"{did_you_mean(suffix.lower(), FORMATS)}; known are {', '.join(FORMATS)}, each but .parquet also with .gz"
        )
    return kind


def delimited_rows(path: Path, kind: str) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of a csv or tsv file, the header among them; an empty line has no fields.

    A csv is RFC 4180: fields may be quoted and then contain commas, quotes and line ends; the line is the row's first.
    Semicolons or tabs separate instead of commas where the header and the first rows leave no doubt; see `_separator`.
    A tsv has no quoting: tabs separate, a `"` is a plain character.

    Raises:
        DataError: a quote that is never closed or that is followed by more text.
    """
    if kind == "tsv":
        for number, line in enumerate(lines(path), 1):
            yield number, line.split("\t") if line.strip() else []
        return
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
    first, length = 1, 0  # of the row that is being read: its line, its characters

    def within_bounds() -> Iterator[str]:
        nonlocal length
        for line in text_lines(path):
            length += len(line)
            if length > MAX_LINE:
                raise DataError(
                    f"{name_of(path)}:{first}: found a row of more than {MAX_LINE:,} characters, expected at most so "
                    "many; close every quote"
                )
            yield line

    reader = csv.reader(within_bounds(), strict=True, delimiter=_separator(path))
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            remedy = "close every quote, double one inside a field"
            if "new-line character" in str(error):
                error = csv.Error("a carriage return outside quotes")
                remedy = "quote the field, or end lines by a line feed"
            raise DataError(f"{name_of(path)}:{first}: no valid csv row ({error}); {remedy}") from error
        yield first, row if any(field.strip() for field in row) else []
        first, length = reader.line_num + 1, 0


def _separator(path: Path) -> str:
    """What separates the fields of a csv: a comma, unless the first line has none and splits by `;` or by tabs into
    names, and each of the first rows into as many fields.
    """
    head = list(itertools.islice(_as_far_as_readable(path), SNIFFED))
    for separator in (";", "\t") if head and "," not in head[0] else ():
        try:
            rows = list(csv.reader(head, delimiter=separator))
        except csv.Error:  # told, with its line, where the file is read for good
            return ","
        if len(head) == SNIFFED:
            rows.pop()  # it may go on
        names = [name.strip() for name in rows[0]] if rows else []
        filled = [row for row in rows[1:] if row]
        like_names = all(0 < len(name) <= 40 and len(name.split()) <= 3 for name in names)
        if len(names) > 1 and like_names and filled and all(len(row) == len(names) for row in filled):
            return separator
    return ","


def _as_far_as_readable(path: Path) -> Iterator[str]:
    """Lines up to one that cannot be read, which is told where the file is read for good."""
    with suppress(DataError):
        yield from text_lines(path)


def json_object(where: str, line: str) -> dict[str, Any]:
    """The object that a line of JSON holds; NaN, which is no JSON, becomes None.

    Args:
        where: file and line, for errors.
        line: the text.

    Raises:
        DataError: no object; what Python does not parse: numbers of thousands of digits, values nested a thousand
            levels deep; a `\\ud83d` that is half of a pair.
    """
    try:
        value = json.loads(line, parse_constant=_constant)
        if "\\ud" in line.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not JSON ({error.msg} at column {error.colno}); expected one object a line"
        ) from error
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: half of a surrogate pair (\\ud8..), which is no character; repair it") from error
    except RecursionError as error:
        raise DataError(
            f"{where}: nested deeper than can be parsed; expected an object of texts and numbers"
        ) from error
    except ValueError as error:
        found, most = max(map(len, re.findall(r"[0-9]+", line)), default=0), sys.get_int_max_str_digits()
        raise DataError(f"{where}: found a number of {found:,} digits, expected at most {most:,}") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: found {shown(line)}; expected one JSON object a line, such as {{...}}")
    return value


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of a JSON-lines file; an empty line is an empty object.

    Raises:
        DataError: a line that is not one JSON object; see `json_object`.
    """
    for number, line in enumerate(lines(path), 1):
        yield number, json_object(f"{name_of(path)}:{number}", line) if line.strip() else {}


def count_rows(path: Path) -> int | None:
    """About how many rows a file holds, for a progress bar; None for standard input.

    Raises:
        DataError: no such file, or a damaged one.
    """
    if str(path) == "-":
        return None
    return opened_parquet(path).metadata.num_rows if format_of(path) == "parquet" else count_lines(path)


def named_rows(path: Path, *, columns: Sequence[str] | None = None) -> tuple[list[str], Iterator[Row]]:
    """Column names, and (line, values) of a csv, tsv, jsonl or parquet file, restricted to `columns` unless None.

    Names are the header of a csv or tsv, the keys of a jsonl's first object, a parquet's schema. An empty line has no
    values.

    Raises:
        DataError: empty file, unknown column, a row with fewer or more fields than names, a key missing in an object.
    """
    kind = format_of(path)
    if kind == "parquet":
        known = _picked(path, opened_parquet(path).schema_arrow.names, columns)
        return known, parquet_rows(path, known)
    if kind == "jsonl":
        objects = json_rows(path)
        head = list(_until_filled(objects))  # blank lines count as rows, also those above the first object
        if not (head and head[-1][1]):
            raise DataError(f"{path}: is empty; expected one JSON object a line")
        keys = _picked(path, list(head[-1][1]), columns)
        return keys, _by_key(path, keys, itertools.chain(head, objects))
    table = delimited_rows(path, kind)
    header = next((fields for _, fields in table if fields), None)
    if header is None:
        raise DataError(f"{path}: is empty; expected a header line and rows")
    names = [name.strip() for name in header]
    chosen, places = _picked(path, names, columns), {name: place for place, name in enumerate(names)}
    return chosen, _by_position(path, names, [places[name] for name in chosen], table)


def _until_filled(objects: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in objects:
        yield number, row
        if row:
            return


def _picked(path: Path, names: list[str], columns: Sequence[str] | None) -> list[str]:
    known = Counter(names)
    for name in columns or ():
        if name not in known:
            raise DataError(f"{path}: no column {name!r} among {', '.join(names)}{did_you_mean(name, names)}")
    if len(known) < len(names):
        twice = next(name for name, count in known.items() if count > 1)
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
