"""Encoders for LlamaIndex.

Settings.embed_model = SimCSEEmbedding("runs/x/best")
"""

from __future__ import annotations

from typing import Any

from simcse.encoder.model import SentenceEncoder
from simcse.errors import ConfigError

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
except ImportError as error:
    raise ConfigError("this needs llama-index-core: pip install 'simcse-kit[llama-index]'") from error

__all__ = ["SimCSEEmbedding"]


class SimCSEEmbedding(BaseEmbedding):
    """Queries by `encode_query`, texts of nodes by `encode_document` of a checkpoint, which its name stands for."""

    options: dict[str, Any] = Field(default_factory=dict, description="of SentenceEncoder.from_pretrained")
    embed_batch_size: int = Field(default=512, gt=0, le=2048, description="the most texts of a call of the encoder")
    _encoder: SentenceEncoder = PrivateAttr()

    def __init__(self, model_name: str, **fields: Any) -> None:
        super().__init__(model_name=model_name, **fields)
        self._encoder = SentenceEncoder.from_pretrained(model_name, **self.options)

    @classmethod
    def class_name(cls) -> str:
        """As LlamaIndex stores it."""
        return "SimCSEEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._encoder.encode_query(query).tolist()  # type: ignore[no-any-return]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._encoder.encode_document(text).tolist()  # type: ignore[no-any-return]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._encoder.encode_document(texts).tolist()  # type: ignore[no-any-return]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._get_text_embeddings(texts)
