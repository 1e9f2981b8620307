"""What every request passes before its handler sees it: token or host, size, time; what every response carries."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from typing import TYPE_CHECKING

from simcse.serving.hosts import Hosts
from simcse.serving.limits import Limits
from simcse.serving.metrics import Metrics
from simcse.serving.refusals import internal_error, refusal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard"]

# the page loads nothing from elsewhere, and nothing elsewhere can frame it
HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
NEEDS_TOKEN = ("/api/", "/v1/", "/metrics", "/openapi.json")
LONGEST_QUOTE = 100  # characters of what a client sent, in an answer to it


class Guard:
    """Middleware around the app.

    Args:
        app: what it guards.
        limits: of the body and of time.
        token: what `Authorization: Bearer` must say for all but `/healthz` and the page's own files; None: nothing.
        hosts: what the Host header must name where there is no token.
        metrics: to count requests in.
        paths: that are counted by name; any other counts as `other`.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, token: str | None, hosts: Hosts, metrics: Metrics, paths: frozenset[str]
    ) -> None:
        self._app, self._limits, self._hosts, self._metrics, self._paths = app, limits, hosts, metrics, paths
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; one that must not reach the app is answered here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status, started = time.perf_counter(), 500, False
        path = scope["path"] if scope["path"] in self._paths else "other"

        async def send_with_headers(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        try:
            refused = self._refusal(scope)
            if refused is None:
                body, refused = await self._read(scope, receive)
            if refused is not None:
                await _respond(send_with_headers, scope, *refused)
                return
            await self._app(_as_json(scope), _replay(body, receive), send_with_headers)
        except asyncio.CancelledError:  # the server stops, and has waited for this request long enough
            if not started:
                await _respond(send_with_headers, scope, 503, "the service is stopping")
        except Exception as error:
            if started:  # too late for another status: the connection is cut
                raise
            await _respond(send_with_headers, scope, 500, internal_error(scope["path"], error))
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.request_seconds.labels(path).observe(time.perf_counter() - begin)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason, where the headers alone are enough to refuse."""
        headers = dict(scope["headers"])
        if self._token is None:
            if (refused := self._stranger(scope, headers)) is not None:
                return refused
        elif scope["path"].startswith(NEEDS_TOKEN):
            authorization = headers.get(b"authorization", b"")
            scheme, _, rest = authorization.strip().partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(rest.strip(), self._token):
                return 401, f"{'wrong' if authorization else 'no'} token; send the header Authorization: Bearer TOKEN"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._limits.max_body:
            return 413, self._too_large(f"{int(length)} bytes")
        return None

    def _stranger(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        """Without a token, what a browser tells of where a request comes from decides."""
        named = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(named) != 1:
            return 400, f"found {len(named)} Host headers, expected one"
        if named[0] not in self._hosts:
            return 421, (
                f"Host: found {named[0][:LONGEST_QUOTE]!r}, expected a name of this service; without a token other "
                "names are those of simcse serve --allowed_hosts"
            )
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):  # they change nothing, and others cannot read the answer
            return None
        site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
        if site is not None:
            ours = site in (b"same-origin", b"none")
        else:
            ours = origin is None or origin.decode("latin-1").lower().rpartition("://")[2] == named[0].lower()
        return None if ours else (403, "found a request by a page of another site, expected this service's own page")

    async def _read(self, scope: Scope, receive: Receive) -> tuple[bytes, tuple[int, str] | None]:
        """The whole body, or why it was refused; a body without a length is refused once it is too long."""
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._limits.timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return b"", (400, "the body ended early")
                    part = message.get("body", b"")
                    size += len(part)
                    if size > self._limits.max_body:
                        return b"", (413, self._too_large("more"))
                    parts.append(part)
                    if not message.get("more_body"):
                        return b"".join(parts), None
        except TimeoutError:
            return b"", (408, f"the body did not come within {self._limits.timeout:g} seconds")

    def _too_large(self, found: str) -> str:
        return f"body: found {found}, expected at most {self._limits.max_body} bytes; send fewer texts at a time"


def _as_json(scope: Scope) -> Scope:
    """The same request, whose body is JSON whatever its header says: curl -d calls any body a form."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    return {**scope, "headers": [*headers, (b"content-type", b"application/json")]}


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read, then goes on as before."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _respond(send: Send, scope: Scope, status: int, detail: str) -> None:
    status, values = refusal(scope["path"], status, detail)
    body = json.dumps(values).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status != 500:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
