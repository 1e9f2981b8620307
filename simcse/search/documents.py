"""What goes into an index: texts with or without ids and metadata, from a list or streamed from a file."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from simcse.data.columns import ID_COLUMNS
from simcse.data.readers import read_texts
from simcse.data.tabular import format_of, named_rows
from simcse.data.vectors import vector_column
from simcse.errors import DataError, SearchError, shown
from simcse.files import is_there
from simcse.search.rows import Document, Id, RowError, checked_id, packed_metadata

__all__ = ["Document", "documents", "file_documents", "file_rows"]

log = logging.getLogger(__name__)

# as JSON, Python and C print numbers; 007 and 1e5 are names as well
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,18})(\.[0-9]+)?([eE][+-][0-9]{1,3})?")


def documents(
    sentences_or_file: str | Path | Iterable[str],
    ids: Sequence[Id] | None = None,
    metadata: Sequence[Mapping[str, Any] | None] | None = None,
) -> Iterator[Document]:
    """One stream from what a caller of `SearchIndex` may give.

    Args:
        sentences_or_file: a file (a `str` or `Path`; see `file_documents`) or texts.
        ids: one for each text, a number from 0 on or a text; default the next free numbers.
        metadata: a mapping of JSON values, or None, for each text.

    Raises:
        SearchError: numbers of texts, ids and metadata that differ; ids or metadata beside a file; a text that is no
        `str`.
    """
    if isinstance(sentences_or_file, (str, Path)):
        if ids is not None or metadata is not None:
            raise SearchError(
                f"{sentences_or_file}: ids and metadata of a file come from its columns; give a list of texts"
            )
        if " " in str(sentences_or_file) and not is_there(Path(sentences_or_file)):
            raise SearchError(
                f"texts: found {shown(sentences_or_file)}, which is no file; expected a list of texts, or a file"
            )
        yield from file_documents(sentences_or_file)
        return
    texts = sentences_or_file
    keys, mappings = _listed("ids", ids), _listed("metadata", metadata)
    if isinstance(texts, (bytes, Mapping)) or not isinstance(texts, Iterable):
        raise SearchError(f"texts: found {shown(texts)}, expected a list of texts, or the name of a file")
    if keys is not None or mappings is not None:
        texts = list(texts)
        for name, listed in (("ids", keys), ("metadata", mappings)):
            if listed is not None and len(listed) != len(texts):
                raise RowError(f"{name}: found {len(listed)} for {len(texts)} texts, expected one each")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise SearchError(f"text {number}: found {shown(text)} ({type(text).__name__}), expected a str")
        key = None if keys is None else checked_id(keys[number])
        fields = None if mappings is None else mappings[number]
        if fields is not None and not isinstance(fields, Mapping):
            raise SearchError(
                f"metadata {number}: found {shown(fields)}, expected a mapping such as {{'lang': 'en'}}, or None"
            )
        yield key, text, {str(name): value for name, value in (fields or {}).items()}


def _listed(name: str, values: Any) -> list[Any] | None:
    """One for each text, of any sequence or column of a table."""
    if values is None:
        return None
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise SearchError(f"{name}: found {shown(values)}, expected a list, one for each text")
    return list(values)


def file_documents(
    source: str | Path,
    *,
    text_column: str | None = None,
    id_column: str | None = None,
    metadata_columns: Sequence[str] | None = None,
) -> Iterator[Document]:
    """Stream a file in constant memory; rows without text are left out and counted in the log.

    A `.txt` file, or `-` for standard input, has a text a line. Of a csv, tsv, jsonl or parquet file the column
    `text` (or the only one) is the text, `id` or `_id` the id, and the others are metadata. A column of a csv or tsv
    that holds numbers alone, such as 1999, -0.5 or 1e-05, becomes numbers, and None where it is empty; one value such
    as 007, 1e5 or n/a, and all of the column stays text.

    Args:
        source: the file.
        text_column: the column that holds the text.
        id_column: the column that holds the id.
        metadata_columns: the columns to keep as metadata; default all others.

    Raises:
        DataError: as `simcse.data.readers.read_texts`; a column that is not there.
    """
    blank = 0
    for document in file_rows(
        source, text_column=text_column, id_column=id_column, metadata_columns=metadata_columns
    ):  # fmt: skip
        if document is not None and document[1].strip():
            yield document
        else:
            blank += document is not None
    if blank:
        log.warning("%s: left out %d rows without text", Path(source), blank)


def file_rows(
    source: str | Path,
    *,
    text_column: str | None = None,
    id_column: str | None = None,
    metadata_columns: Sequence[str] | None = None,
) -> Iterator[Document | None]:
    """As `file_documents`, of all rows as they are encoded from such a file, those without text, too; None for an empty
    line of a table.
    """
    path = Path(source)
    if str(source) != "-" and format_of(path) != "txt":
        return _from_columns(path, text_column, id_column, metadata_columns)
    if text_column or id_column or metadata_columns:
        raise DataError(f"{path}: columns are asked of lines of text, which have none; a csv or jsonl file has them")
    return ((None, text, {}) for text in read_texts(source))


def _from_columns(
    path: Path, text: str | None, key: str | None, metadata: Sequence[str] | None
) -> Iterator[Document | None]:
    names, _ = named_rows(path)
    if format_of(path) == "parquet" and (vector := vector_column(path)) not in (text, None):
        names.remove(vector)  # no metadata to show or to filter by
    key = key or next((name for name in ID_COLUMNS if name in names), None)
    rest = [name for name in names if name != key]
    text = text or ("text" if "text" in names else rest[0] if len(rest) == 1 else None)
    if text is None:
        raise DataError(
            f"{path}: found columns {', '.join(names)}, expected one called text; name yours with text_column"
        )
    kept = [name for name in rest if name != text] if metadata is None else list(metadata)
    chosen = [text, *([key] if key else []), *kept]
    numbers = _number_columns(path, kept) if kept and format_of(path) in ("csv", "tsv") else ()
    for number, values in named_rows(path, columns=chosen)[1]:
        if not values:
            yield None
            continue
        found = dict(zip(chosen, values, strict=True))
        if not isinstance(found[text], str):
            raise DataError(f"{path}:{number}: column {text!r}: found {shown(found[text])}, expected text")
        fields = {name: _number(found[name]) if name in numbers else found[name] for name in kept}
        try:
            packed_metadata(fields)
            yield checked_id(found[key]) if key else None, found[text], fields
        except SearchError as error:
            raise DataError(f"{path}:{number}: {error}") from error


def _number_columns(path: Path, names: list[str]) -> set[str]:
    """Which of these columns of a csv or tsv hold numbers, and nothing else where they are filled."""
    left, filled = dict(enumerate(names)), set()
    for _, values in named_rows(path, columns=names)[1]:
        for at, name in list(left.items()) if values else ():
            if values[at].strip():
                filled.add(name)
                if _number(values[at]) is None:
                    del left[at]
        if not left:
            break
    return filled & set(left.values())


def _number(text: str) -> int | float | None:
    """The number that a text is, of 64 bits; None for any other text."""
    found = NUMBER.fullmatch(text.strip())
    if found is None:
        return None
    number = float(text) if found[1] or found[2] else int(text)
    return number if (math.isfinite(number) if isinstance(number, float) else abs(number) < 2**63) else None
