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
from hypothesis import given, settings
from hypothesis import strategies as st
from test_filters import WANTED, fits

from simcse import ConfigError, DataError, SearchError, SearchIndex
from simcse.cli import main
from simcse.search.tools.build import build_from_files
from simcse.search.tools.duplicates import cluster, near_duplicates
from simcse.search.tools.hybrid import HybridSearch
from simcse.search.tools.mine import mine_negatives

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


# one of each kind under one name; a filter may ask for any of them
MIXED = [
    None, True, False, 0, 1, 1.0, -1, 1.5, 1995, 2**53 + 1, 2.0**53, 2**63 - 1, 2**63, -(2**63) - 1, 1e300,
    "", "1", "1995", "true", "a", "a\0b", "a\x01", "a\nb", 'q"\\', "b", "\u00e9", "\u65e5", [1], {"x": 1},
]  # fmt: skip


@pytest.fixture(scope="module", params=ENGINES)
def mixed(request, database, module_encoder):
    kind = f"milvus:{database}#mixed" if request.param == "milvus" else "flat"
    about = [*({"x": value} for value in MIXED), {"y": 1}]
    return about, SearchIndex.build(
        [f"t{i}" for i in range(len(about))], module_encoder.encode, metadata=about, kind=kind
    )


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.sampled_from("xy"), WANTED, min_size=1))
def test_filters_mean_the_same_across_kinds_of_values(mixed, where):
    about, index = mixed
    hits = index.search_vectors(np.ones((1, 32)), top_k=len(about), where=where)[0]
    assert sorted(hit.id for hit in hits) == [i for i, metadata in enumerate(about) if fits(metadata, where)]


def test_any_text_may_be_an_id(kind, encoder):
    """pymilvus writes ids into an expression as they are: x','a would be two."""
    ids = ["a", "x','t a", "'", '"', "a\\", "%61", "\n\x01", "\u65e5\u672c", "\u2028", "t a", "1", 1]
    index = SearchIndex.build([f"text {i}" for i in range(len(ids))], encoder.encode, ids=ids, kind=kind)
    for left in range(len(ids), 0, -1):
        key = ids[left - 1]
        assert index.search_vectors(index.vectors([key]), top_k=1)[0][0].id == key
        assert index.upsert([f"new {left}"], ids=[key]) == [key]
        assert len(index) == left
        assert index.delete([key]) == 1


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


def test_work_on_the_whole_corpus_gives_the_same(kind, encoder):
    """Near-duplicates, clusters and hybrid search, with ids that have an order of their own; and after a change."""
    texts = [*TEXTS, "a man plays the guitar", "rain falls on the city now", "snow"]
    ids = [3, 20, 100, "b", 101, "c", "a"]
    index = SearchIndex.build(texts, encoder.encode, ids=ids, metadata=[{"n": i} for i in range(7)], kind=kind)
    pairs = [(kept, [key for key, _ in others]) for kept, others in near_duplicates(index, 0.8)]
    assert pairs == [(3, [101]), (100, ["c"])]
    groups = cluster(index, 4)
    assert sorted(key for group in groups for key, _ in group.members if isinstance(key, int)) == [3, 20, 100, 101]
    assert all(set(group.examples) <= set(texts) for group in groups)
    hybrid = HybridSearch(index)
    assert hybrid.search("snow", top_k=1)[0][0].id == "a"
    assert {hit.id for hit in hybrid.search("rain", top_k=9, where={"n": {">=": 5}})[0]} == {"c", "a"}
    index.delete(["a", 101])
    index.add(["a new snow"], metadata=[{"n": 9}])
    assert hybrid.search("snow", top_k=1)[0][0].text == "a new snow"
    assert [(kept, [key for key, _ in others]) for kept, others in near_duplicates(index, 0.8)] == [(100, ["c"])]


@pytest.mark.skipif(NO_MILVUS, reason="pymilvus or milvus-lite is not installed")
class TestMilvus:
    def test_what_fails_leaves_no_collection(self, database, encoder, tmp_path, monkeypatch):
        kind, good, bad = f"milvus:{database}#failed", tmp_path / "good.csv", tmp_path / "bad.jsonl"
        good.write_text("text,year\na,1\nb,2\n")
        bad.write_text('{"text": "a"}\n' * 3000 + "{}x\n")

        def broken(texts):
            raise RuntimeError("out of memory")

        with monkeypatch.context() as patch:
            patch.setattr("simcse.search.milvus.storage.create_manifest", broken)
            with pytest.raises(TypeError):
                SearchIndex.build(TEXTS, encoder.encode, kind=kind)
        calls = [
            (SearchError, lambda: SearchIndex.build([], encoder.encode, kind=kind)),
            (SearchError, lambda: SearchIndex.build(["a", "b"], encoder.encode, ids=["x", "x"], kind=kind)),
            (DataError, lambda: SearchIndex.build(bad, encoder.encode, kind=kind)),
            (ConfigError, lambda: SearchIndex.build(TEXTS, encoder.encode, kind=kind, sample_queries=["a"])),
            (RuntimeError, lambda: SearchIndex.build(TEXTS, broken, kind=kind)),
            (DataError, lambda: build_from_files([good, bad], kind, encoder.encode)),
            (ConfigError, lambda: build_from_files([good], tmp_path / "idx", encoder.encode, kind=kind)),
            (ConfigError, lambda: build_from_files([good], kind, encoder.encode, kind="flat")),
            (ConfigError, lambda: build_from_files([good], kind, encoder.encode, overwrite=True)),
            (ConfigError, lambda: list(mine_negatives([("a", "b")], encoder.encode, kind=kind))),
        ]
        for error, call in calls:
            with pytest.raises(error) as caught:
                call()
            assert "\n" not in str(caught.value)
            with pytest.raises(SearchError, match="holds no index called 'failed'"):
                SearchIndex.load(kind)
        assert not (tmp_path / "idx").exists()
        assert len(build_from_files([good], kind, encoder.encode)) == 2

    def test_each_command_takes_it(self, tiny_bert, tmp_path, capsys):
        """index build, info, search, add, delete and compact; dedup and cluster."""
        address, source = f"milvus:{tmp_path / 'idx.db'}", tmp_path / "docs.csv"
        source.write_text("id,text,year\na,rain falls,1999\nb,snow,2005\nc,rain falls,2010\n")
        commands = [
            (
                ["index", "build", "--input", str(source), "--model", str(tiny_bert), "--output", address],
                "3 texts, dimension",
            ),
            (["index", "info", address, "--verify", "--format", "text"], "milvus"),
            (["index", "search", address, "rain", "--where", "year=2005", "--format", "text"], "snow"),
            (["index", "search", address, "snow", "--hybrid", "--format", "text"], "snow"),
            (["dedup", address, "--delete", "--threshold", "0.99999"], '{"keep": "a", "duplicates": [{"id": "c"'),
            (["cluster", address, "--clusters", "2"], '"size": 1, "examples": '),
            (["index", "add", address, "--input", str(source), "--upsert"], "added 3, now 3 texts"),
            (["index", "delete", address, "b"], "deleted 1, now 2 texts"),
            (["index", "compact", address], "2 texts"),
        ]
        for command, expected in commands:
            assert main(command) == 0, capsys.readouterr().err
            told = capsys.readouterr()
            assert expected in told.out + told.err
        assert main(["index", "build", "--input", str(source), "--model", str(tiny_bert), "--output", address]) == 1
        assert "exists; load it, or name another by #NAME" in capsys.readouterr().err

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

    def test_what_has_no_room_is_taken_back(self, database, encoder, tmp_path):
        """Ids beyond 1,024 bytes, names of fields beyond 65,535 together, a folder that cannot be made."""
        index = SearchIndex.build(TEXTS, encoder.encode, kind=f"milvus:{database}#room")
        index.add(["x"], metadata=[{f"a field of some length {i}": 0 for i in range(1500)}])
        calls = [
            lambda: index.add(["x", "y"], metadata=[{f"another, just as long {i}": 0 for i in range(1500)}, {}]),
            lambda: index.add(["x", "y"], ids=["short", "\u65e5" * 400]),
            lambda: SearchIndex.build(TEXTS, encoder.encode, kind=f"milvus:{tmp_path / 'file' / 'x.db'}"),
        ]
        (tmp_path / "file").write_text("mine")
        for call in calls:
            with pytest.raises(SearchError) as caught:
                call()
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 400
        assert sorted(row[0] for row in index.rows()) == [0, 1, 2, 3, 4]
        assert index.add(["next"]) == [5]
        assert found(index, where={"a field of some length 7": 0}) == [4]

    def test_a_text_too_long_for_a_row_is_refused(self, database, encoder):
        index = SearchIndex.build(TEXTS, encoder.encode, kind=f"milvus:{database}#long")
        with pytest.raises(SearchError, match=r"has 70000 bytes, Milvus accepts 65535"):
            index.add(["x", "y" * 70_000])
        assert len(index) == 4
