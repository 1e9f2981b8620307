"""Vectors of texts that are known already, checked where an index would else encode the texts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from simcse.errors import SearchError, shown
from simcse.search.fingerprint import SAME
from simcse.vectors import Encode, Matrix, name_of, unit_rows, unit_vectors

__all__ = ["check_none_left", "next_vectors"]


def next_vectors(encode: Encode, texts: list[str], dimension: int, given: Iterator[Any] | None) -> Matrix:
    """Unit vectors of m texts, (m, d): the next ones of those that are given, else by the encoder.

    The first text is encoded in either case: vectors of another encoder, of another prompt or in another order differ.

    Args:
        encode: of documents.
        texts: m of them.
        dimension: d.
        given: vectors (d,), not normalised perhaps.

    Raises:
        SearchError: too few are given; another dimension; NaN, infinity or a zero vector; a first one that is not what
            the encoder gives.
    """
    if given is None:
        return unit_vectors(encode, texts, dimension)
    rows = list(islice(given, len(texts)))
    if len(rows) < len(texts):
        raise SearchError(f"vectors: found fewer than texts; {shown(texts[len(rows)])} has none, expected one each")
    try:
        matrix = np.stack([np.asarray(row, np.float32) for row in rows])
    except (TypeError, ValueError) as error:
        raise SearchError(f"vectors: found {shown(rows[0])}, expected rows of {dimension} numbers") from error
    if matrix.shape[1:] != (dimension,):
        raise SearchError(
            f"vectors: found rows of shape {matrix.shape[1:]}, but {name_of(encode)} gives dimension {dimension}"
        )
    units = unit_rows(matrix, lambda row: f"the vector of {shown(texts[row])}", nonzero=True)
    cosine = float(units[0] @ unit_vectors(encode, texts[:1], dimension)[0])
    if cosine < SAME:
        raise SearchError(
            f"vectors: that of {shown(texts[0])} is another one than {name_of(encode)} gives (cosine {cosine:.3f}, "
            f"expected at least {SAME}): give those of the same texts in the same order, by this encoder, as documents"
        )
    return units


def check_none_left(given: Iterator[Any] | None, texts: int) -> None:
    """Raise a SearchError if more vectors are given than there were texts."""
    if given is not None and next(given, None) is not None:
        raise SearchError(f"vectors: found more than the {texts} texts, expected one each")
