"""An open index while something else is put in its place: by another encoder, by a backup, by a build anew."""

from __future__ import annotations

import shutil
import threading
import time

import numpy as np
import pytest

from simcse import SearchError, SearchIndex
from simcse.search.fingerprint import OtherEncoderError
from simcse.search.local import files, store
from simcse.search.local.view import found

TEXTS = [f"text number {i} of the house" for i in range(40)]


@pytest.fixture
def folder(encoder, tmp_path):
    SearchIndex.build(TEXTS, encoder.encode).save(tmp_path / "idx")
    return tmp_path / "idx"


@pytest.mark.parametrize("dimension", [32, 48])
@pytest.mark.parametrize("loaded_with", ["encoder", "nothing"])
def test_an_index_that_another_encoder_built_anew_is_neither_searched_nor_changed(
    folder, encoder, dimension, loaded_with
):
    index = SearchIndex.load(folder, encoder.encode if loaded_with == "encoder" else None)
    asked = encoder.encode([TEXTS[3]])
    other = type(encoder)("other-sum", dimension, seed=1)
    SearchIndex.build(["quite another text"], other.encode).save(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    uses = [
        lambda: index.search_vectors(asked),
        lambda: index.delete([0]),
        lambda: len(index),
        lambda: index.info,
        index.compact,
        index.optimize,
        index.verify,
        lambda: index.vectors([0]),
        lambda: index.save(folder),
        lambda: index.save(folder.with_name("copy")),
    ]
    if loaded_with == "encoder":
        uses += [lambda: index.search(TEXTS[3]), lambda: index.add(["more"]), lambda: index.upsert(["x"], ids=[0])]
    told = (
        rf"idx: other-sum \[\w+\] \(dimension {dimension}\) has built it anew while it was open with word-sum \[\w+\] "
        rf"\(dimension 32\), whose vectors are others; load it again with other-sum, or build it anew with word-sum"
    )
    for _ in range(2):
        for use in uses:
            with pytest.raises(OtherEncoderError, match=told):
                use()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "40 texts" in repr(index)

    SearchIndex.build([*TEXTS, "one more"], encoder.encode).save(folder)  # the encoder is back
    assert len(index) == 41
    assert index.search_vectors(asked, top_k=1)[0][0].id == 3


def test_what_lies_in_the_folder_is_read_once_a_change(folder, encoder, other_encoder, monkeypatch):
    """By a search no more than that: not at the first one either, nor again where it is another encoder's index."""
    real, reads = files.read_manifest, []
    other = SearchIndex.load(folder, encoder.encode)
    monkeypatch.setattr(files, "read_manifest", lambda folder: reads.append(folder) or real(folder))
    index = SearchIndex.load(folder, encoder.encode)

    def read_by(change):
        change()
        reads.clear()
        for _ in range(3):
            try:
                index.search(TEXTS[3])
            except OtherEncoderError:
                assert change is anew
        return len(reads)

    def anew():
        SearchIndex.build(["quite another text"], other_encoder.encode).save(folder)

    assert read_by(lambda: None) == 0
    assert read_by(lambda: other.add(["theirs"])) == 1
    assert read_by(other.compact) == 1
    assert read_by(anew) == 1


@pytest.mark.parametrize("mmap", [True, False])
def test_vectors_are_read_as_before_from_files_that_another_one_wrote(folder, encoder, mmap):
    """Those on the disk are no copy in memory, which could be written to."""
    index = SearchIndex.load(folder, encoder.encode, mmap=mmap)
    SearchIndex.load(folder, encoder.encode).compact()
    assert index.search(TEXTS[3], top_k=1)[0][0].id == 3
    assert index.storage.snapshot().raw.flags.writeable is not mmap


def test_a_search_does_not_wait_for_a_change(folder, encoder, monkeypatch):
    """A thread of ours waits to change what another process is changing still, and has changed before."""
    monkeypatch.setattr(store, "WAIT", 5)
    index, other = SearchIndex.load(folder, encoder.encode), SearchIndex.load(folder, encoder.encode)
    lock = index.storage.state.lock
    adding = threading.Thread(target=index.add, args=[["ours"]])
    with other.storage.transaction():
        adding.start()
        while lock.acquire(blocking=False):
            lock.release()
            time.sleep(0.001)
        files.write_manifest(folder, files.read_manifest(folder))
        assert index.search(TEXTS[3], top_k=1)[0][0].id == 3
        assert adding.is_alive()
    adding.join()
    assert [text for _, text, _ in other.rows()] == [*TEXTS, "ours"]


def test_the_same_encoder_under_another_name_and_precision_is_followed(folder, encoder):
    class Half:
        name = "half"

        def encode(self, texts):
            return encoder.encode(texts).astype(np.float16)

    index = SearchIndex.load(folder, encoder.encode)
    SearchIndex.build([*TEXTS, "one more"], Half().encode).save(folder)
    assert index.search("one more", top_k=1)[0][0].id == 40
    assert index.info["encoder"] == "half"
    index.add(["and another"])
    index.verify()


@pytest.mark.parametrize("how", ["built anew", "a backup"])
def test_a_folder_that_was_removed_and_made_again_is_another_index(folder, encoder, tmp_path, how):
    """Its files may have the names of those that are open: an addition goes to the new ones, or nowhere."""
    if how == "a backup":
        shutil.copytree(folder, tmp_path / "backup")
    index = SearchIndex.load(folder, encoder.encode)
    names = {path.name for path in folder.iterdir()}
    if how == "a backup":
        index.delete(range(5))  # what the backup undoes
    shutil.rmtree(folder)
    if how == "a backup":
        (tmp_path / "backup").rename(folder)
        expected = TEXTS
    else:
        expected = [f"new {i}" for i in range(60)]
        SearchIndex.build(expected, encoder.encode).save(folder)
    assert {path.name for path in folder.iterdir()} == names
    assert index.add(["more"]) == [len(expected)]
    index.verify()
    assert [text for _, text, _ in index.rows()] == [*expected, "more"]
    again = SearchIndex.load(folder, encoder.encode)
    again.verify()
    assert [text for _, text, _ in again.rows()] == [*expected, "more"]


@pytest.mark.parametrize("where", ["manifest", "store"])
def test_files_that_an_index_names_lie_in_its_folder(folder, encoder, tmp_path, where):
    """A file of the user's, named by what someone else has made."""
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"precious" * 1000)
    if where == "manifest":
        path = folder / "manifest.json"
        path.write_text(path.read_text().replace('"store": "store', f'"store": "{theirs}'))
    else:
        index = SearchIndex.load(folder)
        index.storage.state.store["vectors"] = index.storage.state.store["vectors"] | {"file": str(theirs)}
    with pytest.raises(SearchError, match=r"damaged: names '.*theirs.*' as a file of the index"):
        SearchIndex.load(folder, encoder.encode)
    assert theirs.read_bytes() == b"precious" * 1000


def test_a_text_replaced_meanwhile_is_found(folder, encoder):
    """Another process puts new texts in the place of old ones: the slots that the store gives then lie behind a view
    taken before.
    """
    index, other = SearchIndex.load(folder, encoder.encode), SearchIndex.load(folder, encoder.encode)
    stale = index.storage.snapshot()
    other.upsert(["text number 3 of the garden"], ids=[3])
    views = iter([stale, stale])
    view, slots = found(lambda: next(views, None) or index.storage.snapshot(), [3, 4])
    assert slots == {3: 40, 4: 4}
    assert view.size == 41
    assert np.allclose(index.vectors([3])[0], other.vectors([3])[0])
