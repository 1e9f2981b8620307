"""Recognising an encoder by what it does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from simcse.errors import SearchError
from simcse.search.fingerprint import Identity, checked_units, name_of, unit_vectors


def test_units_have_length_one_and_zero_stays_zero():
    units = checked_units(np.array([[3, 4], [0, 0], [1e-30, 0], [1e30, 1e30]], np.float32))
    np.testing.assert_allclose(units, [[0.6, 0.8], [0, 0], [1, 0], [0.5**0.5, 0.5**0.5]], rtol=1e-6)


def test_names_come_from_the_object_behind_the_method(encoder):
    assert name_of(encoder.encode) == "word-sum"
    assert name_of(unit_vectors) == "unit_vectors"


def test_an_identity_survives_json(encoder):
    before = Identity.of(encoder.encode)
    after = Identity.from_json(json.loads(json.dumps(before.to_json())))
    assert (after.name, after.fingerprint, after.dimension) == ("word-sum", encoder.fingerprint, 32)
    after.check(before, "here")


def test_bfloat16_passes_and_a_slightly_other_encoder_does_not(encoder):
    """Rounding to 8 bits of mantissa turns a vector by about 0.002 rad; a fifth of noise by 0.2 rad, cosine 0.98."""
    rng = np.random.default_rng(0)
    here = Identity.of(encoder.encode)

    def rounded(texts):
        return (encoder.encode(texts).view(np.uint32) & 0xFFFF0000).view(np.float32)

    def noisy(texts):
        vectors = encoder.encode(texts)
        noise = rng.standard_normal(vectors.shape)
        return vectors + 0.25 * noise * np.linalg.norm(vectors) / np.linalg.norm(noise)

    here.check(Identity.of(rounded), "here")
    with pytest.raises(SearchError, match=r"here: built by word-sum \[\w{8}\], but .*noisy gives other vectors"):
        here.check(Identity.of(noisy), "here")


def test_torch_tensors_and_lists_are_taken():
    import torch

    assert unit_vectors(lambda texts: torch.ones(len(texts), 4), ["a"]).tolist() == [[0.5] * 4]
    assert unit_vectors(lambda texts: [[1, 0] for _ in texts], ["a", "b"]).dtype == np.float32
