"""SearchIndex as a user meets it, over every storage: what it finds, what it keeps, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcse import ConfigError, DataError, Hit, SearchError, SearchIndex

TEXTS = ["a man plays the guitar", "a woman plays the piano", "rain falls on the city", "the sun is over the mountain"]
METADATA = [
    {"lang": "en", "year": 1999},
    {"lang": "de", "year": 2005},
    {"lang": "en", "note": None},
    {'a "b"': "c\\d'"},
]


@pytest.fixture(scope="module")
def index(storage, module_encoder):
    """For tests that change nothing."""
    return storage.build(TEXTS, module_encoder.encode, metadata=METADATA)


@pytest.fixture
def own(storage, encoder):
    """For one test, to change."""
    return storage.build(TEXTS, encoder.encode, metadata=METADATA)


def found(index, query=TEXTS[0], **options):
    return [hit.text for hit in index.search(query, **options)[0]]


def test_a_text_finds_itself_first_with_cosine_one(index):
    for number, (text, hits) in enumerate(zip(TEXTS, index.search(TEXTS, top_k=2), strict=True)):
        assert (hits[0].text, hits[0].id, hits[0].metadata) == (text, number, METADATA[number])
        assert hits[0].score == pytest.approx(1, abs=1e-6)
        assert hits[0].score > hits[1].score
    assert index.search(TEXTS[0]) == index.search([TEXTS[0]])  # a single text is a list of one
    assert index.search([]) == []
    assert len(index) == 4


def test_scores_are_the_cosines_of_the_encoder(index, encoder):
    """Worked out by hand from the raw vectors: a . b / |a||b|."""
    query = "the guitar of a man"
    a, b = encoder.encode([query])[0], encoder.encode(TEXTS)
    cosines = b @ a / np.linalg.norm(b, axis=1) / np.linalg.norm(a)
    hits = index.search(query, top_k=10)[0]
    assert [hit.id for hit in hits] == np.argsort(-cosines).tolist()
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(cosines)[::-1], atol=1e-6)
    floor = hits[1].score - 1e-4
    assert index.search(query, top_k=10, min_score=floor)[0] == hits[:2]
    assert index.search_vectors(index.vectors([2]), top_k=1)[0][0].id == 2


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 40), k=st.integers(1, 60), q=st.integers(1, 5), floor=st.none() | st.floats(-1, 1), data=st.data()
)
def test_any_search_is_sorted_bounded_and_within_k(n, k, q, floor, data):
    vectors = np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32)

    def encode(texts):
        return np.stack([vectors[int(t)] if t.isdigit() else np.ones(3) * (len(t) % 7 - 3) for t in texts])

    index = SearchIndex.build([str(i) for i in range(n)], encode)
    gone = data.draw(st.sets(st.integers(0, n - 1)))
    if gone:
        assert index.delete(gone) == len(gone)
    for hits in index.search([str(i % n) for i in range(q)], top_k=k, min_score=floor):
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        assert all(-1 <= score <= 1 for score in scores)
        assert floor is None or all(score >= floor for score in scores)
        assert len(hits) <= min(k, n - len(gone))
        assert floor is not None or len(hits) == min(k, n - len(gone))
        assert all(isinstance(hit.id, int) and hit.id >= 0 and hit.id not in gone for hit in hits)
        assert len({hit.id for hit in hits}) == len(hits)


def test_it_says_what_it_is(index, storage, encoder):
    place = "in memory" if storage.name == "memory" else index.info["folder"]
    kind = "milvus" if storage.name == "milvus" else "flat"
    assert repr(index) == f"SearchIndex(4 texts, {kind}, {place}, dimension 32, encoder word-sum)"
    facts = index.info
    assert (facts["encoder"], facts["fingerprint"]) == ("word-sum", encoder.fingerprint)
    assert (facts["count"], facts["dimension"], facts["kind"]) == (4, 32, kind)
    assert facts["fields"] == ['a "b"', "lang", "note", "year"]


def test_any_text_id_and_metadata_come_back_as_given(storage, encoder):
    texts = ["", "\u65e5\u672c\u8a9e", "\0 \t\n", "'\"\\ {}", "\U0001f469\u200d\U0001f469"]
    ids = ["x", 7, "7", "\u00fc", "text, too"]
    metadata = [{"k": 1.5, "lang": "en"}, {"n": [1, {"a": None}]}, None, {}, {"k": "\u65e5"}]
    index = storage.build(texts, encoder.encode, ids=ids, metadata=metadata)
    expected = {key: (text, values or {}) for key, text, values in zip(ids, texts, metadata, strict=True)}
    assert {row[0]: row[1:] for row in index.rows()} == expected
    hits = index.search(texts[1], top_k=5)[0]
    assert hits[0] == Hit(texts[1], pytest.approx(1), 7, metadata[1])
    assert {hit.id: (hit.text, hit.metadata) for hit in hits} == expected


def test_many_rows_pass_in_several_batches(storage):
    vectors = np.random.default_rng(0).standard_normal((1200, 8)).astype(np.float32)

    def encode(texts):
        return np.stack([vectors[int(text)] if text.isdigit() else np.ones(8) * len(text) for text in texts])

    texts = [str(i) for i in range(1200)]
    index = storage.build(texts, encode)
    assert len(index) == 1200
    assert sorted(row[0] for row in index.rows()) == list(range(1200))
    assert [hits[0].text for hits in index.search(texts[::3], top_k=1)] == texts[::3]
    sample = index.storage.sample(1100)
    assert len(set(sample.ids)) == len(sample.texts) == len(sample.vectors) == 1100
    np.testing.assert_allclose(index.vectors(sample.ids), sample.vectors, atol=1e-6)


def test_new_ids_are_never_ones_that_were_used(own):
    assert own.add(["one", "two"]) == [4, 5]
    own.delete([5])
    assert own.add(["three"]) == [6]
    assert own.add(["far", "seven"], ids=[100, "7"]) == [100, "7"]
    assert own.add(["next"]) == [101]
    assert own.typed_ids(["7", "6"]) == ["7", 6]


def test_rows_are_fetched_by_their_ids(own):
    own.add(["a b", "c"], ids=["x", "7"], metadata=[{"n": 1}, None])
    assert own.fetch(["7", "x"]) == [("7", "c", {}), ("x", "a b", {"n": 1})]
    assert own.fetch([]) == []
    own.delete(["x"])
    with pytest.raises(SearchError, match="id 'x' is not in the index"):
        own.fetch(["7", "x"])


def test_deleted_texts_are_not_found_and_their_places_are_filled(own):
    assert found(own, top_k=4)[0] == TEXTS[0]
    assert own.delete([0]) == 1
    assert len(own) == 3
    assert TEXTS[0] not in found(own, top_k=4)
    assert len(found(own, top_k=4)) == 3
    with pytest.raises(SearchError, match="id 0 is not in the index; nothing was deleted"):
        own.delete([1, 0])
    assert len(own) == 3
    own.delete(range(1, 4))
    assert len(own) == 0
    assert own.search(["anything"]) == [[]]
    assert own.add(["again"]) == [4]
    assert found(own, "again") == ["again"]


def test_upsert_replaces_text_vector_and_metadata(own):
    new = own.upsert(["fresh", "snow in the night"], ids=["k", 2], metadata=[None, {"new": True}])
    assert new == ["k", 2]  # in the order of the texts, whatever was there before
    assert len(own) == 5
    assert own.search("snow in the night", top_k=1)[0] == [Hit("snow in the night", pytest.approx(1), 2, {"new": True})]
    assert TEXTS[2] not in found(own, TEXTS[2], top_k=9)
    assert found(own, "fresh", top_k=1) == ["fresh"]


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({"lang": "en"}, {0, 2}),
        ({"lang": ["en", "de"]}, {0, 1, 2}),
        ({"lang": ["de", "fr"]}, {1}),
        ({"lang": ["de", None]}, {1, 3}),
        ({"lang": "xx"}, set()),
        ({"lang": []}, set()),
        ({"lang": None}, {3}),
        ({"note": None}, {0, 1, 2, 3}),
        ({"year": {">=": 1999, "<": 2005}}, {0}),
        ({"year": {"!=": 1999}}, {1, 2, 3}),
        ({"lang": {"!=": None}}, {0, 1, 2}),
        ({"lang": "en", "year": 1999}, {0}),
        ({"lang": "en", "year": {">": 2000}}, set()),
        ({"year": 1999.0}, {0}),
        ({"year": {"<": None}}, set()),
        ({'a "b"': "c\\d'"}, {3}),
        ({"lang": 'en" or true or "'}, set()),
        ({}, {0, 1, 2, 3}),
    ],
    ids=str,
)
def test_filters_leave_exactly_what_fits(index, where, ids):
    for hits in index.search(TEXTS, top_k=4, where=where):
        assert {hit.id for hit in hits} == ids
    assert [len(hits) for hits in index.search(TEXTS, top_k=1, where=where)] == [min(len(ids), 1)] * 4
    allowed = index.subset(where)
    assert {hit.id for hit in index.search_vectors(index.vectors([0]), top_k=4, where=allowed)[0]} == ids


def test_a_filter_on_a_misspelt_field_names_the_nearest(index):
    for search in (lambda where: index.search("a", where=where), index.subset):
        with pytest.raises(SearchError, match=r"unknown field 'land'; did you mean 'lang'\?; fields are a \"b\", lang"):
            search({"land": "en"})
        with pytest.raises(SearchError, match="unknown operator '=>', expected one of"):
            search({"year": {"=>": 1}})
        with pytest.raises(SearchError, match="expected text, number, boolean, None"):
            search({"year": [[1]]})


def test_another_encoder_is_refused_by_name(durable, encoder, other_encoder):
    place = durable.new()
    durable.build(TEXTS, encoder.encode, place)
    with pytest.raises(SearchError, match=r"built by word-sum .* other-sum .* gives other vectors"):
        SearchIndex.load(place, other_encoder.encode)
    with pytest.raises(SearchError, match=r"built by word-sum \(dimension 32\), but narrow gives dimension 8"):
        SearchIndex.load(place, type(encoder)("narrow", 8).encode)


def test_loaded_it_answers_and_changes_the_same(durable, encoder):
    place = durable.new()
    index = durable.build(TEXTS, encoder.encode, place, metadata=METADATA)
    loaded = SearchIndex.load(place, encoder.encode)
    assert loaded.search(TEXTS, top_k=3) == index.search(TEXTS, top_k=3)
    assert loaded.info == index.info
    assert loaded.add(["added by the other"], metadata=[{"new": 1}]) == [4]
    assert found(index, "added by the other", top_k=1, where={"new": 1}) == ["added by the other"]
    assert index.add(["added by the first"]) == [5]
    loaded.delete([0])
    assert found(index, top_k=1) != [TEXTS[0]]
    assert len(index) == len(loaded) == 5
    assert index.storage.generation == loaded.storage.generation
    with pytest.raises(SearchError, match="twice"):
        index.add(["p", "q"], ids=["new", "new"])
    index.verify()


def test_the_same_encoder_in_another_precision_is_welcome(durable, encoder):
    place = durable.new()
    durable.build(TEXTS, encoder.encode, place)
    loaded = SearchIndex.load(place, lambda texts: encoder.encode(texts).astype(np.float16) * 3)
    assert found(loaded, TEXTS[1], top_k=1) == [TEXTS[1]]


def test_without_an_encoder_it_accepts_vectors_only(durable, encoder):
    place = durable.new()
    index = durable.build(TEXTS, encoder.encode, place)
    loaded = SearchIndex.load(place)
    assert loaded.search_vectors(encoder.encode(TEXTS), top_k=2) == index.search(TEXTS, top_k=2)
    with pytest.raises(SearchError, match="loaded without an encoder; load it with word-sum"):
        loaded.search("text")


def test_a_file_goes_in_with_ids_and_metadata(storage, encoder, tmp_path):
    source = tmp_path / "docs.jsonl"
    source.write_text('{"_id": "d1", "title": "T", "text": "a man"}\n{"_id": "d2", "title": "U", "text": "a dog"}\n')
    index = storage.build(source, encoder.encode)
    assert index.search("a dog", top_k=1)[0] == [Hit("a dog", pytest.approx(1), "d2", {"title": "U"})]
    (tmp_path / "more.txt").write_text("a cat\n\na bird\n")
    assert index.add(str(tmp_path / "more.txt")) == [0, 1]
    assert len(index) == 4


def test_wrong_use_is_one_clear_line(own, encoder, tmp_path):
    index = own
    (tmp_path / "empty.txt").write_text("\n")
    cases = [
        (lambda: SearchIndex.build([], encoder.encode), "found no text to index, expected at least one"),
        (lambda: SearchIndex.build(tmp_path / "empty.txt", encoder.encode), "empty.txt: found no text to index"),
        (lambda: SearchIndex.build(["a", "b"], encoder.encode, ids=["x", "x"]), "id 'x' is given twice"),
        (lambda: SearchIndex.build(["a", "b"], encoder.encode, ids=["x"]), "ids: found 1 for 2 texts"),
        (
            lambda: SearchIndex.build(["a"], encoder.encode, ids=[-1]),
            "id: found -1, expected a text or a number from 0",
        ),
        (lambda: SearchIndex.build(["a"], encoder.encode, ids=[1.5]), "id: found 1.5"),
        (lambda: SearchIndex.build(["a", 3], encoder.encode), r"text 1: found 3 \(int\), expected a str"),
        (lambda: SearchIndex.build(["a"], encoder.encode, metadata=["x"]), "metadata 0: found 'x', expected a mapping"),
        (lambda: SearchIndex.build(["a"], encoder.encode, metadata=[{"x": {1}}]), "cannot be stored as UTF-8 JSON"),
        (lambda: SearchIndex.build(["a\ud800"], encoder.encode), "cannot be stored as UTF-8"),
        (lambda: SearchIndex.build(["a"], lambda t: np.full((len(t), 2), np.nan)), "is NaN or infinite"),
        (lambda: SearchIndex.build(["a"], lambda t: np.ones(2)), r"gave shape \(2,\) for 3 texts"),
        (lambda: index.add(["b"], ids=[2]), "id 2 is in the index already; .* by the option upsert"),
        (lambda: index.search("q", top_k=0), "top_k: found 0, expected a whole number from 1 on"),
        (lambda: index.search("q", top_k=-3), "top_k: found -3"),
        (lambda: index.search("q", top_k=2.5), "top_k: found 2.5"),
        (lambda: index.search(["q", "  "]), "query 1: found '  ', expected a text that is not blank"),
        (lambda: index.search([None]), "query 0: found None"),
        (lambda: index.search("q", where={"x": 1}), "filter on unknown field 'x'; fields are a"),
        (lambda: index.search_vectors(np.ones((2, 5))), r"queries: found shape \(2, 5\), expected \(q, 32\)"),
        (lambda: index.search_vectors(np.full((1, 32), np.inf)), "is NaN or infinite"),
    ]
    for call, message in cases:
        with pytest.raises(SearchError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="kind: found 'flatt'; did you mean 'flat'"):
        SearchIndex.build(["a"], encoder.encode, kind="flatt")
    with pytest.raises(ConfigError, match="target_recall: found 95, expected a share"):
        SearchIndex.build(["a"], encoder.encode, target_recall=95)
    with pytest.raises(DataError, match="no such file"):
        SearchIndex.build(str(tmp_path / "none.txt"), encoder.encode)
    assert len(index) == 4
    assert index.search([]) == []


def test_what_is_refused_changes_nothing(own):
    for wrong in (
        lambda: own.add(["x"], ids=[0]),
        lambda: own.add(["x", "y"], ids=["n", "n"]),
        lambda: own.add(["x", "y"], ids=["n", 0]),
        lambda: own.add(["x"], metadata=[{"v": object()}]),
        lambda: own.add(["half \ud800"]),
        lambda: own.delete([0, 99]),
    ):
        with pytest.raises(SearchError):
            wrong()
    assert sorted(row[0] for row in own.rows()) == [0, 1, 2, 3]
    assert own.add(["next"]) == [4]


def test_an_addition_that_fails_is_taken_back(storage, encoder):
    """The second chunk fails after the first is encoded and written."""
    from simcse.search import index as module

    index = storage.build(TEXTS, lambda texts: encoder.encode(TEXTS)[[len(text) % 4 for text in texts]])

    def stream(last):
        yield from ("fine " + str(i) for i in range(module.CHUNK + 5))
        raise last

    for call in (index.add, index.upsert):
        before = index.search(TEXTS, top_k=9), {name: index.info[name] for name in ("count", "generation", "fields")}
        with pytest.raises(DataError, match="broken"):
            call(stream(DataError("file.txt:9: broken")))
        assert (index.search(TEXTS, top_k=9), {name: index.info[name] for name in before[1]}) == before
    assert index.add(["fine after all"]) == [4]
