"""SearchIndex as a user meets it: what it finds, what it keeps, what it refuses."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcse import ConfigError, DataError, Hit, SearchError, SearchIndex

TEXTS = ["a man plays the guitar", "a woman plays the piano", "rain falls on the city", "the sun is over the mountain"]


@pytest.fixture
def index(encoder):
    return SearchIndex.build(TEXTS, encoder.encode)


def found(index, query, **options):
    return [hit.text for hit in index.search(query, **options)[0]]


def test_a_text_finds_itself_first_with_cosine_one(index):
    for number, (text, hits) in enumerate(zip(TEXTS, index.search(TEXTS, top_k=2), strict=True)):
        assert hits[0].text == text
        assert hits[0].id == number
        assert hits[0].score == pytest.approx(1, abs=1e-6)
        assert hits[0].score > hits[1].score


def test_a_single_text_is_a_list_of_one(index):
    assert index.search(TEXTS[0]) == index.search([TEXTS[0]])


def test_scores_are_the_cosines_of_the_encoder(index, encoder):
    """Worked out by hand from the raw vectors: a . b / |a||b|."""
    query = "the guitar of a man"
    a, b = encoder.encode([query])[0], encoder.encode(TEXTS)
    cosines = b @ a / np.linalg.norm(b, axis=1) / np.linalg.norm(a)
    hits = index.search(query, top_k=10)[0]
    assert [hit.id for hit in hits] == np.argsort(-cosines).tolist()
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(cosines)[::-1], atol=1e-6)


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


def test_ids_and_metadata_come_back_as_given(encoder):
    index = SearchIndex.build(
        TEXTS, encoder.encode, ids=["x", 7, "7", "ü"], metadata=[{"lang": "en", "n": [1, None]}, None, {}, None]
    )
    assert index.search(TEXTS[0], top_k=1)[0] == [Hit(TEXTS[0], pytest.approx(1), "x", {"lang": "en", "n": [1, None]})]
    assert [index.search(text, top_k=1)[0][0].id for text in TEXTS] == ["x", 7, "7", "ü"]


def test_new_ids_are_never_ones_that_were_used(index):
    assert index.add(["one", "two"]) == [4, 5]
    index.delete([5])
    assert index.add(["three"]) == [6]
    assert index.add(["far"], ids=[100]) == [100]
    assert index.add(["next"]) == [101]


def test_deleted_texts_are_not_found_and_their_places_are_filled(index):
    assert found(index, TEXTS[0], top_k=4)[0] == TEXTS[0]
    assert index.delete([0]) == 1
    assert len(index) == 3
    assert TEXTS[0] not in found(index, TEXTS[0], top_k=4)
    assert len(found(index, TEXTS[0], top_k=4)) == 3
    with pytest.raises(SearchError, match="id 0 is not in the index; nothing was deleted"):
        index.delete([1, 0])
    assert len(index) == 3


def test_deleting_everything_leaves_an_index_that_finds_nothing(index):
    index.delete(range(4))
    assert len(index) == 0
    assert index.search(["anything"]) == [[]]
    assert index.add(["again"]) == [4]
    assert found(index, "again") == ["again"]


def test_many_deletions_compact_by_themselves(index):
    index.delete([0])
    assert index.info["deleted"] == 1
    index.delete([1])
    assert index.info["deleted"] == 0
    assert found(index, TEXTS[2], top_k=1) == [TEXTS[2]]


def test_upsert_replaces_text_vector_and_metadata(index):
    assert index.upsert(["snow in the night"], ids=[2], metadata=[{"new": True}]) == [2]
    assert len(index) == 4
    assert index.search("snow in the night", top_k=1)[0] == [
        Hit("snow in the night", pytest.approx(1), 2, {"new": True})
    ]
    assert TEXTS[2] not in found(index, TEXTS[2], top_k=9)
    assert index.upsert(["fresh"], ids=["k"]) == ["k"]
    assert len(index) == 5


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({"lang": "en"}, {0, 1}),
        ({"lang": ["de", "fr"]}, {2}),
        ({"lang": "en", "year": {">": 2000}}, {1}),
        ({"year": {">=": 1999, "<=": 2001}}, {0, 1}),
        ({"lang": {"!=": "en"}}, {2, 3}),
        ({"lang": None}, {3}),
        ({"odd \"name'": True}, {2}),
        ({"lang": "xx"}, set()),
        ({"lang": []}, set()),
        ({}, {0, 1, 2, 3}),
    ],
)
def test_filters_leave_exactly_what_fits(encoder, where, ids):
    metadata = [{"lang": "en", "year": 1999}, {"lang": "en", "year": 2001}, {"lang": "de", "odd \"name'": True}, None]
    index = SearchIndex.build(TEXTS, encoder.encode, metadata=metadata)
    for query in TEXTS:
        assert {hit.id for hit in index.search(query, top_k=4, where=where)[0]} == ids
        if ids:
            assert len(index.search(query, top_k=1, where=where)[0]) == 1


def test_saved_and_loaded_it_answers_the_same(index, encoder, tmp_path):
    before = index.search(TEXTS, top_k=3)
    index.save(tmp_path / "idx")
    for mmap in (True, False):
        loaded = SearchIndex.load(tmp_path / "idx", encoder.encode, mmap=mmap)
        assert loaded.search(TEXTS, top_k=3) == before
        assert len(loaded) == 4
        assert loaded.info["encoder"] == "word-sum"
        assert loaded.info["fingerprint"] == encoder.fingerprint


def test_once_saved_every_change_is_durable(index, encoder, tmp_path):
    index.save(tmp_path / "idx")
    index.add(["rain in the night"])
    index.delete([3])
    index.upsert(["a man plays the flute"], ids=[0])
    loaded = SearchIndex.load(tmp_path / "idx", encoder.encode)
    assert loaded.search(TEXTS, top_k=9) == index.search(TEXTS, top_k=9)
    assert {hit.id for hit in loaded.search("rain", top_k=9)[0]} == {0, 1, 2, 4}


def test_saving_over_an_index_replaces_it(index, encoder, tmp_path):
    SearchIndex.build(["old"], encoder.encode).save(tmp_path / "idx")
    index.save(tmp_path / "idx")
    assert len(SearchIndex.load(tmp_path / "idx", encoder.encode)) == 4
    assert sorted(path.suffix for path in (tmp_path / "idx").iterdir()) == [".f32", ".json", ".sqlite"]


def test_saving_elsewhere_leaves_the_first_folder_alone(index, encoder, tmp_path):
    index.save(tmp_path / "a")
    index.save(tmp_path / "b")
    index.add(["only in b"])
    assert len(SearchIndex.load(tmp_path / "a", encoder.encode)) == 4
    assert len(SearchIndex.load(tmp_path / "b", encoder.encode)) == 5


def test_a_folder_with_other_things_is_not_touched(index, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(SearchError, match="exists and is no index"):
        index.save(tmp_path)
    with pytest.raises(SearchError, match="exists and is no index"):
        index.save(tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_two_that_opened_one_folder_see_each_others_changes(index, encoder, tmp_path):
    index.save(tmp_path / "idx")
    other = SearchIndex.load(tmp_path / "idx", encoder.encode)
    assert other.add(["added by the other"]) == [4]
    assert found(index, "added by the other", top_k=1) == ["added by the other"]
    assert index.add(["added by the first"]) == [5]
    other.delete([0])
    other.compact()
    assert found(index, TEXTS[0], top_k=1) != [TEXTS[0]]
    assert index.add(["after the other compacted"]) == [6]
    assert found(other, "after the other compacted", top_k=1) == ["after the other compacted"]
    assert len(index) == len(other) == 6


def test_another_encoder_is_refused_by_name(index, encoder, other_encoder, tmp_path):
    index.save(tmp_path / "idx")
    with pytest.raises(SearchError, match=r"built by word-sum .* other-sum .* gives other vectors"):
        SearchIndex.load(tmp_path / "idx", other_encoder.encode)
    with pytest.raises(SearchError, match=r"built by word-sum \(dimension 32\), but narrow gives dimension 8"):
        SearchIndex.load(tmp_path / "idx", type(encoder)("narrow", 8).encode)


def test_the_same_encoder_in_another_precision_is_welcome(index, encoder, tmp_path):
    index.save(tmp_path / "idx")
    loaded = SearchIndex.load(tmp_path / "idx", lambda texts: encoder.encode(texts).astype(np.float16) * 3)
    assert found(loaded, TEXTS[1], top_k=1) == [TEXTS[1]]


def test_without_an_encoder_it_takes_vectors_only(index, encoder, tmp_path):
    index.save(tmp_path / "idx")
    loaded = SearchIndex.load(tmp_path / "idx")
    assert loaded.search_vectors(encoder.encode(TEXTS), top_k=2) == index.search(TEXTS, top_k=2)
    with pytest.raises(SearchError, match="loaded without an encoder; load it with word-sum"):
        loaded.search("text")


def test_a_file_goes_in_with_ids_and_metadata(encoder, tmp_path):
    source = tmp_path / "docs.jsonl"
    source.write_text('{"_id": "d1", "title": "T", "text": "a man"}\n{"_id": "d2", "title": "U", "text": "a dog"}\n')
    index = SearchIndex.build(source, encoder.encode)
    assert index.search("a dog", top_k=1)[0] == [Hit("a dog", pytest.approx(1), "d2", {"title": "U"})]
    (tmp_path / "more.txt").write_text("a cat\n\na bird\n")
    assert index.add(str(tmp_path / "more.txt")) == [0, 1]
    assert len(index) == 4


def test_wrong_use_is_one_clear_line(index, encoder, tmp_path):
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
        (lambda: index.add(["b"], ids=[2]), "id 2 is in the index already; .* use upsert"),
        (lambda: index.search("q", top_k=0), "top_k: found 0, expected a whole number from 1 on"),
        (lambda: index.search("q", top_k=-3), "top_k: found -3"),
        (lambda: index.search("q", top_k=2.5), "top_k: found 2.5"),
        (lambda: index.search(["q", "  "]), "query 1: found '  ', expected a text that is not blank"),
        (lambda: index.search([None]), "query 0: found None"),
        (lambda: index.search("q", where={"x": 1}), "filter on unknown field 'x'; fields are none"),
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


def test_a_filter_on_a_misspelt_field_names_the_nearest(encoder):
    index = SearchIndex.build(["a", "b"], encoder.encode, metadata=[{"lang": "en"}, {"year": 1}])
    with pytest.raises(SearchError, match=r"unknown field 'land'; did you mean 'lang'\?; fields are lang, year"):
        index.search("a", where={"land": "en"})
    with pytest.raises(SearchError, match="unknown operator '=>', expected one of"):
        index.search("a", where={"year": {"=>": 1}})
    with pytest.raises(SearchError, match="expected text, number, boolean, None"):
        index.search("a", where={"year": [[1]]})


def test_an_addition_that_fails_changes_nothing(index, encoder, tmp_path):
    """The second chunk fails after the first is encoded and written; in memory and on disk."""
    from simcse.search import index as module

    def stream():
        yield from ("fine " + str(i) for i in range(module.CHUNK + 5))
        raise DataError("file.txt:9: broken")

    for _ in range(2):
        before = index.search(TEXTS, top_k=9), index.info
        with pytest.raises(DataError, match="broken"):
            index.add(stream())
        with pytest.raises(SearchError, match="twice"):
            index.add(["p", "q"], ids=["new", "new"])
        assert (index.search(TEXTS, top_k=9), index.info) == before
        index.verify()
        index.save(tmp_path / "idx")
    assert index.add(["fine after all"]) == [4]
    assert len(SearchIndex.load(tmp_path / "idx", encoder.encode)) == 5


def test_threads_search_while_one_changes(index, encoder, tmp_path):
    index.save(tmp_path / "idx")
    stop, errors = threading.Event(), []

    def searching():
        try:
            while not stop.is_set():
                hits = index.search("a man plays the guitar", top_k=3)[0]
                assert hits[0].id == 0
                assert len(hits) == 3
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=searching) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(15):
        (key,) = index.add([f"rain number {number}"])
        if number % 2:
            index.delete([key])
    index.compact()
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(index) == 12
