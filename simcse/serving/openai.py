"""Embeddings in the shape of OpenAI's interface, for clients that know no other.

client = openai.OpenAI(base_url="http://localhost:8000/v1", api_key="TOKEN")
client.embeddings.create(input=["A cat sleeps."], model="any")
"""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from simcse.serving.answers import listed
from simcse.serving.facts import shown_name
from simcse.serving.refusals import RequestError
from simcse.serving.schemas import EmbeddingsRequest, EmbeddingsResponse, ModelsResponse, OpenAIErrorResponse
from simcse.serving.service import Service
from simcse.vectors import Matrix, unit_rows

__all__ = ["add_openai_paths"]

REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": OpenAIErrorResponse, "description": "the request is wrong, or too much waits already"},
    "5XX": {"model": OpenAIErrorResponse, "description": "stopping, or not answered in time"},
}


def add_openai_paths(app: FastAPI, service: Service) -> None:
    """Routes below /v1/."""
    started, name = int(time.time()), shown_name(service.encoder.name)

    summary = "Turn texts into vectors, in the shape of OpenAI's interface"

    @app.post("/v1/embeddings", response_model=EmbeddingsResponse, responses=REFUSALS, summary=summary)
    async def embeddings(request: EmbeddingsRequest) -> Response:
        texts = [request.input] if isinstance(request.input, str) else request.input
        if not texts:
            raise RequestError("input: found none, expected at least one text")
        if request.dimensions is not None and request.dimensions > (most := service.encoder.dimension):
            raise RequestError(f"dimensions: found {request.dimensions}, expected 1 to {most}")
        vectors = await service.vectors(texts, request.role)  # (n, d)
        vectors = vectors if request.dimensions is None else unit_rows(vectors[:, : request.dimensions])
        used = await asyncio.to_thread(service.tokens, texts, request.role)
        written = _base64(vectors) if request.encoding_format == "base64" else listed(vectors)
        data = [{"object": "embedding", "index": i, "embedding": one} for i, one in enumerate(written)]
        usage = {"prompt_tokens": used, "total_tokens": used}
        model = name if request.model is None else request.model
        return JSONResponse({"object": "list", "data": data, "model": model, "usage": usage})

    @app.get("/v1/models", response_model=ModelsResponse, responses=REFUSALS, summary="Name the encoder, in that shape")
    async def models() -> Response:
        model = {"id": name, "object": "model", "created": started, "owned_by": "simcse"}
        return JSONResponse({"object": "list", "data": [model]})


def _base64(vectors: Matrix) -> list[str]:
    return [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
