"""Files to rows with names: what to train on, what to evaluate on, what to encode.

Formats by extension: `.txt`, `.csv`, `.tsv`, `.jsonl` (also `.json`, `.ndjson`), each also with `.gz`; and `.parquet`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from simcse.data.arrow import to_dataset
from simcse.data.columns import ID_COLUMNS, chosen_columns, roles_of
from simcse.data.hub import hub_id, read_hub
from simcse.data.opening import name_of
from simcse.data.pairs import ScoredPairs, read_scored_pairs
from simcse.data.tabular import Row, check_file, format_of, lines, named_rows
from simcse.errors import ConfigError, DataError, shown
from simcse.files import is_there

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

__all__ = ["ScoredPairs", "read_identified", "read_scored_pairs", "read_texts", "read_training"]

BlankLines = Literal["error", "skip"]
ROWS_A_BATCH, CHARACTERS_A_BATCH = 10_000, 64 * 2**20  # whichever comes first


def read_training(
    source: str | Path, *, columns: Sequence[str] | None = None, blank_lines: BlankLines = "error"
) -> datasets.Dataset:
    """Read sentences, pairs or triplets to train on.

    - A `.txt` file holds one sentence a line: column `text` (the positives come from dropout).
    - A csv or tsv starts with a header, always; a first line that reads like a sentence is refused. One column becomes
      `text`, two `anchor, positive`, three `anchor, positive, hard_negative`, by position; the headers
      `sent0,sent1,hard_neg` and `anchor,positive,negative` (or `hard_negative`; `negative_1, negative_2, ...` where a
      row has several) say it by name, and other columns may stand beside them. In a tsv quotes are plain characters.
    - In jsonl the keys of the first object, in parquet the schema replace the header's place.
    - `owner/name`, `owner/name:config`, `owner/name@revision` is a dataset on the hub; its `train` split is read.

    Text of more than 32 MiB is copied once to an Arrow file in the cache of `datasets` (keyed by path, size and time of
    change) and memory-mapped from there: memory stays bounded, and the next run starts at once. A line, and a row of
    csv, has at most 16 MiB; only regular files are opened, no pipes and devices, which might never end.

    Args:
        source: a file or a hub id.
        columns: names in the order of their roles, behind the second all hard negatives; default: the rules above.
        blank_lines: a line or field without text is an `error`, or `skip` leaves its row out.

    Raises:
        ConfigError: `columns` without a name.
        DataError: a missing or empty file, unknown extension, invalid UTF-8, blank line, wrong number of columns,
            unknown column, or a value that is no text; with file and line, and the remedy.
    """
    if columns is not None and not columns:
        raise ConfigError(
            "columns: found no name, expected one (text), two (anchor, positive) or more (hard negatives)"
        )
    path = Path(source)
    if not is_there(path) and (hub := hub_id(str(source))):
        return read_hub(*hub, columns=columns, blank_lines=blank_lines)
    check_file(path)
    kind = format_of(path)
    if kind == "txt":
        if columns is not None:
            raise DataError(
                f"{path}: columns {', '.join(columns)} are asked of a .txt file, which has none; a csv has them"
            )
        roles = roles_of(1)
        rows: Iterator[Row] = ((number, (line,)) for number, line in enumerate(lines(path), 1))
    else:
        names, _ = named_rows(path)
        chosen = (
            list(columns) if columns else chosen_columns(f"{path}:1" if kind in ("csv", "tsv") else str(path), names)
        )
        roles = roles_of(len(chosen))
        rows = named_rows(path, columns=chosen)[1]
    schema = _schema(roles)
    batches = _batches(path, schema, rows, blank_lines)
    dataset = to_dataset(path, schema, batches, [kind, columns, blank_lines])
    if not len(dataset):
        raise DataError(f"{path}: is empty; expected at least one row")
    return dataset


def _schema(roles: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(role, pa.string()) for role in roles])


def _batches(path: Path, schema: pa.Schema, rows: Iterable[Row], blank_lines: BlankLines) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    for block in _blocks(rows):
        filled = [row for row in block if _has_text(path, *row)]
        if len(filled) < len(block) and blank_lines == "error":
            # the first row that is not its own counterpart among the filled ones
            blank = next(row for row, kept in itertools.zip_longest(block, filled) if row is not kept)[0]
            raise DataError(f"{path}:{blank}: blank; fill or delete the line, or leave such rows out: blank_lines=skip")
        texts = zip(*(values for _, values in filled), strict=True) if filled else ((),) * len(schema)
        yield pa.record_batch([pa.array(column, pa.string()) for column in texts], schema=schema)


def _blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows in lists that memory holds, however long the texts are."""
    block: list[Row] = []
    size = 0
    for row in rows:
        block.append(row)
        size += sum(len(value) for value in row[1] if isinstance(value, str))
        if len(block) == ROWS_A_BATCH or size > CHARACTERS_A_BATCH:
            yield block
            block, size = [], 0
    if block:
        yield block


def _has_text(path: Path, number: int, values: Sequence[Any]) -> bool:
    try:
        return bool(values) and all(map(str.strip, values))
    except TypeError:
        pass
    wrong = next(value for value in values if not isinstance(value, str))
    if wrong is None:
        return False
    raise DataError(
        f"{path}:{number}: found {shown(wrong)}, expected text; pick the columns of text with the option columns"
    )


def read_texts(source: str | Path, *, column: str | None = None) -> Iterator[str]:
    """Stream texts in constant memory, one a row, to encode or to index.

    Blank lines are kept as empty texts, so that text i stays line i.

    Args:
        source: txt (a text a line), csv, tsv, jsonl, parquet; `-` is standard input, a text a line.
        column: which column holds the text; default `text`, or the only one.

    Raises:
        DataError: as `read_training`, when the row is reached; a missing file or column at once.
    """
    path = Path(source)
    names = _names(path, column)
    if names is None:
        return _checked(lines(path))
    return (text for _, text in _values(path, [_text_column(path, names, column)]))


def read_identified(
    source: str | Path, *, column: str | None = None, id_column: str | None = None
) -> Iterator[tuple[int | str | None, str]]:
    """As `read_texts`, each text behind its id; None where a row has none.

    Args:
        source: as of `read_texts`.
        column: as of `read_texts`.
        id_column: which column holds the id, a text or a whole number; default `id` or `_id`, if there is one.

    Raises:
        DataError: as `read_texts`; an id of another type.
    """
    path = Path(source)
    names = _names(path, column or id_column)
    key = id_column or next((name for name in ID_COLUMNS if name in (names or ())), None)
    if names is None or key is None:
        return zip(itertools.repeat(None), read_texts(source, column=column), strict=False)
    return _values(path, [_text_column(path, names, column), key])


def _names(path: Path, column: str | None) -> list[str] | None:
    """The columns of a file; None of one of plain lines, which is asked for none."""
    if str(path) != "-":
        check_file(path)
    if str(path) != "-" and format_of(path) != "txt":
        return named_rows(path)[0]
    if column is not None:
        raise DataError(f"{name_of(path)}: column {column!r} is asked of lines of text, which have none")
    return None


def _text_column(path: Path, names: list[str], column: str | None) -> str:
    rest = [name for name in names if name not in ID_COLUMNS] or names
    found = column or ("text" if "text" in names else rest[0] if len(rest) == 1 else None)
    if found is None:
        raise DataError(
            f"{path}: found columns {', '.join(names)}, expected one called text; name yours with the option column"
        )
    return found


def _checked(texts: Iterator[str]) -> Iterator[str]:
    """The same texts, the file opened now rather than at the first use, so that a missing one is an error at once."""
    first = next(texts, None)
    return iter(()) if first is None else itertools.chain([first], texts)


def _values(path: Path, columns: list[str]) -> Iterator[tuple[int | str | None, str]]:
    """(id or None, text) by a column of texts, and perhaps one of ids; that they are there is seen at once."""

    def values(rows: Iterator[Row]) -> Iterator[tuple[int | str | None, str]]:
        for number, row in rows:
            text, key = (*row, None)[:2] if row else ("", None)
            if not isinstance(text, str):
                raise DataError(f"{path}:{number}: found {shown(text)}, expected text")
            if not isinstance(key, int | str | None):
                raise DataError(f"{path}:{number}: found the id {shown(key)}, expected a text or a whole number")
            yield key if key != "" else None, text

    return values(named_rows(path, columns=columns)[1])
