"""What is searched for, as texts or as vectors, checked before any work."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from simcse.errors import SearchError, shown
from simcse.search.nearest.tuning import QUERIES
from simcse.search.rows import is_utf8
from simcse.vectors import Encode, Matrix, unit_rows, unit_vectors

__all__ = ["checked_floor", "checked_texts", "checked_top_k", "sampled_vectors", "unit_queries"]


def checked_top_k(top_k: Any) -> int:
    """A number of hits.

    Raises:
        SearchError: no whole number from 1 on.
    """
    if isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)) or top_k < 1:
        raise SearchError(f"top_k: found {shown(top_k)}, expected a whole number from 1 on")
    return int(top_k)


def checked_floor(min_score: Any) -> float:
    """The least score of a hit; None is none.

    Raises:
        SearchError: NaN, or no number.
    """
    if min_score is None:
        return -math.inf
    if isinstance(min_score, bool) or not isinstance(min_score, (int, float, np.number)) or math.isnan(min_score):
        raise SearchError(f"min_score: found {shown(min_score)}, expected a cosine from -1 to 1, or None")
    return float(min_score)


def checked_texts(queries: Any, name: str = "query") -> list[str]:
    """Texts to search for; a single one is a list of one.

    Raises:
        SearchError: no texts; one is blank, or half of a surrogate pair stands in it; names its number.
    """
    if isinstance(queries, str):
        queries = [queries]
    if isinstance(queries, (bytes, Mapping)) or not isinstance(queries, Iterable):
        raise SearchError(f"{name}: found {shown(queries)}, expected a text or a list of texts")
    listed = list(queries)
    if getattr(queries, "dtype", None) is not None and not any(isinstance(query, str) for query in listed):
        raise SearchError(f"{name}: found vectors, expected a text or a list of texts; search_vectors accepts vectors")
    for number, query in enumerate(listed):
        if not isinstance(query, str) or not query.strip():
            raise SearchError(f"{name} {number}: found {shown(query)}, expected a text that is not blank")
        if not is_utf8(query):
            raise SearchError(f"{name} {number}: found {shown(query)}, half of a surrogate pair is no character")
    return listed


def unit_queries(vectors: Any, dimension: int, name: str = "queries") -> Matrix:
    """Vectors (q, d) or (d,) as unit vectors (q, d).

    Raises:
        SearchError: another dimension, NaN or infinity, no numbers.
    """
    try:
        array = np.asarray(vectors)
        if array.dtype.kind not in "fiu":
            raise TypeError
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
            queries = np.atleast_2d(array.astype(np.float32))
    except (TypeError, ValueError) as error:  # of rows of different lengths
        raise SearchError(f"{name}: found {shown(vectors)}, expected vectors (q, {dimension}) of numbers") from error
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise SearchError(f"{name}: found shape {array.shape}, expected (q, {dimension}), the index's dimension")
    return unit_rows(queries)


def sampled_vectors(sample: Sequence[str] | npt.NDArray[Any], encode: Callable[[], Encode], dimension: int) -> Matrix:
    """Unit vectors (q, d) of sample queries, of which at most 1,000 are drawn.

    Args:
        sample: texts, or vectors (m, d).
        encode: gives the encoder, if there are texts to encode.
        dimension: d of the index.

    Raises:
        SearchError: none, a blank text, vectors of another dimension.
    """
    if isinstance(sample, (str, bytes)) or not isinstance(sample, (Sequence, np.ndarray)) or not len(sample):
        raise SearchError(
            f"sample_queries: found {shown(sample)}, expected a list of texts or vectors (q, {dimension})"
        )
    chosen = np.random.default_rng(0).permutation(len(sample))[:QUERIES]
    if not isinstance(sample[0], str):
        return unit_queries(np.asarray(sample), dimension, "sample_queries")[chosen]
    texts = checked_texts(sample, "sample query")
    return unit_vectors(encode(), [texts[number] for number in chosen], dimension)
