"""An index as a server of the Model Context Protocol: tools by which a language model searches it."""

from __future__ import annotations

import threading
from typing import Annotated, Any

from simcse import __version__
from simcse.display.hits import SCORE_DIGITS
from simcse.errors import ConfigError, SimCSEError
from simcse.search.index import SearchIndex

try:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import ToolAnnotations
    from pydantic import BaseModel, Field
except ImportError as error:
    raise ConfigError("this needs mcp 2: pip install 'simcse-kit[mcp]'") from error

__all__ = ["create_server"]

MOST = 100  # hits, and texts by id
LONGEST = 1000  # characters of a hit's text: a model pays for each
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
ABOUT = (
    "Texts of an index, searched by meaning rather than by words. Search first; fetch gives whole texts by their ids."
)

Id = int | str


class Found(BaseModel):
    """A hit."""

    id: Id
    score: float = Field(description="cosine similarity with the query, in [-1, 1]")
    text: str = Field(description=f"the first {LONGEST} characters")
    metadata: dict[str, Any]


class Hits(BaseModel):
    """Hits, best first."""

    hits: list[Found]


class Whole(BaseModel):
    """A text of the index."""

    id: Id
    text: str
    metadata: dict[str, Any]


class Texts(BaseModel):
    """Texts in the order of the ids."""

    texts: list[Whole]


def create_server(index: SearchIndex) -> MCPServer:
    """A server with the tools `search`, `fetch` and `info` of an index that was loaded with its encoder."""
    server = MCPServer("simcse", version=__version__, instructions=ABOUT, log_level="WARNING")
    encoding = threading.Lock()  # tools run in threads

    @server.tool(annotations=READS)
    def search(
        query: Annotated[str, Field(description="what to look for, in words of its own")],
        top_k: Annotated[int, Field(ge=1, le=MOST, description="hits, at most")] = 5,
        min_score: Annotated[float | None, Field(description="the least cosine of a hit")] = None,
        where: Annotated[
            dict[str, Any] | None,
            Field(description='metadata that hits must have: {"lang": "en"}, {"year": {">=": 2000}}; info names them'),
        ] = None,
    ) -> Hits:
        """Find the texts that are nearest to a query in meaning, best first."""
        try:
            with encoding:
                [hits] = index.search(query, top_k, min_score, where=where)
        except SimCSEError as error:
            raise ToolError(str(error)) from error
        found = [
            Found(
                id=hit.id, score=round(hit.score, SCORE_DIGITS), metadata=hit.metadata,
                text=hit.text if len(hit.text) <= LONGEST else f"{hit.text[: LONGEST - 1]}…",
            )
            for hit in hits
        ]  # fmt: skip
        return Hits(hits=found)

    @server.tool(annotations=READS)
    def fetch(
        ids: Annotated[list[Id], Field(min_length=1, max_length=MOST, description="of texts, as search gives them")],
    ) -> Texts:
        """Give whole texts and their metadata by ids."""
        try:
            rows = index.fetch([index.typed_ids([key])[0] if isinstance(key, str) else key for key in ids])
        except SimCSEError as error:
            raise ToolError(str(error)) from error
        return Texts(texts=[Whole(id=key, text=text, metadata=metadata) for key, text, metadata in rows])

    @server.tool(annotations=READS)
    def info() -> dict[str, Any]:
        """Tell the number of texts, the fields of their metadata and the encoder."""
        facts = index.info
        return {"texts": facts["count"], "metadata_fields": facts["fields"], "encoder": facts["encoder"]}

    return server
