"""A query to hits with their citations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ragops.errors import SpaceMismatch, UsageError
from ragops.types import Embedder, Filter, Reader

MAX_K = 10_000


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that answers, with its citation. `start` and `end` are code points of the document's text."""

    score: float
    uri: str
    title: str
    heading: tuple[str, ...]
    page: int | None
    text: str
    start: int
    end: int
    document_id: str
    chunk_id: str
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Results:
    """Hits of one query, best first, and the release that gave them: None where a revision was asked of which none is
    kept."""

    release: int | None
    query: str
    hits: tuple[Hit, ...]
    revision: str | None = None

    def as_dict(self) -> dict[str, Any]:
        asked = {"revision": self.revision} if self.revision is not None else {}
        return {"release": self.release, **asked, "query": self.query, "hits": [asdict(hit) for hit in self.hits]}


def search(
    reader: Reader, encoder: Embedder, query: str, *, k: int = 10, filter: Filter | None = None, exact: bool = False
) -> Results:
    """Dense search. Raises UsageError for a query or k that cannot be, SpaceMismatch for another model's encoder."""
    if not query.strip():
        raise UsageError("the query is empty", 'Ask something: ragops search "what happens to a broken file?"')
    if not 1 <= k <= MAX_K:
        raise UsageError(f"k is {k}; it takes 1 to {MAX_K}")
    check_space(reader, encoder)
    vector = encoder.embed_queries([query])[0]
    found = reader.search(vector.tolist(), k, filter, exact=exact)
    return Results(reader.release.number, query, tuple(hit(item.score, item.payload) for item in found))


def check_space(reader: Reader, encoder: Embedder) -> None:
    release = reader.release
    if encoder.space.fingerprint != release.space.fingerprint:
        raise SpaceMismatch(
            f"release {release.number} holds vectors of {release.space.model}"
            f" (space {release.space.fingerprint[:12]}), the query encoder is {encoder.space.model}"
            f" (space {encoder.space.fingerprint[:12]})",
            "Query with the release's own encoder, or run `ragops ingest` to re-embed.",
        )


def hit(score: float, payload: Mapping[str, Any]) -> Hit:
    names = ("uri", "title", "page", "text", "start", "end", "document_id", "chunk_id", "source")
    found = {name: payload.get(name) for name in names}
    return Hit(round(score, 6), heading=tuple(payload.get("heading") or ()), meta=payload.get("meta") or {}, **found)  # type: ignore[arg-type]
