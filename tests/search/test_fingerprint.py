"""Recognising an encoder by what it does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from simcse.errors import SearchError
from simcse.search.fingerprint import Identity


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
