"""An index, its encoder, and the queues before them: what the routes of the service answer with."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException

from simcse.encoder.model import SentenceEncoder
from simcse.errors import SearchError
from simcse.search.documents import documents
from simcse.search.filters import FilterError
from simcse.search.fingerprint import OtherEncoderError
from simcse.search.index import SearchIndex
from simcse.search.rows import Id
from simcse.search.storage import Filter
from simcse.serving.answers import Answer, Answers, Filtering, Filters, Search, Task
from simcse.serving.batcher import MicroBatcher
from simcse.serving.corpus_map import CorpusMap
from simcse.serving.limits import Limits
from simcse.serving.metrics import Metrics
from simcse.serving.refusals import OTHER_ENCODER, RequestError, internal_error
from simcse.serving.threads import compute_alone
from simcse.vectors import Matrix, Roles

__all__ = ["Service"]


class Service:
    """An index, its encoder, and the queues before them."""

    def __init__(
        self,
        index: SearchIndex | None,
        encoder: SentenceEncoder,
        limits: Limits,
        map_points: int,
        changeable: bool,
        threads: int,
    ) -> None:
        self._indexed, self._changeable = index is not None, changeable
        index = SearchIndex.empty(encoder) if index is None else index
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
            threads=threads,
            begin=compute_alone if threads > 1 else lambda: None,
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
            HTTPException: there is no index to search.
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

    def tokens(self, texts: Sequence[str], role: str | None = None) -> int:
        """How many tokens the encoder reads of texts: special ones and its prompt's count, those cut off do not."""
        rows, _ = self.encoder.tokenize(prompt=self.encoder.resolve_prompt(role=role))(texts)
        return sum(map(len, rows))

    async def add(
        self, texts: Sequence[str], ids: Sequence[Id] | None, metadata: Sequence[Any] | None, upsert: bool
    ) -> list[Id]:
        """Add texts to the index as `SearchIndex.add` and `upsert` do, encoded together with those of other requests.

        Raises:
            RowError: as of `SearchIndex.add`.
            HTTPException: the index may not be changed.
            RequestError, QueueFullError, ClosedError, TimeoutError: as of `answers`.
        """
        self.check_changeable()
        rows = list(documents(texts, ids, metadata))  # refused before they are encoded
        vectors = dict(zip(texts, await self.vectors(texts, "document"), strict=True))
        encoded = Roles(self.encoder.encode_query, lambda some: np.stack([vectors[text] for text in some]))
        index = SearchIndex(self.index.storage, encoded)
        return await asyncio.to_thread(index.add_documents, rows, upsert=upsert)

    def check_changeable(self) -> None:
        """Raise an HTTPException if texts may not be added and deleted."""
        self.check_indexed()
        if not self._changeable:
            raise HTTPException(403, "a service without a token changes nothing; start it with one, as SIMCSE_TOKEN")

    def check_indexed(self) -> None:
        """Raise an HTTPException if there is no index."""
        if not self._indexed:
            raise HTTPException(404, "this service has an encoder alone; start it with an index: simcse serve INDEX")

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
        if search is not None:
            self.check_indexed()
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
