"""What the map is drawn from, and that it keeps neighbours together."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from simcse import SearchIndex
from simcse.serving import corpus_map
from simcse.serving.cluster_names import named_clusters
from simcse.serving.corpus_map import CorpusMap
from simcse.serving.projection import StoppedError, can_embed, neighbour_embedding, principal_axes

needs_tsne = pytest.mark.skipif(not can_embed(), reason="openTSNE is not installed")


@pytest.fixture(scope="module")
def groups():
    """400 unit vectors (400, 32) of 20 groups of 20, whose centres need more than two dimensions."""
    random = np.random.default_rng(0)
    vectors = np.repeat(random.normal(size=(20, 32)), 20, axis=0) + 0.4 * random.normal(size=(400, 32))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def drawn(drawing):
    """Its points once no better ones are under way."""
    until = time.monotonic() + 120
    while drawing.progress()["progress"] is not None:
        assert time.monotonic() < until, "the map is not done"
        time.sleep(0.02)
    return drawing.points()


def trustworthiness(vectors, flat):
    from sklearn.manifold import trustworthiness

    return trustworthiness(vectors, flat, n_neighbors=5)


def test_a_sample_holds_rows_that_belong_together(index, encoder, sentences):
    sample = index.storage.sample(20)
    assert len(set(sample.ids)) == 20
    assert sample.texts == [sentences[i] for i in sample.ids]
    np.testing.assert_allclose(sample.vectors, encoder.encode(sample.texts), atol=1e-5)
    assert index.storage.sample(20).ids == sample.ids
    assert index.storage.sample(1000).texts == sentences


def test_vectors_come_back_by_id(index, encoder, sentences):
    found = index.storage.vectors([3, "none", 60, 999])
    assert list(found) == [3, 60]
    np.testing.assert_allclose(found[60], encoder.encode(sentences[60]), atol=1e-5)


@needs_tsne
def test_neighbours_stay_together_and_a_seed_makes_it_the_same(groups):
    reports = []
    embedded = neighbour_embedding(groups, reports.append)
    assert trustworthiness(groups, embedded.flat) > 0.98 > 0.95 > trustworthiness(groups, principal_axes(groups).flat)
    np.testing.assert_array_equal(neighbour_embedding(groups, lambda done: False).flat, embedded.flat)
    assert reports == sorted(reports)
    assert reports[-1] == 1


@needs_tsne
def test_a_new_vector_is_placed_among_its_neighbours(groups):
    known = np.arange(len(groups)) % 20 != 0  # the first of each group is new
    embedded = neighbour_embedding(groups[known], lambda done: False)
    places = embedded.place(groups[~known])  # (20, 2)
    nearest = np.linalg.norm(places[:, None] - embedded.flat, axis=2).argmin(axis=1)
    assert (nearest // 19).tolist() == list(range(20))
    np.testing.assert_array_equal(embedded.place(groups[~known][3:4]), places[3:4])  # whatever is asked beside it


@needs_tsne
def test_an_embedding_that_is_not_wanted_any_more_stops(groups):
    reports = []
    with pytest.raises(StoppedError):
        neighbour_embedding(groups, lambda done: len(reports) == 2 or reports.append(done))
    assert len(reports) == 2


@needs_tsne
def test_the_map_is_there_at_once_and_better_later(index, sentences):
    drawing = CorpusMap(index, 1000)
    first = drawing.points()
    assert (first["method"], first["note"]) == ("principal axes", None)
    assert first["progress"] == 0
    assert 0 < first["shares"][1] <= first["shares"][0] < 1
    later = drawn(drawing)
    assert (later["method"], later["progress"], later["shares"]) == ("t-SNE", None, None)
    assert later["texts"] == first["texts"] == sentences
    assert later["x"] != first["x"]
    places, texts = drawing.place([5, 9, 10**6], index.storage.vectors([5])[5][None])
    assert places == {i: [later["x"][i], later["y"][i]] for i in (5, 9)}
    assert np.isfinite(texts).all()
    assert drawing.points() == later, "drawn once"


@needs_tsne
def test_texts_that_are_not_drawn_are_placed_nevertheless(index):
    drawing = CorpusMap(index, 40)
    assert len(drawn(drawing)["ids"]) == 40
    places, _ = drawing.place(range(len(index)), None)
    assert list(places) == list(range(len(index)))
    assert np.isfinite(list(places.values())).all()


@needs_tsne
def test_texts_that_are_all_the_same_make_a_map(encoder):
    drawing = CorpusMap(SearchIndex.build(["a dog sings"] * 50, encoder.encode), 100)
    points = drawn(drawing)
    assert len(points["x"]) == 50
    json.dumps(points, allow_nan=False)


@needs_tsne
def test_closing_leaves_no_thread_at_work(index):
    drawing = CorpusMap(index, 1000)
    drawing.points()
    drawing.close()
    assert drawing.progress()["progress"] is None


def test_without_the_library_the_map_says_how_to_get_it(index, monkeypatch):
    monkeypatch.setattr(corpus_map, "can_embed", lambda: False)
    points = CorpusMap(index, 1000).points()
    assert (points["method"], points["progress"]) == ("principal axes", None)
    assert points["note"].endswith("pip install 'simcse-kit[map]'")


def test_clusters_are_named_by_words_that_are_typical_of_them():
    pytest.importorskip("sklearn")
    kinds = [("violin", "opera"), ("glacier", "moraine"), ("parliament", "election")]
    kinds += [("enzyme", "protein"), ("rugby", "stadium"), ("castle", "siege")]
    texts = [f"The {kinds[i % 6][0]} of year {i} was near the {kinds[i % 6][i % 2]}." for i in range(360)]
    flat = np.array([[10.0 * (i % 6), i / 360] for i in range(360)])
    clusters = named_clusters(flat, texts)
    names = {round(one["x"] / 10): one["name"] for one in clusters}
    for number, kind in enumerate(kinds):
        assert set(names[number].split(", ")) <= set(kind)
    assert len(clusters) == 7, "as many as there are texts for"
    assert sum(one["texts"] for one in clusters) == 360
    assert named_clusters(flat, ["的"] * 360) == []
