"""`where={"lang": "en", "year": {">=": 2000}}` as an expression of Milvus, with the meaning of `filters.condition`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from simcse.search.filters import condition

__all__ = ["expression"]

NOTHING = "key in []"


def expression(where: Mapping[str, Any], known: Sequence[str]) -> str:
    """All fields must fit; a row without the field fits only None, and `!=`.

    Args:
        where: as in `filters.condition`.
        known: names of the fields that exist.

    Raises:
        SearchError: as `filters.condition`.
    """
    condition(where, known)  # the same checks
    clauses = []
    for field, wanted in where.items():
        if isinstance(wanted, Mapping):
            clauses += [_compared(field, operator, value) for operator, value in wanted.items()]
        else:
            options = list(wanted) if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]
            clauses.append(" or ".join(_equal(field, option) for option in options) or NOTHING)
    return " and ".join(f"({clause})" for clause in clauses)


def _equal(field: str, value: Any) -> str:
    return f"not exists {_name(field)}" if value is None else f"{_name(field)} == {_literal(value)}"


def _compared(field: str, operator: str, value: Any) -> str:
    if operator == "!=":
        if value is None:
            return f"exists {_name(field)}"
        return f"not exists {_name(field)} or {_name(field)} != {_literal(value)}"
    return NOTHING if value is None else f"{_name(field)} {operator} {_literal(value)}"


def _name(field: str) -> str:
    return f"fields[{_literal(field)}]"


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
