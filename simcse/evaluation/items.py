"""Tasks as items that can be resampled: pairs, queries, rows of a test. What intervals and comparisons are made of."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simcse.data.pairs import ScoredPairs
from simcse.evaluation.pairs import PairEvaluator, check_gold, correlate
from simcse.evaluation.resampling import Floats, percentiles, resampled_means, resampled_spearman
from simcse.evaluation.retrieval import METRICS, Collection, query_scores
from simcse.evaluation.transfer import TransferScore, TransferSet, evaluate_transfer
from simcse.vectors import Encode

__all__ = [
    "KINDS",
    "RESAMPLES",
    "Items",
    "pair_items",
    "query_intervals",
    "query_items",
    "row_items",
    "transfer_intervals",
]

KINDS = {
    "sts": ("pairs", "Spearman × 100"),
    "pairs": ("pairs", "Spearman × 100"),
    "transfer": ("rows", "accuracy, %"),
    "retrieval": ("queries", "nDCG@10 × 100"),
}
RESAMPLES = 1000  # of the interval beside a score: its ends then move by some hundredths of its width


@dataclass(frozen=True)
class Items:
    """A task whose score is a function of what an encoder makes of each of n items."""

    name: str
    kind: str
    """A key of `KINDS`, which holds what an item is called and what the score is."""
    n: int
    measure: Callable[[Encode], NDArray[Any]]
    """An encoder -> (n,): cosines of pairs, nDCG@10 of queries, whether rows are classified rightly."""
    score: Callable[[NDArray[Any]], float]
    """(n,) -> the score, x 100."""
    resample: Callable[[NDArray[Any], int, np.random.Generator], Floats]
    """(k, n), R -> (R, k): the scores of k encoders on R samples of the items, the same for all encoders."""
    sentences: list[str] = field(default_factory=list, repr=False)
    """To be encoded in one call with those of other tasks; none of retrieval, whose documents are too many to keep."""

    def drawn(self, measured: NDArray[Any]) -> Floats:
        """The scores of one encoder on `RESAMPLES` samples. (n,) -> (R,)"""
        return self.resample(measured[None], RESAMPLES, rng_of(self.name))[:, 0]

    def interval(self, encode: Encode) -> list[float]:
        """The ends of the 95 % bootstrap interval of an encoder's score.

        It says how far these items tell the score, nothing of other seeds of a training.
        """
        return list(percentiles(self.drawn(self.measure(encode)), 0.95))


def rng_of(name: str) -> np.random.Generator:
    """The draws of a task: the same each time, and others for each task, so that an average's errors cancel."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def pair_items(name: str, subsets: Sequence[ScoredPairs], aggregation: str = "all", kind: str = "sts") -> Items:
    """Scored pairs; each sub-set is resampled within itself.

    Args:
        name: of the task.
        subsets: its sub-sets.
        aggregation: how their scores become one, as in `sts.score_sts`.
        kind: sts, or pairs of an own file.

    Raises:
        DataError: the gold scores allow no correlation.
    """
    together = [list(subsets)] if aggregation == "all" else [[subset] for subset in subsets]
    golds = [np.concatenate([subset.scores for subset in group]) for group in together]
    for gold in golds:
        check_gold(gold, name)
    ends = np.cumsum([len(gold) for gold in golds])[:-1]
    weights = [len(gold) if aggregation == "wmean" else 1 for gold in golds]
    evaluator = PairEvaluator(*subsets)

    def score(cosines: NDArray[Any]) -> float:
        parts = np.split(cosines, ends)
        found = [correlate(part, gold, name)[0] for part, gold in zip(parts, golds, strict=True)]
        return float(np.average(found, weights=weights))

    def resample(cosines: NDArray[Any], resamples: int, rng: np.random.Generator) -> Floats:
        found = [
            resampled_spearman(part, gold, [len(subset) for subset in group], resamples, rng)
            for part, gold, group in zip(np.split(cosines, ends, axis=1), golds, together, strict=True)
        ]
        averaged: Floats = np.average(found, axis=0, weights=weights)
        return averaged

    def measure(encode: Encode) -> NDArray[Any]:
        return np.concatenate(evaluator.cosines(encode))

    return Items(name, kind, evaluator.n, measure, score, resample, evaluator.sentences)


def query_items(collection: Collection) -> Items:
    """The queries of a collection, by nDCG@10."""

    def measure(encode: Encode) -> NDArray[Any]:
        return query_scores(encode, collection)[:, METRICS.index("ndcg@10")]

    return Items(collection.name, "retrieval", len(collection.queries), measure, _mean, _resampled_mean)


def row_items(data: TransferSet) -> Items:
    """The test rows of a transfer task, all rows of one that is cross-validated, by accuracy; its classifiers stay as
    they are, so the interval holds nothing of other training rows.
    """
    part = data.parts["test" if data.task.parts else "all"]

    def measure(encode: Encode) -> NDArray[Any]:
        score = evaluate_transfer(encode, data)
        return np.equal(score.predicted, score.gold)

    sentences = [text for one in data.parts.values() for text in (*one.a, *one.b)]
    return Items(data.task.name, "transfer", len(part.labels), measure, _mean, _resampled_mean, sentences)


def _mean(values: NDArray[Any]) -> float:
    return 100 * float(np.mean(values))


def _resampled_mean(values: NDArray[Any], resamples: int, rng: np.random.Generator) -> Floats:
    return 100 * resampled_means(values.T.astype(np.float64), resamples, rng)


def query_intervals(scores: NDArray[Any], name: str) -> dict[str, tuple[float, float]]:
    """The ends of the 95 % interval of each metric of a collection, from what `retrieval.query_scores` gave."""
    drawn = resampled_means(scores, RESAMPLES, rng_of(name))
    return {metric: percentiles(column, 0.95) for metric, column in zip(METRICS, drawn.T, strict=True)}


def transfer_intervals(score: TransferScore, name: str) -> dict[str, tuple[float, float]]:
    """The ends of the 95 % interval of a transfer task's accuracy, and of its F1 if it has one."""
    right, positive = score.predicted == score.gold, score.predicted == 1
    drawn = resampled_means(np.stack([right, right & positive], axis=1), RESAMPLES, rng_of(name))  # (R, 2)
    accuracy, hits = drawn.T
    found = {"accuracy": percentiles(100 * accuracy, 0.95)}
    if score.f1 is not None:  # 2 TP / (2 TP + FP + FN)
        found["f1"] = percentiles(100 * 2 * hits / (2 * hits + 1 - accuracy), 0.95)
    return found
