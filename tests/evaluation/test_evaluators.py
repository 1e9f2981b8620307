"""One protocol in training and after it: whatever measures an encoder says by which metric, and which way is better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simcse.data.pairs import ScoredPairs, read_scored_pairs
from simcse.evaluation.evaluators import Evaluator, RetrievalEvaluator, ScoredPairsEvaluator
from simcse.evaluation.geometry import alignment, uniformity
from simcse.evaluation.pairs import PairEvaluator
from simcse.evaluation.suite import read_tasks
from simcse.vectors import unit_vectors

QUERIES, DOCUMENTS = ["a b", "c d", "e f"], ["a b g", "c d g", "e f g"]


@pytest.fixture
def evaluators(senteval: Path, tmp_path: Path) -> dict[str, Evaluator]:
    """One of each kind: tasks of the suite, and both of a development set."""
    (tmp_path / "pairs.tsv").write_text("a b\ta c\t3\nd e\tf g\t1\na b\ta b\t5\n")
    (tmp_path / "queries.csv").write_text("query,document\na b,a b c\nd e,d e f\n")
    (senteval / "MR").mkdir()
    (senteval / "MR" / "rt-polarity.neg").write_text("".join(f"bad {i}\n" for i in range(20)))
    (senteval / "MR" / "rt-polarity.pos").write_text("".join(f"good {i}\n" for i in range(20)))
    pairs = read_scored_pairs(tmp_path / "pairs.tsv")
    tasks = ["STS16", "MR", str(tmp_path / "pairs.tsv"), str(tmp_path / "queries.csv")]
    found: list[Evaluator] = [*read_tasks(tasks, senteval).tasks, PairEvaluator(pairs), ScoredPairsEvaluator(pairs)]
    found.append(RetrievalEvaluator(QUERIES, DOCUMENTS, DOCUMENTS, "dev"))
    return {f"{type(one).__name__} {one.name}": one for one in found}


def test_each_evaluator_gives_its_primary_metric(evaluators: dict[str, Evaluator], word_vectors: Callable) -> None:
    for name, evaluator in evaluators.items():
        metrics = evaluator(word_vectors)
        assert isinstance(metrics[evaluator.primary_metric], float), name
        assert evaluator.greater_is_better
        assert evaluator.n > 0


def test_a_development_set_of_pairs_has_the_scores_of_the_task_and_the_geometry_of_its_sentences(
    word_vectors: Callable,
) -> None:
    pairs = ScoredPairs(["a b", "c d", "e f"], ["a b g", "c h", "g h"], np.array([5, 4.5, 1]), "dev")
    metrics = ScoredPairsEvaluator(pairs)(word_vectors)
    assert PairEvaluator(pairs)(word_vectors).items() <= metrics.items()
    a, b = unit_vectors(word_vectors, pairs.a[:2]), unit_vectors(word_vectors, pairs.b[:2])  # 4.5 is above 4
    assert metrics["alignment"] == pytest.approx(alignment(a, b), rel=1e-5)
    sentences = unit_vectors(word_vectors, [*pairs.a, *pairs.b])
    assert metrics["uniformity"] == pytest.approx(uniformity(sentences), rel=1e-5)
