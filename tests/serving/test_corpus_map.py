"""The plane of the map against scikit-free algebra, and the sample that it is drawn from."""

from __future__ import annotations

import numpy as np
import pytest

from simcse.serving.corpus_map import principal_plane


def test_the_plane_is_that_of_the_singular_value_decomposition():
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((200, 7)) * [5, 3, 1, 1, 0.5, 0.2, 0.1] + 2).astype(np.float32)
    plane = principal_plane(vectors)
    centred = vectors - vectors.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :2] * values[:2]
    flat = plane(vectors)
    np.testing.assert_allclose(np.abs(flat), np.abs(expected), atol=1e-3)
    np.testing.assert_allclose(plane.shares, values[:2] ** 2 / (values**2).sum(), rtol=1e-5)
    np.testing.assert_array_equal(principal_plane(vectors).axes, plane.axes)


@pytest.mark.parametrize("count", [1, 2])
def test_one_text_or_equal_texts_make_a_map(count):
    vectors = np.ones((count, 4), np.float32) / 2
    plane = principal_plane(vectors)
    assert np.isfinite(plane(vectors)).all()
    assert plane.shares == [0, 0]


def test_a_sample_holds_rows_that_belong_together(index, encoder, sentences):
    sample = index.storage.sample(20)
    assert len(set(sample.ids)) == 20
    assert sample.texts == [sentences[i] for i in sample.ids]
    np.testing.assert_allclose(sample.vectors, encoder.encode(sample.texts), atol=1e-5)
    assert index.storage.sample(20).ids == sample.ids
    assert index.storage.sample(1000).texts == sentences


def test_vectors_come_back_by_id(index, encoder, sentences):
    found = index.storage.vectors([3, "none", 60, 999])
    assert list(found) == [3, 60]
    np.testing.assert_allclose(found[60], encoder.encode(sentences[60]), atol=1e-5)
