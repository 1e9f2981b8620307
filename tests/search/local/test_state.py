"""An index goes through `pickle` and `copy`: in memory with all that it holds, in a folder as that folder. And its
approximate index: when it is built, what it covers, and that its files are never written over.
"""

from __future__ import annotations

import copy
import json
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simcse.errors import SearchError
from simcse.search.fingerprint import OtherEncoderError
from simcse.search.index import SearchIndex
from simcse.search.local import state
from simcse.search.local.blocks import BLOCK_ROWS
from simcse.search.nearest import plan

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
    assert not index.storage.snapshot().raw.flags.writeable  # mapped, no copy in memory
    packed = pickle.dumps(index)
    assert len(packed) < 10_000  # nothing of what lies in the folder
    copied = way(index)
    assert copied.search("sun snow") == index.search("sun snow")
    copied.add(["sun snow"], ids=["new"])
    assert index.search("sun snow", 1)[0][0].id == "new"  # both see what either does
    monkeypatch.chdir("/")
    assert len(pickle.loads(packed)) == 51  # the folder is found from anywhere
    SearchIndex.build(TEXTS[:50], other).save(tmp_path / "idx")
    with pytest.raises(OtherEncoderError, match=f"^{tmp_path / 'idx'}: "):
        pickle.loads(packed)
    (tmp_path / "idx" / "manifest.json").unlink()
    with pytest.raises(SearchError, match="idx"):
        pickle.loads(packed)


@pytest.mark.parametrize("mmap", [True, False])
def test_a_copy_of_an_index_in_a_folder_has_its_vectors_where_they_were(tmp_path: Path, mmap: bool) -> None:
    """On the disk, or in memory, where they can be written to."""
    SearchIndex.build(TEXTS[:40], encode).save(tmp_path / "idx")
    copied = copy.deepcopy(SearchIndex.load(tmp_path / "idx", encode, mmap=mmap))
    assert copied.storage.snapshot().raw.flags.writeable is not mmap


def test_the_manifest_says_what_an_index_is(tmp_path: Path) -> None:
    """To a reader who has nothing else: the encoder, how it is searched, and how long each file is."""
    index = SearchIndex.build(TEXTS[:40], encode, kind="hnsw", target_recall=0.9)
    index.save(tmp_path / "idx")
    index.add(["sun snow"])
    manifest = json.loads((tmp_path / "idx" / "manifest.json").read_text())
    [vectors], [ann] = (list((tmp_path / "idx").glob(f"*.{suffix}")) for suffix in ("f32", "faiss"))
    assert (manifest["metric"], manifest["dimension"], manifest["count"]) == ("cosine", 16, 41)
    assert manifest["settings"] == {"kind": "hnsw", "target_recall": 0.9}
    assert manifest["plan"] == index.info["plan"]
    crc = f"{zlib.crc32(ann.read_bytes()):08x}"
    assert manifest["files"] == {vectors.name: {"rows": 41}, ann.name: {"rows": 40, "crc32": crc}}


def flip(path: Path, at: int) -> None:
    """Change a bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_an_approximate_index_is_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who searches the one before reads on in its file, and a kill before the commit leaves it."""
    monkeypatch.setattr(state, "LONGEST_TAIL", 0)
    index, seen = SearchIndex.build(TEXTS[:40], encode, kind="hnsw"), dict[str, bytes]()
    index.save(tmp_path / "idx")
    for change in (
        lambda: index.add(["sun snow"]), index.optimize, lambda: index.add(["rain rain"]),
        lambda: index.add(TEXTS[40:80]), index.optimize, lambda: index.add(TEXTS[80:120]), index.optimize,
        index.compact, index.optimize,
    ):  # fmt: skip
        change()
        [path] = (tmp_path / "idx").glob("*.faiss")
        assert seen.setdefault(path.name, path.read_bytes()) == path.read_bytes()
        assert SearchIndex.load(tmp_path / "idx", encode).search("sun snow") == index.search("sun snow")
    assert len(seen) == 8


def test_what_optimize_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for the approximate index, for this once; queries, for good."""
    monkeypatch.setattr(plan, "FLAT_BELOW", 10)
    index = SearchIndex.build(TEXTS[:40], encode)

    def told(**options: object) -> tuple[str, str | None]:
        index.optimize(**options)
        return index.info["kind"], index.info["plan"]["measured_on"]

    assert told() == ("hnsw", "4 held-out rows")
    assert told(sample_queries=["sun snow"]) == ("hnsw", "1 sample queries")
    assert told(memory=0) == ("flat", None)
    assert told() == ("hnsw", "1 sample queries")


def test_the_recall_asked_for_is_that_of_every_plan() -> None:
    """An IVF needs fewer probes where less is asked."""
    index = SearchIndex.build(TEXTS[:40], encode, kind="IVF4,SQ8", target_recall=0.1)
    assert index.info["plan"]["search_parameters"] == "nprobe=1"
    index.compact()
    assert index.info["plan"]["search_parameters"] == "nprobe=1"


@pytest.mark.parametrize(("longest", "tail"), [(3, 4), (8, 8)])
def test_rows_are_added_to_the_approximate_index_once_they_are_many(
    monkeypatch: pytest.MonkeyPatch, longest: int, tail: int
) -> None:
    """More than `LONGEST_TAIL`, and than a tenth of what it covers; rows that are deleted by then are left out."""
    monkeypatch.setattr(state, "LONGEST_TAIL", longest)
    index = SearchIndex.build(TEXTS[:40], encode, kind="hnsw")

    def covered() -> tuple[int, int]:
        ann = index.storage.snapshot().ann
        return ann.covered, ann.index.ntotal

    index.add(TEXTS[40 : 40 + tail])
    index.delete([40])
    assert covered() == (40, 40)
    index.add(["sun snow"])
    assert covered() == (41 + tail, 40 + tail)
    assert index.search("sun snow", 1)[0][0].id == 40 + tail
    index.delete([0])
    index.optimize()
    assert covered() == (41 + tail, 39 + tail)


def test_rows_are_added_to_the_approximate_index_beside_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another block than theirs, which a large index has not read yet."""
    monkeypatch.setattr(state, "LONGEST_TAIL", 0)
    monkeypatch.setattr(state, "VERIFIED_AT_ONCE", 0)
    SearchIndex.build(TEXTS[:BLOCK_ROWS], encode, kind="hnsw").save(tmp_path / "idx")
    [path] = (tmp_path / "idx").glob("*.f32")
    flip(path, at=1000)
    index = SearchIndex.load(tmp_path / "idx", encode)
    index.add(TEXTS[:40])
    assert index.storage.snapshot().ann.covered == BLOCK_ROWS + 40


def test_damage_of_a_small_approximate_index_is_found_before_faiss_reads_it(tmp_path: Path) -> None:
    """As faiss would allocate whatever the file says."""
    SearchIndex.build(TEXTS[:40], encode, kind="hnsw").save(tmp_path / "idx")
    [path] = (tmp_path / "idx").glob("*.faiss")
    flip(path, at=0)
    with pytest.raises(SearchError, match=r"faiss: damaged: found checksum \w{8}, expected \w{8}; restore a copy"):
        SearchIndex.load(tmp_path / "idx", encode)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("settings", {"kind": "flat"}),
        ("sample_queries", [2, "AH4A"]),
        ("sample_queries", [1, "AH4A" * 32]),
        ("sample_queries", 7),
    ],
)
def test_damage_of_what_a_plan_begins_with_is_told(key: str, value: object) -> None:
    index = SearchIndex.build(TEXTS[:40], encode)
    index.storage.state.store[key] = value
    with pytest.raises(SearchError, match=r"damaged settings or sample queries \(.+\); restore a copy or build"):
        index.optimize()


@pytest.mark.parametrize(
    ("vectors", "told"),
    [
        (None, "sqlite: holds None dimensions, manifest.json says 16"),
        ({"dimension": 8}, "sqlite: holds 8 dimensions, manifest.json says 16"),
        ({"dimension": 16, "count": 40}, "damaged: names None as a file of the index"),
        ({"dimension": 16, "file": "vectors-000001.f32"}, r"sqlite: damaged \('count'\)"),
        ({"dimension": 16, "file": "vectors-000001.f32", "count": -2}, r"damaged \(found -2 as a whole number\)"),
    ],
)
def test_damage_of_what_a_store_says_of_its_vectors_is_told(tmp_path: Path, vectors: object, told: str) -> None:
    index = SearchIndex.build(TEXTS[:40], encode)
    index.save(tmp_path / "idx")
    index.storage.state.store["vectors"] = vectors
    with pytest.raises(SearchError, match=f"idx.*{told}.*restore a copy or build"):
        SearchIndex.load(tmp_path / "idx", encode)
