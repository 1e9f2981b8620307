"""An encoder on scored pairs: cosine against gold. What every similarity task is made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simcse.data.pairs import ScoredPairs
from simcse.data.tables import shown
from simcse.errors import DataError, ModelError

__all__ = [
    "CachedEncoder",
    "Encode",
    "PairEvaluator",
    "PairScore",
    "TimedEncoder",
    "check_gold",
    "correlate",
    "embed",
    "evaluate_pairs",
]

Encode = Callable[[list[str]], Any]
"""Texts to vectors: `encode(list of n) -> (n, d)` array or tensor, normalised or not."""

Vectors = NDArray[np.float32]

ROUNDING = 1e-6  # of a cosine in float32: the order of cosines that differ by less says nothing


def embed(encode: Encode, texts: Sequence[str], where: Callable[[int], str]) -> Vectors:
    """Encode and check: vectors of unit length, so that a dot product is a cosine.

    Args:
        encode: the encoder.
        texts: n texts.
        where: names text i in an error, e.g. `STS12, pair 7, first sentence`.

    Returns:
        (n, d) float32, L2-normalised.

    Raises:
        ModelError: another shape than (n, d); a vector with NaN or infinity, or of length zero.
    """
    vectors = _array(encode(list(texts)))
    _check_shape(vectors, len(texts))
    vectors = vectors.astype(np.float32, copy=False)
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))  # (n,) no float32 overflow
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(wrong):
        first = int(wrong[0])
        what = "zero, so it has no cosine" if lengths[first] == 0 else "NaN or infinite"
        raise ModelError(
            f"{where(first)} {shown(texts[first])}: its vector is {what} ({len(wrong)} of {len(texts)} texts); "
            "check the weights, or encode in fp32"
        )
    unit: Vectors = (vectors / lengths[:, None]).astype(np.float32)  # (n, d)
    return unit


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
    """

    def __init__(self, *pairs: ScoredPairs) -> None:
        if not pairs:
            raise ValueError("no pairs to evaluate on")
        self.pairs = pairs
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
        """Spearman and Pearson (x 100) over all pairs put together, for a log.

        Raises:
            DataError, ModelError: as `embed` and `correlate`.
        """
        gold = np.concatenate([part.scores for part in self.pairs])
        spearman, pearson = correlate(np.concatenate(self.cosines(encode)), gold, self.pairs[0].name)
        return {"spearman": spearman, "pearson": pearson}

    def cosines(self, encode: Encode) -> list[NDArray[np.float32]]:
        """The cosine of each pair, for each set of pairs."""
        return self.cosines_of(embed(encode, self.sentences, self.where))

    def cosines_of(self, vectors: Vectors) -> list[NDArray[np.float32]]:
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
        DataError, ModelError: as `embed` and `correlate`.
    """
    [cosines] = PairEvaluator(pairs).cosines(encode)
    return PairScore(*correlate(cosines, pairs.scores, pairs.name), n=len(pairs))


class TimedEncoder:
    """An encoder with a clock.

    Attributes:
        seconds: spent in the encoder.
        encoded: texts given to it.
    """

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self.seconds = 0.0
        self.encoded = 0

    def __call__(self, texts: list[str]) -> NDArray[Any]:
        start = time.perf_counter()
        vectors = _array(self._encode(texts))  # on an accelerator, the copy waits for the work
        self.seconds += time.perf_counter() - start
        self.encoded += len(texts)
        return vectors


class CachedEncoder:
    """An encoder that remembers: whatever asks for it, a distinct text is encoded once. All vectors stay in memory."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._row: dict[str, int] = {}
        self._vectors: NDArray[Any] | None = None

    def __call__(self, texts: list[str]) -> NDArray[Any]:
        new = [text for text in dict.fromkeys(texts) if text not in self._row]
        if new or self._vectors is None:
            vectors = _array(self._encode(new))
            _check_shape(vectors, len(new))
            self._vectors = vectors if self._vectors is None else np.concatenate([self._vectors, vectors])
            self._row |= {text: row for row, text in enumerate(new, len(self._row))}
        return self._vectors[[self._row[text] for text in texts]]


def _array(raw: Any) -> NDArray[Any]:
    """Numpy knows neither bfloat16 nor an accelerator's memory, so tensors come over as float32."""
    if isinstance(raw, list) and raw and hasattr(raw[0], "detach"):
        import torch

        raw = torch.stack(raw)
    try:
        return np.asarray(raw.detach().float().cpu().numpy() if hasattr(raw, "detach") else raw)
    except ValueError as error:
        raise ModelError("the encoder gave rows of different lengths, expected (n, d)") from error


def _check_shape(vectors: NDArray[Any], n: int) -> None:
    if vectors.ndim != 2 or len(vectors) != n:
        raise ModelError(f"the encoder gave shape {vectors.shape} for {n} texts, expected ({n}, d)")
    if vectors.dtype.kind not in "fiu":
        raise ModelError(f"the encoder gave values of type {vectors.dtype.name}, expected numbers")
