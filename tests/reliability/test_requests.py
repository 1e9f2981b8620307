"""Fuzzed requests against the real service: whatever comes, it answers in one line, logs no traceback, and goes on.

Short form: 200 requests. Long form (SIMCSE_SOAK=1): 5,000. Each request follows from its number: `sent_by(number)`.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import psutil
import pytest

from simcse import SearchIndex, SentenceEncoder

COUNT = 5000 if os.environ.get("SIMCSE_SOAK") else 200
CLIENTS = 8
PATIENCE = 20.0  # seconds for an answer to a request that is complete
GLANCE = 0.5  # seconds for an answer to one that may not be
MEBIBYTE = 2**20

PATHS = [
    "/", "/api/search", "/api/search", "/api/search", "/api/similarity", "/api/encode", "/api/map", "/api/map/place",
    "/api/info", "/healthz", "/metrics", "/openapi.json", "/docs", "/favicon.ico", "/static/main.js", "/static/",
    "/static/../app.py", "/static/%2e%2e/app.py", "/static/%00", "/static/" + "a" * 300, "/static/" + "b/" * 2000,
    "/nothing", "//", "/api/search/", "/%ff%fe", "/%ED%A0%80", "/api//search", "/api/search?x=%00&y", "/api/info#x",
    "*", "", "http://evil.example/api/info", "/" + "c" * 5000, "/\u00fc",
]  # fmt: skip
METHODS = [
    "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PROPFIND", "get", "X", "",
    "G\0T",
]  # fmt: skip
HOSTS = [
    "localhost", "127.0.0.1", "[::1]", "localhost:1", "LOCALHOST.", "evil.example", "", " ", "a" * 1000, "\0",
    "\u00fc", "localhost, evil.example", "[", "localhost:99999999999", "http://localhost", "0", "[::1]]",
]  # fmt: skip
HEADERS = [
    ("content-type", "text/plain"), ("content-type", "application/json; charset=utf-16"),
    ("content-type", "multipart/form-data"), ("content-type", "application/x-www-form-urlencoded"),
    ("content-type", "\u00ff"), ("content-encoding", "gzip"), ("expect", "100-continue"), ("expect", "nonsense"),
    ("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c"), ("connection", "close"),
    ("connection", "keep-alive, keep-alive"), ("range", "bytes=0-0"), ("range", "bytes=9-1,-5,x"),
    ("range", "bytes=" + "0-0," * 500), ("if-none-match", "*"), ("if-modified-since", "yesterday"), ("if-range", "x"),
    ("origin", "http://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site"),
    ("sec-fetch-site", "\u00ff"), ("authorization", "Bearer"), ("authorization", "Basic \u00ff"),
    ("cookie", "a=b;" * 100), ("x" * 300, "y" * 3000), ("accept-encoding", "gzip, br"), ("x-forwarded-for", "evil"),
    ("a b", "c"), ("", "c"), ("a", "b\0c"), ("te", "trailers"), ("trailer", "content-length"), ("host", "localhost"),
    ("x-http-method-override", "DELETE"), ("accept", "\u00ff"), ("sec-websocket-key", "x"),
    ("sec-websocket-version", "13"), ("content-length", "0"), ("transfer-encoding", "chunked"),
]  # fmt: skip
VALUES = [
    None, True, False, 0, 1, -1, 5, 101, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**40, 0.5, -0.0, 1e308, 1e-320, "",
    " ", "a dog", "\0", "a\0b", "x" * 10_001, "\u202e\u0000\U0001f469\u200d\U0001f469", "\ufdfa" * 300, [], {}, [[]],
    [{}], [None], ["a dog", 1], ["a dog"] * 129, {"a": {"b": {"c": 1}}}, {"lang": "en"},
    {"lang": ["en", None, 1, True]}, {"year": {">=": 2010}}, {"year": {">=": "2010"}}, {"year": {"<": None}},
    {"lang": {}}, {"lang": []}, {"": 1}, {"land": 1}, {"year": {"~": 1}}, {"year": list(range(990))},
    {"year": list(range(1001))}, {"lang": {"!=": "en", ">": "a", "<": "z"}}, {"note": {"!=": None}}, {"\0": 1},
    [0, 1, 2], [2**63],
]  # fmt: skip
RAW = [
    "NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "-" + "9" * 400, "1." + "0" * 4000, '"\\ud800"',
    '"\\udc00\\ud800"', '"\\u0000"', '"\\', '"\\x"', "[" * 1000 + "]" * 1000, "[" * 100_000, '{"a":' * 50_000,
    "[" + "1," * 20_000 + "1]", "[" + "[]," * 20_000 + "1]", "tru", "0x10", "'a'", "1 2", '"a" "b"', "\ufeff1",
    "{1: 2}", '{"a": 1, "a": 2}', "[1,]", "", "// no", "\x01", "{" + ",".join(f'"{i}": 1' for i in range(5000)) + "}",
]  # fmt: skip
RIGHT = [
    ("/api/search", {"query": "a dog", "top_k": 3}),
    ("/api/search", {"query": ["a dog", "some water"], "top_k": 2, "where": {"lang": "en"}, "min_score": 0.1}),
    ("/api/search", {"query": "a dog", "where": {"year": {">=": 2010, "<": 2040}, "lang": ["en", "de"]}}),
    ("/api/similarity", {"a": ["a dog", "rain"], "b": ["a cat"]}),
    ("/api/encode", {"texts": ["a dog", "\u65e5\u672c\u8a9e"]}),
    ("/api/map/place", {"ids": [0, 5], "texts": ["a dog"]}),
    ("/api/documents", {"texts": ["a dog"], "ids": ["x"], "metadata": [{"lang": "en"}]}),
    ("/v1/embeddings", {"input": ["a dog", "rain"], "dimensions": 4, "encoding_format": "base64"}),
]  # fmt: skip


def sent_by(number: int) -> list[bytes]:
    """What client `number` sends, in pieces, between which it waits a little; the last is empty if it sends no more."""
    draw = random.Random(f"requests {number}")
    often = [_wrong_values, _wrong_json, _wrong_heads]
    kinds = [*often, *often, _wrong_lengths, _wrong_chunks, _pipelined, _flipped, _no_http, _in_pieces]
    kind = draw.choice(kinds)
    return kind(draw)


def _request(method, path, headers, body=b"", version="HTTP/1.1"):
    lines = [f"{method} {path} {version}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogatepass") + body


def _post(path, body, *more):
    headers = [("host", "localhost"), ("content-type", "application/json"), ("content-length", str(len(body))), *more]
    return _request("POST", path, headers, body)


def _right(draw):
    path, values = draw.choice(RIGHT)
    return path, dict(values)


def _wrong_values(draw):
    """A right request with some values replaced, keys added or left out."""
    path, values = _right(draw)
    for _ in range(draw.randint(1, 2)):
        key = draw.choice([*values, "extra", "where", "top_k"])
        action = draw.random()
        if action < 0.15:
            values.pop(key, None)
        elif action < 0.3 and isinstance(values.get(key), list):
            values[key] = [*values[key], draw.choice(VALUES)]
        else:
            values[key] = draw.choice(VALUES)
    return [_post(path, json.dumps(values).encode())]


def _wrong_json(draw):
    """A body that is no JSON, or hardly."""
    path, values = _right(draw)
    text = json.dumps(values)
    action = draw.random()
    if action < 0.5:
        key = draw.choice([*values, "where"])
        values[key] = "@"
        text = json.dumps(values).replace('"@"', draw.choice(RAW))
    elif action < 0.6:
        text = draw.choice(RAW)
    elif action < 0.8:
        text = text[: draw.randrange(len(text))]
    else:
        at = draw.randrange(len(text))
        text = text[:at] + draw.choice('{}[],:"\\\0\u20ac0-') + text[at + 1 :]
    body = text.encode(draw.choice(["utf-8", "utf-8", "utf-16", "utf-32"]), "surrogatepass")
    if draw.random() < 0.1:
        body = draw.randbytes(draw.randrange(2000))
    return [_post(path, body)]


def _wrong_heads(draw):
    """Any method, path, host and headers."""
    headers = [("host", draw.choice(HOSTS) if draw.random() < 0.5 else "localhost")]
    headers += draw.sample(HEADERS, draw.randrange(4))
    if draw.random() < 0.05:
        headers += [(f"h{i}", "v") for i in range(draw.randrange(300))]
    draw.shuffle(headers)
    method = draw.choice(METHODS) if draw.random() < 0.5 else "GET"
    body = json.dumps(_right(draw)[1]).encode() if draw.random() < 0.5 else b""
    if body:
        headers.append(("content-length", str(len(body))))
    version = draw.choice(["HTTP/1.1"] * 6 + ["HTTP/1.0", "HTTP/0.9", "HTTP/2", "HTTP/9.9", "", "http/1.1"])
    return [_request(method, draw.choice(PATHS), headers, body, version)]


def _wrong_lengths(draw):
    """A length that is not that of the body."""
    path, values = _right(draw)
    body = json.dumps(values).encode()
    wrong = ["-1", "+5", "0x10", "1e3", "", " ", "5, 5", "9" * 30, str(2**64), "\u0663"]
    length = draw.choice([*wrong, str(len(body) - 3), str(len(body) + 50)])
    headers = [("host", "localhost"), ("content-type", "application/json"), ("content-length", length)]
    if draw.random() < 0.3:
        headers.insert(draw.randrange(4), draw.choice([("content-length", "7"), ("transfer-encoding", "chunked")]))
    return [_request("POST", path, headers, body)]


def _wrong_chunks(draw):
    """A chunked body whose sizes, ends or trailers are not right."""
    path, values = _right(draw)
    body = json.dumps(values).encode()
    at = draw.randrange(len(body))
    parts = [b"%x\r\n%b\r\n" % (len(some), some) for some in (body[:at], body[at:]) if some]
    ends = [
        b"0\r\n\r\n",
        b"",
        b"0\r\nx: y\r\n\r\n",
        b"0\r\ncontent-length: 5\r\n\r\n",
        b"0\r\n" + b"t: u\r\n" * 200 + b"\r\n",
    ]
    parts.append(draw.choice(ends))
    wrong = [
        b"zz\r\n", b"-1\r\nx\r\n", b"ffffffffffffffffff\r\n", b"5;" + b"e" * 5000 + b"\r\nhello\r\n", b"\0",
        b"5\nhello\n", b"3\r\nhello\r\n",
    ]  # fmt: skip
    if draw.random() < 0.7:
        parts.insert(draw.randrange(len(parts) + 1), draw.choice(wrong))
    coding = draw.choice(["chunked", "chunked", "gzip, chunked", "chunked, chunked", "identity", "\u00ff"])
    headers = [("host", "localhost"), ("content-type", "application/json"), ("transfer-encoding", coding)]
    return [_request("POST", path, headers, b"".join(parts))]


def _pipelined(draw):
    """Several requests at once, and rubbish behind them."""
    right = [
        _post(path, json.dumps(values).encode()) for path, values in (_right(draw) for _ in range(draw.randint(1, 4)))
    ]
    get = _request("GET", draw.choice(PATHS[:12]), [("host", "localhost")])
    return [b"".join([*right, get * draw.choice([0, 1, 5, 40]), draw.randbytes(draw.choice([0, 1, 100, 5000]))])]


def _flipped(draw):
    """A right request with some bytes changed, taken out or put in."""
    path, values = _right(draw)
    sent = bytearray(_post(path, json.dumps(values).encode()))
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(sent))
        action = draw.random()
        if action < 0.5:
            sent[at] = draw.randrange(256)
        elif action < 0.75:
            del sent[at : at + draw.randint(1, 4)]
        else:
            sent[at:at] = draw.randbytes(draw.randint(1, 4))
    return [bytes(sent)]


def _no_http(draw):
    """What other protocols, and none, begin with."""
    hello = bytes.fromhex("16030100a5010000a10303") + draw.randbytes(150)
    begin = [
        hello, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"SSH-2.0-x\r\n", b"\r\n" * 500, b"\0" * 1000, b"GET /\r\n",
        b"\n\n", b"GET / HTTP/1.1\nhost: localhost\n\n", b"x" * 100_000, b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", b"",
        b"GET / HTTP/1.1\r\nx: " + b"y" * 200_000, draw.randbytes(3000),
    ]  # fmt: skip
    return [draw.choice(begin), b""]


def _in_pieces(draw):
    """A right request in pieces, of which the last may never come."""
    path, values = _right(draw)
    whole = _post(path, json.dumps(values).encode())
    cuts = sorted(draw.sample(range(1, len(whole)), 3))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return pieces if draw.random() < 0.7 else [*pieces[: draw.randrange(1, 4)], b""]


def answered(port: int, number: int) -> bytes:
    """The first answer that client `number` gets, as it comes; empty if it gets none."""
    received = b""
    pieces = sent_by(number)
    # a request that came in pieces is a right one; of another the service may wait for the end
    patience = PATIENCE if len(pieces) > 1 and pieces[-1] else GLANCE
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client, suppress(OSError):
        for piece in pieces:
            client.sendall(piece)
            if len(pieces) > 1:
                time.sleep(0.002)
        client.settimeout(patience)
        while part := client.recv(65536):
            received += part
            client.settimeout(PATIENCE if b"\r\n\r\n" not in received else GLANCE)
            if _complete(received):
                break
    return received


def _complete(received: bytes) -> bool:
    head, end, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return bool(end) and length is not None and len(body) >= int(length[1])


@pytest.fixture(scope="module")
def service(tiny_bert, sentences, tmp_path_factory):
    """The process, its port, folder and log, and the right hits of a query."""
    folder = tmp_path_factory.mktemp("fuzzed")
    encoder = SentenceEncoder.from_pretrained(tiny_bert, dtype="fp32")
    metadata = [
        {"lang": "en" if i % 2 else "de", "year": 2000 + i} | ({"note": "x"} if i % 5 else {}) for i in range(64)
    ]
    SearchIndex.build(sentences, encoder.encode, metadata=metadata).save(folder / "index")
    log = folder / "log"
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "simcse", "serve", str(folder / "index"), "--port", "0"]
        process = subprocess.Popen(
            [*command, "--model", str(tiny_bert)],
            stderr=stream,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
    try:
        end = time.monotonic() + 60
        while not (found := re.search(r" at http://127\.0\.0\.1:(\d+)\n", log.read_text())):
            assert time.monotonic() < end, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield SimpleNamespace(process=process, port=int(found[1]), folder=folder, log=log, text=sentences[7])
    finally:
        process.kill()
        process.wait(30)


def ask(service):
    """The hits of a right query with a filter."""
    body = json.dumps({"query": service.text, "top_k": 2, "where": {"lang": "en", "year": {"<": 2030}}}).encode()
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE) as client:
        client.sendall(_post("/api/search", body))
        received = b""
        while not _complete(received):
            part = client.recv(65536)
            assert part, received
            received += part
    assert received.startswith(b"HTTP/1.1 200 "), received
    return [hit["id"] for hit in json.loads(received.partition(b"\r\n\r\n")[2])["results"][0]["hits"]]


def wait_for_the_map(service):
    """It is drawn by a library that needs memory, beside the first requests."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/api/map/progress", timeout=PATIENCE) as answer:
            found = json.load(answer)
        if found["method"] is not None and found["progress"] is None:
            return
        time.sleep(0.1)
    raise AssertionError(found)


def check(service, number, received):
    """One answer: of the client's fault or none, JSON where it says so, and nothing of the machine in it."""
    sent = b"".join(sent_by(number))[:500]
    case = f"client {number} sent {sent!r} and received {received[:500]!r}"
    if not received:
        return None
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", received)
    assert found, case
    status = int(found[1])
    assert status in (100, 101) or 200 <= status < 500, case
    head, _, body = received.partition(b"\r\n\r\n")
    if status >= 400 and b"application/json" in head and _complete(received):
        length = int(re.search(rb"(?i)\r\ncontent-length: (\d+)", head)[1])
        refused = json.loads(body[:length])
        assert "\n" not in (refused["error"]["message"] if "error" in refused else refused["detail"]), case
    assert str(service.folder.parent).encode() not in received, case
    assert b"Traceback" not in received, case
    return status


def test_fuzzed_requests_do_no_harm(service):
    right = ask(service)
    assert len(right) == 2
    wait_for_the_map(service)
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda number: answered(service.port, number), range(-100, 0)))  # fill caches and pools
        process = psutil.Process(service.process.pid)
        before = process.memory_info().rss, process.num_fds(), process.num_threads()
        statuses = []
        for start in range(0, COUNT, 100):
            numbers = range(start, min(start + 100, COUNT))
            received = list(pool.map(lambda number: answered(service.port, number), numbers))
            statuses += [check(service, *one) for one in zip(numbers, received, strict=True)]
            assert ask(service) == right
    found = {status: statuses.count(status) for status in sorted(set(statuses), key=str)}
    print(f"{COUNT} requests, answers by status: {found}")
    assert found[200] > COUNT / 20  # some are right, or there would be nothing to break
    assert found[422] > COUNT / 20
    end = time.monotonic() + 15
    while (descriptors := process.num_fds()) > before[1] + 2:
        assert time.monotonic() < end, f"{before[1]} descriptors before, {descriptors} after"
        time.sleep(0.1)
    grown = process.memory_info().rss - before[0]
    print(f"memory grew by {grown / MEBIBYTE:.1f} MiB, descriptors from {before[1]} to {descriptors}")
    assert grown < 64 * MEBIBYTE
    assert process.num_threads() <= before[2] + 40  # of the pool that answers from threads
    assert ask(service) == right
    log = service.log.read_text()
    assert len(log.splitlines()) == 1, log
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(30) == 0
