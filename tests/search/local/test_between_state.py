"""What another process does between two steps of ours is taken in or told; and what a failing disk leaves."""

from __future__ import annotations

import errno
import json
import os
import pickle

import numpy as np
import pytest

from simcse import SearchError, SearchIndex
from simcse.search.local import copies, files, state
from simcse.search.local.state import State
from simcse.search.local.view import found

TEXTS = [f"text number {i} of the house" for i in range(40)]


@pytest.fixture
def folder(encoder, tmp_path):
    SearchIndex.build(TEXTS, encoder.encode).save(tmp_path / "idx")
    return tmp_path / "idx"


@pytest.fixture
def index(folder, encoder):
    return SearchIndex.load(folder, encoder.encode)


@pytest.fixture
def behind(monkeypatch, folder, encoder):
    """Has something done to the same index by another one right behind the next calls of a method of `State`."""

    def after(method, what, times=1):
        real, other, left = getattr(State, method), SearchIndex.load(folder, encoder.encode), [times]

        def wrapped(own):
            result = real(own)
            if own is not other.storage.state and left[0]:
                left[0] -= 1
                what(other)
            return result

        monkeypatch.setattr(State, method, wrapped)

    return after


@pytest.mark.parametrize("what", ["adds", "compacts"])
def test_a_change_between_our_look_and_our_lock_is_taken_in(index, folder, encoder, behind, what):
    """It adds to the file that is open, or puts a new one in its place."""
    behind("follow", lambda other: other.add(["theirs"]) if what == "adds" else other.compact())
    assert index.add(["ours"]) == [41 if what == "adds" else 40]
    expected = [*TEXTS, *(["theirs"] if what == "adds" else []), "ours"]
    assert [text for _, text, _ in index.rows()] == expected
    again = SearchIndex.load(folder, encoder.encode)
    again.verify()
    assert [text for _, text, _ in again.rows()] == expected


def test_the_manifest_is_of_who_changed_the_index_last(index, folder, monkeypatch, encoder):
    real, other = State.describe, SearchIndex.load(folder, encoder.encode)

    def late(own):
        if own is index.storage.state:
            other.add(["theirs", "theirs, too"])
        real(own)

    monkeypatch.setattr(State, "describe", late)
    index.add(["ours"])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["count"], manifest["generation"]) == (43, other.storage.generation)
    assert len(index) == 43


def test_a_manifest_that_cannot_be_written_is_out_of_date_alone(index, folder, encoder, monkeypatch, caplog):
    def full(folder, values):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = (folder / "manifest.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(state, "write_manifest", full)
        assert index.add(["ours"]) == [40]
    [said] = caplog.messages
    assert (
        said == f"{folder}: the change is durable, but manifest.json is out of date: [Errno 28] No space left on device"
    )
    assert (folder / "manifest.json").read_bytes() == before
    assert len(SearchIndex.load(folder, encoder.encode)) == 41


def test_a_copy_is_of_a_state_that_stays(index, encoder, tmp_path, behind, monkeypatch):
    """One change between our look and our read is taken in; where each look is followed by one, it is told."""
    behind("follow", lambda other: other.add(["theirs"]), times=1)
    index.save(tmp_path / "copy")
    assert [text for _, text, _ in SearchIndex.load(tmp_path / "copy").rows()] == [*TEXTS, "theirs"]
    index = SearchIndex.load(tmp_path / "idx", encoder.encode)
    monkeypatch.setattr(copies, "LOOKS", 3)
    behind("follow", lambda other: other.add(["more"]), times=3)
    with pytest.raises(SearchError, match="idx: other processes keep changing it; try again"):
        index.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_copy_into_what_is_no_folder(index, tmp_path):
    (tmp_path / "file").write_text("mine")
    told = "file/idx: Not a directory; nothing was changed; free the way and try again"
    with pytest.raises(SearchError, match=told):
        index.save(tmp_path / "file" / "idx")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (SearchError("damaged"), "^damaged$"),
        (OSError(errno.ENOENT, "gone"), "idx: gone; restore a copy"),
        (OSError("no number"), "idx: no number; restore a copy"),
    ],
)
def test_a_look_that_failed_is_repeated_while_the_index_changes(folder, monkeypatch, error, told):
    """Each change is another manifest; without one, or after `LOOKS` of them, the error stands."""
    monkeypatch.setattr(files, "LOOKS", 5)
    seen = []

    def look(changes, fails):
        def read(manifest, changed_at):
            seen.append(changed_at)
            if len(seen) <= changes:
                files.write_manifest(folder, manifest)
            if len(seen) <= fails:
                raise error
            return manifest["count"]

        seen.clear()
        return files.looked_again(folder, read)

    assert look(changes=2, fails=2) == 40
    assert len(seen) == len(set(seen)) == 3
    assert look(changes=4, fails=4) == 40
    for changes, looks in ((0, 1), (1, 2), (99, 5)):
        with pytest.raises(SearchError, match=told):
            look(changes, fails=99)
        assert len(seen) == looks


def test_a_row_that_no_view_shows_yet_is_left_out(index, monkeypatch):
    """Its text is in the store already, its vector not in the view: after a hundred looks, it is as if not there."""
    monkeypatch.setattr("simcse.search.local.view.LOOKS", 2)
    stale, looks = index.storage.snapshot(), []
    index.upsert(["text number 3 of the garden"], ids=[3])
    view, slots = found(lambda: looks.append(1) or stale, [3, 4])
    assert view is stale
    assert slots == {4: 4}
    assert len(looks) == 2


@pytest.mark.parametrize("encoder_of", [{}, None, {"name": "x", "fingerprint": None, "probes": "AAAA"}])
def test_an_encoder_that_the_manifest_does_not_describe(folder, encoder_of):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | {"encoder": encoder_of}
    path.write_text(json.dumps(manifest))
    with pytest.raises(SearchError, match=r"manifest\.json: damaged \(.*\); restore a copy or build the index anew"):
        SearchIndex.load(folder)


def test_texts_that_are_fewer_than_vectors(index, folder, encoder):
    """A row that has gone without a note of it among the dead."""
    for damaged, name in ((index, r"sqlite"), (SearchIndex.build(TEXTS, encoder.encode), "^index in memory")):
        damaged.storage.state.store._connection.execute("DELETE FROM rows WHERE slot = 7")
        with pytest.raises(SearchError, match=rf"{name}: 39 texts and 0 deleted ones for 40 vectors; restore a copy"):
            damaged.verify()
    with pytest.raises(SearchError, match="39 texts"):
        SearchIndex.load(folder)


def test_an_index_up_to_a_size_is_compared_with_its_checksums_when_it_is_opened(folder, monkeypatch):
    [path] = folder.glob("*.f32")
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    size = files.folder_size(folder)
    monkeypatch.setattr(state, "VERIFIED_AT_ONCE", size)
    with pytest.raises(SearchError, match="damaged: vectors 0 to 39"):
        SearchIndex.load(folder)
    monkeypatch.setattr(state, "VERIFIED_AT_ONCE", size - 1)
    assert len(SearchIndex.load(folder)) == 40


@pytest.mark.parametrize("mmap", [True, False])
def test_vectors_behind_those_that_count_are_no_part_of_an_index(folder, encoder, mmap):
    """They are the rest of an addition that was killed; the next one writes over them."""
    [path] = folder.glob("*.f32")
    with path.open("ab") as file:
        file.write(b"the rest" * 100)
    index = SearchIndex.load(folder, encoder.encode, mmap=mmap)
    index.add(["more"])
    index.verify()
    assert index.search("more", top_k=1)[0][0].id == 40
    assert path.stat().st_size == 41 * 32 * 4


def test_all_vectors_at_once_are_compared_with_their_checksums(index, folder):
    view = index.storage.snapshot()
    assert np.array_equal(view.matrix, view.raw)
    [path] = folder.glob("*.f32")
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    view.blocks.forget()
    with pytest.raises(SearchError, match="damaged: vectors 0 to 39 have checksum"):
        view.matrix  # noqa: B018


def test_an_index_without_rows_is_copied(encoder):
    index = pickle.loads(pickle.dumps(SearchIndex.empty(encoder, kind="hnsw")))
    assert (len(index), index.info["kind"]) == (0, "hnsw")
    assert index.add(["first"]) == [0]
    assert index.search("first", top_k=1)[0][0].id == 0
