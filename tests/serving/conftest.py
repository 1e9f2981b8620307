"""A tiny encoder, an index of sentences with metadata, and clients of the real app."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from simcse import SearchIndex, SentenceEncoder

LOCAL = "http://localhost"


@pytest.fixture(scope="session")
def encoder(tiny_bert) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(tiny_bert, dtype="fp32")


@pytest.fixture(scope="session")
def index(encoder, sentences) -> SearchIndex:
    metadata = [{"lang": "en" if i % 2 else "de", "year": 2000 + i} for i in range(len(sentences))]
    return SearchIndex.build(sentences, encoder.encode, metadata=metadata)


@pytest.fixture
def client_of() -> Iterator[Callable]:
    """`client_of(app)`: a client of the app while the test runs; starts and stops the app as a server does."""
    from starlette.testclient import TestClient

    with ExitStack() as stack:
        yield lambda app: stack.enter_context(TestClient(app, LOCAL, raise_server_exceptions=False))


@pytest.fixture(scope="module")
def client(index, encoder):
    from starlette.testclient import TestClient

    from simcse.serving.app import create_app

    with TestClient(create_app(index, encoder), LOCAL, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def serve():
    """`serve(app)`: the URL of a server that runs until the end of the module."""
    import uvicorn

    servers = []

    def start(app):
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
        thread = threading.Thread(target=server.run)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join()
