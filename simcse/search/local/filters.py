"""`where={"lang": "en", "year": {">=": 2000}}` as a condition of SQL.

Values compare within their kind: a number with numbers, a text with texts (by code points), a boolean with booleans.
Values of two kinds are never equal, and neither is the smaller one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simcse.data.tables import shown
from simcse.errors import SearchError, did_you_mean
from simcse.search.rows import is_utf8

__all__ = ["Condition", "FilterError", "Scalar", "condition", "conditions", "kind_of", "text_of"]

Scalar = str | int | float | bool | None
Condition = tuple[str, str, list[Scalar]]  # field, operator, values; of = and != it may have several

OPERATORS = ("<", "<=", ">", ">=", "!=")
MOST_CONDITIONS = 500  # a term of SQL has 1,000 levels
MOST_VALUES = 10_000  # SQLite binds 32,766 at once
TYPES = {bool: "('true', 'false')", float: "('integer', 'real')", str: "('text')"}
EACH = "EXISTS (SELECT 1 FROM json_each(metadata) WHERE key = ? AND ({}))"  # unlike a JSON path, it takes any name
# json_each ends a text at NUL
VALUE = "CASE WHEN type = 'text' AND instr(metadata, '\\u0000') THEN text_of(metadata, key) ELSE value END"


class FilterError(SearchError):
    """A filter that cannot be, for an index that can be searched."""


def conditions(where: Any, known: Sequence[str]) -> list[Condition]:
    """What a filter asks for, checked, in a form that any storage can take.

    Args:
        where: field -> a value that it must equal, a list of values of which it must equal one, or
            `{operator: value}` with `<`, `<=`, `>`, `>=`, `!=`; several operators must all hold. A row without the
            field fits only None, and `!=`. Whole numbers beyond 64 bits count as the nearest float.
        known: names of the fields that exist.

    Raises:
        FilterError: no mapping, an unknown field or operator, or a value that is neither text, finite number, boolean
            nor None.
    """
    if not isinstance(where, Mapping):
        raise FilterError(
            f"where: found {shown(where)}, expected a mapping such as {{'lang': 'en'}} or {{'year': {{'>=': 2000}}}}"
        )
    found: list[Condition] = []
    for field, wanted in where.items():
        if field not in known:
            listed = ", ".join(known) if known else "none: no row has metadata"
            raise FilterError(
                f"filter on unknown field {field!r}{did_you_mean(str(field), known)}; fields are {listed}"
            )
        if not isinstance(wanted, Mapping):
            options = list(wanted) if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]
            found.append((field, "=", [_scalar(field, option) for option in options]))
            continue
        for operator, value in wanted.items():
            if operator not in OPERATORS:
                raise FilterError(
                    f"filter on {field!r}: unknown operator {operator!r}, expected one of {' '.join(OPERATORS)}"
                )
            found.append((field, operator, [_scalar(field, value)]))
    values = sum(len(values) for _, _, values in found)
    if len(found) > MOST_CONDITIONS or values > MOST_VALUES:
        raise FilterError(
            f"where: found {len(found)} conditions with {values} values, expected at most {MOST_CONDITIONS} and "
            f"{MOST_VALUES}; search in several calls"
        )
    return found


def condition(where: Any, known: Sequence[str]) -> tuple[str, list[Any]]:
    """The clause and its values; all conditions must hold. Arguments and errors as of `conditions`."""
    clauses, bound = ["1"], []
    for field, operator, values in conditions(where, known):
        clause, used = _clause(field, "=" if operator == "!=" else operator, values)
        clauses.append(f"NOT ({clause})" if operator == "!=" else clause)
        bound += used
    return " AND ".join(clauses), bound


def text_of(metadata: str, key: str) -> Any:
    """A field's value as Python reads it; a function of SQL."""
    return json.loads(metadata)[key]


def _clause(field: str, operator: str, values: list[Scalar]) -> tuple[str, list[Any]]:
    tests, bound = [], []
    for kind, types in TYPES.items():
        if some := [value for value in values if kind_of(value) is kind]:
            compared = f"IN ({', '.join('?' * len(some))})" if operator == "=" else f"{operator} ?"
            tests.append(f"type IN {types} AND {VALUE} {compared}")
            bound += some
    clauses, used = ([EACH.format(" OR ".join(tests))], [field, *bound]) if tests else ([], [])
    if operator == "=" and None in values:
        clauses.append("NOT " + EACH.format("type != 'null'"))
        used.append(field)
    return f"({' OR '.join(clauses) or '0'})", used


def kind_of(value: Scalar) -> type | None:
    """Within which values compare: `bool`, `float` for any number, `str`, or None."""
    if value is None:
        return None
    return bool if isinstance(value, bool) else str if isinstance(value, str) else float


def _scalar(field: str, value: Any) -> Scalar:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool) or (isinstance(value, str) and is_utf8(value)):
        return value
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if isinstance(value, (int, float)) and math.isfinite(value):
        return value
    raise FilterError(
        f"filter on {field!r}: found {shown(value)}, expected text, number, boolean, None, or a list of these"
    )
