"""The map of the corpus over HTTP."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from simcse.serving.refusals import REFUSALS, RequestError
from simcse.serving.schemas import BaseRequest, Key, Texts
from simcse.serving.service import Service

__all__ = ["PlaceRequest", "add_map_paths"]


class ProgressResponse(BaseModel):
    """How far the map is."""

    method: Literal["t-SNE", "principal axes"] | None = Field(description="of the present map; null before the first")
    progress: float | None = Field(description="share of a better map that is done; null if none is under way")


class ClusterResponse(BaseModel):
    """A part of the map, and the words that are typical of its texts."""

    x: float
    y: float
    texts: int = Field(description="how many lie there")
    name: str = Field(examples=["film, director"])


class MapResponse(ProgressResponse):
    """Positions of a sample of the texts; near means similar."""

    x: list[float]
    y: list[float]
    ids: list[Key]
    texts: list[str] = Field(description="their beginnings")
    of: int = Field(description="texts in the index")
    shares: list[float] | None = Field(description="of the variance, on each principal axis; null for t-SNE")
    clusters: list[ClusterResponse] = Field(description="none on principal axes")
    note: str | None = Field(description="why the map is not by t-SNE")


class PlaceRequest(BaseRequest):
    """What to find on the map."""

    ids: Annotated[list[Key], Field(fail_fast=True)] = Field(
        [], description="ids of texts in the index", examples=[[0, 1]]
    )
    texts: Texts = Field([], description="queries", examples=[["a man plays music"]])


class PlaceResponse(BaseModel):
    """Where it lies."""

    ids: list[Key] = Field(description="those of the request that are in the index")
    positions: list[list[float]] = Field(description="[x, y] of each of these ids")
    texts: list[list[float]] = Field(description="[x, y] of each text")


def add_map_paths(app: FastAPI, service: Service) -> None:
    """Routes of the map."""

    @app.get("/api/map", response_model=MapResponse, responses=REFUSALS, summary="The corpus on a plane")
    def corpus_map() -> Response:
        return JSONResponse(service.map.points())

    @app.get("/api/map/progress", response_model=ProgressResponse, responses=REFUSALS, summary="How far the map is")
    def progress() -> Response:
        return JSONResponse(service.map.progress())

    @app.post("/api/map/place", response_model=PlaceResponse, responses=REFUSALS, summary="Find texts on the plane")
    async def place(request: PlaceRequest) -> Response:
        if len(request.ids) > service.limits.max_top_k:
            raise RequestError(f"ids: found {len(request.ids)}, expected at most {service.limits.max_top_k}")
        vectors = await service.vectors(request.texts, "query") if request.texts else None
        found, texts = await asyncio.to_thread(service.map.place, request.ids, vectors)
        return JSONResponse({"ids": list(found), "positions": list(found.values()), "texts": texts})
