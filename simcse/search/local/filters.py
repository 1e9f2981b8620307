"""A metadata filter as a condition of SQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from simcse.search.filters import Scalar, conditions, kind_of

__all__ = ["condition", "text_of"]

TYPES = {bool: "('true', 'false')", float: "('integer', 'real')", str: "('text')"}
EACH = "EXISTS (SELECT 1 FROM json_each(metadata) WHERE key = ? AND ({}))"  # unlike a JSON path, it accepts any name
# json_each ends a text at NUL
VALUE = "CASE WHEN type = 'text' AND instr(metadata, '\\u0000') THEN text_of(metadata, key) ELSE value END"


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
