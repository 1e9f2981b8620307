"""Adding and deleting over HTTP, for clients with the token."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from simcse.serving.refusals import REFUSALS, RequestError
from simcse.serving.schemas import AddRequest, AddResponse, DeleteRequest, DeleteResponse
from simcse.serving.service import Service

__all__ = ["add_document_paths"]


def add_document_paths(app: FastAPI, service: Service) -> None:
    """Routes that change the index; a change is durable when it is answered, and searches go on beside it."""

    @app.post("/api/documents", response_model=AddResponse, responses=REFUSALS, summary="Add texts to the index")
    async def add(request: AddRequest) -> Response:
        ids = await service.add(request.texts, request.ids, request.metadata, request.upsert)
        return JSONResponse({"ids": ids})

    @app.delete("/api/documents", response_model=DeleteResponse, responses=REFUSALS, summary="Delete texts")
    async def delete(request: DeleteRequest) -> Response:
        service.check_changeable()
        if len(request.ids) > (most := service.limits.max_texts):
            raise RequestError(f"ids: found {len(request.ids)}, expected at most {most}; send several requests")
        return JSONResponse({"deleted": await asyncio.to_thread(service.index.delete, request.ids)})
