"""Rows that are no roles: texts of one meaning, of which any two are a pair, and pairs with a score."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simcse.data.columns import reads_like_data
from simcse.data.opening import check_file
from simcse.data.pairs import read_scored_pairs
from simcse.data.readers import read_texts
from simcse.data.tabular import Row, delimited_rows, format_of, named_rows
from simcse.errors import DataError, shown

if TYPE_CHECKING:
    import datasets

__all__ = ["all_texts", "group_rows", "read_groups", "read_scored_training"]


def read_groups(source: str | Path, *, columns: Sequence[str] | None = None) -> datasets.Dataset:
    """Rows of texts of one meaning, such as five captions of an image: columns `text1`, `text2`, ...

    Args:
        source: csv, tsv, jsonl or parquet; a csv or tsv needs no header where no `columns` are asked for.
        columns: which to read; default all.

    Raises:
        DataError: fewer than two columns; a row with fewer texts than the first, or a blank one; with file and line.
    """
    import datasets

    path = Path(source)
    check_file(path)
    table: list[list[str]] = []
    for number, values in group_rows(path, columns):
        for value in values:
            if not isinstance(value, str) or not value.strip():
                raise DataError(f"{path}:{number}: found {shown(value)}, expected a text; fill it or delete the row")
        table.append(list(values))
    if not table:
        raise DataError(f"{path}: is empty; expected rows of texts")
    return datasets.Dataset.from_dict(
        {f"text{place + 1}": list(texts) for place, texts in enumerate(zip(*table, strict=True))}
    )


def group_rows(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    """(line, texts) of a file as of `read_groups`, each row as wide as the first.

    Raises:
        DataError: it is not, or the first has fewer than two columns.
    """
    width = 0
    for number, values in _rows(path, columns):
        if len(values) < 2 or (width and len(values) != width):
            expected = f"{width} texts as in the first row" if width else "at least 2 texts of one meaning"
            raise DataError(f"{path}:{number}: found {len(values)} columns, expected {expected}")
        width = len(values)
        yield number, values


def all_texts(source: str | Path) -> Iterator[str]:
    """Stream every text of a file, whatever its columns mean: the lines of a txt, all columns of other files.

    Args:
        source: txt, csv, tsv, jsonl or parquet; a csv or tsv needs no header. `-` is standard input, a text a line.

    Raises:
        DataError: as `read_groups`, when the row is reached; a missing file at once.
    """
    path = Path(source)
    if str(source) == "-" or format_of(path) == "txt":
        return read_texts(source)
    check_file(path)
    return (value for _, values in _rows(path, None) for value in values if isinstance(value, str))


def _rows(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    kind = format_of(path)
    if kind in ("csv", "tsv", "txt") and columns is None:
        rows = delimited_rows(path, "tsv" if kind == "txt" else kind)
        first = next(rows, None)
        if first is not None and reads_like_data(first[1]):
            return itertools.chain([first], rows)
        return rows
    return named_rows(path, columns=columns)[1]


def read_scored_training(source: str | Path, *, columns: Sequence[str] | None = None) -> datasets.Dataset:
    """Scored pairs as columns `anchor`, `positive` and `score`, which is mapped linearly to 0 (least) to 1 (greatest).

    Raises:
        DataError: as `read_scored_pairs`; all scores are equal.
    """
    import datasets

    pairs = read_scored_pairs(source, columns=columns)
    low, high = float(np.min(pairs.scores)), float(np.max(pairs.scores))
    if low == high:
        raise DataError(f"{source}: all {len(pairs)} scores are {low:g}, expected at least two different ones")
    return datasets.Dataset.from_dict(
        {"anchor": pairs.a, "positive": pairs.b, "score": ((pairs.scores - low) / (high - low)).tolist()}
    )
