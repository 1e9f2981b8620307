"""Arguments of wrong types and values: each ends in one line, or simply works; none in a traceback."""

from __future__ import annotations

import json
import math
import os
import sqlite3

import numpy as np
import pytest

from simcse import ConfigError, SearchError, SearchIndex
from simcse.search.tools.clusters import cluster
from simcse.search.tools.hybrid import HybridSearch
from simcse.search.tools.mine import mine_negatives

TEXTS = ["a man", "a woman", "rain"]
ONES = np.ones((1, 32), np.float32)
# sizes for which faiss divides by zero, aborts, or takes all memory; names that are none
NO_KINDS = [
    "IVF0,Flat", "IVF00,Flat", "HNSW0", "NSG0", "PQ8x0", "RQ0x8", "LSQ0x4", "PCA0,Flat", "IVF16_HNSW0,Flat",
    "IVF1000000000,Flat", "HNSW100000000", "IVF99999999999,Flat", "PQ" + "9" * 5000, "IVF-4,Flat", "IVF16,Flat\n",
    "A", "1", "", "flatt", "milvusx", "\ud800A", "IVF16,PQ5", None, 5, b"flat", ["flat"], True,
]  # fmt: skip


@pytest.fixture(scope="module")
def index(storage, module_encoder):
    return storage.build(TEXTS, module_encoder.encode, metadata=[{"lang": "en"}] * 3)


@pytest.mark.parametrize("kind", NO_KINDS, ids=lambda kind: repr(kind)[:20])
def test_what_is_no_kind_is_told_before_any_work(encoder, kind):
    with pytest.raises(ConfigError, match=r"^kind: ") as caught:
        SearchIndex.build(TEXTS, encoder.encode, kind=kind)
    assert "\n" not in str(caught.value)
    assert encoder.calls <= 1  # the probe sentences, which tell the dimension


def test_a_kind_that_faiss_cannot_grow_is_exact_search(encoder, caplog):
    """NSG takes no rows once it is built: that came out as a RuntimeError after all was encoded."""
    index = SearchIndex.build([f"text {i}" for i in range(300)], encoder.encode, kind="NSG32")
    assert index.info["plan"]["factory"] is None
    assert "faiss cannot train NSG32" in caplog.text


@pytest.mark.parametrize("top_k", [True, False, 2.5, 2.0, None, "2", 0, -1, np.float64(2), np.True_, [2], math.nan])
def test_what_is_no_number_of_hits_is_told(index, top_k):
    for call in (
        lambda: index.search("a", top_k=top_k),
        lambda: index.search_vectors(ONES, top_k=top_k),
        lambda: HybridSearch(index).search("a", top_k=top_k),
    ):
        with pytest.raises(SearchError, match=r"^top_k: found .*, expected a whole number from 1 on"):
            call()


def test_numpys_numbers_work(index, encoder):
    for top_k in (np.int64(2), np.uint8(2), np.int32(2)):
        expected = index.search("a man", top_k=2, min_score=0.1)
        assert index.search("a man", top_k=top_k, min_score=np.float32(0.1)) == expected
        assert len(index.search_vectors(index.vectors([0]), top_k=top_k)[0]) == 2
        assert len(HybridSearch(index).search("a man", top_k=top_k)[0]) == 2
    assert len(SearchIndex.build(TEXTS, encoder).search("a", top_k=10**30)[0]) == 3
    assert len(cluster(index, np.int64(2))) == 2


def test_one_line_for_each_wrong_argument(index, encoder, tmp_path):
    half = "half \ud800"
    ragged = [[1.0, 2.0], [1.0]]

    def built(texts=TEXTS, encode=encoder.encode, **options):
        return SearchIndex.build(texts, encode, **options)

    vectors = [
        None, "a", b"a", ragged, np.ones((2, 31)), np.ones((1, 2, 32)), 5, [], [None] * 32, ONES + 1j,
        ONES.astype(object), ONES.astype(bool), ONES * np.float64(1e300), ["a"] * 32,
    ]  # fmt: skip
    table = [
        (lambda value: index.search("a", min_score=value), [math.nan, "1", True, [1], np.float32("nan")]),
        (lambda value: index.search(value), [None, 5, b"a", {"a": 1}, [None], [b"a"], ["a", 5], half]),
        (lambda value: HybridSearch(index).search(value), [None, b"a", [5], half]),
        (lambda value: index.search("a", where=value), ["lang=en", ["lang"], 5, True, {1: 2}]),
        (lambda value: HybridSearch(index).search("a", where=value), ["lang=en", 5]),
        (index.search_vectors, vectors),
        (built, [None, 5, b"a", {"a": 1}, [b"a"]]),
        (lambda value: built(ids=value), [5, "abc", {0: 1}, [[1]] * 3]),
        (lambda value: built(metadata=value), [5, "abc", {"lang": "en"}, [5] * 3]),
        (lambda value: built(encode=value), [None, "name", 5, tmp_path, type(encoder)]),
        (lambda value: built(sample_queries=value), [5, "a", b"a", [], {"a"}, [5]]),
        (SearchIndex.load, [".", "", "/", tmp_path, None, 5, b".", "a\0b", "n" * 300]),
        (index.save, [None, 5, b"a", "a\0b", "n" * 300]),
        (lambda value: cluster(index, value), [None, 2.5, "2", math.nan]),
    ]
    calls = [(call, value) for call, values in table for value in values]
    for call, value in calls:
        with pytest.raises(SearchError) as caught:
            call(value)
        assert "\n" not in str(caught.value)
    options = [
        *({"target_recall": value} for value in (None, "x", math.nan, 0, 2, True)),
        *({"memory": value} for value in (-1, "x", 2.5, True)),
    ]
    for option in options:
        with pytest.raises(ConfigError, match=f"^{next(iter(option))}: found"):
            SearchIndex.build(TEXTS, encoder.encode, **option)
    for weight in (None, "x", math.nan, 2):
        with pytest.raises(ConfigError, match=r"^weight: found"):
            HybridSearch(index).search("a", weight=weight)
    assert len(index) == 3


def test_an_object_that_encodes_is_an_encoder(encoder, tmp_path):
    index = SearchIndex.build(TEXTS, encoder)
    assert index.info["encoder"] == "word-sum"
    assert index.search(TEXTS[0]) == SearchIndex.build(TEXTS, encoder.encode).search(TEXTS[0])
    index.save(tmp_path / "idx")
    assert SearchIndex.load(tmp_path / "idx", encoder).search(TEXTS[2])[0][0].text == TEXTS[2]
    assert list(mine_negatives([("a man", "a woman")], encoder, corpus=["rain"])) == list(
        mine_negatives([("a man", "a woman")], encoder.encode, corpus=["rain"])
    )


def test_a_table_of_texts_and_ids_in_another_order_is_taken_by_position(encoder):
    """A column of a table with an index of its own, as pandas gives, is no mapping from numbers."""

    class Column(list):
        def __getitem__(self, key):
            raise KeyError(key)

    index = SearchIndex.build(Column(TEXTS), encoder.encode, ids=Column([5, 6, 7]), metadata=Column([None, {}, None]))
    assert [row[0] for row in index.rows()] == [5, 6, 7]


@pytest.mark.parametrize("key", ["../x", "7", 1.5, None, -1, [1], True])
def test_the_number_of_an_approximate_index_is_one(encoder, tmp_path, key):
    """It becomes the name of a file."""
    index = SearchIndex.build([f"text {i}" for i in range(400)], encoder.encode, kind="SQ8", target_recall=0.01)
    assert index.info["plan"]["factory"] == "SQ8"
    index.save(tmp_path / "idx")
    (store,) = (tmp_path / "idx").glob("*.sqlite")
    with sqlite3.connect(store) as connection:
        ((stored,),) = connection.execute("SELECT value FROM meta WHERE key = 'ann'")
        changed = json.dumps(json.loads(stored) | {"key": key})
        connection.execute("UPDATE meta SET value = ? WHERE key = 'ann'", (changed,))
    connection.close()
    with pytest.raises(SearchError, match="restore a copy or build the index anew") as caught:
        SearchIndex.load(tmp_path / "idx", encoder.encode)
    assert "\n" not in str(caught.value)


def test_here_is_a_folder_like_any_other(encoder, tmp_path, monkeypatch):
    SearchIndex.build(TEXTS, encoder.encode).save(tmp_path / "idx")
    monkeypatch.chdir(tmp_path / "idx")
    index = SearchIndex.load(".", encoder.encode)
    index.add(["more"])
    index.compact()
    assert len(SearchIndex.load(os.curdir, encoder.encode)) == 4


def test_the_remedy_is_told(encoder):
    index = SearchIndex.build(TEXTS, encoder)
    for call, told in [
        (lambda: SearchIndex(TEXTS, encoder), r"SearchIndex\.build\(texts, encoder\) makes an index"),
        (lambda: SearchIndex.build("a man plays", encoder), "which is no file; expected a list of texts, or a file"),
        (lambda: index.add("a man plays"), "which is no file; expected a list of texts, or a file"),
        (lambda: index.search(ONES), "search_vectors accepts vectors"),
        (lambda: index.add_documents([("x", 5, {})]), "row with id 'x': found the text 5, expected a str"),
    ]:
        with pytest.raises(SearchError, match=told):
            call()


@pytest.mark.parametrize("inner", ["delete", "add"])
def test_no_storage_changes_inside_a_change(storage, encoder, inner):
    index = storage.build(TEXTS, encoder.encode)

    def stream():
        yield "outer"
        index.delete([0]) if inner == "delete" else index.add(["inner"])
        yield "never"

    with pytest.raises(SearchError, match="found a change inside another one"):
        index.add(stream())
    assert [text for _, text, _ in index.rows()] == TEXTS
    assert index.add(["after"]) == [3]
    assert index.delete([0]) == 1


@pytest.mark.parametrize("inner", ["delete", "add", "compact", "save", "optimize"])
@pytest.mark.parametrize("place", ["in memory", "in a folder"])
def test_a_change_inside_another_is_refused(encoder, tmp_path, place, inner):
    """By the very stream that is being added: a deletion freed room in the middle, and left half of it all."""
    index = SearchIndex.build([f"text {i}" for i in range(10)], encoder.encode)
    if place == "in a folder":
        index.save(tmp_path / "idx")
    change = {
        "delete": lambda: index.delete([0, 1, 2, 3, 4]),
        "add": lambda: index.add(["inner"]),
        "compact": index.compact,
        "save": lambda: index.save(tmp_path / "other"),
        "optimize": index.optimize,
    }[inner]

    def stream():
        yield "outer"
        change()
        yield "never"

    with pytest.raises(SearchError, match="idx" if place == "in a folder" else "in memory") as caught:
        index.add(stream())
    assert "found a change inside another one" in str(caught.value)
    assert not (tmp_path / "other").exists()
    for kept in [index, *([SearchIndex.load(tmp_path / "idx", encoder.encode)] if place == "in a folder" else [])]:
        kept.verify()
        assert [text for _, text, _ in kept.rows()] == [f"text {i}" for i in range(10)]
    assert index.add(["after"]) == [10]
