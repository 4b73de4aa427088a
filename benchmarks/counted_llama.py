"""The counting model as LlamaIndex's embedding class; a module of its own, so that worker processes find it."""

from __future__ import annotations

from typing import Any

from counted import Model
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr


class Counted(BaseEmbedding):  # type: ignore[misc]
    _model: Any = PrivateAttr(default=None)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        if self._model is None:
            self._model = Model()
        vectors: list[list[float]] = self._model.embed(texts)
        return vectors

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)
