"""A document as a release holds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ragops.retrieval.query import Hit, Passage, hit
from ragops.types import Filter, Reader


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """The chunks of a document, in the order of its text."""

    document_id: str
    uri: str
    title: str
    source: str
    meta: Mapping[str, Any]
    passages: tuple[Passage, ...]

    @property
    def text(self) -> str:
        """`text[p.start:p.end] == p.text` for every passage; what stands between two is white space."""
        parts: list[str] = []
        at = 0
        for each in self.passages:
            gap = each.start - at
            parts.append(" " * gap if gap <= 1 else "\n\n" + " " * (gap - 2))
            if each.end > at:
                parts.append(each.text[max(0, at - each.start) :])
                at = each.end
        return "".join(parts)


def document(reader: Reader, name: str, scope: Filter | None = None) -> StoredDocument | None:
    """By uri or document id; None where there is none, or none that `scope` lets be seen."""
    found = chunks_of(reader, "document_id" if _is_id(name) else "uri", [name], scope)
    if not found:
        return None
    ((document_id, chunks),) = found.items()
    first = chunks[0]
    return StoredDocument(
        document_id,
        first["uri"],
        first.get("title") or "",
        first.get("source") or "",
        first.get("meta") or {},
        tuple(map(passage, chunks)),
    )


def chunk(reader: Reader, chunk_id: str, scope: Filter | None = None) -> Hit | None:
    """One chunk with its citation and a score of 0; None where there is none, or none that `scope` lets be seen."""
    wanted = _under({"chunk_id": chunk_id}, scope)
    return next((hit(0.0, payload) for _, payload, _ in reader.points(filter=wanted)), None)


def chunks_of(
    reader: Reader, field: str, values: Iterable[str], scope: Filter | None = None
) -> dict[str, list[Mapping[str, Any]]]:
    """Payloads of the chunks whose `field` is one of `values`, by document id, as they stand in the text."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for _, payload, _ in reader.points(filter=_under({field: {"in": sorted(values)}}, scope)):
        found.setdefault(payload["document_id"], []).append(payload)
    for chunks in found.values():
        chunks.sort(key=lambda payload: (payload["start"], payload["end"], payload["chunk_id"]))
    return found


def beside(chunks: Sequence[Mapping[str, Any]], chunk_id: str, count: int) -> tuple[list[Passage], list[Passage]]:
    """The `count` passages before and after a chunk."""
    at = next((n for n, payload in enumerate(chunks) if payload["chunk_id"] == chunk_id), len(chunks))
    before, after = chunks[max(0, at - count) : at], chunks[at + 1 : at + 1 + count]
    return list(map(passage, before)) if at < len(chunks) else [], list(map(passage, after))


def passage(payload: Mapping[str, Any]) -> Passage:
    heading = tuple(payload.get("heading") or ())
    return Passage(payload["text"], payload["start"], payload["end"], heading, payload.get("page"), payload["chunk_id"])


def _under(filter: Filter, scope: Filter | None) -> Filter:
    return {**filter, "any": [scope]} if scope else filter


def _is_id(name: str) -> bool:
    return len(name) == 64 and all(letter in "0123456789abcdef" for letter in name)
