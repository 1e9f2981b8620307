"""What an index must hold and answer: a dictionary, every row compared by itself; and what a filter means."""

from __future__ import annotations

import math
import operator
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from simcse.search.rows import Document, Id, Row

DIMENSION = 16
ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@lru_cache(100_000)
def vector(text: str) -> np.ndarray:
    """Of 1, 4 or 16 entries 1 or -1: cosines are exact in float32, summed in any order, and many are equal."""
    number = zlib.crc32(text.encode())
    rng, entries = np.random.default_rng(number), 4 ** (number % 3)
    found = np.zeros(DIMENSION, np.float32)
    found[rng.choice(DIMENSION, entries, replace=False)] = rng.choice([-1, 1], entries)
    return found


class Signs:
    """An encoder by `vector`."""

    name = fingerprint = "signs"

    def encode(self, texts: list[str]) -> np.ndarray:
        if "refused" in texts:
            raise OSError("the encoder was asked to fail")
        return np.stack([vector(text) for text in texts]) if texts else np.empty((0, DIMENSION), np.float32)


def unit(text: str) -> np.ndarray:
    return vector(text) / np.linalg.norm(vector(text))


class RefusedError(Exception):
    """What an index must refuse."""


class Model:
    """An index as it must be.

    Attributes:
        texts: id -> (text, metadata), in the order in which they were added.
        following: the next free number.
    """

    def __init__(self, texts: Mapping[Id, tuple[str, dict[str, Any]]] | None = None, following: int = 0) -> None:
        self.texts, self.following = dict(texts or {}), following

    def copy(self) -> Model:
        return Model(self.texts, self.following)

    @property
    def rows(self) -> list[Row]:
        return [(key, text, metadata) for key, (text, metadata) in self.texts.items()]

    def put(self, documents: Sequence[Document], upsert: bool) -> tuple[Model, list[Id]]:
        """The model behind an addition, and the ids given."""
        after, keys = self.copy(), []
        for key, text, metadata in documents:
            key = after.following if key is None else key
            if key in keys or (key in self.texts and not upsert) or text == "refused":
                raise RefusedError
            keys.append(key)
            after.texts.pop(key, None)
            after.texts[key] = (text, metadata)
            after.following = max(after.following, key + 1) if isinstance(key, int) else after.following
        return after, keys

    def without(self, keys: Sequence[Id]) -> Model:
        """The model behind a deletion."""
        if not set(keys) <= set(self.texts):
            raise RefusedError
        return Model({key: row for key, row in self.texts.items() if key not in keys}, self.following)

    def ranked(self, query: str, where: Mapping[str, Any] | None = None, floor: float = -1) -> list[tuple[Id, float]]:
        """(id, cosine) of all that a filter leaves, best first; equal ones as they were added."""
        scores = {
            key: float(unit(query) @ unit(text)) for key, (text, data) in self.texts.items() if fits(data, where or {})
        }
        kept = [(key, score) for key, score in scores.items() if score >= floor]
        return sorted(kept, key=lambda pair: -pair[1])

    def fields(self) -> set[str]:
        return {name for _, metadata in self.texts.values() for name in metadata}


def kind(value):
    if value is None or isinstance(value, (bool, str)):
        return type(value)
    return float if isinstance(value, (int, float)) else None  # None: lists and objects equal nothing


def number(value):
    """Whole numbers beyond 64 bits count as the nearest float."""
    if kind(value) is float and not -(2**63) <= value < 2**63:
        return float(value) if abs(value) < 1e308 else math.inf if value > 0 else -math.inf
    return value


def equal(value, wanted):
    return kind(value) is kind(wanted) and number(value) == number(wanted)


def fits(metadata, where):
    """The meaning of a filter, value by value."""
    for field, wanted in where.items():
        value = metadata.get(field)
        if isinstance(wanted, list):
            found = any(equal(value, option) for option in wanted)
        elif isinstance(wanted, dict):
            found = True
            for sign, other in wanted.items():
                if sign == "!=":
                    found &= not equal(value, other)
                else:
                    same = other is not None and kind(value) is kind(other)
                    found &= same and ORDERS[sign](number(value), number(other))
        else:
            found = equal(value, wanted)
        if not found:
            return False
    return True
