"""What the map is drawn from: a sample of the rows, and the vectors of some."""

from __future__ import annotations

import numpy as np


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
