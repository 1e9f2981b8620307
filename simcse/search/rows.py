"""A row of an index: an id, a text and metadata; what each may be, whichever way it comes in."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from simcse.errors import SearchError, shown

__all__ = [
    "Document",
    "Id",
    "Row",
    "RowError",
    "check_all_there",
    "checked_id",
    "is_utf8",
    "numbered",
    "packed_metadata",
    "plain_ids",
    "storable",
    "typed_ids",
]

Id = int | str
Row = tuple[Id, str, dict[str, Any]]  # id, text, metadata
Document = tuple[Id | None, str, dict[str, Any]]  # id (None: the index gives the next number), text, metadata

LARGEST = 2**63 - 1  # whole numbers of SQLite have 64 bits
DEEPEST = 100  # SQLite reads JSON of 1,000 levels, Python's reader fewer on a small stack
JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")


class RowError(SearchError):
    """A row that is asked for is not there, or one that is given cannot be stored; nothing is wrong with the index."""


def plain_ids(ids: Any) -> list[Id]:
    """Ids to look for, one or several, as Python's own `int` and `str`; numpy's whole numbers count as such.

    Raises:
        RowError: something else among them. True and 1.0 equal 1, but are no ids.
    """
    if isinstance(ids, (str, int)) or not isinstance(ids, Iterable):
        ids = [ids]
    return [_plain(key) for key in ids]


def checked_id(key: Any) -> Id:
    """The id of a row to store, as Python's own `int` or `str`.

    Raises:
        RowError: neither a number from 0 to 2**63 - 1 nor a text; an empty text; NUL or half of a surrogate pair.
    """
    plain = _plain(key)
    if isinstance(plain, int):
        if 0 <= plain <= LARGEST:
            return plain
    elif plain:
        if "\0" not in plain and is_utf8(plain):
            return plain
        raise RowError(f"id: found {shown(plain)}, expected a text without NUL and halves of surrogate pairs")
    raise _no_id(plain)


def storable(key: Any) -> bool:
    """Whether a row of this id may be there at all."""
    if isinstance(key, str):
        return is_utf8(key)
    return isinstance(key, int) and not isinstance(key, bool) and 0 <= key <= LARGEST


def typed_ids(texts: Sequence[str], there: Iterable[Id]) -> list[Id]:
    """Ids as they are stored, from ids typed on a command line: `7` is the text "7" if that is there, else the number.
    `007` is no other way to write 7.
    """
    present = set(there)
    return [text if text in present or not NUMBER.fullmatch(text) else int(text) for text in texts]


def check_all_there(wanted: Sequence[Id], there: Iterable[Id], done: str = "") -> None:
    """Refuse ids that are not there.

    Raises:
        RowError: names the first, and how many more there are.
    """
    present = set(there)
    if missing := [key for key in wanted if key not in present]:
        more = f" and {len(missing) - 1} more of {len(wanted)}" if len(missing) > 1 else ""
        raise RowError(f"id {shown(missing[0])}{more} is not in the index{done}")


def numbered(documents: Iterable[Document], explicit: set[Id], following: int) -> tuple[list[Row], int]:
    """Documents as rows with an id each, and the next free number.

    Args:
        documents: whose ids may be None.
        explicit: ids of the rows before; those of these rows are added.
        following: the next free number.

    Raises:
        RowError: an id that is none, or occurs twice; a text or metadata that cannot be stored.
    """
    rows: list[Row] = []
    for key, text, metadata in documents:
        key = checked_id(following if key is None else key)
        if key in explicit:
            raise RowError(f"id {shown(key)} is given twice; each text needs its own")
        if not isinstance(text, str):
            raise RowError(f"row with id {shown(key)}: found the text {shown(text)}, expected a str")
        if not is_utf8(text):
            raise RowError(f"row with id {shown(key)}: text cannot be stored as UTF-8: half of a surrogate pair")
        packed_metadata(metadata, f"row with id {shown(key)}: ")
        explicit.add(key)
        following = max(following, key + 1) if isinstance(key, int) else following
        rows.append((key, str.__str__(text), metadata))
    return rows, following


def packed_metadata(metadata: Any, whose: str = "") -> str:
    """Metadata as JSON.

    Raises:
        RowError: no mapping; a name that is no text, or holds NUL; NaN; what JSON or UTF-8 cannot write.
    """
    if not isinstance(metadata, Mapping):
        raise RowError(f"{whose}metadata: found {shown(metadata)}, expected a mapping such as {{'lang': 'en'}}")
    try:
        for name, value in metadata.items():
            if not isinstance(name, str) or "\0" in name:
                raise RowError(f"{whose}metadata: found the name {shown(name)}, expected a text without NUL")
            if isinstance(value, (dict, list, tuple)):
                _check_depth(value, DEEPEST)
        packed = JSON.encode(metadata)
        packed.encode()
    except (TypeError, ValueError) as error:  # UnicodeEncodeError is a ValueError
        raise RowError(f"{whose}metadata cannot be stored as UTF-8 JSON ({error})") from error
    return packed


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can write it: without halves of surrogate pairs."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _plain(key: Any) -> Id:
    if isinstance(key, str):
        return str.__str__(key)  # numpy's texts print as np.str_('a')
    if isinstance(key, bool):
        raise _no_id(key)
    try:
        number: int = operator.index(key)
    except TypeError:
        raise _no_id(key) from None
    return number


def _no_id(key: Any) -> RowError:
    return RowError(f"id: found {shown(key)}, expected a text or a number from 0 to 2**63 - 1")


def _check_depth(value: Any, levels: int) -> None:
    if isinstance(value, (dict, list, tuple)):
        if not levels:
            raise ValueError(f"more than {DEEPEST} lists and objects inside each other")
        for inner in value.values() if isinstance(value, dict) else value:
            _check_depth(inner, levels - 1)
