"""Refused requests: with which status, and in which words."""

from __future__ import annotations

import logging
import secrets
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from simcse.errors import SimCSEError, did_you_mean
from simcse.search.fingerprint import OtherEncoderError
from simcse.search.rows import RowError
from simcse.serving.batcher import ClosedError, QueueFullError
from simcse.serving.schemas import ErrorResponse

__all__ = ["OTHER_ENCODER", "REFUSALS", "RequestError", "add_errors", "internal_error", "refusal"]

log = logging.getLogger(__name__)

LONGEST_LINE = 500  # characters of a reason
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": why}
    for status, why in {
        400: "the body is not UTF-8, or cannot be parsed: many levels, numbers of thousands of digits",
        401: "no token, or a wrong one",
        403: "sent by a page of another site, or a change of an index without a token",
        404: "there is no index, but an encoder alone",
        413: "the body is too large",
        421: "the Host header names another service",
        422: "a value is wrong or out of its bounds",
        429: "too many texts wait already: try again in a second",
        503: "stopping, not answered in time, or the index is that of another encoder now",
    }.items()
}
OPENAI = "/v1/"  # paths below it answer in the shape of OpenAI's interface
OPENAI_CODES = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded"}
OTHER_ENCODER = (
    "another encoder has built the index anew; start the service again with that encoder, or build the index with this "
    "one"
)


class RequestError(Exception):
    """A request asks for what is out of its bounds; the message is for the client."""


def refusal(path: str, status: int, detail: str, place: str | None = None) -> tuple[int, dict[str, Any]]:
    """Status and body of a refusal: `{"detail": ...}`, or what OpenAI's clients read; `place` is the field at fault."""
    if not path.startswith(OPENAI):
        return status, {"detail": detail}
    status = 400 if status == 422 else status
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return status, {"error": {"message": detail, "type": kind, "param": place, "code": OPENAI_CODES.get(status)}}


def internal_error(path: str, error: Exception) -> str:
    """What a client is told of a fault that is not its own; the log has the same number and what happened where."""
    number = secrets.token_hex(4)
    known = isinstance(error, SimCSEError)  # else it was not foreseen
    log.error("error %s: %r: %s", number, path, error if known else repr(error), exc_info=None if known else error)
    return f"error {number} of the service, not of the request; its log says more"


def add_errors(app: FastAPI) -> None:
    """Answer what handlers raise."""

    def refuse(request: Request, status: int, detail: str, place: str | None = None, **headers: str) -> Response:
        line = " ".join(detail.split()).encode(errors="backslashreplace").decode()  # it may quote what is no text
        line = line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}…"
        status, body = refusal(request.url.path, status, line, place)
        return JSONResponse(body, status, headers or None)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        furthest = max(error.errors(), key=lambda one: len(one["loc"]))  # where several types are tried
        place = ".".join(str(part) for part in furthest["loc"][1:] if "[" not in str(part))  # [: one of these types
        why = furthest["msg"].removeprefix("Value error, ")
        return refuse(request, 422, f"{place or 'body'}: {why} (/docs shows what is expected)", place or None)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        detail = error.detail
        if "endpoint" not in request.scope and error.status_code == 404:  # no path of ours
            paths = [path for route in app.routes if (path := getattr(route, "path", ""))]
            detail = f"no path {request.url.path}{did_you_mean(request.url.path, paths)} (/docs lists all)"
        return refuse(request, error.status_code, detail, **(error.headers or {}))

    @app.exception_handler(RequestError)
    @app.exception_handler(RowError)
    async def wrong(request: Request, error: Exception) -> Response:
        return refuse(request, 422, str(error))

    @app.exception_handler(OtherEncoderError)
    async def other_encoder(request: Request, error: OtherEncoderError) -> Response:
        log.error("%s: %s", request.url.path, error)
        return refuse(request, 503, OTHER_ENCODER)

    @app.exception_handler(SimCSEError)
    async def failed(request: Request, error: SimCSEError) -> Response:
        return refuse(request, 500, internal_error(request.url.path, error))

    @app.exception_handler(QueueFullError)
    async def busy(request: Request, error: QueueFullError) -> Response:
        return refuse(request, 429, "too many texts wait already; try again in a second", **{"retry-after": "1"})

    @app.exception_handler(ClosedError)
    @app.exception_handler(TimeoutError)
    async def late(request: Request, error: Exception) -> Response:
        return refuse(
            request, 503, "the service is stopping" if isinstance(error, ClosedError) else "not answered in time"
        )
