"""The planner: what it picks, that what it measures is true, and that every kind gives right answers."""

from __future__ import annotations

import numpy as np
import pytest

from simcse import ConfigError, SearchError, SearchIndex
from simcse.search.local import state
from simcse.search.nearest import plan
from simcse.search.nearest.exact import exact_search
from simcse.search.nearest.nearest import nearest_rows
from simcse.search.nearest.plan import make_plan

N, D = 4000, 32


@pytest.fixture(scope="module")
def matrix():
    """Sixty clusters on the sphere, as real sentences have topics."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((60, D))
    rows = centres[rng.integers(0, 60, N)] + 0.7 * rng.standard_normal((N, D))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(plan, "FLAT_BELOW", 1000)


def recall(ann, matrix, queries, allowed=None):
    true = exact_search(queries, matrix, 10, allowed=allowed)[1]
    found = nearest_rows(queries, matrix, 10, ann=ann, allowed=allowed)[1]
    return np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(true, found, strict=True)])


@pytest.mark.parametrize("kind", ["auto", "hnsw", "ivf", "ivf-pq", "IVF16,Flat", "PCA28,IVF16,SQ8", "HNSW16"])
def test_the_measured_recall_is_the_real_one(kind, matrix):
    """Held-out rows are queries that the index had not seen; fresh rows of the same clusters find as much."""
    chosen, ann = make_plan(matrix[:-200], kind=kind, target_recall=0.9)
    assert chosen.kind == ("hnsw" if kind == "auto" else kind)
    assert chosen.recall >= 0.9
    assert chosen.milliseconds > 0
    assert chosen.exact_milliseconds > 0
    assert recall(ann, matrix[:-200], matrix[-200:]) == pytest.approx(chosen.recall, abs=0.06)


def test_sample_queries_of_another_kind_than_the_rows_reach_the_recall(matrix):
    """Queries in all directions, as questions are none of the documents: tuned on held-out rows they miss what was
    asked for; tuned on others like them they do not.
    """
    queries = np.random.default_rng(1).standard_normal((600, D)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    rows_plan, rows_ann = make_plan(matrix, kind="ivf", target_recall=0.9)
    plan, ann = make_plan(matrix, kind="ivf", target_recall=0.9, sample_queries=queries[:300])
    assert (rows_plan.measured_on, plan.measured_on) == ("400 held-out rows", "300 sample queries")
    assert recall(rows_ann, matrix, queries[300:]) < 0.88
    assert recall(ann, matrix, queries[300:]) > 0.89
    assert ann.parameter > rows_ann.parameter
    assert len(np.unique(nearest_rows(matrix, matrix, 1, ann=ann)[1])) > 0.95 * N  # every row is in the index


def test_what_was_measured_lies_surely_above_what_was_asked(matrix):
    chosen, _ = make_plan(matrix, kind="ivf", target_recall=0.8)
    assert 0 < chosen.recall_error < 0.05
    assert chosen.recall >= 0.8 + 1.9 * chosen.recall_error


def test_more_candidates_are_refined_where_no_parameter_is_enough(matrix):
    """Codes of four bytes find nine of ten with 4 candidates for each hit, and more with more."""
    few, many = (make_plan(matrix, kind="PQ8x4", target_recall=target)[1] for target in (0.85, 0.97))
    assert few.k_factor == 4
    assert many.k_factor > 4
    assert recall(many, matrix, matrix[:300]) > 0.95


def test_any_of_equal_rows_is_a_find(matrix):
    """Every row stands forty times: which of the copies are found does not matter."""
    copies = np.repeat(matrix[:100], 40, axis=0)
    assert make_plan(copies, kind="hnsw", target_recall=0.95)[0].kind == "hnsw"


def test_more_recall_needs_a_larger_nprobe(matrix):
    made = [make_plan(matrix, kind="ivf", target_recall=target) for target in (0.5, 0.8, 0.99)]
    nprobe = [ann.parameter for _, ann in made]
    assert nprobe == sorted(nprobe)
    assert nprobe[0] < nprobe[2]
    assert [plan.search_parameters for plan, _ in made] == [f"nprobe={value}" for value in nprobe]


def test_auto_goes_by_count_and_memory(matrix, monkeypatch):
    assert make_plan(matrix[:900])[0].kind == "flat"
    assert make_plan(matrix)[0].kind == "hnsw"
    assert make_plan(matrix, memory=N * (D + 8))[0].kind == "ivf-pq"
    monkeypatch.setattr(plan, "HNSW_BELOW", 2000)
    assert make_plan(matrix)[0].kind == "ivf-pq"


def test_auto_tries_finer_codes_where_4_bits_miss_the_recall(caplog, monkeypatch):
    """Rows that differ by less than 4-bit PQ can tell, as those of an untrained encoder do."""
    monkeypatch.setattr(plan, "HNSW_BELOW", 2000)
    rows = 0.02 * np.random.default_rng(0).standard_normal((N, D)).astype(np.float32) + np.eye(1, D, dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert make_plan(rows)[0].kind == "ivf"
    assert "PQ16x4fs finds only" in caplog.text
    assert make_plan(rows, memory=N * D // 2)[0].kind == "flat"


def test_too_few_rows_fall_back_and_say_so(matrix, caplog):
    for kind, message in [
        ("ivf", "1000 rows are too few"),
        ("IVF999,Flat", "cannot train IVF999"),
    ]:
        chosen, ann = make_plan(matrix[:1000], kind=kind)
        assert (chosen.kind, ann) == ("flat", None)
        assert message in chosen.reason
        assert message in caplog.text


def test_a_recall_out_of_reach_falls_back_to_exact_search(matrix, caplog):
    chosen, ann = make_plan(matrix, kind="PQ2x4", target_recall=0.99)
    assert (chosen.kind, ann) == ("flat", None)
    assert "PQ2x4 finds only" in caplog.text


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "ivf-pq", "PCA30,IVF32,SQ8", "PCA30,HNSW16", "SQ8"])
def test_filters_keep_k_and_recall(matrix, kind):
    """A filter leaves rows drawn at random, or those on one side of the sphere, far from half of the queries."""
    _, ann = make_plan(matrix, kind=kind, target_recall=0.9)
    for share in (0.9, 0.3, 0.05, 0.02):
        by_side = matrix[:, 0] >= np.quantile(matrix[:, 0], 1 - share)
        for allowed in (np.random.default_rng(2).random(N) < share, by_side):
            scores, slots = nearest_rows(matrix[:100], matrix, 10, ann=ann, allowed=allowed)
            assert allowed[slots].all()
            assert np.isfinite(scores).all()
            assert (np.diff(scores, axis=1) <= 0).all()
            assert recall(ann, matrix, matrix[:100], allowed) > 0.87


def test_rows_behind_the_index_are_found_exactly(matrix):
    _, ann = make_plan(matrix[:3500], kind="hnsw", target_recall=0.9)
    slots = nearest_rows(matrix[3500:], matrix, 5, ann=ann)[1]
    assert (slots[:, 0] == np.arange(3500, N)).all()


def test_a_lone_query_leaves_the_threads_of_faiss_as_they_were(matrix):
    import faiss

    before = faiss.omp_get_max_threads()
    _, ann = make_plan(matrix, kind="hnsw")
    nearest_rows(matrix[:1], matrix, 5, ann=ann)
    nearest_rows(matrix[:9], matrix, 5, ann=ann, threads=1)
    assert faiss.omp_get_max_threads() == before


class Rows:
    """An encoder whose texts are numbers of rows."""

    name = "rows"

    def __init__(self, matrix):
        self.matrix = matrix

    def encode(self, texts):
        return np.stack([self.matrix[int(text)] if text.isdigit() else np.ones(D) + len(text) for text in texts])


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "ivf-pq"])
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_an_approximate_index_lives_like_any_other(kind, place, matrix, tmp_path, monkeypatch):
    """Built, saved, loaded, grown past its tail, thinned and compacted: a text finds itself, nothing dead is found."""
    monkeypatch.setattr(state, "LONGEST_TAIL", 100)
    encode = Rows(matrix).encode
    index = SearchIndex.build([str(i) for i in range(2000)], encode, kind=kind, target_recall=0.9)
    if place == "disk":
        index.save(tmp_path / "idx")
        index = SearchIndex.load(tmp_path / "idx", encode)
    assert index.info["kind"] == kind
    index.verify()
    assert index.add([str(i) for i in range(2000, 2250)]) == list(range(2000, 2250))
    assert index.storage.state.view.ann.covered == 2250
    index.add([str(i) for i in range(2250, 2300)])
    assert index.storage.state.view.ann.covered == 2250
    index.delete(range(0, 300))
    index.upsert(["17"], ids=[2299])
    found = [index.search(str(i), top_k=3)[0] for i in (*range(300, 2299, 40), 2260)]
    assert (
        np.mean([hits[0].text == str(i) for i, hits in zip((*range(300, 2299, 40), 2260), found, strict=True)]) > 0.95
    )
    assert all(len(hits) == 3 for hits in found)
    assert not {hit.id for hits in found for hit in hits} & set(range(300))
    assert index.search("17", top_k=1)[0][0].id == 2299
    index.compact()
    assert index.storage.state.view.ann.covered == len(index) == 2000
    index.verify()
    if place == "disk":
        again = SearchIndex.load(tmp_path / "idx", encode)
        queries = [str(i) for i in range(300, 400)]
        assert again.search(queries, top_k=5) == index.search(queries, top_k=5)
        assert len(list((tmp_path / "idx").iterdir())) == 4


def test_a_damaged_or_missing_file_is_named(matrix, tmp_path):
    encode = Rows(matrix).encode
    SearchIndex.build([str(i) for i in range(2000)], encode, kind="ivf", target_recall=0.8).save(tmp_path / "idx")
    (path,) = (tmp_path / "idx").glob("ann-*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(SearchError, match=rf"{path.name}: damaged: found checksum"):
        SearchIndex.load(tmp_path / "idx", encode)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(SearchError, match=rf"{path.name}: damaged"):
        SearchIndex.load(tmp_path / "idx", encode)
    path.unlink()
    with pytest.raises(SearchError, match=rf"{path.name}: missing"):
        SearchIndex.load(tmp_path / "idx", encode)


def test_a_full_disk_is_told_in_words(matrix, tmp_path):
    """/dev/full takes no byte, as a full disk does."""
    _, ann = make_plan(matrix, kind="hnsw")
    (tmp_path / "ann").symlink_to("/dev/full")
    with pytest.raises(SearchError, match=r"ann: No space left on device; the index is as it was before") as told:
        ann.write(tmp_path / "ann")
    assert "faiss::" not in str(told.value)


@pytest.mark.parametrize("given", ["texts", "vectors"])
def test_sample_queries_are_kept_for_the_next_plan(given, matrix, tmp_path):
    encode = Rows(matrix).encode
    sample = [str(i) for i in range(2000, 2040)] if given == "texts" else matrix[2000:2040]
    index = SearchIndex.build([str(i) for i in range(2000)], encode, kind="ivf", sample_queries=sample)
    assert index.info["plan"]["measured_on"] == "40 sample queries"
    index.save(tmp_path / "idx")
    index = SearchIndex.load(tmp_path / "idx", encode)
    index.delete(range(100))
    index.compact()
    assert index.info["plan"]["measured_on"] == "40 sample queries"
    index.optimize(sample_queries=matrix[2000:4000])
    assert SearchIndex.load(tmp_path / "idx").info["plan"]["measured_on"] == "1000 sample queries"


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ([], "sample_queries: found \\[\\], expected a list"),
        (["7", " "], "sample query 1: found ' ', expected a text that is not blank"),
        (np.ones((3, D + 1)), f"sample_queries: found shape \\(3, {D + 1}\\), expected \\(q, {D}\\)"),
    ],
)
def test_wrong_sample_queries_are_refused(sample, message, matrix):
    with pytest.raises(SearchError, match=message):
        SearchIndex.build(["1", "2"], Rows(matrix).encode, sample_queries=sample)


@pytest.mark.parametrize("kind", ["IVF12,Nonsense", "PQ7x4fs", "HNSWW32"])
def test_a_factory_string_that_faiss_refuses_is_told_before_any_encoding(kind, matrix):
    with pytest.raises(ConfigError, match=rf"kind: faiss makes no index of dimension 32 from '{kind}'"):
        SearchIndex.build(["1"], Rows(matrix).encode, kind=kind)


@pytest.mark.parametrize("kind", ["hnsw", "HNSW16", "SQ8"])
@pytest.mark.parametrize("rows", [1, 9])
def test_rows_too_few_to_measure_recall_on_are_searched_exactly(kind, rows):
    plan, ann = make_plan(np.eye(16, dtype=np.float32)[:rows], kind=kind)
    assert (plan.kind, ann) == ("flat", None)
    assert f"{rows} rows are too few" in plan.reason
