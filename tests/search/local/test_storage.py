"""What an index in memory or in a folder does beside what every storage does: see `test_index.py`."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import numpy as np
import pytest

from simcse import DataError, SearchError, SearchIndex
from simcse.search.fingerprint import Identity
from simcse.search.local.storage import LocalStorage
from simcse.search.nearest import exact, plan

TEXTS = ["a man plays the guitar", "a woman plays the piano", "rain falls on the city", "the sun is over the mountain"]


@pytest.fixture
def index(encoder):
    return SearchIndex.build(TEXTS, encoder.encode)


def found(index, query, **options):
    return [hit.text for hit in index.search(query, **options)[0]]


def test_many_deletions_compact_by_themselves(index):
    index.delete([0])
    assert index.info["deleted"] == 1
    index.delete([1])
    assert index.info["deleted"] == 0
    assert found(index, TEXTS[2], top_k=1) == [TEXTS[2]]


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


def test_what_info_says_of_a_folder(index, tmp_path):
    """In memory no folder and no bytes; saved, its path, all bytes below it, and a number that each change raises."""
    assert (index.info["folder"], index.info["bytes"]) == (None, None)
    index.save(tmp_path / "idx")
    said = index.info
    assert said["folder"] == str(tmp_path / "idx")
    assert said["bytes"] == sum(path.stat().st_size for path in (tmp_path / "idx").rglob("*") if path.is_file())
    index.add(["rain in the night"])
    assert index.info["generation"] > said["generation"]


def test_a_sample_is_of_living_rows_and_the_same_for_a_seed(encoder):
    storage = SearchIndex.build([f"text {i}" for i in range(50)], encoder.encode).storage
    storage.remove([3, 4])
    every = storage.sample(48)
    assert every.ids == [i for i in range(50) if i not in (3, 4)]
    assert every.texts == [f"text {i}" for i in every.ids]
    first, again, other = (storage.sample(10, seed) for seed in (1, 1, 2))
    assert first.ids == again.ids != other.ids
    assert storage.sample(10).ids == storage.sample(10, 0).ids != first.ids
    assert len(set(first.ids)) == 10
    assert first.texts == [f"text {i}" for i in first.ids]
    vectors = storage.vectors(first.ids)
    np.testing.assert_array_equal(first.vectors, [vectors[i] for i in first.ids])


def test_without_rows_there_is_nothing_to_find(encoder):
    storage = LocalStorage.create(Identity.of(encoder.encode), "flat")
    sample = storage.sample(10)
    assert (sample.ids, sample.texts, sample.vectors.shape) == ([], [], (0, 32))
    assert storage.search(sample.vectors, 3) == []
    assert storage.search(np.eye(2, 32, dtype=np.float32), 3) == [[], []]


def test_scores_are_cosines_though_products_are_rounded(encoder):
    """The product of a unit vector with itself, or its opposite, may be a little beyond 1 or -1."""
    storage = SearchIndex.build([f"text {i} of {i % 7}" for i in range(100)], encoder.encode).storage
    vectors = storage.sample(100).vectors
    queries = np.concatenate([vectors, -vectors]) * np.float32(1 + 2**-20)  # on some CPUs no product is rounded up
    products = queries @ vectors.T
    assert products.max() > 1
    assert products.min() < -1
    scores = [[hit.score for hit in hits] for hits in storage.search(queries, 100)]
    assert (np.max(scores), np.min(scores)) == (1, -1)


def test_a_search_takes_the_threads_it_is_given(index, monkeypatch):
    """By default one, for so little."""
    taken = []
    monkeypatch.setattr(exact, "blas_threads", lambda threads: taken.append(threads) or nullcontext())
    for index.threads in (3, None):
        index.search(TEXTS)
    assert taken == [3, 1]


def test_an_approximate_index_is_chosen_by_memory_and_measured_on_samples(encoder, monkeypatch):
    monkeypatch.setattr(plan, "FLAT_BELOW", 100)
    texts = [f"text {i} of {i % 7} in {i % 11}" for i in range(200)]
    index = SearchIndex.build(texts, encoder.encode, target_recall=0.5, memory=0)
    assert index.info["plan"]["kind"] == "flat"
    index.optimize()
    assert (index.info["plan"]["kind"], index.info["plan"]["measured_on"]) == ("hnsw", "20 held-out rows")
    index.optimize(sample_queries=texts[:7])
    assert (index.info["plan"]["kind"], index.info["plan"]["measured_on"]) == ("hnsw", "7 sample queries")
    index.optimize(memory=0)
    assert index.info["plan"]["kind"] == "flat"


def test_a_subset_can_be_stopped_while_it_is_looked_for(encoder):
    texts = [f"text {i}" for i in range(2000)]
    index = SearchIndex.build(texts, encoder.encode, metadata=[{"year": i % 9} for i in range(2000)])
    with pytest.raises(TimeoutError, match="the filter was stopped"):
        index.storage.subset({"year": 3}, lambda: True)
    assert index.storage.subset({"year": 3}, lambda: False).allowed.sum() == 222


def test_a_view_filters_its_own_rows_while_others_are_added(encoder):
    index = SearchIndex.build(TEXTS, encoder.encode, metadata=[{"at": i} for i in range(4)])
    view = index.storage.snapshot()
    index.add(["rain in the night"], metadata=[{"at": 4}])
    assert view.matching({"at": {">=": 3}}).tolist() == [3]
    assert index.storage.snapshot().matching({"at": {">=": 3}}).tolist() == [3, 4]


@pytest.mark.parametrize("mmap", [True, False])
def test_vectors_stay_where_they_were_when_files_are_written_anew(index, encoder, tmp_path, mmap):
    """On the disk or in memory, as `load` was told."""
    index.save(tmp_path / "idx")
    loaded = SearchIndex.load(tmp_path / "idx", encoder.encode, mmap=mmap)
    loaded.save(tmp_path / "copy")
    assert loaded.storage.state.vectors.mmap is mmap
    loaded.delete([0])
    loaded.compact()
    assert loaded.info["deleted"] == 0
    assert loaded.storage.state.vectors.mmap is mmap
    assert found(loaded, TEXTS[2], top_k=1) == [TEXTS[2]]


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        *[(folder, "expected the name of the folder of an index") for folder in ("a\0b", 7, None)],
        ("long" * 99, "longlong: .*; expected the folder of an index"),
    ],
)
def test_what_names_no_folder(encoder, folder, told):
    with pytest.raises(SearchError, match=told):
        SearchIndex.load(folder, encoder.encode)
