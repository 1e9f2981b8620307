"""What any encoder may give, as checked unit vectors; the plane of a map against an SVD."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from simcse import SearchIndex
from simcse.errors import ConfigError, EncoderError, ModelError, SearchError
from simcse.vectors import (
    CachedEncoder,
    TimedEncoder,
    encode_of,
    name_of,
    principal_plane,
    quantize,
    unit_rows,
    unit_vectors,
)


class Lengths:
    """Vectors (length, 1) of texts."""

    name = "lengths"

    def encode(self, texts: list[str], batch_size: int = 8) -> np.ndarray:
        return np.array([[len(text), 1.0] for text in texts])


def test_units_have_length_one_and_zero_stays_zero() -> None:
    units = unit_rows(np.array([[3, 4], [0, 0], [1e-30, 0], [1e30, 1e30]], np.float32))
    np.testing.assert_allclose(units, [[0.6, 0.8], [0, 0], [1, 0], [0.5**0.5, 0.5**0.5]], rtol=1e-6)
    with pytest.raises(EncoderError, match=r"vector 1 is zero, so it has no cosine \(1 of 3\)"):
        unit_rows(np.array([[1, 0], [0, 0], [0, 1]]), nonzero=True)
    with pytest.raises(EncoderError, match=r"vector 0 is NaN or infinite \(2 of 2\)"):
        unit_rows(np.array([[1e300, 0], [np.nan, 0]]))  # float32 ends at 3.4e38


def test_names_come_from_the_object_behind_the_method() -> None:
    encoder = Lengths()
    assert name_of(encoder.encode) == name_of(partial(partial(encoder.encode), batch_size=2)) == "lengths"
    assert name_of(unit_vectors) == name_of(partial(unit_vectors)) == "unit_vectors"
    assert encode_of(encoder) == encode_of(encoder.encode) == encoder.encode
    with pytest.raises(SearchError, match="encode: found 'a name', expected an encoder"):
        encode_of("a name")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "encode",
    [
        lambda texts: torch.ones(len(texts), 4, dtype=torch.bfloat16),
        lambda texts: torch.ones(len(texts), 4, requires_grad=True),
        lambda texts: [torch.ones(4) for _ in texts],
        lambda texts: [[1, 1, 1, 1] for _ in texts],
        lambda texts: np.full((len(texts), 4), 1e30, np.float32),
    ],
)
def test_any_array_tensor_or_list_is_taken(encode) -> None:
    vectors = unit_vectors(encode, ["a", "b"])
    np.testing.assert_allclose(vectors, [[0.5] * 4] * 2)
    assert vectors.dtype == np.float32
    assert SearchIndex.build(["a", "b"], encode).search("a", top_k=1)[0][0].score == pytest.approx(1)


@pytest.mark.parametrize(
    ("encode", "what"),
    [
        (lambda texts: None, r"the encoder gave shape \(\) for 3 texts, expected \(3, d\)"),
        (lambda texts: np.ones((len(texts) - 1, 4)), r"the encoder gave shape \(2, 4\) for 3 texts, expected \(3, d\)"),
        (lambda texts: [[0.1] * (1 + i) for i, _ in enumerate(texts)], "the encoder gave rows of different lengths"),
        (lambda texts: [[text, text] for text in texts], "the encoder gave values of type str.*, expected numbers"),
        (lambda texts: np.full((len(texts), 2), np.nan), r"text 0 '.*': its vector is NaN or infinite \(3 of 3\)"),
    ],
)
def test_what_is_no_vectors_is_one_line_for_evaluation_and_search(encode, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        unit_vectors(encode, ["a", "b", "c"])
    with pytest.raises(SearchError, match=what):  # an index encodes three sentences first, to know its encoder
        SearchIndex.build(["a"], encode)


def test_another_dimension_names_the_encoder() -> None:
    with pytest.raises(SearchError, match=r"lengths gives vectors of dimension 2, the index has dimension 5"):
        unit_vectors(Lengths().encode, ["a"], 5)


def test_a_cached_encoder_encodes_a_distinct_text_once_and_a_timed_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("time.perf_counter", iter([1.0, 3.0, 7.0, 7.5]).__next__)

    def encode(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return Lengths().encode(texts)

    timed = TimedEncoder(encode)
    cached = CachedEncoder(timed)
    np.testing.assert_array_equal(cached(["bb", "a", "bb"]), [[2, 1], [1, 1], [2, 1]])
    np.testing.assert_array_equal(cached(["ccc", "a"]), [[3, 1], [1, 1]])
    assert asked == ["bb", "a", "ccc"]
    assert timed.encoded == 3
    assert timed.seconds == 2.5


def test_the_plane_is_that_of_the_singular_value_decomposition() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((200, 7)) * [5, 3, 1, 1, 0.5, 0.2, 0.1] + 2).astype(np.float32)
    plane = principal_plane(vectors)
    centred = vectors - vectors.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :2] * values[:2]
    np.testing.assert_allclose(np.abs(plane(vectors)), np.abs(expected), atol=1e-3)
    np.testing.assert_allclose(plane.shares, values[:2] ** 2 / (values**2).sum(), rtol=1e-5)
    np.testing.assert_array_equal(principal_plane(vectors).axes, plane.axes)
    assert (plane.axes[[0, 1], np.abs(plane.axes).argmax(axis=1)] > 0).all()


@pytest.mark.parametrize("count", [1, 2])
def test_one_text_or_equal_texts_make_a_plane(count: int) -> None:
    vectors = np.ones((count, 4), np.float32) / 2
    plane = principal_plane(vectors)
    assert np.isfinite(plane(vectors)).all()
    assert plane.shares == [0, 0]


@pytest.mark.parametrize("d", [64, 61])
def test_bits_are_those_of_sentence_transformers_and_rescored_in_faiss(d: int) -> None:
    import faiss
    from sentence_transformers.util import quantize_embeddings

    rng = np.random.default_rng(0)
    vectors = unit_rows(rng.normal(size=(500, d)))
    bits = quantize(vectors, "binary")
    np.testing.assert_array_equal(bits, quantize_embeddings(vectors, "ubinary"))
    index = faiss.IndexBinaryFlat(8 * bits.shape[1])
    index.add(bits)
    queries = unit_rows(vectors[:20] + 0.1 * rng.normal(size=(20, d)))
    distances, found = index.search(quantize(queries, "binary"), 40)
    apart = np.unpackbits(bits[found[0, 1]] ^ quantize(queries, "binary")[0]).sum()
    assert distances[0, 1] == apart
    rescored = np.einsum("qd,qkd->qk", queries, vectors[found])
    assert (found[np.arange(20), rescored.argmax(1)] == np.arange(20)).all()


def test_int8_keeps_cosines_without_a_scale() -> None:
    from sentence_transformers.util import quantize_embeddings

    rng = np.random.default_rng(0)
    vectors = unit_rows(rng.normal(size=(300, 96)) + 2 * rng.normal(size=96))  # with a common direction, as encoders
    small = quantize(vectors, "int8")
    assert small.dtype == np.int8
    assert (np.abs(small).max(axis=1) == 127).all()
    exact = vectors @ vectors.T
    units = unit_rows(small)
    assert np.abs(units @ units.T - exact).max() < 0.005
    theirs = unit_rows(quantize_embeddings(vectors, "int8"))  # a scale and a zero for each dimension: no cosines
    assert np.abs(theirs @ theirs.T - exact).max() > 0.1
    assert not quantize(np.zeros((1, 8), np.float32), "int8").any()
    half = quantize(vectors, "float16")
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, vectors, atol=2e-4)
    assert quantize(vectors, "none") is vectors
    with pytest.raises(ConfigError, match=r"quantize: found 'int9', .*did you mean 'int8'"):
        quantize(vectors, "int9")  # type: ignore[arg-type]
