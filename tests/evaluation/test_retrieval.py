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
from simcse.evaluation.retrieval import (
    Collection,
    _top,
    evaluate_retrieval,
    load_beir,
    load_query_pairs,
    ranking_metrics,
)

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


def test_only_the_querys_own_text_is_left_out(tmp_path: Path, word_vectors) -> None:
    """Cranfield, CISI and MED number queries and documents from 1: an equal id alone says nothing."""
    folder = write_beir(tmp_path / "numbered")
    documents = [
        ("1", "a cat sleeps", ""),
        ("2", "bread and water", ""),
        ("3", "two dogs  run", "dogs"),
        ("4", "x y", ""),
    ]
    queries = [("1", "a man plays"), ("2", "bread and water"), ("3", "two dogs run"), ("4", "x y")]
    rows = [json.dumps({"_id": key, "text": text, "title": title}) + "\n" for key, text, title in documents]
    (folder / "corpus.jsonl").write_text("".join(rows))
    rows = [json.dumps({"_id": key, "text": text}) + "\n" for key, text in queries]
    (folder / "queries.jsonl").write_text("".join(rows))
    (folder / "qrels/test.tsv").write_text("1\t1\t1\n2\t3\t1\n3\t1\t1\n4\t4\t1\n")
    collection = load_beir(folder)
    # 1: another text; 2 and 3: the query itself, the latter under a title; 4: judged to be its own answer
    assert collection.repeated == {"2", "3"}
    found = evaluate_retrieval(word_vectors, collection)
    assert found["recall@10"] == 1
    assert found["recall@1"] >= 0.25  # query 4 finds itself


def test_real_documents_with_the_queries_ids_are_ranked_as_trec_eval_does(data_dir: Path, word_vectors) -> None:
    """SciFact's judged documents and as many others, their beginnings, numbered from 1 like its queries."""
    whole = load_beir(data_dir / "ir" / "scifact")
    judged = list(dict.fromkeys(d for gains in whole.relevant.values() for d in gains))
    kept = judged + [d for d in whole.documents if d not in set(judged)][: len(judged)]
    number = {d: str(i) for i, d in enumerate(kept, 1)}
    queries = {str(i): whole.queries[q] for i, q in enumerate(whole.queries, 1)}
    relevant = {str(i): {number[d]: g for d, g in whole.relevant[q].items()} for i, q in enumerate(whole.queries, 1)}
    documents = {number[d]: " ".join(whole.documents[d].split()[:10]) for d in kept}
    collection = Collection("numbered", documents, queries, relevant, "test")
    assert sum(query in gains for query, gains in relevant.items()) > 0  # what was lost by its id

    def unit(texts: list[str]) -> np.ndarray:
        vectors = word_vectors(texts)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    # the reference ranks every document
    cosines = unit(list(queries.values())) @ unit(list(documents.values())).T
    run = {q: dict(zip(documents, map(float, row), strict=True)) for q, row in zip(queries, cosines, strict=True)}
    measures = [nDCG @ 10, R @ 1, R @ 10, R @ 100]
    reference = ir_measures.pytrec_eval.calc_aggregate(measures, relevant, run)
    ours = evaluate_retrieval(word_vectors, collection)
    for name in ("ndcg@10", "recall@1", "recall@10", "recall@100"):
        assert ours[name] == pytest.approx(reference[REFERENCE[name]], abs=1e-6), name


def test_equal_documents_are_encoded_once_and_keep_their_order(tmp_path: Path, word_vectors) -> None:
    """Noise in each call, as rounding is in batches of other shapes, does not part equal texts."""
    asked: list[str] = []
    rng = np.random.default_rng(0)

    def encode(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        vectors = word_vectors(texts)
        return vectors * (1 + 1e-6 * rng.standard_normal(vectors.shape))

    documents = {f"d{i}": "a man plays" for i in range(50)} | {"x": "a cat sleeps"}
    queries = {"q1": "a man", "q2": "a man"}
    first = Collection("same", documents, queries, {"q1": {"d0": 1}, "q2": {"d0": 1}}, "test")
    assert evaluate_retrieval(encode, first)["mrr@10"] == 1
    assert len(asked) == 3


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
        ("qrels/test.tsv", "q\td\ts\nq1\td1\t²\n", r"test\.tsv:2: gain '²' is no whole number"),
        ("qrels/test.tsv", f"q\td\ts\nq1\td1\t{'9' * 5000}\n", r"test\.tsv:2: gain '999.* of at most 9 digits"),
        ("corpus.jsonl", '{"_id": "d1", "title": 5, "text": "a"}\n', r"corpus\.jsonl:1: title: found 5, expected text"),
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
