"""What is searched for, as texts or as vectors, checked before any work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from simcse.errors import SearchError
from simcse.search.identity import Encode, Matrix, checked_units, unit_vectors
from simcse.search.tuning import QUERIES

__all__ = ["check_texts", "check_top_k", "sampled_vectors", "unit_queries"]


def check_top_k(top_k: Any) -> None:
    """Refuse what is no number of hits.

    Raises:
        SearchError: no whole number from 1 on.
    """
    if isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)) or top_k < 1:
        raise SearchError(f"top_k: found {top_k!r}, expected a whole number from 1 on")


def check_texts(queries: Sequence[Any], name: str = "query") -> None:
    """Refuse what cannot be searched for.

    Raises:
        SearchError: one is blank or no text; names its number.
    """
    for number, query in enumerate(queries):
        if not isinstance(query, str) or not query.strip():
            raise SearchError(f"{name} {number}: found {query!r}, expected a text that is not blank")


def unit_queries(vectors: npt.ArrayLike, dimension: int, name: str = "queries") -> Matrix:
    """Vectors (q, d) or (d,) as unit vectors (q, d).

    Raises:
        SearchError: another dimension, NaN or infinity.
    """
    queries = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise SearchError(f"{name}: found shape {np.shape(vectors)}, expected (q, {dimension}), the index's dimension")
    return checked_units(queries)


def sampled_vectors(sample: Sequence[str] | npt.NDArray[Any], encode: Callable[[], Encode], dimension: int) -> Matrix:
    """Unit vectors (q, d) of sample queries, of which at most 1,000 are drawn.

    Args:
        sample: texts, or vectors (m, d).
        encode: gives the encoder, if there are texts to encode.
        dimension: d of the index.

    Raises:
        SearchError: none, a blank text, vectors of another dimension.
    """
    if isinstance(sample, str) or not len(sample):
        raise SearchError(f"sample_queries: found {sample!r}, expected a list of texts or vectors (q, {dimension})")
    chosen = np.random.default_rng(0).permutation(len(sample))[:QUERIES]
    if not isinstance(sample[0], str):
        return unit_queries(np.asarray(sample), dimension, "sample_queries")[chosen]
    texts = list(sample)
    check_texts(texts, "sample query")
    return unit_vectors(encode(), [texts[number] for number in chosen], dimension)
