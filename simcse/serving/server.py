"""Running the app: a socket of its own, one process, a graceful stop."""

from __future__ import annotations

import errno
import gc
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import FrameType
from typing import TYPE_CHECKING

from simcse.errors import ConfigError

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["bound", "check_installed", "check_token", "run_server"]

log = logging.getLogger(__name__)

NEEDED = ("fastapi", "fastapi_offline", "uvicorn", "httptools", "prometheus_client")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
BACKLOG = 2048  # connections that the system keeps waiting
SECONDS_TO_FINISH = 10


def check_installed() -> None:
    """Raise a ConfigError that names what the service needs and is not there."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ConfigError(f"serve needs the package {missing[0]}: pip install 'simcse-kit[serve]'")


def check_token(token: str | None, host: str) -> None:
    """Raise a ConfigError for a token that no header can carry; warn where others can reach a service without one."""
    if token is not None and (not token or not token.isascii() or not token.isprintable() or " " in token):
        raise ConfigError("token: found an empty one, blanks or other than ASCII in it; expected letters and digits")
    if host not in LOOPBACK and token is None:
        log.warning("listening on %s without a token: whoever reaches this port can read the whole index", host)


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that owns an address; port 0 is a free one. It listens once `run_server` has it.

    Raises:
        ConfigError: the port is in use or not allowed, or the host is none of this machine.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"port: found {port}, expected 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host: found {host!r}, expected a name or address of this machine") from error
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with _explained(host, port):
            listener.bind(address)
        yield listener


@contextmanager
def _explained(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port: {port} is in use on {host}; give another, or 0 for any free one") from error
        if error.errno == errno.EACCES:
            raise ConfigError(f"port: no permission to use {port}; give one from 1024 on") from error
        reason = error.strerror or error
        raise ConfigError(f"host: cannot listen on {host} ({reason}); give an address of this machine") from error


def run_server(app: FastAPI, listener: socket.socket, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; requests that are being answered then are finished.

    Args:
        app: what answers.
        listener: from `bound`.
        ready: called with the URL once connections are taken.

    Raises:
        ConfigError: another process took the port since it was bound, or there are hardly any file descriptors.
    """
    from simcse.serving.connections import BoundedServer

    host, port = listener.getsockname()[:2]
    with _explained(host, port):
        listener.listen(BACKLOG)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    class Server(BoundedServer):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            # uvicorn raises the signal again when it is done, which would end a graceful stop with a failure
            def stop(number: int, frame: FrameType | None) -> None:
                log.info("stopping")
                self.handle_exit(number, frame)

            before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready(url)

    gc.collect()
    gc.freeze()  # what is loaded stays: looking at all of it now and then would make requests wait
    Server(app, SECONDS_TO_FINISH).run(sockets=[listener])
