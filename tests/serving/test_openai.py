"""OpenAI's own client against the service in a process of its own, and what other clients may send."""

from __future__ import annotations

import base64
import os
import subprocess
import sys

import numpy as np
import openai
import pytest
from tiny import build_encoder

from simcse import SentenceEncoder
from simcse.serving.app import create_app
from simcse.serving.limits import Limits

TOKEN = "s3cret"


@pytest.fixture(scope="module")
def prompted(tmp_path_factory) -> SentenceEncoder:
    """An encoder with a prompt for each role, saved where the service loads it from."""
    folder = tmp_path_factory.mktemp("prompted")
    plain = SentenceEncoder.from_pretrained(build_encoder(folder / "plain"), dtype="fp32")
    plain.prompts = {"query": "read a book ", "document": "the old city "}
    return SentenceEncoder.from_pretrained(plain.save_pretrained(folder / "model"), dtype="fp32")


@pytest.fixture(scope="module")
def address(prompted):
    """Of `simcse serve --model FOLDER`, without an index."""
    arguments = ["serve", "--model", prompted.name, "--port", "0", "--dtype", "fp32"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "SIMCSE_TOKEN": TOKEN}
    process = subprocess.Popen(
        [sys.executable, "-m", "simcse", *arguments], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        line = process.stderr.readline().strip()
        assert line.startswith(f"{prompted.name}: an encoder without an index at http://127.0.0.1:"), line
        yield line.rpartition(" ")[2]
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stderr.close()


@pytest.fixture
def theirs(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key=TOKEN, max_retries=0) as client:
        yield client


def test_their_client_gets_the_vectors_of_the_encoder(theirs, prompted, sentences):
    """It asks for base64 by itself."""
    answer = theirs.embeddings.create(input=sentences, model="text-embedding-3-small")
    assert [one.index for one in answer.data] == list(range(len(sentences)))
    np.testing.assert_allclose([one.embedding for one in answer.data], prompted.encode(sentences), atol=1e-6)
    assert answer.model == "text-embedding-3-small"
    one = theirs.embeddings.create(input=sentences[3], model="m", encoding_format="float")
    np.testing.assert_allclose(one.data[0].embedding, answer.data[3].embedding, atol=1e-6)


def test_usage_counts_the_tokens_that_are_read(theirs, prompted):
    """The special ones and the prompt's as well, but not what is cut off."""
    assert theirs.embeddings.create(input=["a dog", "a cat runs"], model="m").usage.prompt_tokens == 4 + 5
    assert theirs.embeddings.create(input="a " * 500, model="m").usage.total_tokens == prompted.max_length == 64
    asked = theirs.embeddings.create(input="a dog", model="m", extra_body={"role": "query"})
    assert asked.usage.prompt_tokens == 4 + 3


def test_fewer_dimensions_have_length_one_again(theirs, prompted, sentences):
    cut = prompted.encode(sentences[:4])[:, :8]
    answer = theirs.embeddings.create(input=sentences[:4], model="m", dimensions=8)
    expected = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    np.testing.assert_allclose([one.embedding for one in answer.data], expected, atol=1e-6)


@pytest.mark.parametrize("role", ["query", "document"])
def test_a_role_puts_its_prompt(theirs, prompted, role):
    answer = theirs.embeddings.create(input=["a dog"], model="m", extra_body={"role": role})
    np.testing.assert_allclose(
        answer.data[0].embedding, prompted.encode("a dog", prompt=prompted.prompts[role]), atol=1e-6
    )


def test_models_are_the_one(theirs):
    [model] = theirs.models.list().data
    assert (model.id, model.owned_by) == ("model", "simcse")


def test_errors_are_theirs(theirs, address):
    with pytest.raises(openai.BadRequestError, match="dimensions: found 33, expected 1 to 32") as refused:
        theirs.embeddings.create(input="a dog", model="m", dimensions=33)
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="found token ids, expected texts") as refused:
        theirs.embeddings.create(input=[[5, 6], [7]], model="m")
    assert refused.value.param == "input"
    with openai.OpenAI(base_url=f"{address}/v1", api_key="other", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError, match="wrong token") as refused:
            stranger.models.list()
        assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError):
        theirs.chat.completions.create(model="m", messages=[])


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "input: Field required"),
        ({"input": []}, "input: found none"),
        ({"input": [1, 2]}, "input: found token ids"),
        ({"input": 5}, "input: "),
        ({"input": ["a", 5]}, "input.1: Input should be a valid string"),
        ({"input": "a", "dimensions": 0}, "dimensions: "),
        ({"input": "a", "dimensions": 33}, "dimensions: found 33, expected 1 to 32"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format: "),
        ({"input": "a", "role": "passage"}, "role: "),
        ({"input": ["a"] * 129}, "found 129 texts, expected at most 128"),
        ({"input": "x" * 10_001}, "found 10001 characters"),
    ],
)
def test_wrong_requests_are_refused_in_their_shape(client, body, part):
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert part in error["message"]
    assert error.keys() == {"message", "type", "param", "code"}


def test_what_the_guard_refuses_has_their_shape_too(index, encoder, client_of):
    client = client_of(create_app(index, encoder, limits=Limits(max_body=100)))
    response = client.post("/v1/embeddings", json={"input": "x" * 200})
    assert response.status_code == 413
    assert "expected at most 100 bytes" in response.json()["error"]["message"]
    response = client.post("/v1/embeddings", json={"input": "x"}, headers={"sec-fetch-site": "cross-site"})
    assert (response.status_code, response.json()["error"]["type"]) == (403, "invalid_request_error")


def test_base64_is_float32_in_little_endian_order(client, encoder):
    body = {"input": ["a dog", ""], "encoding_format": "base64"}
    data = client.post("/v1/embeddings", json=body).json()["data"]
    vectors = np.stack([np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in data])
    np.testing.assert_allclose(vectors, encoder.encode(["a dog", ""]), atol=1e-6)


def test_an_encoder_alone_says_that_there_is_no_index(encoder, client_of):
    client = client_of(create_app(None, encoder, token=TOKEN))
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert client.get("/healthz").status_code == 200
    assert client.post("/api/encode", json={"texts": ["a dog"]}, headers=headers).status_code == 200
    assert client.get("/api/map", headers=headers).json()["ids"] == []
    for path, body in (("/api/search", {"query": "a dog"}), ("/api/documents", {"texts": ["a dog"]})):
        response = client.post(path, json=body, headers=headers)
        assert response.status_code == 404
        assert response.json()["detail"].endswith("start it with an index: simcse serve INDEX")
