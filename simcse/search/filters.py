"""`where={"lang": "en", "year": {">=": 2000}}`: what a metadata filter may say, for every storage.

Values compare within their kind: a number with numbers, a text with texts (by code points), a boolean with booleans.
Values of two kinds are never equal, and neither is the smaller one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simcse.errors import ConfigError, SearchError, did_you_mean, shown
from simcse.search.rows import is_utf8

__all__ = ["Condition", "FilterError", "Scalar", "conditions", "kind_of", "parse_conditions"]

Scalar = str | int | float | bool | None
Condition = tuple[str, str, list[Scalar]]  # field, operator, values; of = and != it may have several

OPERATORS = ("<", "<=", ">", ">=", "!=")
MOST_CONDITIONS = 500  # a term of SQL has 1,000 levels
MOST_VALUES = 10_000  # SQLite binds 32,766 at once


class FilterError(SearchError):
    """A filter that cannot be, for an index that can be searched."""


def conditions(where: Any, known: Sequence[str]) -> list[Condition]:
    """What a filter asks for, checked, in a form that every storage translates.

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


def parse_conditions(texts: Sequence[str]) -> dict[str, Any]:
    """`lang=en|de`, `year>=2000` of the command line as `{"lang": ["en", "de"], "year": {">=": 2000}}`.

    Raises:
        ConfigError: one that is no condition, or two that cannot both be.
    """
    where: dict[str, Any] = {}
    for text in texts:
        found = re.fullmatch(r"([^!<>=]+)(!=|<=|>=|=|<|>)(.*)", text)
        if found is None:
            raise ConfigError(f"where: found {text!r}, expected FIELD=VALUE, FIELD=A|B, or one of != < <= > >=")
        field, sign, value = found.groups()
        condition = [_value(v) for v in value.split("|")] if sign == "=" else {sign: _value(value)}
        if isinstance(condition, dict) and isinstance(where.get(field, {}), dict):
            condition = where.get(field, {}) | condition
        elif field in where:
            raise ConfigError(f"where: found two conditions on {field!r}; write several values as {field}=A|B")
        where[field] = condition
    return where


def _value(text: str) -> Any:
    """JSON where it can be (numbers, true, null, "text"), else text, as NaN, which no JSON is."""
    try:
        return json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return text


def _no_json(text: str) -> Any:
    raise ValueError(text)
