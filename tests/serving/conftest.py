"""A tiny encoder, an index of sentences with metadata, and clients of the real app."""

from __future__ import annotations

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
