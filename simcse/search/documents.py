"""What goes into an index: texts with or without ids and metadata, from a list or streamed from a file."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from simcse.data.readers import read_texts
from simcse.data.tables import format_of, named_rows, shown
from simcse.errors import DataError, SearchError
from simcse.search.store import Id

__all__ = ["Document", "documents", "file_documents"]

log = logging.getLogger(__name__)

Document = tuple[Id | None, str, dict[str, Any]]  # id (None: the index gives the next number), text, metadata
ID_COLUMNS = ("id", "_id")


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
        yield from file_documents(sentences_or_file)
        return
    texts: Iterable[str] = sentences_or_file
    if ids is not None or metadata is not None:
        texts = list(sentences_or_file)
        for name, given in (("ids", ids), ("metadata", metadata)):
            if given is not None and len(given) != len(texts):
                raise SearchError(f"{name}: found {len(given)} for {len(texts)} texts, expected one each")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise SearchError(f"text {number}: found {shown(text)} ({type(text).__name__}), expected a str")
        key = None if ids is None else _checked_id(ids[number])
        about = metadata[number] if metadata is not None else None
        if about is not None and not isinstance(about, Mapping):
            raise SearchError(
                f"metadata {number}: found {shown(about)}, expected a mapping such as {{'lang': 'en'}}, or None"
            )
        yield key, text, {str(name): value for name, value in (about or {}).items()}


def file_documents(
    source: str | Path,
    *,
    text_column: str | None = None,
    id_column: str | None = None,
    metadata_columns: Sequence[str] | None = None,
) -> Iterator[Document]:
    """Stream a file in constant memory; rows without text are left out and counted in the log.

    A `.txt` file, or `-` for standard input, has a text a line. Of a csv, tsv, jsonl or parquet file the column
    `text` (or the only one) is the text, `id` or `_id` the id, and the others are metadata.

    Args:
        source: the file.
        text_column: the column that holds the text.
        id_column: the column that holds the id.
        metadata_columns: the columns to keep as metadata; default all others.

    Raises:
        DataError: as `simcse.data.readers.read_texts`; a column that is not there.
    """
    path = Path(source)
    blank = 0
    if str(source) == "-" or format_of(path) == "txt":
        if text_column or id_column or metadata_columns:
            raise DataError(
                f"{path}: columns are asked of lines of text, which have none; a csv or jsonl file has them"
            )
        rows: Iterator[tuple[int, Document]] = (
            (number, (None, text, {})) for number, text in enumerate(read_texts(source), 1)
        )
    else:
        rows = _from_columns(path, text_column, id_column, metadata_columns)
    for _, document in rows:
        if document[1].strip():
            yield document
        else:
            blank += 1
    if blank:
        log.warning("%s: left out %d rows without text", path, blank)


def _from_columns(
    path: Path, text: str | None, key: str | None, metadata: Sequence[str] | None
) -> Iterator[tuple[int, Document]]:
    names, _ = named_rows(path)
    key = key or next((name for name in ID_COLUMNS if name in names), None)
    rest = [name for name in names if name != key]
    text = text or ("text" if "text" in names else rest[0] if len(rest) == 1 else None)
    if text is None:
        raise DataError(
            f"{path}: found columns {', '.join(names)}, expected one called text; name yours with --text_column"
        )
    kept = [name for name in rest if name != text] if metadata is None else list(metadata)
    chosen = [text, *([key] if key else []), *kept]
    for number, values in named_rows(path, columns=chosen)[1]:
        if not values:
            continue
        found = dict(zip(chosen, values, strict=True))
        if not isinstance(found[text], str):
            raise DataError(f"{path}:{number}: column {text!r}: found {shown(found[text])}, expected text")
        try:
            yield number, (_checked_id(found[key]) if key else None, found[text], {name: found[name] for name in kept})
        except SearchError as error:
            raise DataError(f"{path}:{number}: {error}") from error


def _checked_id(key: Any) -> Id:
    if hasattr(key, "item") and not isinstance(key, (str, int)):
        key = key.item()  # numpy's numbers
    if isinstance(key, str) and key:
        return key
    if isinstance(key, int) and not isinstance(key, bool) and 0 <= key < 2**63:
        return key
    raise SearchError(f"id: found {shown(key)}, expected a text or a number from 0 on")
