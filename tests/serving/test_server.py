"""`simcse serve` as a process: it starts, stops gracefully, and refuses to start in one line."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import pytest
import torch

from simcse import SearchIndex
from simcse.cli import main
from simcse.serving.threads import search_threads, use_threads


@pytest.fixture(scope="module")
def folder(index, encoder, sentences, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve") / "idx"
    SearchIndex.build(sentences, encoder.encode).save(folder)
    return folder


def command(*arguments):
    return [sys.executable, "-m", "simcse", "serve", *map(str, arguments)]


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


@contextmanager
def served(*arguments, **more):
    """The process and its port, once it is ready."""
    process = subprocess.Popen(
        command(*arguments, "--port", "0"), stderr=subprocess.PIPE, text=True, env=environment(**more)
    )
    try:
        line = process.stderr.readline()
        found = re.search(r"64 texts at http://127\.0\.0\.1:(\d+)$", line.strip())
        assert found, line + process.stderr.read()
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate(timeout=30)


def request(port, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"content-type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_it_serves_and_a_stop_finishes_the_request_at_hand(folder, tiny_bert, sentences):
    """A request is sent, and SIGTERM while it waits for its batch: it is answered, then the process ends with 0."""
    options = ["--model", tiny_bert, "--max_wait_ms", "700"]
    with served(folder, *options, SIMCSE_TOKEN="s3cret") as (process, port):
        assert request(port, "GET", "/healthz") == (200, '{"status":"ok"}')
        assert request(port, "GET", "/api/info")[0] == 401
        answers = []

        def ask():
            body = {"query": sentences[3], "top_k": 1}
            answers.append(request(port, "POST", "/api/search", body, authorization="Bearer s3cret"))

        thread = threading.Thread(target=ask)
        thread.start()
        headers = {"authorization": "Bearer s3cret"}
        while "simcse_queue_texts 1.0" not in request(port, "GET", "/metrics", **headers)[1]:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        thread.join(30)
        [(status, body)] = answers
        assert status == 200
        assert json.loads(body)["results"][0]["hits"][0]["text"] == sentences[3]
        assert process.wait(30) == 0
        assert process.stderr.read() == ""
        with pytest.raises(ConnectionRefusedError):
            request(port, "GET", "/healthz")


def test_only_names_of_the_service_are_answered(folder, tiny_bert):
    with served(folder, "--model", tiny_bert, "--allowed_hosts", "a.example, b.example") as (
        _,
        port,
    ):
        for host in (f"localhost:{port}", "a.example", "b.example:443"):
            assert request(port, "GET", "/api/info", host=host)[0] == 200
        assert request(port, "GET", "/api/info", host=f"evil.example:{port}")[0] == 421


def test_broken_http_does_no_harm(folder, tiny_bert):
    """Rubbish, a header of 10 MB, and a body that ends early; Ctrl-C ends it with 0."""
    with served(folder, "--model", tiny_bert) as (process, port):
        early = b"POST /api/search HTTP/1.1\r\ncontent-length: 50\r\n\r\n{"
        for rubbish in (b"\x00\xff rubbish\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"y" * 10_000_000, early, b""):
            # it may hang up, which is an answer too
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(rubbish)
        assert request(port, "POST", "/api/search", {"query": "a dog"})[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_a_port_in_use_is_told_before_anything_is_loaded(folder, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["serve", str(folder), "--port", str(port), "--model", "no-such-model"]) == 2
    line = f"error: --port: {port} is in use on 127.0.0.1; give another, or 0 for any free one\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["--port", "65536"], 2, "--port: found 65536, expected 0 to 65535"),
        (["--host", "192.0.2.1", "--token", "x"], 2, "--host: cannot listen on 192.0.2.1"),
        (["--max_batch", "0"], 2, "--max_batch: found 0, expected at least 1"),
        (["--map_points", "0"], 2, "--map_points: found 0"),
        (["--threads", "0"], 2, "--threads: found 0, expected at least 1"),
        (["--token", "two words"], 2, "--token: found"),
        (["--port", "0", "--allowed_hosts", "http://x"], 2, "--allowed_hosts: found 'http://x', expected a name"),
    ],
)
def test_wrong_options_are_refused_in_one_line(folder, capsys, arguments, status, part):
    assert main(["serve", str(folder), *arguments]) == status
    [line] = capsys.readouterr().err.splitlines()
    assert part in line


@pytest.mark.parametrize(("wanted", "cores", "count"), [(None, 4, 4), (None, 1, 1), (2, 4, 2), (2, 1, 2)])
def test_each_core_has_a_thread_and_a_batch(wanted, cores, count):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(cores)
        assert use_threads(wanted) == count
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)
    assert [search_threads(many) for many in (1, 2, 7, 8, 64)] == [1, 1, 1, 2, 16]


def test_no_index_and_the_wrong_encoder_are_told_in_one_line(folder, tmp_path, tiny_roberta, capsys):
    assert main(["serve", str(tmp_path / "none"), "--port", "0"]) == 1
    assert "no such folder; expected the folder of an index" in capsys.readouterr().err
    assert main(["serve", str(folder), "--port", "0", "--model", str(tiny_roberta)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "gives other vectors" in line


def test_neither_an_index_nor_an_encoder_is_refused(capsys):
    assert main(["serve"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == "error: serve: name the folder of an index, or an encoder to serve alone as --model"
