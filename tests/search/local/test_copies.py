"""What a save and a compaction keep, what is chosen anew, how they are numbered, and whom they wait for."""

from __future__ import annotations

import errno
import os
import sqlite3

import pytest

from simcse import SearchError, SearchIndex
from simcse.search.local import copies, store
from simcse.search.nearest import plan

TEXTS = [f"text {i} of {i % 7} in {i % 11}" for i in range(200)]
WAYS = ["saved", "saved over another", "compacted", "compacted in memory"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Fewer rows than are compared one by one; and a second writer is refused at once."""
    monkeypatch.setattr(plan, "FLAT_BELOW", 100)
    monkeypatch.setattr(store, "WAIT", 0.05)


@pytest.fixture
def built(encoder):
    def build(texts=TEXTS, **options):
        return SearchIndex.build(texts, encoder.encode, target_recall=0.5, **options)

    return build


@pytest.fixture
def copied(built, tmp_path):
    """Copies an index in one of the ways; returns the folder."""

    def copy(index, way):
        folder = tmp_path / way
        if way == "saved over another":
            built(["another"]).save(folder)
        if way != "compacted in memory":
            index.save(folder)
        if way.startswith("compacted"):
            index.compact()
        return folder

    return copy


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def writer(folder):
    """Another process in the middle of a change."""
    (path,) = folder.glob("*.sqlite")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other


@pytest.mark.parametrize("way", WAYS)
def test_notes_and_sample_queries_are_kept(built, copied, way):
    index = built(kind="hnsw", sample_queries=TEXTS[:7])
    index.add_documents([("new", "one more", {})], note={"read": 17})
    folder = copied(index, way)
    for kept in (index, SearchIndex.load(folder)) if folder.exists() else (index,):
        assert kept.noted == {"read": 17}
        kept.optimize()
        assert kept.info["plan"]["measured_on"] == "7 sample queries"


@pytest.mark.parametrize("way", WAYS)
def test_a_save_keeps_the_plan_and_a_compaction_chooses_another(built, copied, way):
    """The rows would have an approximate index, were there memory for one; when they were planned there was none."""
    index = built(memory=0)
    index.delete([3])
    before = index.info["plan"]
    assert before["kind"] == "flat"
    copied(index, way)
    if way.startswith("saved"):
        assert index.info["plan"] == before
    else:
        assert index.info["plan"]["kind"] == "hnsw"
        assert index.search(TEXTS[5], top_k=1)[0][0].id == 5
    index.verify()


@pytest.mark.parametrize("dead", [0, 10])
def test_an_approximate_index_is_copied_unless_rows_are_dead(built, encoder, tmp_path, dead, monkeypatch):
    index = built(kind="hnsw")
    index.delete(range(dead))
    before, planned = index.info["plan"], []
    real = copies.State.plan
    monkeypatch.setattr(copies.State, "plan", lambda own, key: planned.append(key) or real(own, key))
    index.save(tmp_path / "idx")
    assert len(planned) == (1 if dead else 0)
    assert dead or index.info["plan"] == before
    for kept in (index, SearchIndex.load(tmp_path / "idx", encoder.encode)):
        hits = kept.search(TEXTS[dead:], top_k=1)
        assert [found[0].id for found in hits] == list(range(dead, len(TEXTS)))


def test_each_copy_has_the_next_number(built, tmp_path):
    """Also where an index with a higher one is replaced, or a killed copy has left files with a higher one."""

    def check(folder, number):
        assert index.storage.generation == SearchIndex.load(folder).storage.generation == number
        assert names(folder) == ["manifest.json", f"store-{number:06d}.sqlite", f"vectors-{number:06d}.f32"]

    index = built(["one", "two"])
    first = index.storage.generation
    index.compact()
    assert index.storage.generation == first + 1
    index.save(tmp_path / "a")
    check(tmp_path / "a", first + 2)
    index.compact()
    check(tmp_path / "a", first + 3)
    other = built(["another"])
    other.save(tmp_path / "b")
    for number in range(9):
        other.add([f"more {number}"])
    index.save(tmp_path / "b")
    assert index.storage.generation > first + 10
    check(tmp_path / "b", other.storage.generation)
    assert other.search("two", top_k=1)[0][0].text == "two", "who has it open goes on with what was put there"
    (tmp_path / "b" / "vectors-000099.f32").write_bytes(b"rest")
    index.compact()
    check(tmp_path / "b", 100)


def test_an_index_that_is_being_changed_is_not_replaced(built, tmp_path):
    """A process that has changes of it under way would lose them."""
    built(["another"]).save(tmp_path / "idx")
    before, other = names(tmp_path / "idx"), writer(tmp_path / "idx")
    index = built()
    with pytest.raises(SearchError, match="another process has been changing it"):
        index.save(tmp_path / "idx")
    assert names(tmp_path / "idx") == before
    other.execute("ROLLBACK")
    other.close()
    index.save(tmp_path / "idx")
    assert len(SearchIndex.load(tmp_path / "idx")) == len(TEXTS)


def test_nor_is_it_compacted_though_a_part_is_damaged(built, tmp_path):
    """A compaction mends a damaged approximate index, which it does not read: it waits for changes all the same."""
    index = built(kind="hnsw")
    index.save(tmp_path / "idx")
    (path,) = (tmp_path / "idx").glob("ann-*")
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"damaged")
    other = writer(tmp_path / "idx")
    other.execute("""INSERT OR REPLACE INTO meta VALUES ('note', '{"by": "the other"}')""")
    with pytest.raises(SearchError, match="another process has been changing it"):
        index.compact()
    other.execute("COMMIT")
    other.close()
    index.compact()
    index.verify()
    assert index.noted == {"by": "the other"}


@pytest.mark.parametrize("way", ["save", "compact"])
def test_a_manifest_that_cannot_be_written_leaves_all_as_it_was(built, tmp_path, monkeypatch, way):
    def full(folder, values):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / "idx"
    index = built(["another"])
    index.save(folder)
    before = names(folder)
    monkeypatch.setattr(copies, "write_manifest", full)
    with pytest.raises(SearchError, match=f"{folder}: No space left on device; nothing was changed; free the way"):
        index.compact() if way == "compact" else built().save(folder)
    assert names(folder) == before
    assert len(SearchIndex.load(folder)) == len(index) == 1
