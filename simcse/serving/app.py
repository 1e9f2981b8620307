"""The service: an index and its encoder behind HTTP, and the page that uses it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles

from simcse import __version__
from simcse.display.hits import SCORE_DIGITS, hits_as_json
from simcse.encoder.model import SentenceEncoder
from simcse.search.index import SearchIndex
from simcse.serving.answers import Search, listed
from simcse.serving.documents import add_document_paths
from simcse.serving.facts import facts_of, shown_name
from simcse.serving.guard import Guard
from simcse.serving.hosts import Hosts
from simcse.serving.limits import Limits
from simcse.serving.map_paths import add_map_paths
from simcse.serving.metrics import CONTENT_TYPE
from simcse.serving.openai import add_openai_paths
from simcse.serving.reference import Reference, swagger_folder
from simcse.serving.refusals import REFUSALS, RequestError, add_errors
from simcse.serving.schemas import (
    EncodeRequest,
    EncodeResponse,
    HealthResponse,
    InfoResponse,
    SearchRequest,
    SearchResponse,
    SimilarityRequest,
    SimilarityResponse,
)
from simcse.serving.service import Service

__all__ = ["create_app"]

STATIC = Path(__file__).parent / "static"
ABOUT = "Search an index of texts by meaning, compare texts, and turn them into vectors."


def create_app(
    index: SearchIndex | None,
    encoder: SentenceEncoder,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: Hosts | None = None,
    map_points: int = 5000,
    threads: int = 1,
) -> FastAPI:
    """The ASGI app.

    Args:
        index: to search; None serves the encoder alone.
        encoder: the one that built it.
        limits: default `Limits()`.
        token: what clients must send as `Authorization: Bearer TOKEN`; default nothing, and the index is not changed.
        hosts: what the Host header must name where there is no token; default localhost and loopback addresses.
        map_points: texts on the map, at most.
        threads: that encode and search, each a batch of its own; one leaves torch its own threads.
    """
    service = Service(index, encoder, limits or Limits(), map_points, token is not None, threads)

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
            await asyncio.to_thread(service.map.close)

    app = Reference(
        token is not None,
        title="simcse", description=ABOUT, version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
    )  # fmt: skip
    _add_api(app, service)
    add_document_paths(app, service)
    add_openai_paths(app, service)
    add_map_paths(app, service)
    _add_operations(app, service)
    _add_page(app)
    add_errors(app)
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
        return JSONResponse({"scores": listed(np.clip(rows @ columns.T, -1, 1), SCORE_DIGITS)})

    @app.post("/api/encode", response_model=EncodeResponse, responses=REFUSALS, summary="Turn texts into vectors")
    async def encode(request: EncodeRequest) -> Response:
        vectors = await service.vectors(request.texts, request.role)  # (n, d)
        return JSONResponse(
            {"vectors": listed(vectors), "dimension": vectors.shape[1], "model": shown_name(service.encoder.name)}
        )


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get(
        "/api/info", response_model=InfoResponse, responses=REFUSALS, summary="Facts about encoder, index and limits"
    )
    def info() -> Response:
        return JSONResponse(facts_of(service.index, service.encoder, service.limits))

    @app.get("/healthz", response_model=HealthResponse, summary="Whether the service works")
    async def healthz() -> Response:
        if not (service.batcher.alive and service.filters.alive):
            return JSONResponse({"status": "stopping"}, 503)
        if (reason := await asyncio.to_thread(service.failure)) is not None:
            return JSONResponse({"status": "failing", "reason": reason}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", response_class=PlainTextResponse, summary="Counters for Prometheus")
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
    app.mount("/static/swagger", StaticFiles(directory=swagger_folder()), name="swagger")
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
