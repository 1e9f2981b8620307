"""Rankings and their measures, against trec_eval's own code."""

from __future__ import annotations

import json
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, R, nDCG

from simcse.errors import DataError, ModelError
from simcse.evaluation.retrieval import _top, evaluate_retrieval, load_beir, load_query_pairs, ranking_metrics

REFERENCE = {
    "ndcg@10": nDCG @ 10, "mrr@10": RR, "recall@1": R @ 1, "recall@10": R @ 10, "recall@100": R @ 100, "map": AP,
}  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), documents=st.integers(2, 150), grades=st.integers(1, 3))
def test_measures_are_trec_evals(seed: int, documents: int, grades: int) -> None:
    rng = np.random.default_rng(seed)
    ids = [f"d{i}" for i in range(documents)]
    relevant, rankings = {}, {}
    for query in ("q1", "q2", "q3"):
        judged = rng.choice(ids, size=rng.integers(1, documents + 1), replace=False)
        relevant[query] = {
            str(d): int(g) for d, g in zip(judged, rng.integers(0, grades + 1, len(judged)), strict=True)
        }
        relevant[query][str(judged[0])] = 1  # at least one relevant document
        rankings[query] = [str(d) for d in rng.permutation(ids)[: rng.integers(1, documents + 1)]]
    run = {q: {d: float(-rank) for rank, d in enumerate(ranked)} for q, ranked in rankings.items()}
    reference = ir_measures.pytrec_eval.calc_aggregate(list(REFERENCE.values()), relevant, run)
    # trec_eval's reciprocal rank knows no cut-off: give it the ten documents that count
    ten = {q: dict(list(documents.items())[:10]) for q, documents in run.items()}
    reference |= ir_measures.pytrec_eval.calc_aggregate([RR], relevant, ten)
    ours = ranking_metrics(rankings, relevant)
    assert ours == pytest.approx({name: reference[measure] for name, measure in REFERENCE.items()}, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(scores=st.lists(st.integers(-3, 3), min_size=1, max_size=30), k=st.integers(1, 30))
def test_the_best_are_a_stable_sort(scores: list[int], k: int) -> None:
    k = min(k, len(scores))
    values = np.array(scores, dtype=np.float32)
    assert _top(values, k).tolist() == np.argsort(-values, kind="stable")[:k].tolist()


def write_beir(folder: Path) -> Path:
    documents = [
        {"_id": "d1", "title": "guitars", "text": "a man plays guitar"},
        {"_id": "d2", "title": "", "text": "a cat sleeps"},
        {"_id": "q1", "text": "a man plays a guitar"},  # the query's own text, as in Quora
        {"_id": "d4", "title": "food", "text": "bread and water"},
    ]
    queries = [
        {"_id": "q1", "text": "a man plays a guitar"},
        {"_id": "q2", "text": "cat sleeps"},
        {"_id": "q3", "text": "nobody judged this"},
    ]
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\nq2\td4\t0\n")
    return folder


def test_a_beir_folder_is_ranked(tmp_path: Path, word_vectors) -> None:
    collection = load_beir(write_beir(tmp_path / "tiny"))
    assert collection.name == "tiny"
    assert collection.documents["d1"] == "guitars a man plays guitar"
    assert collection.documents["d2"] == "a cat sleeps"
    assert list(collection.queries) == ["q1", "q2"]
    # q1's own text would come first; it is left out, so both queries find their document at rank 1
    assert evaluate_retrieval(word_vectors, collection) == {
        "ndcg@10": 1.0, "mrr@10": 1.0, "recall@1": 1.0, "recall@10": 1.0, "recall@100": 1.0, "map": 1.0,
    }  # fmt: skip


def test_query_document_pairs_rank_all_documents(tmp_path: Path, word_vectors) -> None:
    path = tmp_path / "own.tsv"
    path.write_text("query\tdocument\nthe cat\ta cat sleeps\nguitar man\ta man plays guitar\nthe cat\tcat food\n")
    collection = load_query_pairs(path)
    assert len(collection.documents) == 3
    assert collection.relevant["the cat"] == {"a cat sleeps": 1, "cat food": 1}
    vectors = {text: word_vectors([text])[0] for text in [*collection.documents, *collection.queries]}

    def cosine(a: str, b: str) -> float:
        return vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b])

    rankings = {
        query: sorted(collection.documents, key=lambda document, query=query: -cosine(query, document))
        for query in collection.queries
    }
    assert evaluate_retrieval(word_vectors, collection) == ranking_metrics(rankings, collection.relevant)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("qrels/test.tsv", "q1\td9\t1\n", r"test\.tsv:1: document 'd9' is not in corpus\.jsonl"),
        ("qrels/test.tsv", "q9\td1\t1\n", r"test\.tsv:1: query 'q9' is not in queries\.jsonl"),
        ("qrels/test.tsv", "q\td\ts\nq1\td1\tmuch\n", r"test\.tsv:2: gain 'much' is no whole number"),
        ("qrels/test.tsv", "q1 d1 1\n", r"test\.tsv:1: found 1 columns, expected 3|no query has"),
        ("qrels/test.tsv", "q1\td1\t0\n", r"test\.tsv: no query has a relevant document"),
        ("corpus.jsonl", '{"id": "d1", "text": "x"}\n', r'corpus\.jsonl:1: found keys id, text, expected "_id"'),
        ("corpus.jsonl", '{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n', r"corpus\.jsonl:2: _id 'a' stands"),
        ("queries.jsonl", "", r"queries\.jsonl: is empty"),
    ],
)
def test_damaged_collections_are_told(tmp_path: Path, file: str, text: str, message: str) -> None:
    folder = write_beir(tmp_path / "tiny")
    (folder / file).write_text(text)
    with pytest.raises(DataError, match=message):
        load_beir(folder)


def test_missing_files_and_vectors_without_direction_are_told(tmp_path: Path, word_vectors) -> None:
    folder = write_beir(tmp_path / "tiny")
    with pytest.raises(DataError, match=r"dev\.tsv: no such file"):
        load_beir(folder, "dev")
    with pytest.raises(ModelError, match="tiny, document d2 'a cat sleeps': its vector is zero"):
        evaluate_retrieval(lambda texts: word_vectors(texts) * [["cat" not in t] for t in texts], load_beir(folder))
    single = tmp_path / "one.csv"
    single.write_text("query,document\na,b\n")
    with pytest.raises(DataError, match=r"one\.csv: found 1 distinct documents, expected at least 2"):
        load_query_pairs(single)
