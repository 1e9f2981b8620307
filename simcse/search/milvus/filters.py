"""`where={"lang": "en", "year": {">=": 2000}}` as an expression of Milvus, with the meaning of `search.filters`.

To Milvus true is 1. So a value lies under its field's name behind a letter for its kind, and values of two kinds never
meet: `{"lang": "en", "year": 1999, "new": true}` is kept as `{"t lang": "en", "n year": 1999, "b new": true}`.
"""

from __future__ import annotations

import json
import operator
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from simcse.search.filters import Scalar, conditions, kind_of

__all__ = ["expression", "fields_of"]

NOTHING = "key in []"
LETTERS = {bool: "b", float: "n", str: "t"}
OTHER = "o"  # lists and objects: there, but equal to nothing
ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
MOST = sys.float_info.max


def fields_of(metadata: Mapping[str, Any]) -> dict[str, Scalar]:
    """What filters look at. None is left out: null is no value to Milvus."""
    found: dict[str, Scalar] = {}
    for name, value in metadata.items():
        if value is None:
            continue
        if not isinstance(value, (str, int, float)):
            found[f"{OTHER} {name}"] = True
            continue
        letter = LETTERS[kind_of(value) or str]
        found[f"{letter} {name}"] = _nearest_float(value) if letter == "n" else value
    return found


def expression(where: Any, known: Sequence[str]) -> str:
    """All fields must fit; arguments and errors as of `search.filters.conditions`."""
    clauses = []
    for field, sign, values in conditions(where, known):
        if sign in ("=", "!="):
            clause = " or ".join(_equal(field, value) for value in values) or NOTHING
            clauses.append(f"not ({clause})" if sign == "!=" else clause)
        else:
            clauses.append(_compared(field, sign, values[0]))
    return " and ".join(f"({clause})" for clause in clauses)


def _equal(field: str, value: Scalar) -> str:
    if value is None:
        there = " or ".join(f"exists {_name(field, letter)}" for letter in (*LETTERS.values(), OTHER))
        return f"not ({there})"
    name = _name(field, LETTERS[kind_of(value) or str])
    return f"(exists {name} and {name} == {_literal(value)})"  # where there is none, == is neither true nor false


def _compared(field: str, sign: str, value: Scalar) -> str:
    kind = kind_of(value)
    if kind is None:
        return NOTHING
    if isinstance(value, bool):  # false is less than true
        fitting = [one for one in (False, True) if ORDERS[sign](one, value)]
        return " or ".join(_equal(field, one) for one in fitting) or NOTHING
    return f"{_name(field, LETTERS[kind])} {sign} {_literal(value)}"


def _name(field: str, letter: str) -> str:
    return f"fields[{_literal(f'{letter} {field}')}]"


def _literal(value: Scalar) -> str:
    """As JSON, but with control characters as they are: Milvus knows no `\\u0001`."""
    written = json.dumps(value, ensure_ascii=False)
    return re.sub(r"\\(?:u([0-9a-f]{4})|.)", lambda found: chr(int(found[1], 16)) if found[1] else found[0], written)


def _nearest_float(value: Any) -> int | float:
    """A whole number beyond 64 bits as a float, as filters compare it; beyond floats the largest, as JSON needs it."""
    if -(2**63) <= value < 2**63:
        number: int | float = value
        return number
    return float(max(-MOST, min(MOST, value)))
