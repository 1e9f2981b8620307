"""An encoder of a few lines that is still one: texts that share words have similar vectors."""

from __future__ import annotations

import zlib

import numpy as np
import pytest


class WordSum:
    """The sum of a random vector per word, drawn from the word's checksum; nothing for a text without words."""

    def __init__(self, name: str = "word-sum", dimension: int = 32, seed: int = 0) -> None:
        self.name, self.dimension, self.seed = name, dimension, seed
        self.fingerprint = f"{zlib.crc32(f'{name} {dimension} {seed}'.encode()):08x}"
        self.calls = 0

    def encode(self, texts: list[str]) -> np.ndarray:
        self.calls += 1
        return np.stack([self._one(text) for text in texts]) if texts else np.empty((0, self.dimension), np.float32)

    def _one(self, text: str) -> np.ndarray:
        vector = np.zeros(self.dimension, np.float32)
        for word in text.lower().split():
            rng = np.random.default_rng([zlib.crc32(word.encode("utf-8", "surrogatepass")), self.seed])
            vector += rng.standard_normal(self.dimension, dtype=np.float32)
        return vector


@pytest.fixture
def encoder() -> WordSum:
    return WordSum()


@pytest.fixture(scope="module")
def module_encoder() -> WordSum:
    """For an index that all tests of a file share."""
    return WordSum()


@pytest.fixture
def other_encoder() -> WordSum:
    return WordSum("other-sum", seed=1)
