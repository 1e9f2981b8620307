"""Recall of an approximate index against exact search, and the least nprobe or efSearch that reaches a target."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simcse.search.nearest.ann import Ann, largest_parameter
from simcse.search.nearest.exact import exact_search
from simcse.search.nearest.nearest import approximate
from simcse.vectors import Matrix

__all__ = ["QUERIES", "Recall", "RecallBenchmark"]

QUERIES = 1000  # the standard error of a recall of .95 is then at most .007
MEASURED_AT = 10  # recall@10
EQUAL = 1e-6  # scores that differ by no more are those of equal rows, of which any is as right
SURE = 2  # standard errors that the measured recall must lie above the one asked for
LARGEST_K_FACTOR = 20  # with more candidates for each hit, comparing all rows is nearly as fast
SINGLE_QUERIES = 50  # for milliseconds a query
EXACT_QUERIES = 5


@dataclass(frozen=True)
class Recall:
    """The mean over queries of the share of the true nearest that was found, and its standard error."""

    mean: float
    error: float


class RecallBenchmark:
    """Queries whose true nearest rows are known.

    Args:
        queries: (q, d) unit vectors.
        matrix: (n, d), all rows.
        among: which rows the index to measure covers.
    """

    def __init__(self, queries: Matrix, matrix: Matrix, among: npt.NDArray[np.int64]) -> None:
        self.queries, self.matrix = queries, matrix
        allowed = None
        if len(among) < len(matrix):
            allowed = np.zeros(len(matrix), bool)
            allowed[among] = True
        self.k = min(MEASURED_AT, len(among))
        self._worst = exact_search(queries, matrix, self.k, allowed=allowed)[0][:, -1:]  # (q, 1)

    def recall(self, ann: Ann) -> Recall:
        """What an index finds as it is set."""
        found = approximate(ann, self.queries, self.matrix, self.k)[0] >= self._worst - EQUAL  # (q, k)
        shares = found.mean(axis=1)  # (q,)
        return Recall(float(shares.mean()), float(shares.std() / len(shares) ** 0.5))

    def tune(self, ann: Ann, target: float) -> Recall:
        """Set the least nprobe or efSearch whose recall is surely the target or more, else the largest.

        Where none is enough, quantisation errors hide near rows: more candidates are refined.
        """
        recall = self._tuned(ann, target)
        while recall.mean < target and ann.k_factor < LARGEST_K_FACTOR:
            ann.k_factor *= 2
            recall = self._tuned(ann, target)
        return recall

    def _tuned(self, ann: Ann, target: float) -> Recall:
        least_error = float(np.sqrt(target * (1 - target) / (len(self.queries) * self.k)))  # were all finds independent
        measured: dict[int, Recall] = {}

        def enough(value: int) -> bool:
            ann.parameter = value
            measured[value] = recall = self.recall(ann)
            return recall.mean >= min(1.0, target + SURE * max(recall.error, least_error))

        ann.parameter = _least(enough, largest_parameter(ann.index))
        return measured[ann.parameter]

    def milliseconds(self, ann: Ann) -> tuple[float, float]:
        """Median time of one query, approximate and exact."""
        singles = [self.queries[i : i + 1] for i in range(min(SINGLE_QUERIES, len(self.queries)))]
        fast = _median_seconds(lambda query: approximate(ann, query, self.matrix, self.k), singles)
        exact = _median_seconds(lambda query: exact_search(query, self.matrix, self.k), singles[:EXACT_QUERIES])
        return 1000 * fast, 1000 * exact


def _least(enough: Callable[[int], bool], most: int) -> int:
    """The least number up to `most` that is enough, to an eighth: found by doubling, then by halving the last step."""
    low, value = 0, 1
    while not enough(value):
        if value == most:
            return most
        low, value = value, min(2 * value, most)
    while value - low > max(1, value // 8):
        middle = (low + value) // 2
        low, value = (low, middle) if enough(middle) else (middle, value)
    return value


def _median_seconds(search: Callable[[Matrix], object], queries: Sequence[Matrix]) -> float:
    seconds = []
    for query in queries:
        start = time.perf_counter()
        search(query)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))
