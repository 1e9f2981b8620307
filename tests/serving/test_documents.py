"""Adding and deleting over HTTP: what is answered is durable, what is wrong changes nothing."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from simcse import SearchIndex
from simcse.serving.app import create_app
from simcse.serving.limits import Limits

TOKEN = {"authorization": "Bearer s3cret"}


@pytest.fixture
def folder(encoder, sentences, tmp_path):
    SearchIndex.build(sentences[:10], encoder, metadata=[{"n": n} for n in range(10)]).save(tmp_path / "idx")
    return tmp_path / "idx"


@pytest.fixture
def send(folder, encoder, client_of):
    """`send(method, body)`: status and answer of /api/documents."""
    client = client_of(create_app(SearchIndex.load(folder, encoder), encoder, token="s3cret"))

    def ask(method, path="/api/documents", **body):
        response = client.request(method, path, json=body, headers=TOKEN)
        return response.status_code, response.json()

    return ask


def test_what_is_answered_lies_in_the_folder(send, folder, encoder, sentences):
    texts = sentences[10:13]
    status, answer = send("POST", texts=texts, metadata=[{"n": 10}, None, {"new": ["x"]}])
    assert (status, answer) == (200, {"ids": [10, 11, 12]})
    beside = SearchIndex.load(folder, encoder)
    [[hit]] = beside.search(texts[0], top_k=1, where={"n": 10})
    assert (hit.id, hit.text) == (10, texts[0])
    np.testing.assert_allclose(beside.vectors([10, 11, 12]), encoder.encode_document(texts), atol=1e-6)
    assert send("DELETE", ids=[10, 0]) == (200, {"deleted": 2})
    assert sorted(key for key, _, _ in SearchIndex.load(folder).rows()) == [*range(1, 10), 11, 12]


def test_searches_see_it_at_once(send, sentences):
    send("POST", texts=[sentences[20]], ids=["mine"], metadata=[{"lang": "en"}])
    _, answer = send("POST", "/api/search", query=sentences[20], top_k=1, where={"lang": "en"})
    [hit] = answer["results"][0]["hits"]
    assert (hit["id"], hit["text"]) == ("mine", sentences[20])
    send("POST", texts=[sentences[21]], ids=["mine"], upsert=True)
    _, answer = send("POST", "/api/search", query=sentences[21], top_k=1)
    assert answer["results"][0]["hits"][0]["id"] == "mine"
    send("DELETE", ids=["mine"])
    _, answer = send("POST", "/api/search", query=sentences[21], top_k=100)
    assert len(answer["results"][0]["hits"]) == 10


WRONG = [
    ("POST", {"texts": []}, "texts: "),
    ("POST", {"texts": ["a"], "ids": [3]}, "id 3 is in the index already; give another id, or replace its text by "),
    ("POST", {"texts": ["a", "b"], "ids": ["x", "x"]}, "id 'x' is given twice"),
    ("POST", {"texts": ["a", "b"], "ids": ["x"]}, "ids: found 1 for 2 texts, expected one each"),
    ("POST", {"texts": ["a"], "metadata": [{}, {}]}, "metadata: found 2 for 1 texts"),
    ("POST", {"texts": ["a"], "ids": [-1]}, "id: found -1, expected a text or a number from 0"),
    ("POST", {"texts": ["a"], "ids": [""]}, "id: found ''"),
    ("POST", {"texts": ["a"], "metadata": ["x"]}, "metadata.0: "),
    ("POST", {"texts": ["a"], "metadata": [{"x\0": 1}]}, "metadata: found the name"),
    ("POST", {"texts": ["a"] * 129}, "found 129 texts, expected at most 128; send several requests"),
    ("POST", {"texts": ["x" * 10_001]}, "found 10001 characters"),
    ("POST", {"texts": ["a"], "id": [1]}, "id: Extra inputs are not permitted"),
    ("DELETE", {"ids": []}, "ids: "),
    ("DELETE", {"ids": [3, 99]}, "id 99 is not in the index; nothing was deleted"),
    ("DELETE", {"ids": ["3"]}, "id '3' is not in the index"),
    ("DELETE", {"ids": list(range(129))}, "ids: found 129, expected at most 128"),
]


@pytest.mark.parametrize(("method", "body", "part"), WRONG, ids=[part[:40] for *_, part in WRONG])
def test_what_is_wrong_changes_nothing_and_is_told_in_one_line(send, folder, method, body, part):
    before = list(SearchIndex.load(folder).rows())
    status, answer = send(method, **body)
    assert status == 422
    assert part in answer["detail"]
    assert str(folder) not in answer["detail"]
    assert list(SearchIndex.load(folder).rows()) == before


def test_without_a_token_nothing_changes(client, index):
    for method, body in (("POST", {"texts": ["a dog"]}), ("DELETE", {"ids": [0]})):
        response = client.request(method, "/api/documents", json=body)
        assert response.status_code == 403
        assert response.json()["detail"].endswith("start it with one, as SIMCSE_TOKEN")
    assert len(index) == 64


def test_the_wrong_token_changes_nothing(folder, encoder, client_of):
    client = client_of(create_app(SearchIndex.load(folder, encoder), encoder, token="s3cret"))
    wrong = {"authorization": "Bearer other"}
    assert client.post("/api/documents", json={"texts": ["a"]}, headers=wrong).status_code == 401
    assert client.request("DELETE", "/api/documents", json={"ids": [0]}).status_code == 401
    assert len(SearchIndex.load(folder)) == 10


def test_many_clients_add_delete_and_search_at_once(send, folder, encoder, sentences):
    """Each addition and deletion counts once; what is deleted when a search begins is not found by it."""
    stop = threading.Event()
    deleted, failed, found_again = set(), [], []

    def keep_searching():
        while not stop.is_set():
            before = set(deleted)
            status, answer = send("POST", "/api/search", query=sentences[10:13], top_k=100)
            if status != 200:
                failed.append(answer)
            found = {hit["id"] for result in answer["results"] for hit in result["hits"]}
            found_again.extend(found & before)

    def change(number):
        text = sentences[10 + number]
        status, _ = send("POST", texts=[text, f"{text} again"], ids=[f"kept {number}", f"gone {number}"])
        statuses = status, send("DELETE", ids=[f"gone {number}"])[0]
        deleted.add(f"gone {number}")
        return statuses

    searching = threading.Thread(target=keep_searching)
    searching.start()
    with ThreadPoolExecutor(6) as pool:
        changed = list(pool.map(change, range(24)))
    stop.set()
    searching.join(30)
    assert set(changed) == {(200, 200)}
    assert (failed, found_again) == ([], [])
    there = {key for key, _, _ in SearchIndex.load(folder).rows()}
    assert there == {*range(10), *(f"kept {number}" for number in range(24))}


def test_a_body_that_is_too_large_is_refused(folder, encoder, client_of):
    app = create_app(SearchIndex.load(folder, encoder), encoder, token="s3cret", limits=Limits(max_body=100))
    response = client_of(app).request("POST", "/api/documents", json={"texts": ["x" * 200]}, headers=TOKEN)
    assert response.status_code == 413
