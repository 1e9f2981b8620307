"""An encoder on scored pairs: cosine against gold. What every similarity task is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simcse.data.pairs import ScoredPairs
from simcse.errors import DataError, ModelError
from simcse.vectors import Encode, Matrix, unit_vectors

__all__ = [
    "PairEvaluator",
    "PairScore",
    "check_gold",
    "correlate",
    "evaluate_pairs",
]

ROUNDING = 1e-6  # of a cosine in float32: the order of cosines that differ by less says nothing


def check_gold(gold: NDArray[Any], name: str) -> None:
    """Raise a DataError where gold scores allow no correlation: fewer than two, or all of them equal."""
    if len(gold) < 2:
        found = f"{len(gold)} scored pair{'s' * (len(gold) != 1)}"
        raise DataError(f"{name}: found {found}, expected at least 2 for a correlation")
    if np.ptp(gold) == 0:
        raise DataError(f"{name}: all {len(gold)} gold scores are {gold[0]:g}; a correlation needs different ones")


def correlate(cosines: NDArray[Any], gold: NDArray[Any], name: str) -> tuple[float, float]:
    """Spearman's and Pearson's correlation x 100.

    Raises:
        DataError: fewer than two pairs, or all gold scores equal: no correlation is defined.
        ModelError: all cosines equal, but for the rounding of float32: the encoder has collapsed.
    """
    from scipy import stats

    check_gold(gold, name)
    if np.ptp(cosines) < ROUNDING:
        raise ModelError(
            f"{name}: the cosines of all {len(gold)} pairs are {cosines[0]:.6f}; the encoder has collapsed"
        )
    exact = np.asarray(cosines, dtype=np.float64)
    return 100 * float(stats.spearmanr(exact, gold).statistic), 100 * float(stats.pearsonr(exact, gold).statistic)


@dataclass(frozen=True)
class PairScore:
    """How well cosines follow gold scores."""

    spearman: float
    """Rank correlation x 100."""
    pearson: float
    """Linear correlation x 100."""
    n: int
    """Pairs."""


class PairEvaluator:
    """Scores encoders on the same pairs again and again, as a training loop does: sentences are made distinct once.

    Args:
        pairs: one or several sets of scored pairs; a sentence that occurs twice anywhere is encoded once.

    Attributes:
        sentences: the distinct sentences, in order of appearance.
        left, right: for each set, the row in `sentences` of each pair's first and second sentence; (n,) each.
        gold: the scores of all pairs put together, (n,).
    """

    primary_metric, greater_is_better = "spearman", True

    def __init__(self, *pairs: ScoredPairs) -> None:
        if not pairs:
            raise ValueError("no pairs to evaluate on")
        self.pairs = pairs
        self.name = pairs[0].name
        self.gold = np.concatenate([part.scores for part in pairs])
        self.n = len(self.gold)
        rows: dict[str, int] = {}
        self.left = [np.array([rows.setdefault(text, len(rows)) for text in part.a], dtype=np.int64) for part in pairs]
        self.right = [np.array([rows.setdefault(text, len(rows)) for text in part.b], dtype=np.int64) for part in pairs]
        self.sentences = list(rows)
        left, right = np.concatenate(self.left), np.concatenate(self.right)
        # a pair and its mirror image are one
        code = np.minimum(left, right) * len(rows) + np.maximum(left, right)
        distinct, self._row = np.unique(code, return_inverse=True)  # (distinct pairs,), (all pairs,)
        self._one, self._other = np.divmod(distinct, len(rows))

    def __call__(self, encode: Encode) -> dict[str, float]:
        """Spearman and Pearson (x 100) over all pairs put together.

        Raises:
            DataError, ModelError: as `unit_vectors` and `correlate`.
        """
        spearman, pearson = correlate(np.concatenate(self.cosines(encode)), self.gold, self.name)
        return {"spearman": spearman, "pearson": pearson}

    def cosines(self, encode: Encode) -> list[NDArray[np.float32]]:
        """The cosine of each pair, for each set of pairs."""
        return self.cosines_of(unit_vectors(encode, self.sentences, where=self.where, nonzero=True))

    def cosines_of(self, vectors: Matrix) -> list[NDArray[np.float32]]:
        """The same from the unit vectors of `sentences`.

        Equal pairs have one cosine wherever and whichever way round they stand, and equal sentences have 1: else
        rounding, which differs from row to row, would rank what is tied.
        """
        cosines = np.einsum("nd,nd->n", vectors[self._one], vectors[self._other])
        cosines[self._one == self._other] = 1
        return np.split(cosines[self._row], np.cumsum([len(part) for part in self.pairs])[:-1])

    def where(self, sentence: int) -> str:
        """Set, pair and side in which a distinct sentence first occurs."""
        for part, left, right in zip(self.pairs, self.left, self.right, strict=True):
            for side, rows in (("first", left), ("second", right)):
                if len(found := np.flatnonzero(rows == sentence)):
                    return f"{part.name}, pair {found[0] + 1}, {side} sentence"
        raise IndexError(sentence)


def evaluate_pairs(encode: Encode, pairs: ScoredPairs) -> PairScore:
    """Score an encoder on one set of pairs.

    Raises:
        DataError, ModelError: as `unit_vectors` and `correlate`.
    """
    [cosines] = PairEvaluator(pairs).cosines(encode)
    return PairScore(*correlate(cosines, pairs.scores, pairs.name), n=len(pairs))
