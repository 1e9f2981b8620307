"""How much of what exact search finds an approximate index finds, and the least effort with which it finds enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simcse.search.nearest.ann import Ann, most_effort
from simcse.search.nearest.exact import exact_search
from simcse.search.nearest.nearest import approximate
from simcse.vectors import Matrix

__all__ = ["QUERIES", "Recall", "Trial"]

QUERIES = 1000  # with so many, a recall of .95 is known to about .005
MEASURED_AT = 10  # recall@10
EQUAL = 1e-6  # scores that differ by no more are those of equal rows, of which any is as right
SURE = 2  # standard errors that the measured recall must lie above the one asked for
MOST_RESCORED = 20  # candidates for each hit; with more, comparing all rows is nearly as fast
SINGLE_QUERIES = 50  # for milliseconds a query
EXACT_QUERIES = 5


@dataclass(frozen=True)
class Recall:
    """The mean over queries of the share of the true nearest that was found, and its standard error."""

    mean: float
    error: float


class Trial:
    """Queries whose true nearest rows are known.

    Args:
        queries: (q, d) unit vectors.
        matrix: (n, d), all rows.
        among: which rows the index to try covers.
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
        """What an index finds with the effort it is set to."""
        found = approximate(ann, self.queries, self.matrix, self.k)[0] >= self._worst - EQUAL  # (q, k)
        shares = found.mean(axis=1)  # (q,)
        return Recall(float(shares.mean()), float(shares.std() / len(shares) ** 0.5))

    def tune(self, ann: Ann, target: float) -> Recall:
        """Set the least effort whose recall is surely the target or more, else the most that there is.

        Where no effort is enough, compressed vectors tell near rows too badly apart: more candidates are rescored.
        """
        recall = self._tuned(ann, target)
        while recall.mean < target and ann.rescored < MOST_RESCORED:
            ann.rescored *= 2
            recall = self._tuned(ann, target)
        return recall

    def _tuned(self, ann: Ann, target: float) -> Recall:
        least_error = float(np.sqrt(target * (1 - target) / (len(self.queries) * self.k)))  # were all finds independent
        measured: dict[int, Recall] = {}

        def enough(effort: int) -> bool:
            ann.effort = effort
            measured[effort] = recall = self.recall(ann)
            return recall.mean >= min(1.0, target + SURE * max(recall.error, least_error))

        ann.effort = _least(enough, most_effort(ann.index))
        return measured[ann.effort]

    def milliseconds(self, ann: Ann) -> tuple[float, float]:
        """Median time of one query, approximate and exact."""
        singles = [self.queries[i : i + 1] for i in range(min(SINGLE_QUERIES, len(self.queries)))]
        fast = _median_seconds(lambda query: approximate(ann, query, self.matrix, self.k), singles)
        exact = _median_seconds(lambda query: exact_search(query, self.matrix, self.k), singles[:EXACT_QUERIES])
        return 1000 * fast, 1000 * exact


def _least(enough: Callable[[int], bool], most: int) -> int:
    """The least number up to `most` that is enough, to an eighth: found by doubling, then by halving the last step."""
    low, effort = 0, 1
    while not enough(effort):
        if effort == most:
            return most
        low, effort = effort, min(2 * effort, most)
    while effort - low > max(1, effort // 8):
        middle = (low + effort) // 2
        low, effort = (low, middle) if enough(middle) else (middle, effort)
    return effort


def _median_seconds(search: Callable[[Matrix], object], queries: Sequence[Matrix]) -> float:
    seconds = []
    for query in queries:
        start = time.perf_counter()
        search(query)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))
