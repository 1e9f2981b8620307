"""`where={"lang": "en", "year": {">=": 2000}}` as a condition of SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simcse.errors import SearchError, nearest

__all__ = ["condition"]

OPERATORS = {"<": "<", "<=": "<=", ">": ">", ">=": ">=", "!=": "IS NOT"}
FIELD = "(SELECT value FROM json_each(metadata) WHERE key = ?)"  # unlike a JSON path, it takes any name


def condition(where: Mapping[str, Any], known: Sequence[str]) -> tuple[str, list[Any]]:
    """The clause and its values; all fields must fit.

    Args:
        where: field -> a value that it must equal, a list of values of which it must equal one, or
            `{operator: value}` with `<`, `<=`, `>`, `>=`, `!=`; several operators must all hold. A row without the
            field fits only None.
        known: names of the fields that exist.

    Raises:
        SearchError: an unknown field or operator, or a value that is neither text, number, boolean nor None.
    """
    clauses, values = ["1"], []
    for field, wanted in where.items():
        if field not in known:
            listed = ", ".join(known) if known else "none: no row has metadata"
            raise SearchError(f"filter on unknown field {field!r}{nearest(field, known)}; fields are {listed}")
        if isinstance(wanted, Mapping):
            for operator, value in wanted.items():
                if operator not in OPERATORS:
                    raise SearchError(
                        f"filter on {field!r}: unknown operator {operator!r}, expected one of {' '.join(OPERATORS)}"
                    )
                clauses.append(f"{FIELD} {OPERATORS[operator]} ?")
                values += [field, _scalar(field, value)]
        else:
            options = list(wanted) if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]
            either = " OR ".join([f"{FIELD} IS ?"] * len(options)) or "0"
            clauses.append(f"({either})")
            for option in options:
                values += [field, _scalar(field, option)]
    return " AND ".join(clauses), values


def _scalar(field: str, value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise SearchError(f"filter on {field!r}: found {value!r}, expected text, number, boolean, None, or a list of these")
