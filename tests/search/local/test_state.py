"""An index goes through `pickle` and `copy`: in memory with all that it holds, in a folder as that folder."""

from __future__ import annotations

import copy
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simcse.errors import SearchError
from simcse.search.fingerprint import OtherEncoderError
from simcse.search.index import SearchIndex

WORDS = "man cat dog rain book sun snow piano house river".split()  # noqa: SIM905
TEXTS = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS[:5]]
WAYS = [copy.deepcopy, lambda index: pickle.loads(pickle.dumps(index))]


def encode(texts: list[str], seed: int = 0) -> np.ndarray:
    """Sums of a random vector for each word."""

    def vector(word: str) -> np.ndarray:
        return np.random.default_rng([zlib.crc32(word.encode()), seed]).normal(size=16)

    return np.stack([np.sum([vector(word) for word in text.split()], axis=0) for text in texts])


def other(texts: list[str]) -> np.ndarray:
    """Another encoder of the same dimension."""
    return encode(texts, seed=1)


@pytest.fixture(scope="module", params=["flat", "hnsw"])
def index(request: pytest.FixtureRequest) -> SearchIndex:
    """500 texts with metadata, of which some are deleted again."""
    built = SearchIndex.build(TEXTS, encode, kind=request.param, metadata=[{"n": i} for i in range(len(TEXTS))])
    built.delete(range(0, 90, 3))
    return built


@pytest.mark.parametrize("way", WAYS, ids=["deepcopy", "pickle"])
def test_an_index_in_memory_is_copied_whole(index: SearchIndex, way: Callable[[SearchIndex], SearchIndex]) -> None:
    queries = ["sun snow", "man book rain"]
    copied = way(index)
    assert copied.info == index.info
    assert copied.search(queries, 7) == index.search(queries, 7)
    assert copied.search(queries, 7, where={"n": {">=": 400}}) == index.search(queries, 7, where={"n": {">=": 400}})
    # from then on each goes its own way
    before = index.search(queries, 7)
    [key] = copied.add(["sun snow"])
    copied.delete([1])
    assert copied.search(queries, 1)[0][0].id == key
    assert index.search(queries, 7) == before
    assert len(copied) == len(index)
    assert 1 in {key for key, *_ in index.rows()}
    assert len(way(copied)) == len(copied)


@pytest.mark.parametrize("way", WAYS, ids=["deepcopy", "pickle"])
def test_of_an_index_in_a_folder_the_folder_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[SearchIndex], SearchIndex]
) -> None:
    monkeypatch.chdir(tmp_path)
    index = SearchIndex.build(TEXTS[:50], encode)
    index.save("idx")
    packed = pickle.dumps(index)
    assert len(packed) < 10_000  # nothing of what lies in the folder
    copied = way(index)
    assert copied.search("sun snow") == index.search("sun snow")
    copied.add(["sun snow"], ids=["new"])
    assert index.search("sun snow", 1)[0][0].id == "new"  # both see what either does
    monkeypatch.chdir("/")
    assert len(pickle.loads(packed)) == 51  # the folder is found from anywhere
    SearchIndex.build(TEXTS[:50], other).save(tmp_path / "idx")
    with pytest.raises(OtherEncoderError):
        pickle.loads(packed)
    (tmp_path / "idx" / "manifest.json").unlink()
    with pytest.raises(SearchError, match="idx"):
        pickle.loads(packed)
