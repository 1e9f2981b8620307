"""Vectors whose cosines are known."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def at(storage):
    """Makes an index of unit vectors at these angles, whose texts are the angles."""

    def encode(texts):
        angles = np.radians([float(text) if text.lstrip("-").isdigit() else len(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    return lambda *degrees, **options: storage.build([str(d) for d in degrees], encode, **options)
