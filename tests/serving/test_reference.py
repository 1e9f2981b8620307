"""The lines that /docs shows for each operation, run against a server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from simcse import SearchIndex
from simcse.serving.app import create_app
from simcse.serving.reference import HOST, swagger_folder

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # uvloop and requests close their own sockets late


@pytest.fixture(scope="module")
def served(serve, encoder, sentences):
    """URL of a server with a token, and its OpenAPI document."""
    app = create_app(SearchIndex.build(sentences, encoder.encode), encoder, token="s3cret")
    return serve(app), app.openapi()


def lines(document, language):
    """(path, method) -> the lines that it shows in a language."""
    found = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            (found[path, method],) = re.findall(rf"```{language}\n(.*?)\n```", operation["description"], re.DOTALL)
    return found


def is_answer(path, text):
    if path == "/metrics":
        return "simcse_requests_total" in text
    return not {"detail", "error"} & set(json.loads(text))


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_each_line_of_curl_is_answered(served, monkeypatch):
    url, document = served
    monkeypatch.setenv("SIMCSE_TOKEN", "s3cret")
    shown = lines(document, "sh")
    assert len(shown) > 10
    for (path, method), line in shown.items():
        command = ["bash", "-c", line.replace("curl", "curl --silent --show-error", 1).replace(HOST, url)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert is_answer(path, done.stdout), (method, line, done.stdout)


def test_each_line_of_python_is_answered(served, monkeypatch, capsys):
    url, document = served
    monkeypatch.setenv("SIMCSE_TOKEN", "s3cret")
    for (path, method), code in lines(document, "python").items():
        if method == "delete":  # curl has deleted it
            code = code.replace("[0]", "[1]")
        names = {}
        exec(code.replace(HOST, url), names)
        assert names["answer"].status_code == 200, (code, names["answer"].text)
        assert is_answer(path, names["answer"].text)
        assert capsys.readouterr().out


def test_without_a_token_the_lines_send_none(index, encoder):
    assert "SIMCSE_TOKEN" not in json.dumps(create_app(index, encoder).openapi())


def test_every_answer_is_described(served):
    _, document = served
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            ((_, content),) = operation["responses"]["200"]["content"].items()
            assert content["schema"], (path, method)
            assert len(operation["tags"]) == 1


def test_swagger_ui_is_served_by_this_server(client):
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert client.get(f"/static/swagger/{name}").content == (swagger_folder() / name).read_bytes()
