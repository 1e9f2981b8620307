"""Damage in an index that opens unread: found where it is touched, and never copied to a file that passes for sound."""

from __future__ import annotations

import os
import shutil
import sqlite3
import zlib
from pathlib import Path

import numpy as np
import pytest

from simcse import SearchError, SearchIndex
from simcse.search.local import state
from simcse.search.local.blocks import BLOCK_ROWS, NO_CHECKSUMS, Blocks, extended
from simcse.search.nearest import plan
from simcse.search.tools.clusters import cluster
from simcse.search.tools.duplicates import near_duplicates

D = 32
COUNT = 3 * BLOCK_ROWS + 100


TEXTS = [f"text {i} of {i % 7} in {i % 11}" for i in range(COUNT)]


@pytest.fixture(autouse=True)
def opened_unread(monkeypatch):
    """As an index of more than 64 MiB is."""
    monkeypatch.setattr(state, "VERIFIED_AT_ONCE", 0)


BUILT: list[Path] = []


@pytest.fixture
def folder(encoder, tmp_path, tmp_path_factory):
    if not BUILT:
        BUILT.append(tmp_path_factory.mktemp("built") / "idx")
        SearchIndex.build(TEXTS, encoder.encode, metadata=[{"at": i} for i in range(COUNT)]).save(BUILT[0])
    return Path(shutil.copytree(BUILT[0], tmp_path / "idx"))


def flipped(folder, suffix, at):
    """Flip a bit in a byte of the only file with that suffix."""
    (path,) = folder.glob(f"*{suffix}")
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 4]))
    return path


def row_at(slot, number=0):
    return 4 * (slot * D + number) + 1


def state_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("sizes", [[1], [COUNT], [255, 1, 1, 255], [256, 256], [300, 1, 700], [1] * 300])
def test_checksums_are_those_of_each_block_however_rows_come(sizes):
    rows = np.random.default_rng(0).standard_normal((sum(sizes), 5)).astype(np.float32)
    checksums, count = NO_CHECKSUMS, 0
    for size in sizes:
        checksums = extended(checksums, count, rows[count : count + size])
        count += size
    expected = [zlib.crc32(rows[i : i + BLOCK_ROWS].tobytes()) for i in range(0, count, BLOCK_ROWS)]
    assert checksums.tolist() == expected
    assert checksums.dtype == np.uint32


def test_blocks_are_read_once_and_only_where_they_are_touched(monkeypatch, tmp_path):
    rows = np.random.default_rng(0).standard_normal((COUNT, 5)).astype(np.float32)
    read = []
    crc32 = zlib.crc32
    monkeypatch.setattr(zlib, "crc32", lambda data, crc=0: read.append(len(data)) or crc32(data, crc))
    checksums = extended(NO_CHECKSUMS, 0, rows[:-1])
    blocks = Blocks(checksums, tmp_path)
    read.clear()
    blocks.check(rows[:-1], np.array([[0, -1], [BLOCK_ROWS + 3, -1]]))
    assert read == [BLOCK_ROWS, BLOCK_ROWS]
    blocks.check(rows[:-1])
    assert read[2:] == [BLOCK_ROWS, 99]
    blocks.check(rows[:-1])
    longer = Blocks(extended(checksums, COUNT - 1, rows[-1:]), tmp_path, blocks)
    read.clear()
    longer.check(rows)
    assert read == [100], "only the block that has grown"


@pytest.mark.parametrize("query", ["one", "many", "few rows", "vectors", "sample", "near-duplicates", "clusters"])
def test_a_search_that_touches_a_damaged_vector_names_the_file(folder, encoder, query):
    """One flipped bit in the middle of a file that opens unread."""
    path = flipped(folder, ".f32", row_at(400))
    index = SearchIndex.load(folder, encoder.encode)
    ask = {
        "one": lambda: index.search("text 3"),
        "many": lambda: index.search(["text 3"] * 20),
        "few rows": lambda: index.search("text 3", where={"at": 500}),
        "vectors": lambda: index.vectors([500]),
        "sample": lambda: index.storage.sample(10_000),
        "near-duplicates": lambda: list(near_duplicates(index)),
        "clusters": lambda: cluster(index, 3),
    }[query]
    for _ in range(2):
        with pytest.raises(SearchError, match=rf"{path.name}: damaged: vectors 256 to 511 have checksum"):
            ask()


def test_what_does_not_touch_a_damaged_block_goes_on(folder, encoder):
    flipped(folder, ".f32", row_at(400))
    index = SearchIndex.load(folder, encoder.encode)
    assert index.search("text 3", where={"at": [3, 700]}, top_k=1)[0][0].text == TEXTS[3]
    assert np.allclose(index.vectors([700])[0] @ index.vectors([700])[0], 1)
    index.add(["one more"])
    index.delete([5])


@pytest.mark.parametrize(
    ("how", "touched"),
    [
        *[(how, touched) for how in ("compact", "save anew", "save over", "verify") for touched in (False, True)],
        ("optimize", False),
    ],
)
def test_damage_is_never_copied(folder, encoder, tmp_path, how, touched):
    """Also where the vectors were sound when they were first searched, and went bad since."""
    index = SearchIndex.load(folder, encoder.encode)
    SearchIndex.build(["another index"], encoder.encode).save(tmp_path / "other")
    if touched:
        index.search("text 3")
    path = flipped(folder, ".f32", row_at(400))
    before, other_before = state_of(folder), state_of(tmp_path / "other")
    act = {
        "compact": index.compact,
        "save anew": lambda: index.save(tmp_path / "new"),
        "save over": lambda: index.save(tmp_path / "other"),
        "optimize": index.optimize,
        "verify": index.verify,
    }[how]
    for _ in range(2):
        with pytest.raises(SearchError, match=rf"{path.name}: damaged: vectors 256 to 511 have checksum"):
            act()
    assert state_of(folder) == before
    assert state_of(tmp_path / "other") == other_before
    assert {found.name for found in tmp_path.iterdir()} == {"idx", "other"}


def test_a_deletion_is_done_though_damage_keeps_it_from_being_compacted(folder, encoder, caplog):
    path = flipped(folder, ".f32", row_at(800))
    index = SearchIndex.load(folder, encoder.encode)
    assert index.delete(range(300)) == 300
    assert len(SearchIndex.load(folder)) == COUNT - 300
    told = f"{folder}: the deletion is durable, but its room was not freed: {path}: damaged"
    assert caplog.messages[0].startswith(told)


def test_rows_added_behind_damage_do_not_hide_it(folder, encoder):
    """The last block is not full: what is added goes on with its checksum, which stays that of what was written."""
    path = flipped(folder, ".f32", row_at(3 * BLOCK_ROWS + 50))
    index = SearchIndex.load(folder, encoder.encode)
    index.add([f"more {i}" for i in range(300)])
    with pytest.raises(SearchError, match=rf"{path.name}: damaged: vectors 768 to 1023 have checksum"):
        index.search("text 3")
    with pytest.raises(SearchError, match=rf"{path.name}: damaged"):
        index.compact()


def test_a_damaged_approximate_index_is_neither_searched_nor_copied(encoder, tmp_path, monkeypatch):
    """A bit among the codes, which faiss does not check; adding so many rows puts them into the approximate index."""
    monkeypatch.setattr(plan, "FLAT_BELOW", 10)
    monkeypatch.setattr(state, "LONGEST_TAIL", 10)
    folder = tmp_path / "idx"
    SearchIndex.build(TEXTS, encoder.encode, kind="hnsw", target_recall=0.5).save(folder)
    (path,) = folder.glob("ann-*")
    flipped(folder, ".faiss", path.stat().st_size - COUNT * D // 2)
    before = state_of(folder)
    index = SearchIndex.load(folder, encoder.encode)
    for act in (
        lambda: index.search("text 3"),
        lambda: index.save(tmp_path / "new"),
        lambda: index.add([f"more {i}" for i in range(200)]),
        index.verify,
    ):
        for _ in range(2):
            with pytest.raises(SearchError, match=rf"{path.name}: damaged: found checksum"):
                act()
    assert state_of(folder) == before
    assert not (tmp_path / "new").exists()
    index.compact()  # chooses another one from vectors and texts, which are sound
    index.verify()
    assert index.search("text 3", top_k=1)[0][0].id == 3


@pytest.mark.parametrize("how", ["search", "compact", "save", "rows"])
def test_a_damaged_text_is_neither_shown_nor_copied(folder, encoder, tmp_path, how):
    (path,) = folder.glob("*.sqlite")
    content = path.read_bytes()
    at = content.index(b"text 401 of")
    path.write_bytes(content[:at] + b"tixt" + content[at + 4 :])
    before = state_of(folder)
    index = SearchIndex.load(folder, encoder.encode)
    act = {
        "search": lambda: index.search("text 401 of 2 in 5"),
        "compact": index.compact,
        "save": lambda: index.save(tmp_path / "new"),
        "rows": lambda: list(index.rows()),
    }[how]
    with pytest.raises(SearchError, match=rf"{path.name}: damaged: row 401 fails its checksum"):
        act()
    assert state_of(folder) == before
    assert not (tmp_path / "new").exists()


def test_a_row_that_is_lost_is_not_left_out_of_a_copy(folder, encoder):
    """As where a page of the database was lost and nothing points at its rows any more."""
    (path,) = folder.glob("*.sqlite")
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM rows WHERE slot = 401")
    connection.close()
    index = SearchIndex.load(folder, encoder.encode)
    with pytest.raises(SearchError, match=rf"{path.name}: damaged: found {COUNT - 1} texts, expected {COUNT}"):
        index.compact()


def test_a_damaged_index_makes_way_for_one_built_anew(folder, encoder):
    """The remedy that the errors name works, also on an index of an older format."""
    flipped(folder, ".f32", row_at(400))
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 3', '"version": 1'))
    with pytest.raises(SearchError, match="format version 1, expected 3"):
        SearchIndex.load(folder, encoder.encode)
    index = SearchIndex.build(["new text"], encoder.encode)
    index.save(folder)
    index.verify()
    assert [hit.text for hit in SearchIndex.load(folder, encoder.encode).search("new text")[0]] == ["new text"]
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("mmap", [True, False])
def test_an_approximate_index_that_is_not_of_these_vectors(encoder, tmp_path, mmap, monkeypatch):
    """It would give rows that are not there; and one that is missing, or ends too early, gives none."""
    monkeypatch.setattr(plan, "FLAT_BELOW", 10)
    folder = tmp_path / "idx"
    index = SearchIndex.build(TEXTS[:40], encoder.encode, kind="hnsw", target_recall=0.5)
    index.save(folder)
    (path,) = folder.glob("ann-*")
    noted = index.storage.get("ann")
    index.storage.put("ann", noted | {"covered": 39})
    with pytest.raises(SearchError, match=rf"{path.name}: damaged: found 40 vectors, expected 39; restore a copy"):
        SearchIndex.load(folder, encoder.encode, mmap=mmap)
    index.storage.put("ann", noted)
    os.truncate(path, 50)
    if not mmap:  # faiss, which trusts what stands there, is not asked before the checksum is compared
        monkeypatch.setattr("faiss.read_index", None)
    said = r"\(.*\)" if mmap else r": found checksum \w+, expected \w+"
    with pytest.raises(SearchError, match=rf"{path.name}: damaged ?{said}; restore a copy"):
        SearchIndex.load(folder, encoder.encode, mmap=mmap)
    path.unlink()
    with pytest.raises(SearchError, match=rf"{path.name}: missing; restore a copy"):
        SearchIndex.load(folder, encoder.encode, mmap=mmap)
