"""An encoder of a few lines that is still one: texts that share words have similar vectors; and a place for an index in
each storage.
"""

from __future__ import annotations

import logging
import zlib
from importlib.util import find_spec
from itertools import count

import numpy as np
import pytest

from simcse import SearchIndex


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


NO_MILVUS = not (find_spec("pymilvus") and find_spec("milvus_lite"))
MILVUS = pytest.param("milvus", marks=pytest.mark.skipif(NO_MILVUS, reason="pymilvus or milvus-lite is not installed"))

# pymilvus logs each refused call with its traceback before it raises
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


class Places:
    """Places of one kind of storage, a new one for each index.

    Attributes:
        name: memory (exact search), folder or milvus.
    """

    def __init__(self, name, folder, database):
        self.name, self._folder, self._database, self._numbers = name, folder, database, count()

    def new(self) -> str:
        """A folder or an address, where no index is yet."""
        number = next(self._numbers)
        if self.name == "milvus":
            return f"milvus:{self._database}#{self._folder.name.replace('-', '_')}_{number}"
        return str(self._folder / str(number))

    def build(self, texts, encode, place=None, **options) -> SearchIndex:
        """As `SearchIndex.build`."""
        place = place or self.new()
        if self.name == "milvus":
            return SearchIndex.build(texts, encode, kind=place, **options)
        index = SearchIndex.build(texts, encode, **options)
        if self.name == "folder":
            index.save(place)
        return index


@pytest.fixture(scope="session")
def milvus_file(tmp_path_factory):
    """One file for all tests: milvus-lite starts a server for each."""
    return tmp_path_factory.mktemp("milvus") / "test.db"


@pytest.fixture(scope="module", params=["memory", "folder", MILVUS])
def storage(request, tmp_path_factory, milvus_file) -> Places:
    """Each storage in turn."""
    return Places(request.param, tmp_path_factory.mktemp("storage"), milvus_file)


@pytest.fixture(scope="module", params=["folder", MILVUS])
def durable(request, tmp_path_factory, milvus_file) -> Places:
    """Each storage from which an index can be loaded."""
    return Places(request.param, tmp_path_factory.mktemp("durable"), milvus_file)
