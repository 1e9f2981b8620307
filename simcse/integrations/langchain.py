"""Encoders and indexes for LangChain.

encoder = SentenceEncoder.from_pretrained("runs/x/best")
store = InMemoryVectorStore(SimCSEEmbeddings(encoder))
retriever = SimCSERetriever(index=SearchIndex.load("index", encoder), top_k=3)
retriever.invoke("Who plays?")
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simcse.errors import ConfigError
from simcse.search.index import SearchIndex
from simcse.vectors import Encode, Encoder, encoded, roles_of

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
except ImportError as error:
    raise ConfigError("this needs langchain-core: pip install 'simcse-kit[langchain]'") from error

__all__ = ["SimCSEEmbeddings", "SimCSERetriever"]


class SimCSEEmbeddings(Embeddings):
    """Queries by `encoder.encode_query`, documents by `encoder.encode_document`; any encoder of an index will do."""

    def __init__(self, encoder: Encode | Encoder) -> None:
        self._roles = roles_of(encoder)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """n texts to be found -> n vectors."""
        return encoded(self._roles.encode_document, texts).astype(np.float32).tolist() if texts else []

    def embed_query(self, text: str) -> list[float]:
        """A text that is searched for -> its vector."""
        return encoded(self._roles.encode_query, [text])[0].astype(np.float32).tolist()  # type: ignore[no-any-return]


class SimCSERetriever(BaseRetriever):
    """The hits of a `SearchIndex` as documents, whose metadata hold the cosine as `score`; options of its `search`."""

    index: SearchIndex
    top_k: int = 5
    min_score: float | None = None
    where: dict[str, Any] | None = None

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        [hits] = self.index.search(query, self.top_k, self.min_score, where=self.where)
        return [Document(hit.text, id=str(hit.id), metadata={**hit.metadata, "score": hit.score}) for hit in hits]
