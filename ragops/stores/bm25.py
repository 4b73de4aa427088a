"""BM25 as sparse vectors, by Qdrant Edge's own offline tokenizer, for every backend.

A document's vector carries the term frequencies, saturated and normalised by length; the engine multiplies by IDF.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LANGUAGE = "english"
K1 = 1.2
B = 0.75


def text_of(payload: Mapping[str, Any]) -> str:
    """What BM25 reads of a point: title, heading path and text, so that a title's words are found too."""
    return "\n".join([payload.get("title") or "", *(payload.get("heading") or ()), payload["text"]])


class Bm25:
    """Text to (token ids, weights). `avg_len` is the collection's average document length, in tokens."""

    def __init__(self, avg_len: int) -> None:
        from qdrant_edge import Bm25 as Model
        from qdrant_edge import Bm25Config

        self._documents = Model(Bm25Config(k=K1, b=B, avg_len=float(max(1, avg_len)), language=LANGUAGE))
        # With an endless k and no length in it, BM25's weight of a term is its count.
        self._counts = Model(Bm25Config(k=1e9, b=0.0, avg_len=1.0, language=LANGUAGE))

    def document(self, text: str) -> tuple[list[int], list[float]]:
        vector = self._documents.embed_document(text)
        return vector.indices, vector.values

    def query(self, text: str) -> tuple[list[int], list[float]]:
        """Each term weighted by how often the query says it (Edge's own `embed_query` drops repeats)."""
        vector = self._counts.embed_document(text)
        return vector.indices, [float(round(value)) for value in vector.values]

    def length(self, text: str) -> int:
        """Tokens in a text, stop words left out: what `avg_len` is the average of."""
        return round(sum(self._counts.embed_document(text).values))
