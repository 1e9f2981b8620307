"""The service: an index and its encoder behind HTTP, and the page that uses it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from simcse import __version__
from simcse.display.hits import SCORE_DIGITS, hits_as_json
from simcse.encoder.model import SentenceEncoder
from simcse.errors import SearchError, SimCSEError
from simcse.search.filters import FilterError
from simcse.search.fingerprint import OtherEncoderError
from simcse.search.index import SearchIndex
from simcse.search.storage import Filter
from simcse.serving.answers import Answer, Answers, Filtering, Filters, Search, Task
from simcse.serving.batcher import ClosedError, MicroBatcher, QueueFullError
from simcse.serving.corpus_map import CorpusMap
from simcse.serving.facts import facts_of, shown_name
from simcse.serving.guard import Guard, internal_error
from simcse.serving.hosts import Hosts
from simcse.serving.limits import Limits
from simcse.serving.metrics import CONTENT_TYPE, Metrics
from simcse.serving.schemas import (
    EncodeRequest,
    EncodeResponse,
    ErrorResponse,
    PlaceRequest,
    PlaceResponse,
    SearchRequest,
    SearchResponse,
    SimilarityRequest,
    SimilarityResponse,
)
from simcse.vectors import Matrix

__all__ = ["create_app"]

log = logging.getLogger(__name__)

LONGEST_LINE = 500  # characters of a reason
STATIC = Path(__file__).parent / "static"
ABOUT = "Search an index of texts by meaning, compare texts, and turn them into vectors."
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": why}
    for status, why in {
        401: "no token, or a wrong one",
        403: "sent by a page of another site",
        413: "the body is too large",
        421: "the Host header names another service",
        422: "a value is wrong or out of its bounds",
        429: "too many texts wait already: try again in a second",
        503: "stopping, not answered in time, or the index is that of another encoder now",
    }.items()
}


OTHER_ENCODER = (
    "another encoder has built the index anew; start the service again with that encoder, or build the index with this "
    "one"
)


class RequestError(Exception):
    """A request asks for what is out of its bounds; the message is for the client."""


class Service:
    """An index, its encoder, and the queues before them."""

    def __init__(self, index: SearchIndex, encoder: SentenceEncoder, limits: Limits, map_points: int) -> None:
        self.index, self.encoder, self.limits = index, encoder, limits
        self._encoders = {None: encoder.encode, "query": encoder.encode_query, "document": encoder.encode_document}
        self._role = {  # texts of roles without a prompt of their own are encoded together with the others
            role: None if encoder.resolve_prompt(role=role) == encoder.resolve_prompt() else role
            for role in self._encoders
        }
        self.batcher: MicroBatcher[Task, Answer]
        self.filters: MicroBatcher[Filtering, Filter]
        self.metrics = Metrics(lambda: len(self.batcher), lambda: len(self.filters), self.texts)
        self.batcher = MicroBatcher(
            Answers(index, self._encoders, self.metrics),
            max_batch=limits.max_batch,
            max_wait=limits.max_wait_ms / 1000,
            max_queue=limits.max_queue,
        )
        self.filters = MicroBatcher(
            Filters(index, self.metrics), max_batch=limits.max_batch, max_wait=0, max_queue=limits.max_queue
        )
        self.map = CorpusMap(index, map_points)

    async def answers(
        self, texts: Sequence[str], search: Search | None = None, role: str | None = None
    ) -> list[Answer]:
        """Encode texts in a role, together with those of other requests, and search for them if `search` says how.

        Raises:
            RequestError: too many or too long texts, a blank one to search for, top_k above its bound, a wrong filter.
            QueueFullError, ClosedError, TimeoutError: there is no time for them.
        """
        self._check(texts, search)
        until = time.monotonic() + self.limits.timeout
        async with asyncio.timeout(self.limits.timeout):
            if search is not None and search.where:
                try:
                    [rows] = await self.filters.submit([Filtering(search.where, until)])
                except FilterError as error:
                    raise RequestError(f"where: {error}") from error
                search = replace(search, rows=rows)
            return await self.batcher.submit([Task(text, search, self._role[role]) for text in texts])

    async def vectors(self, texts: Sequence[str], role: str | None = None) -> Matrix:
        """Unit vectors (n, d) of n texts; raises as `answers`."""
        return np.stack([answer.vector for answer in await self.answers(texts, role=role)])

    def texts(self) -> float:
        """How many the index holds; NaN where it cannot be searched."""
        try:
            return len(self.index)
        except SearchError:
            return math.nan

    def failure(self) -> str | None:
        """Why the index cannot be searched, in words for clients; None if it can."""
        try:
            len(self.index)
        except OtherEncoderError:
            return OTHER_ENCODER
        except SearchError as error:
            return internal_error("/healthz", error)
        return None

    def _check(self, texts: Sequence[str], search: Search | None) -> None:
        limits = self.limits
        if len(texts) > limits.max_texts:
            raise RequestError(f"found {len(texts)} texts, expected at most {limits.max_texts}; send several requests")
        for number, text in enumerate(texts):
            if len(text) > limits.max_text:
                raise RequestError(
                    f"text {number}: found {len(text)} characters, expected at most {limits.max_text}; split it"
                )
            if search is not None and not text.strip():
                raise RequestError(f"query {number}: found a blank text, expected one with words")
        if search is not None and search.top_k > limits.max_top_k:
            raise RequestError(f"top_k: found {search.top_k}, expected 1 to {limits.max_top_k}")


def create_app(
    index: SearchIndex,
    encoder: SentenceEncoder,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: Hosts | None = None,
    map_points: int = 5000,
) -> FastAPI:
    """The ASGI app.

    Args:
        index: to search.
        encoder: the one that built it.
        limits: default `Limits()`.
        token: what clients must send as `Authorization: Bearer TOKEN`; default nothing.
        hosts: what the Host header must name where there is no token; default localhost and loopback addresses.
        map_points: texts on the map, at most.
    """
    service = Service(index, encoder, limits or Limits(), map_points)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        service.filters.start()
        await asyncio.to_thread(service.map.points)
        try:
            yield
        finally:
            await asyncio.to_thread(service.filters.close)
            await asyncio.to_thread(service.batcher.close)

    app = FastAPI(
        title="simcse", description=ABOUT, version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    _add_api(app, service)
    _add_map(app, service)
    _add_operations(app, service)
    _add_page(app)
    _add_errors(app)
    paths = frozenset(path for route in app.routes if isinstance(path := getattr(route, "path", None), str))
    app.add_middleware(
        Guard, limits=service.limits, token=token, hosts=hosts or Hosts(), metrics=service.metrics, paths=paths
    )
    return app


def _add_api(app: FastAPI, service: Service) -> None:
    @app.post("/api/search", response_model=SearchResponse, responses=REFUSALS, summary="Find similar texts")
    async def search(request: SearchRequest) -> Response:
        begin = time.perf_counter()
        queries = [request.query] if isinstance(request.query, str) else request.query
        if not queries:
            raise RequestError("query: found none, expected at least one text")
        wanted = Search(request.top_k, request.min_score, request.where)
        answers = await service.answers(queries, wanted, "query")
        results = [hits_as_json(query, answer.hits) for query, answer in zip(queries, answers, strict=True)]
        return JSONResponse({"results": results, "seconds": round(time.perf_counter() - begin, 6)})

    @app.post("/api/similarity", response_model=SimilarityResponse, responses=REFUSALS, summary="Compare texts")
    async def similarity(request: SimilarityRequest) -> Response:
        vectors = await service.vectors([*request.a, *(request.b or [])])  # (n_a + n_b, d)
        rows = vectors[: len(request.a)]  # (n_a, d)
        columns = rows if request.b is None else vectors[len(request.a) :]  # (n_b, d)
        return JSONResponse({"scores": _listed(np.clip(rows @ columns.T, -1, 1), SCORE_DIGITS)})

    @app.post("/api/encode", response_model=EncodeResponse, responses=REFUSALS, summary="Turn texts into vectors")
    async def encode(request: EncodeRequest) -> Response:
        vectors = await service.vectors(request.texts, request.role)  # (n, d)
        return JSONResponse(
            {"vectors": _listed(vectors, 7), "dimension": vectors.shape[1], "model": shown_name(service.encoder.name)}
        )


def _listed(values: Matrix, digits: int) -> Any:
    return np.round(values.astype(np.float64), digits).tolist()


def _add_map(app: FastAPI, service: Service) -> None:
    @app.get("/api/map", summary="The corpus on a plane")
    def corpus_map() -> Response:
        return JSONResponse(service.map.points())

    @app.post("/api/map/place", response_model=PlaceResponse, responses=REFUSALS, summary="Find texts on the plane")
    async def place(request: PlaceRequest) -> Response:
        if len(request.ids) > service.limits.max_top_k:
            raise RequestError(f"ids: found {len(request.ids)}, expected at most {service.limits.max_top_k}")
        vectors = await service.vectors(request.texts, "query") if request.texts else None
        found, texts = await asyncio.to_thread(service.map.place, request.ids, vectors)
        return JSONResponse({"ids": list(found), "positions": list(found.values()), "texts": texts})


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/api/info", summary="Facts about encoder, index and limits")
    def info() -> Response:
        return JSONResponse(facts_of(service.index, service.encoder, service.limits))

    @app.get("/healthz", summary="Whether the service works")
    async def healthz() -> Response:
        if not (service.batcher.alive and service.filters.alive):
            return JSONResponse({"status": "stopping"}, 503)
        if (reason := await asyncio.to_thread(service.failure)) is not None:
            return JSONResponse({"status": "failing", "reason": reason}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", summary="Counters for Prometheus")
    def metrics() -> Response:
        return Response(bytes(service.metrics), headers={"content-type": CONTENT_TYPE})


def _add_page(app: FastAPI) -> None:
    def page(name: str) -> Callable[[], Any]:
        async def send() -> Response:
            return FileResponse(STATIC / name, headers={"cache-control": "no-cache"})

        return send

    app.get("/", include_in_schema=False)(page("index.html"))
    app.get("/docs", include_in_schema=False)(page("docs.html"))
    app.get("/favicon.ico", include_in_schema=False)(page("icon.svg"))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")


def _add_errors(app: FastAPI) -> None:
    def refuse(status: int, detail: str, **headers: str) -> Response:
        line = " ".join(detail.split()).encode(errors="backslashreplace").decode()  # it may quote what is no text
        line = line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}…"
        return JSONResponse({"detail": line}, status, headers or None)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        furthest = max(error.errors(), key=lambda one: len(one["loc"]))  # where several types are tried
        place = ".".join(str(part) for part in furthest["loc"][1:] if "[" not in str(part))  # [: one of these types
        why = furthest["msg"].removeprefix("Value error, ")
        return refuse(422, f"{place or 'body'}: {why} (/docs shows what is expected)")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return refuse(error.status_code, error.detail, **(error.headers or {}))

    @app.exception_handler(RequestError)
    async def wrong(request: Request, error: RequestError) -> Response:
        return refuse(422, str(error))

    @app.exception_handler(OtherEncoderError)
    async def other_encoder(request: Request, error: OtherEncoderError) -> Response:
        log.error("%s: %s", request.url.path, error)
        return refuse(503, OTHER_ENCODER)

    @app.exception_handler(SimCSEError)
    async def failed(request: Request, error: SimCSEError) -> Response:
        return refuse(500, internal_error(request.url.path, error))

    @app.exception_handler(QueueFullError)
    async def busy(request: Request, error: QueueFullError) -> Response:
        return refuse(429, "too many texts wait already; try again in a second", **{"retry-after": "1"})

    @app.exception_handler(ClosedError)
    @app.exception_handler(TimeoutError)
    async def late(request: Request, error: Exception) -> Response:
        return refuse(503, "the service is stopping" if isinstance(error, ClosedError) else "not answered in time")
