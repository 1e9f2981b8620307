"""Cosine against gold: equal to a naive loop, and loud about everything that would make it NaN."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from simcse.data.pairs import ScoredPairs
from simcse.errors import DataError, ModelError
from simcse.evaluation.pairs import PairEvaluator, correlate, evaluate_pairs
from simcse.vectors import CachedEncoder


def word_vectors(texts: list[str], width: int = 16) -> np.ndarray:
    """An encoder without weights: the sum of a random vector for each word."""
    return np.stack([np.sum([vector(word, width) for word in text.split()], axis=0) for text in texts])


def vector(word: str, width: int) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(word.encode())).normal(size=width)


def pairs(a: list[str], b: list[str], scores: list[float], name: str = "mine") -> ScoredPairs:
    return ScoredPairs(a, b, np.array(scores), name)


THREE = pairs(["a b c", "d e", "a b c"], ["a b d", "f g h", "x y"], [4.0, 1.5, 0.5])


def test_scores_equal_a_naive_loop() -> None:
    cosines = []
    for a, b in zip(THREE.a, THREE.b, strict=True):
        u, v = word_vectors([a])[0], word_vectors([b])[0]
        cosines.append(u @ v / np.sqrt(u @ u) / np.sqrt(v @ v))
    score = evaluate_pairs(word_vectors, THREE)
    assert score.n == 3
    assert score.spearman == pytest.approx(100 * stats.spearmanr(cosines, THREE.scores).statistic)
    assert score.pearson == pytest.approx(100 * np.corrcoef(cosines, THREE.scores)[0, 1], abs=1e-4)
    assert PairEvaluator(THREE)(word_vectors) == {"spearman": score.spearman, "pearson": score.pearson}


def test_each_distinct_sentence_is_encoded_once_over_all_sets() -> None:
    asked: list[str] = []

    def encode(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return word_vectors(texts)

    other = pairs(["x y", "new one"], ["a b c", "x y"], [1, 2], "other")
    PairEvaluator(THREE, other).cosines(encode)
    assert len(asked) == len(set(asked))
    assert set(asked) == {*THREE.a, *THREE.b, *other.a, *other.b}


@pytest.mark.parametrize("width", [7, 33, 384])
def test_equal_pairs_have_one_cosine_wherever_and_whichever_way_round(width: int) -> None:
    """Ties in the cosines are ties in the texts: rounding must not rank them. Equal texts have the cosine 1."""
    rng = np.random.default_rng(0)
    texts = [f"t{i}" for i in range(60)]
    same = pairs(texts, texts, list(range(60)), "same")
    one = pairs(["t1", "t2"] * 30 + ["t7"], ["t2", "t1"] * 30 + ["t9"], [*range(60), 1.5], "one")
    cosines = PairEvaluator(same, one).cosines(lambda texts: rng.normal(size=(len(texts), width)))
    assert cosines[0].tolist() == [1.0] * 60
    assert len(set(cosines[1][:60].tolist())) == 1
    [again] = PairEvaluator(pairs(["t2", "t1"], ["t1", "t1"], [1, 2])).cosines_of(np.eye(2, width, dtype=np.float32))
    assert again.tolist() == [0, 1]


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-12, 1e15), st.integers(0, 9))
def test_the_length_of_vectors_plays_no_role(scale: float, seed: int) -> None:
    gold = np.random.default_rng(seed).uniform(0, 5, 12)
    many = pairs([f"w{i} common" for i in range(12)], [f"v{i} common" for i in range(12)], gold.tolist())
    plain, scaled = evaluate_pairs(word_vectors, many), evaluate_pairs(lambda t: scale * word_vectors(t), many)
    assert scaled.pearson == pytest.approx(plain.pearson, abs=1e-3)


def test_tensors_of_any_dtype_are_taken() -> None:
    exact = evaluate_pairs(word_vectors, THREE)
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.bfloat16, 1.0)):
        score = evaluate_pairs(lambda t, dtype=dtype: torch.tensor(word_vectors(t), dtype=dtype), THREE)
        assert score.pearson == pytest.approx(exact.pearson, abs=tolerance)


@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (0.0, "zero")])
def test_a_vector_without_direction_names_set_pair_and_side(value: float, what: str) -> None:
    def encode(texts: list[str]) -> np.ndarray:
        vectors = word_vectors(texts)
        vectors[texts.index("f g h")] = value
        return vectors

    with pytest.raises(ModelError, match=rf"mine, pair 2, second sentence 'f g h': its vector is {what}.*\(1 of 5\)"):
        evaluate_pairs(encode, THREE)


def test_a_wrong_shape_is_told() -> None:
    for encode in (lambda texts: word_vectors(texts)[0], lambda texts: word_vectors(texts)[1:]):
        with pytest.raises(ModelError, match=r"the encoder gave shape .* for 5 texts, expected \(5, d\)"):
            evaluate_pairs(encode, THREE)
        with pytest.raises(ModelError, match=r"the encoder gave shape"):
            CachedEncoder(encode)(["a", "b"])


def test_what_is_no_array_of_numbers_is_told() -> None:
    for encode, what in [
        (lambda texts: None, r"shape \(\) for 5 texts"),
        (lambda texts: [None] * len(texts), r"shape \(5,\) for 5 texts"),
        (lambda texts: [[0.1] * (1 + i) for i, _ in enumerate(texts)], "rows of different lengths"),
        (lambda texts: [[text, text] for text in texts], "values of type str160, expected numbers"),
    ]:
        for evaluated in (encode, CachedEncoder(encode)):
            with pytest.raises(ModelError, match=rf"the encoder gave {what}"):
                evaluate_pairs(evaluated, THREE)


def test_a_list_of_tensors_is_taken() -> None:
    vectors = evaluate_pairs(lambda texts: list(torch.tensor(word_vectors(texts), dtype=torch.bfloat16)), THREE)
    assert vectors.pearson == pytest.approx(evaluate_pairs(word_vectors, THREE).pearson, abs=1.0)


def test_correlations_that_do_not_exist_are_errors() -> None:
    with pytest.raises(DataError, match="mine: found 1 scored pair, expected at least 2"):
        evaluate_pairs(word_vectors, pairs(["a"], ["b"], [1]))
    with pytest.raises(DataError, match="mine: all 2 gold scores are 3"):
        evaluate_pairs(word_vectors, pairs(["a", "b"], ["c", "d"], [3, 3]))
    with pytest.raises(ModelError, match=r"mine: the cosines of all 3 pairs are 1.0.*collapsed"):
        evaluate_pairs(lambda texts: np.ones((len(texts), 4)), THREE)
    # vectors that differ by rounding alone have cosines that do too: their order says nothing
    rng = np.random.default_rng(0)
    many = pairs([f"a {i}" for i in range(50)], [f"b {i}" for i in range(50)], list(range(50)))
    with pytest.raises(ModelError, match=r"mine: the cosines of all 50 pairs are 1\.0.*collapsed"):
        evaluate_pairs(lambda texts: 1 + rng.uniform(-1e-4, 1e-4, (len(texts), 384)), many)


def test_correlate_is_scipys() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=50), rng.integers(0, 6, 50).astype(float)  # ties
    spearman, pearson = correlate(x, y, "x")
    assert spearman == pytest.approx(100 * stats.spearmanr(x, y).statistic)
    assert pearson == pytest.approx(100 * stats.pearsonr(x, y).statistic)
