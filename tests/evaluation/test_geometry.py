"""Every measure against its definition, written as a loop or a whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcse.data.pairs import ScoredPairs
from simcse.errors import DataError
from simcse.evaluation import geometry
from simcse.evaluation.geometry import (
    alignment,
    cosine_histograms,
    effective_rank,
    evaluate_geometry,
    mean_cosine,
    spectrum,
    uniformity,
)


def unit(n: int, d: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def naive_uniformity(x: np.ndarray, t: float = 2.0) -> float:
    terms = [np.exp(-t * ((x[i] - x[j]) ** 2).sum()) for i in range(len(x)) for j in range(i)]
    return float(np.log(np.mean(terms)))


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 40), d=st.integers(1, 8), block=st.integers(1, 12), seed=st.integers(0, 5))
def test_blocks_change_nothing(n: int, d: int, block: int, seed: int) -> None:
    x = unit(n, d, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "BLOCK", block)
        assert uniformity(x) == pytest.approx(naive_uniformity(x.astype(np.float64)), abs=1e-5)
        exact = np.linalg.svd(x.astype(np.float64), compute_uv=False)
        np.testing.assert_allclose(spectrum(x), exact, atol=1e-10)


def test_uniformity_of_known_shapes() -> None:
    """Two opposite points are at squared distance 4: log exp(-8) = -8. Equal ones give 0."""
    assert uniformity(np.array([[1, 0], [-1, 0]], dtype=np.float32)) == pytest.approx(-8)
    assert uniformity(np.array([[1, 0], [1, 0]], dtype=np.float32)) == pytest.approx(0)


def test_alignment_is_the_mean_squared_distance() -> None:
    x, y = unit(9, 4), unit(9, 4, 1)
    assert alignment(x, y) == pytest.approx(
        np.mean([((a - b) ** 2).sum() for a, b in zip(x, y, strict=True)]), rel=1e-6
    )
    assert alignment(x, x) == 0
    assert alignment(x, -x) == pytest.approx(4, rel=1e-6)


def test_mean_cosine_is_that_of_all_pairs() -> None:
    x = unit(30, 5) + np.array([1, 0, 0, 0, 0], dtype=np.float32)  # a cone
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosines = (x @ x.T)[np.triu_indices(30, 1)]
    assert mean_cosine(x) == pytest.approx(cosines.mean(), abs=1e-6)


def test_effective_rank_counts_directions() -> None:
    """k equal singular values have entropy log k, so exp of it is k; one alone is 1."""
    assert effective_rank(np.array([2.0, 2, 2, 2])) == pytest.approx(4)
    assert effective_rank(np.array([3.0, 0, 0])) == pytest.approx(1)
    assert effective_rank(spectrum(np.eye(6, dtype=np.float32))) == pytest.approx(6)


def test_histograms_count_each_pair_in_its_gold_bin() -> None:
    gold = np.array([0, 0.5, 1.0, 4.9, 5.0])
    histograms = cosine_histograms(np.array([-1.0, 1.0000001, 0.0, 0.99, 0.5]), gold)
    assert list(histograms) == ["0-1", "1-2", "2-3", "3-4", "4-5"]
    assert [sum(counts) for counts in histograms.values()] == [2, 1, 0, 0, 2]
    assert histograms["0-1"][0] == histograms["0-1"][-1] == 1  # rounding above 1 is still 1
    other = cosine_histograms(np.zeros(3), np.array([0.0, 50, 100]))  # another scale: its own range
    assert list(other) == ["0-20", "20-40", "40-60", "60-80", "80-100"]
    assert [sum(counts) for counts in other.values()] == [1, 0, 1, 0, 1]


PAIRS = ScoredPairs(
    ["a b c", "d e f", "a b c", "g h"], ["a b d", "d e g", "x y z", "g h i"], np.array([4.5, 4.0, 0.5, 5.0]), "mine"
)


def test_the_whole_measures_distinct_sentences_and_positives_above_four(word_vectors) -> None:
    result = evaluate_geometry(word_vectors, PAIRS)
    sentences = list(dict.fromkeys(text for pair in zip(PAIRS.a, PAIRS.b, strict=True) for text in pair))
    vectors = word_vectors(sentences)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    of = dict(zip(sentences, vectors, strict=True))
    positives = [(PAIRS.a[i], PAIRS.b[i]) for i in (0, 3)]  # 4.0 is not above 4
    assert result.alignment == pytest.approx(np.mean([((of[a] - of[b]) ** 2).sum() for a, b in positives]), rel=1e-5)
    assert result.uniformity == pytest.approx(naive_uniformity(vectors), abs=1e-5)
    assert result.n_positive == 2
    assert result.n_sentences == 7
    assert len(result.singular_values) == 7
    assert 1 <= result.effective_rank <= 7


def test_vectors_need_not_be_normalised(word_vectors) -> None:
    assert evaluate_geometry(lambda t: 30 * word_vectors(t), PAIRS).alignment == pytest.approx(
        evaluate_geometry(word_vectors, PAIRS).alignment, rel=1e-5
    )


def test_data_without_positives_is_told(word_vectors) -> None:
    low = ScoredPairs(["a", "b"], ["c", "d"], np.array([0.1, 1.0]), "unit scale")
    with pytest.raises(DataError, match=r"unit scale: no pair is scored above 4 .the highest is 1.; .*from 0 to 5"):
        evaluate_geometry(word_vectors, low)
    same = ScoredPairs(["a", "a"], ["a", "a"], np.array([5.0, 4.5]), "same")
    with pytest.raises(DataError, match="same: found 1 distinct sentences, expected at least 2"):
        evaluate_geometry(word_vectors, same)
