"""Names and numbers of the files of an index, and its manifest, which people read as well."""

from __future__ import annotations

import json
import locale
import platform
import shutil
from pathlib import Path

import faiss
import pytest

import simcse
from simcse import SearchError, SearchIndex
from simcse.search.local.files import MANIFEST, file_name, part_of, remove_strays

TEXTS = ["a man plays the guitar", "a woman plays the piano", "rain falls on the city"]


@pytest.fixture
def folder(encoder, tmp_path):
    SearchIndex.build(TEXTS, encoder.encode).save(tmp_path / "idx")
    return tmp_path / "idx"


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("kind", "number", "name"),
    [("vectors", 0, "vectors-000000.f32"), ("store", 17, "store-000017.sqlite"), ("ann", 10**7, "ann-10000000.faiss")],
)
def test_a_name_is_one_that_is_accepted(tmp_path, kind, number, name):
    assert file_name(kind, number) == name
    assert part_of(tmp_path, kind, name) == tmp_path / name


@pytest.mark.parametrize("number", [-1, True, 1.0, None, "7"])
def test_what_numbers_no_file(number):
    with pytest.raises(TypeError, match=f"found {number!r} as the number of a file"):
        file_name("ann", number)


@pytest.mark.parametrize("name", ["vectors-000001.f32", "store-01.sqlite", "../store-000001.sqlite", None, 1])
def test_what_names_no_store(tmp_path, name):
    told = (
        f"{tmp_path}: damaged: names {name!r} as a file of the index, expected 'store-000001.sqlite' or another "
        "number; restore a copy or build the index anew"
    )
    with pytest.raises(SearchError) as refused:
        part_of(tmp_path, "store", name)
    assert str(refused.value) == told


def test_only_files_of_other_generations_are_removed(tmp_path, monkeypatch):
    """The journal of a store that is kept may be what it is restored from. Another process may remove files, too."""
    kept = {"store-000002.sqlite", "store-000002.sqlite-journal", "vectors-000001.f32", MANIFEST, "notes.txt"}
    left = {"store-000001.sqlite", "store-000001.sqlite-journal", "vectors-000002.f32", "ann-000002.faiss"}
    for name in kept | left:
        (tmp_path / name).touch()
    unlink = Path.unlink

    def raced(path, missing_ok=False):
        if path.suffix == ".f32":
            unlink(path)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", raced)
    remove_strays(tmp_path, {"store-000002.sqlite", "vectors-000001.f32"})
    assert names(tmp_path) == kept


def test_numbers_begin_with_one_where_only_a_manifest_is_left(folder, encoder):
    """The other files are lost: an index that is saved there takes the place of nothing."""
    for path in folder.glob("*-*"):
        path.unlink()
    SearchIndex.empty(encoder).save(folder)
    assert names(folder) == {MANIFEST, "store-000001.sqlite", "vectors-000001.f32"}


def test_a_file_that_has_gone_has_no_size(folder):
    index = SearchIndex.load(folder)
    before = index.info["bytes"]
    (folder / "gone").symlink_to(folder / "nowhere")
    assert index.info["bytes"] == before > 0


def test_searches_survive_the_folder(folder, encoder):
    index = SearchIndex.load(folder, encoder.encode)
    shutil.rmtree(folder)
    assert index.search(TEXTS[1], top_k=1)[0][0].id == 1
    with pytest.raises(SearchError):
        index.add(["more"])


def test_a_manifest_is_for_people_too(folder, encoder):
    """UTF-8 in any locale, a line for each fact, and what the index was written with."""
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    try:
        named = type(encoder)("日本語", 32)
        SearchIndex.build(TEXTS, named.encode).save(folder)
        assert SearchIndex.load(folder, named.encode).info["encoder"] == "日本語"
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    written = (folder / MANIFEST).read_text(encoding="utf-8")
    assert written.startswith('{\n  "format": "simcse search index",\n  "version": 3,\n')
    assert "日本語" in written
    assert json.loads(written)["versions"] == {
        "simcse": simcse.__version__,
        "faiss": faiss.__version__,
        "python": platform.python_version(),
    }
