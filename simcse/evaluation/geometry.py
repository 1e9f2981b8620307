"""The shape of an embedding space: alignment, uniformity, spectrum, anisotropy.

Alignment and uniformity are those of Wang and Isola (2020) as the SimCSE paper uses them. Everything is exact and needs
memory for one block of the (n, n) cosines, never for all of them.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simcse.data.pairs import ScoredPairs
from simcse.errors import DataError
from simcse.evaluation.pairs import PairEvaluator
from simcse.vectors import Encode, Matrix, unit_vectors

__all__ = [
    "Geometry",
    "alignment",
    "cosine_histograms",
    "effective_rank",
    "evaluate_geometry",
    "mean_cosine",
    "spectrum",
    "uniformity",
]

GOLD_OF_A_POSITIVE = 4.0  # alignment counts STS pairs with a score above this (paper, section 5)
BLOCK = 2048  # rows of a block of cosines: 16 MiB in float32
BINS = 50  # of a histogram of cosines


def alignment(x: Matrix, y: Matrix) -> float:
    """mean ||x_i - y_i||^2 over positive pairs of unit vectors; 0 is perfect, 2 is orthogonal. Both (n, d)."""
    difference = x.astype(np.float64) - y
    return float(np.einsum("nd,nd->n", difference, difference).mean())


def uniformity(vectors: Matrix, t: float = 2.0) -> float:
    """log mean exp(-t ||x_i - x_j||^2) over all pairs i < j of unit vectors; lower is more uniform, -4t at the least.

    Exact: 2 n^2 d floating-point operations, one block of cosines in memory.

    Args:
        vectors: (n, d) of unit length, n >= 2.
        t: 2 in the papers.
    """
    import torch

    x = torch.from_numpy(np.ascontiguousarray(vectors))  # (n, d)
    n, total = len(x), 0.0
    # ||x - y||^2 = 2 - 2 cos, so -t ||x - y||^2 = 2t cos - 2t: one fused product
    shift = torch.full((1, 1), -2 * t)
    for start in range(0, n, BLOCK):
        rows = x[start : start + BLOCK]
        for other in range(start, n, BLOCK):
            weights = torch.addmm(shift, rows, x[other : other + BLOCK].T, alpha=2 * t).exp_()  # (b, b)
            if other == start:
                weights.triu_(diagonal=1)
            total += weights.sum(dtype=torch.float64).item()
    return math.log(total / (n * (n - 1) / 2))


def mean_cosine(vectors: Matrix) -> float:
    """Mean cosine over all pairs i < j of unit vectors: anisotropy, 0 for directions that cancel out.

    Exact in O(n d), since sum_ij x_i . x_j = ||sum_i x_i||^2.
    """
    n = len(vectors)
    total = vectors.sum(axis=0, dtype=np.float64)  # (d,)
    own = float(np.einsum("nd,nd->", vectors, vectors, dtype=np.float64))
    return float(total @ total - own) / (n * (n - 1))


def spectrum(vectors: Matrix) -> NDArray[np.float64]:
    """Singular values of the (n, d) matrix, not centred, falling; min(n, d) of them.

    By QR of one block of rows after the other, which keeps the accuracy of an SVD of the whole.
    """
    import torch

    x = torch.from_numpy(np.ascontiguousarray(vectors))  # (n, d)
    triangle = torch.empty((0, x.shape[1]), dtype=torch.float64)
    for start in range(0, len(x), BLOCK):
        stacked = torch.cat([triangle, x[start : start + BLOCK].double()])
        triangle = torch.linalg.qr(stacked, mode="r").R  # (<= d, d)
    values: NDArray[np.float64] = torch.linalg.svdvals(triangle).numpy()
    return values


def effective_rank(singular_values: NDArray[np.float64]) -> float:
    """exp of the entropy of the singular values normalised to sum 1 (Roy and Vetterli, 2007): 1 to min(n, d)."""
    p = singular_values / singular_values.sum()
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def cosine_histograms(
    cosines: NDArray[Any], gold: NDArray[Any], edges: NDArray[Any] | None = None
) -> dict[str, list[int]]:
    """How many pairs have which cosine, for each bin of gold scores.

    Args:
        cosines: (n,) of pairs.
        gold: (n,) scores.
        edges: of the gold bins; default 0, 1, ..., 5 for STS, else five equal ones over the scores' range.

    Returns:
        `"0-1"`, ... -> counts in `BINS` equal bins of cosine from -1 to 1. The last gold bin holds its upper edge.
    """
    if edges is None:
        is_sts = gold.min() >= 0 and 1 < gold.max() <= 5
        edges = np.arange(6.0) if is_sts else np.linspace(gold.min(), gold.max(), 6)
    which = np.clip(np.searchsorted(edges, gold, side="right") - 1, 0, len(edges) - 2)
    clipped = np.clip(cosines, -1, 1)
    return {
        f"{low:g}-{high:g}": np.histogram(clipped[which == i], bins=BINS, range=(-1, 1))[0].tolist()
        for i, (low, high) in enumerate(itertools.pairwise(edges))
    }


@dataclass(frozen=True)
class Geometry:
    """What `evaluate_geometry` measures."""

    alignment: float
    """mean ||x - y||^2 over the positive pairs."""
    uniformity: float
    """log mean exp(-2 ||x - y||^2) over all pairs of distinct sentences."""
    mean_cosine: float
    """Over all pairs of distinct sentences."""
    effective_rank: float
    n_positive: int
    """Pairs with gold above 4."""
    n_sentences: int
    """Distinct sentences."""
    name: str
    """The pairs measured on."""
    singular_values: list[float] = field(repr=False)
    histograms: dict[str, list[int]] = field(repr=False)
    """Gold bin -> counts of cosines in 50 bins from -1 to 1."""


def evaluate_geometry(encode: Encode, pairs: ScoredPairs, *, threshold: float = GOLD_OF_A_POSITIVE) -> Geometry:
    """Measure an encoder's space on scored pairs, in the paper those of the STS-B development set.

    Args:
        encode: `encode(list of n texts) -> (n, d)`.
        pairs: with gold scores from 0 to 5.
        threshold: pairs scored above it are the positives of alignment.

    Raises:
        DataError: no pair is scored above the threshold, or there are fewer than two distinct sentences.
        ModelError: a vector that is NaN, infinite or zero; names pair and side.
    """
    positive = pairs.scores > threshold
    if not positive.any():
        raise DataError(
            f"{pairs.name}: no pair is scored above {threshold:g} (the highest is {pairs.scores.max():g}); "
            "alignment needs such positives: expected scores from 0 to 5"
        )
    evaluator = PairEvaluator(pairs)
    if len(evaluator.sentences) < 2:
        raise DataError(f"{pairs.name}: found {len(evaluator.sentences)} distinct sentences, expected at least 2")
    vectors = unit_vectors(encode, evaluator.sentences, where=evaluator.where, nonzero=True)  # (n, d)
    [cosines] = evaluator.cosines_of(vectors)
    values = spectrum(vectors)
    return Geometry(
        alignment=alignment(vectors[evaluator.left[0][positive]], vectors[evaluator.right[0][positive]]),
        uniformity=uniformity(vectors),
        mean_cosine=mean_cosine(vectors),
        effective_rank=effective_rank(values),
        n_positive=int(positive.sum()),
        n_sentences=len(evaluator.sentences),
        name=pairs.name,
        singular_values=values.tolist(),
        histograms=cosine_histograms(cosines, pairs.scores),
    )
