"""One behaviour, two engines: each test runs on faiss's exact search and on Milvus (a file of milvus-lite)."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import count

import numpy as np
import pytest

from simcse import ConfigError, SearchError, SearchIndex

NO_MILVUS = not (find_spec("pymilvus") and find_spec("milvus_lite"))
NUMBERS = count()
ENGINES = [
    "flat",
    pytest.param("milvus", marks=pytest.mark.skipif(NO_MILVUS, reason="pymilvus or milvus-lite is not installed")),
]
TEXTS = ["a man plays the guitar", "a woman plays the piano", "rain falls on the city", "the sun is over the mountain"]
ABOUT = [{"lang": "en", "year": 1999}, {"lang": "de", "year": 2005}, {"lang": "en", "note": None}, {'a "b"': "c\\d'"}]

# pymilvus logs each refused call with its traceback before it raises
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """One file for the module: milvus-lite starts a server for each."""
    return tmp_path_factory.mktemp("milvus") / "test.db"


@pytest.fixture(params=ENGINES)
def kind(request, database):
    """A new place for an index of each engine."""
    return f"milvus:{database}#c{next(NUMBERS)}" if request.param == "milvus" else "flat"


@pytest.fixture
def index(kind, encoder):
    return SearchIndex.build(TEXTS, encoder.encode, metadata=ABOUT, kind=kind)


def found(index, query=TEXTS[0], **options):
    return [hit.id for hit in index.search(query, top_k=10, **options)[0]]


def test_scores_are_cosines_and_hits_are_whole(index, encoder):
    query = "the guitar of a man"
    a, b = encoder.encode([query])[0], encoder.encode(TEXTS)
    cosines = b @ a / np.linalg.norm(b, axis=1) / np.linalg.norm(a)
    hits = index.search(query, top_k=10)[0]
    assert [hit.id for hit in hits] == np.argsort(-cosines).tolist()
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(cosines)[::-1], atol=1e-6)
    assert [hit.text for hit in hits] == [TEXTS[hit.id] for hit in hits]
    assert [hit.metadata for hit in hits] == [ABOUT[hit.id] for hit in hits]
    assert len(index) == 4
    assert index.dimension == 32


def test_k_and_the_least_score_bound_the_hits(index):
    assert len(index.search(TEXTS[0], top_k=2)[0]) == 2
    assert all(hit.score >= 0.3 for hit in index.search(TEXTS[0], top_k=10, min_score=0.3)[0])
    assert index.search(TEXTS, top_k=1)[3][0].text == TEXTS[3]
    np.testing.assert_allclose(index.search_vectors(index.vectors([2]))[0][0].score, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({"lang": "en"}, {0, 2}),
        ({"lang": ["en", "de"]}, {0, 1, 2}),
        ({"lang": ["de", None]}, {1, 3}),
        ({"lang": []}, set()),
        ({"lang": None}, {3}),
        ({"note": None}, {0, 1, 2, 3}),
        ({"year": {">=": 1999, "<": 2005}}, {0}),
        ({"year": {"!=": 1999}}, {1, 2, 3}),
        ({"lang": {"!=": None}}, {0, 1, 2}),
        ({"lang": "en", "year": 1999}, {0}),
        ({"year": 1999.0}, {0}),
        ({"year": {"<": None}}, set()),
        ({'a "b"': "c\\d'"}, {3}),
        ({"lang": 'en" or true or "'}, set()),
    ],
    ids=str,
)
def test_filters_mean_the_same(index, where, ids):
    assert set(found(index, where=where)) == ids


def test_a_filter_on_an_unknown_field_is_refused(index):
    with pytest.raises(SearchError, match="unknown field 'land'; did you mean 'lang'"):
        index.search("a man", where={"land": "en"})


def test_texts_are_added_replaced_and_deleted(index):
    assert index.add(["snow on the river", "a dog"], ids=["7", 7]) == ["7", 7]
    assert index.add(["a cat"]) == [8]  # the next number
    assert found(index, "snow on the river")[0] == "7"
    assert index.upsert(["a blue house"], ids=["7"]) == ["7"]
    assert found(index, "a blue house")[0] == "7"
    assert len(index) == 7
    assert index.delete([0, "7"]) == 2
    assert {hit.id for hit in index.search("a man", top_k=10)[0]} == {1, 2, 3, 7, 8}
    assert index.typed_ids(["7"]) == [7]
    assert {row[0] for row in index.rows()} == {1, 2, 3, 7, 8}


def test_what_is_refused_changes_nothing(index, encoder):
    for wrong in (
        lambda: index.add(["x"], ids=[0]),
        lambda: index.add(["x", "y"], ids=["n", "n"]),
        lambda: index.add(["x", "y"], ids=["n", 0]),
        lambda: index.add(["x"], metadata=[{"v": object()}]),
        lambda: index.add(["half \ud800"]),
        lambda: index.delete([0, 99]),
        lambda: index.search(" "),
        lambda: index.search("a", top_k=0),
        lambda: index.search_vectors(np.ones((1, 31))),
        lambda: index.search_vectors(np.full((1, 32), np.nan)),
    ):
        with pytest.raises(SearchError):
            wrong()
    assert sorted(found(index)) == [0, 1, 2, 3]
    assert len(index) == 4


def test_no_text_at_all_is_refused(kind, encoder):
    with pytest.raises(SearchError, match="found no text to index"):
        SearchIndex.build([], encoder.encode, kind=kind)


def test_any_text_and_metadata_come_back_as_given(kind, encoder):
    texts = ["", "日本語", "\0 \t\n", "'\"\\ {}", "👩‍👩‍👧"]
    about = [{"k": value} for value in (1.5, True, [1, {"a": None}], {"x": "y"}, "日本")]
    index = SearchIndex.build(texts, encoder.encode, metadata=about, kind=kind)
    assert {row[0]: row[1:] for row in index.rows()} == {i: (texts[i], about[i]) for i in range(5)}


def test_many_rows_pass_in_several_batches(kind, encoder):
    texts = [f"word{i} other{i % 7}" for i in range(2500)]
    index = SearchIndex.build(texts, encoder.encode, kind=kind)
    assert len(index) == 2500
    assert sorted(row[0] for row in index.rows()) == list(range(2500))
    asked = texts[::9]
    assert [hits[0].text for hits in index.search(asked, top_k=1)] == asked


@pytest.mark.skipif(NO_MILVUS, reason="pymilvus or milvus-lite is not installed")
class TestMilvus:
    def test_another_process_finds_the_index(self, tmp_path, encoder):
        """Built, changed and searched here, found there; the same hits as faiss gives."""
        kind = f"milvus:{tmp_path / 'idx.db'}"
        index = SearchIndex.build(TEXTS, encoder.encode, metadata=ABOUT, kind=kind)
        index.delete([1])
        index.close()
        code = (
            "import sys; sys.path.insert(0, 'tests/search');"
            "from conftest import WordSum; from simcse import SearchIndex;"
            "index = SearchIndex.load(sys.argv[1], WordSum().encode);"
            "print([hit.id for hit in index.search('a man', top_k=9)[0]], index.add(['new']), index.info['count']);"
            "index.close()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, kind], capture_output=True, text=True, timeout=300, env={**os.environ}
        )
        expected = SearchIndex.build(TEXTS, encoder.encode)
        expected.delete([1])
        ids = [hit.id for hit in expected.search("a man", top_k=9)[0]]
        assert done.stdout.strip() == f"{ids} [4] 4", done.stderr

    def test_the_wrong_encoder_address_or_name_is_told(self, database, tmp_path, encoder, other_encoder, monkeypatch):
        kind = f"milvus:{database}#told"
        index = SearchIndex.build(TEXTS, encoder.encode, kind=kind)
        with pytest.raises(SearchError, match=r"built by word-sum .* gives other vectors"):
            SearchIndex.load(kind, other_encoder.encode)
        with pytest.raises(SearchError, match="'told' exists; load it"):
            SearchIndex.build(TEXTS, encoder.encode, kind=kind)
        with pytest.raises(SearchError, match="holds no index called 'none'"):
            SearchIndex.load(f"milvus:{database}#none")
        with pytest.raises(SearchError, match=r"no such file"):
            SearchIndex.load(f"milvus:{tmp_path / 'none.db'}")
        with pytest.raises(ConfigError, match=r"expected a file that ends in \.db"):
            SearchIndex.build(TEXTS, encoder.encode, kind="milvus:folder")
        with pytest.raises(SearchError, match="loaded without an encoder"):
            SearchIndex.load(kind).search("a man")
        with pytest.raises(SearchError, match="durable in Milvus"):
            index.save(tmp_path / "folder")
        monkeypatch.delenv("MILVUS_URI", raising=False)
        with pytest.raises(ConfigError, match="milvus without an address"):
            SearchIndex.build(TEXTS, encoder.encode, kind="milvus")

    def test_a_text_too_long_for_a_row_is_refused(self, database, encoder):
        index = SearchIndex.build(TEXTS, encoder.encode, kind=f"milvus:{database}#long")
        with pytest.raises(SearchError, match=r"has 70000 bytes, Milvus takes 65535"):
            index.add(["x", "y" * 70_000])
        assert len(index) == 4
