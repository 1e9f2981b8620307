"""No client holds a connection for ever, whatever it sends or leaves unread; more of them than fit do no harm."""

from __future__ import annotations

import http.client
import resource
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest

from simcse.serving import connections
from simcse.serving.app import create_app
from simcse.serving.connections import BoundedServer

GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"

# uvloop closes its own sockets late
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@contextmanager
def running(app):
    """The port of a server in a thread of this process."""
    server = BoundedServer(app, 1)
    server.config.port = 0
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port(index, encoder):
    before = connections.SECONDS_FOR_HEAD
    connections.SECONDS_FOR_HEAD = 0.5
    with running(create_app(index, encoder)) as port:
        yield port
    connections.SECONDS_FOR_HEAD = before


def connected(port):
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def rest(connection, each=b"", every=0.05, seconds=8.0):
    """What the server sends until it hangs up, while the client sends some bytes now and then."""
    parts, end = [], time.monotonic() + seconds
    connection.settimeout(every)
    while time.monotonic() < end:
        try:
            part = connection.recv(65536)
        except TimeoutError:
            try:
                connection.sendall(each)
            except OSError:
                return b"".join(parts)
            continue
        except ConnectionError:
            return b"".join(parts)
        if not part:
            return b"".join(parts)
        parts.append(part)
    pytest.fail(f"still connected after {seconds} seconds; received {b''.join(parts)[:300]}")


@pytest.mark.parametrize(
    ("first", "each"),
    [
        (b"", b""),
        (b"GE", b""),
        (b"GET / HTTP/1.1\r\n", b"x: y\r\n"),
        (b"GET / HTTP/1.1\r\nx: ", b"y"),
        (b"", b"\r\n"),
        (GET, b"\r\n"),
        (GET + b"GET /", b"x"),
    ],
)
def test_a_head_that_does_not_end_is_given_up(port, first, each):
    with connected(port) as connection:
        connection.sendall(first)
        received = rest(connection, each)
    assert received.startswith(b"HTTP/1.1 200") == first.startswith(GET)
    assert b"408 Request Timeout" in received
    assert received.endswith(b'{"detail": "head: not complete within 0.5 seconds"}')


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n",
        b"POST /api/search HTTP/1.1\r\nhost: evil.example\r\ncontent-length: 1000\r\n\r\n",
        b"POST /nothing HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
)
def test_a_body_that_does_not_end_is_given_up(index, encoder, head):
    """Also where its request is refused or needs no body."""
    from simcse.serving.limits import Limits

    with running(create_app(index, encoder, limits=Limits(timeout=1))) as port, connected(port) as connection:
        connection.sendall(head)
        received = rest(connection, b"1\r\nx\r\n" if b"chunked" in head else b"x")
    assert received.startswith((b"HTTP/1.1 408", b"HTTP/1.1 421"))


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 10_000_000, b"431 "),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 10_000_000 + b"\r\n\r\n", b"431 "),
        (b"GET /" + b"y" * 10_000_000, b"431 "),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 101 + b"\r\n", b"400 "),
        (GET * 1000, b"400 "),
    ],
)
def test_a_head_of_any_size_takes_little(port, sent, status):
    with connected(port) as connection:
        threading.Thread(target=lambda: _sent(connection, sent)).start()
        received = rest(connection)
    assert not received or b"HTTP/1.1 " + status in received  # it may hang up before all is sent
    with connected(port) as connection:
        connection.sendall(GET)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def _sent(connection, data):
    with suppress(OSError):
        connection.sendall(data)


def test_some_requests_ahead_of_their_answers_are_answered_in_order(port):
    with connected(port) as connection:
        connection.sendall(GET * 20 + b"GET /nothing HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        received = rest(connection)
    assert received.count(b"HTTP/1.1 200") == 20
    assert received.count(b"HTTP/1.1 404") == 1


def test_requests_whose_client_has_gone_are_no_errors(port, caplog):
    """Answers that are under way when a client hangs up, or is refused for what it sent next, go nowhere."""
    body = b'{"texts": ["a dog"]}'
    post = b"POST /api/encode HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    post += b"content-length: %d\r\n\r\n%b" % (len(body), body)
    for behind in (b"", b"rubbish\r\n\r\n", GET * 3, GET * 3 + b"rubbish\r\n\r\n"):
        for wait in (0.0, 0.002):
            with connected(port) as connection:
                connection.sendall(post * 3 + behind)
                time.sleep(wait)
    with connected(port) as connection:
        connection.sendall(post.replace(b"\r\n", b"\r\nconnection: close\r\n", 1))
        assert rest(connection).startswith(b"HTTP/1.1 200")
    assert not [record.message for record in caplog.records]


def test_a_stop_does_not_wait_for_a_body_that_does_not_end(index, encoder, caplog):
    with ExitStack() as clients:
        with running(create_app(index, encoder)) as port:
            head, body = (clients.enter_context(connected(port)) for _ in range(2))
            head.sendall(GET[:10])
            body.sendall(b"POST /api/encode HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{")
            time.sleep(0.2)
            begin = time.monotonic()
        assert time.monotonic() - begin < 5
        assert rest(body).startswith(b"HTTP/1.1 503 ")
        assert rest(head) == b""
    assert not [record for record in caplog.records if record.exc_info]


def test_an_answer_that_is_not_read_is_given_up(monkeypatch):
    monkeypatch.setattr(connections, "SECONDS_TO_READ", 0.5)
    ended = threading.Event()

    async def large(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(64):
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
        await send({"type": "http.response.body"})
        ended.set()

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await large(scope, receive, send)

    with running(app) as port:
        with connected(port) as connection:
            connection.sendall(GET)
            assert ended.wait(10)
            assert len(rest(connection)) < 64 * 2**20
        with connected(port) as connection:  # who reads gets all
            connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            assert len(rest(connection)) > 64 * 2**20


FLOODED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 400))
from simcse.serving.connections import BoundedServer
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
server = BoundedServer(app, 1)
server.config.port = int(sys.argv[1])
print(server.config.limit_concurrency, flush=True)
server.run()
"""


def test_more_connections_than_descriptors_are_refused_and_the_rest_served():
    """The soft limit of 100 is raised to the hard one of 400; 600 connections hold no more than these."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", FLOODED, str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        most = int(process.stdout.readline())
        assert 100 < most < 200
        end = time.monotonic() + 20
        while _status(port) != 200:
            assert time.monotonic() < end
            time.sleep(0.05)
        with ExitStack() as stack:
            for _ in range(600):
                stack.enter_context(connected(port))
            time.sleep(0.3)
            assert _status(port) in (503, None)
            before = psutil.Process(process.pid).cpu_times()
            time.sleep(1)
            after = psutil.Process(process.pid).cpu_times()
            assert after.user + after.system - before.user - before.system < 0.5  # it does not spin
        time.sleep(0.3)
        assert _status(port) == 200
    finally:
        process.terminate()
        errors = process.communicate(timeout=20)[1]
    assert "Traceback" not in errors, errors


def _status(port):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        client.request("GET", "/")
        return client.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        client.close()


def test_hardly_any_descriptors_are_told_in_one_line():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))\n"
        "from simcse.errors import ConfigError\n"
        "from simcse.serving.connections import most_connections\n"
        "try: most_connections()\n"
        "except ConfigError as error: print(error)\n"
    )
    line = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert line.startswith("found 150 file descriptors, expected at least ")


def test_the_limit_of_descriptors_is_not_lowered():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert connections.most_connections() > 16
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= before[0]
