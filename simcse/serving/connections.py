"""Connections that no client can keep for ever: a bound on time and size wherever the service waits for one.

While a request's body is read or its answer prepared, `guard` and `app` watch the time. What is left is here: a head
that does not end, and an answer that is not read.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from simcse.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["BoundedServer", "Connection", "most_connections"]

SECONDS_FOR_HEAD = 10.0  # from the first byte, or from the connection, to the end of a head
SECONDS_TO_READ = 60.0  # until an answer has left for the client; the map of 5,000 texts at 150 kbit/s
LONGEST_HEAD = 65_536  # bytes; a little more passes if it comes at once
MOST_HEADERS = 100
MOST_PIPELINED = 32  # requests that wait for the answer to one before them
CONNECTIONS = 2048  # at a time; more are answered with 503
FEWEST_CONNECTIONS = 16  # fewer are no service
SPARE = 32  # connections beyond, to say so; more are cut
RESERVED = 128  # descriptors for the spare connections and for files of the index
WANTED_DESCRIPTORS = 65_536


def most_connections() -> int:
    """How many connections there are descriptors for, after asking the system for more.

    Each may need two, as a file of the page may be open for it.

    Raises:
        ConfigError: hardly any.
    """
    if sys.platform == "win32":  # it has no such limit
        return CONNECTIONS
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, WANTED_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    allowed = WANTED_DESCRIPTORS if soft == resource.RLIM_INFINITY else max(soft, wanted)
    taken = len(list(Path("/dev/fd").iterdir())) + RESERVED
    if allowed < taken + 2 * FEWEST_CONNECTIONS:
        raise ConfigError(
            f"found {allowed} file descriptors, expected at least {taken + 2 * FEWEST_CONNECTIONS}; raise the limit "
            "with ulimit -n"
        )
    return min(CONNECTIONS, (allowed - taken) // 2)


class BoundedServer(uvicorn.Server):
    """A server of an app, whose connections are bounded.

    Args:
        app: what answers.
        seconds_to_finish: for requests at hand when it is stopped.

    Raises:
        ConfigError: there are hardly any file descriptors.
    """

    def __init__(self, app: ASGIApp, seconds_to_finish: int) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # faults of clients would fill the log
        config = uvicorn.Config(
            app, http=Connection, ws="none", log_config=None, access_log=False, server_header=False,
            limit_concurrency=most_connections(), timeout_graceful_shutdown=seconds_to_finish,
        )  # fmt: skip
        super().__init__(config)

    async def on_tick(self, counter: int) -> bool:
        """Look after the connections once a second; called ten times as often."""
        if counter % 10 == 0:
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Connection)
                connection.check()
        return await super().on_tick(counter)


class _Output:
    """A transport that accepts no more once it is closing.

    A request may still be answered when its client has gone, or when what it sent next was refused.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send some bytes, if that is possible still."""
        if not self._transport.is_closing():
            self._transport.write(data)


class Connection(HttpToolsProtocol):
    """One connection; `check` is to be called every second or so."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(cast(asyncio.Transport, _Output(transport)))
        self._head_since: float | None = self.loop.time()  # when the service began to wait for a head
        self._unread_since: float | None = None  # when an answer began to wait for the client
        self._unfinished = 0  # bytes that are neither of a complete head nor of a body
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency + SPARE:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take some bytes; refuse a head that is too long."""
        if self._head_since is None and (self.cycle is None or self.cycle.response_complete):
            self._head_since = self.loop.time()
        self._unfinished += len(data)
        super().data_received(data)
        if self._unfinished > LONGEST_HEAD and not self.transport.is_closing():
            self._refuse("431 Request Header Fields Too Large", f"head: found more than {LONGEST_HEAD} bytes")

    def on_headers_complete(self) -> None:
        """Start the request, unless there is too much of it; what is raised is answered with 400."""
        self._head_since, self._unfinished = None, 0
        if len(self.headers) > MOST_HEADERS:
            raise ValueError(f"found {len(self.headers)} headers, expected at most {MOST_HEADERS}")
        if len(self.pipeline) >= MOST_PIPELINED:
            raise ValueError(f"expected at most {MOST_PIPELINED} requests ahead of their answers")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand on a part of the body."""
        self._unfinished = 0
        super().on_body(body)

    def check(self) -> None:
        """Let go of a client that has kept the service waiting for too long."""
        now = self.loop.time()
        if self._head_since is not None and now - self._head_since > SECONDS_FOR_HEAD:
            self._head_since = None
            self._refuse("408 Request Timeout", f"head: not complete within {SECONDS_FOR_HEAD:g} seconds")
        if not self.transport.get_write_buffer_size():
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        elif now - self._unread_since > SECONDS_TO_READ:
            self.transport.abort()

    def _refuse(self, status: str, why: str) -> None:
        body = json.dumps({"detail": why})
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
        self.transport.write(f"HTTP/1.1 {status}\r\n{head}\r\n\r\n{body}".encode())
        self.transport.close()
