"""What a kill, a full disk, damage or a second process do to an index on disk."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simcse import SearchError, SearchIndex
from simcse.search.local import files as layout
from simcse.search.local import state, store

TEXTS = [f"text number {i} of the house" for i in range(40)]


@pytest.fixture
def folder(encoder, tmp_path):
    SearchIndex.build(TEXTS, encoder.encode, metadata=[{"i": i} for i in range(40)]).save(tmp_path / "idx")
    return tmp_path / "idx"


def part(folder, suffix):
    (path,) = folder.glob(f"*{suffix}")
    return path


def test_a_truncated_vector_file_is_named_with_both_sizes(folder, encoder):
    path = part(folder, ".f32")
    os.truncate(path, 4 * 32 * 40 - 1)
    with pytest.raises(SearchError, match=r"f32: truncated: found 5119 bytes, expected 5120 \(40 vectors"):
        SearchIndex.load(folder, encoder.encode)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("suffix", [".f32", ".sqlite", ".json"])
def test_damage_anywhere_is_found(folder, encoder, suffix, mmap):
    """A run of 64 wrong bytes at a random place of each file."""
    path = part(folder, suffix)
    content = bytearray(path.read_bytes())
    at = content.index(b"text number 17") if suffix == ".sqlite" else random.Random(0).randrange(len(content) // 2)
    content[at : at + 64] = bytes(b ^ 0x55 for b in content[at : at + 64])
    path.write_bytes(content)
    with pytest.raises(SearchError, match=r"damaged|not JSON") as caught:
        SearchIndex.load(folder, encoder.encode, mmap=mmap)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_large_index_opens_unread_and_verify_finds_the_damage(folder, encoder, monkeypatch):
    path = part(folder, ".f32")
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(state, "VERIFIED_AT_ONCE", 0)
    index = SearchIndex.load(folder, encoder.encode)
    with pytest.raises(SearchError, match=r"vectors-\d+.f32: damaged: vectors 0 to 39 have checksum"):
        index.verify()


@pytest.mark.parametrize(
    ("suffix", "message"),
    [(".f32", "truncated: found 0 bytes"), (".sqlite", "missing"), (".json", "is no index")],
)
def test_a_missing_file_is_named(folder, encoder, suffix, message):
    part(folder, suffix).unlink()
    with pytest.raises(SearchError, match=message):
        SearchIndex.load(folder, encoder.encode)


def test_what_is_no_index_is_told(folder, encoder, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, message in [
        ("file", "is a file; expected"),
        ("empty", "is no index"),
        ("none", "none: no such folder; expected"),
    ]:
        with pytest.raises(SearchError, match=message):
            SearchIndex.load(tmp_path / name, encoder.encode)
    manifest = json.loads((folder / "manifest.json").read_text())
    for change, message in [
        ({"version": 9}, "format version 9, this program knows 3"),
        ({"version": 1}, "format version 1, expected 3; build it anew"),
        ({"format": "x"}, "format 'x'"),
    ]:
        (folder / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(SearchError, match=message):
            SearchIndex.load(folder, encoder.encode)


def test_files_of_two_indexes_are_not_one(folder, encoder, tmp_path):
    wide = type(encoder)("wide", 64)
    SearchIndex.build(TEXTS, wide.encode).save(tmp_path / "wide")
    part(tmp_path / "wide", ".sqlite").rename(part(folder, ".sqlite"))
    with pytest.raises(SearchError, match=r"holds 64 dimensions, manifest\.json says 32"):
        SearchIndex.load(folder, encoder.encode)


def test_a_store_that_cannot_be_written_changes_nothing(folder, encoder, monkeypatch):
    index = SearchIndex.load(folder, encoder.encode)

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SearchError, match=r"f32: No space left on device; the index is as it was before"):
            index.add(["more"])
        with pytest.raises(SearchError, match="No space left on device; "):
            index.compact()
    assert len(index) == 40
    assert sorted(path.suffix for path in folder.iterdir()) == [".f32", ".json", ".sqlite"]
    assert index.add(["more"]) == [40]
    index.verify()


def test_a_database_that_is_full_says_so(folder, encoder):
    index = SearchIndex.load(folder, encoder.encode)
    connection = index.storage.state.store._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(SearchError, match="the disk is full; the index is as it was before"):
        index.add([f"a text that needs room {i}" * 50 for i in range(200)])
    connection.execute("PRAGMA max_page_count = 1000000")
    assert len(index) == 40
    index.verify()


def test_a_second_writer_waits_and_then_says_why(folder, encoder, monkeypatch):
    monkeypatch.setattr(store, "WAIT", 0.1)
    index = SearchIndex.load(folder, encoder.encode)
    other = sqlite3.connect(part(folder, ".sqlite"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(SearchError, match="another process has been changing it"):
        index.add(["more"])
    assert index.search("text number 3 of the house", top_k=1)[0][0].id == 3, "reading goes on"
    other.execute("ROLLBACK")
    other.close()
    assert index.add(["more"]) == [40]


def test_leftovers_of_a_killed_compaction_are_removed(folder, encoder):
    before = {path.name for path in folder.iterdir()}
    for name in ("store-000099.sqlite", "store-000099.sqlite-journal", "vectors-000099.f32"):
        (folder / name).write_bytes(b"rest")
    index = SearchIndex.load(folder, encoder.encode)
    index.add(["more"])
    assert {path.name for path in folder.iterdir()} == before


def test_deleted_text_is_gone_from_the_disk(folder, encoder):
    index = SearchIndex.load(folder, encoder.encode)
    assert b"text number 17 " in part(folder, ".sqlite").read_bytes()
    index.delete([17])
    assert b"text number 17 " not in part(folder, ".sqlite").read_bytes()


WRITER = """
import itertools, random, sys
sys.path[:0] = [sys.argv[2]]
from conftest import WordSum
from simcse import SearchIndex
index = SearchIndex.load(sys.argv[1], WordSum().encode)
rng = random.Random(int(sys.argv[3]))
for step in itertools.count():
    ids = [f"{sys.argv[3]}-{step}-{i}" for i in range(rng.randint(1, 60))]
    index.add([f"text {i}" for i in ids], ids=ids, metadata=[{"of": len(ids)}] * len(ids))
    print("added", ids[0], len(ids), flush=True)
    if step % 3 == 2:
        index.delete(ids)
        print("deleted", ids[0], len(ids), flush=True)
    if step % 4 == 3:
        index.compact()
"""


def test_a_killed_process_leaves_the_old_state_or_the_new(folder, encoder):
    """SIGKILL at random moments of adding, deleting and compacting: every batch is there whole or not at all, what was
    reported as done is there, texts belong to their vectors, and the index goes on."""
    rng = random.Random(1)
    for run in range(6):
        command = [sys.executable, "-c", WRITER, str(folder), str(Path(__file__).parents[1]), str(run)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        reports = [process.stdout.readline().split()]
        time.sleep(rng.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        reports += [line.split() for line in process.stdout.read().splitlines()]
        process.wait()
        process.stdout.close()

        index = SearchIndex.load(folder, encoder.encode)
        index.verify()
        rows = [row for _, row in index.storage.state.store.rows()]
        batches: dict[str, list[int]] = {}
        for key, _, about in rows:
            if isinstance(key, str):
                batches.setdefault(key.rsplit("-", 1)[0], []).append(about["of"])
        assert all(len(sizes) == sizes[0] for sizes in batches.values())
        done = {first.rsplit("-", 1)[0]: what for what, first, _ in reports}
        last = next(reversed(done))
        for batch, what in done.items():
            if batch != last:
                assert (batch in batches) == (what == "added")
        assert last in batches or done[last] == "deleted" or int(last.split("-")[1]) % 3 == 2
        for key, text, _ in rows[:: max(1, len(rows) // 20)]:
            hits = index.search(text, top_k=3)[0]
            assert key in [hit.id for hit in hits]
            assert hits[0].score == pytest.approx(1, abs=1e-5)
    names = {path.name.split("-")[0] for path in folder.iterdir()}
    assert names <= {"manifest.json", "store", "vectors", ".manifest.json"} or layout.MANIFEST in names
    index.add(["at last"])
    assert len(list(folder.iterdir())) == 3
