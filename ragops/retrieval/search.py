"""A query to hits with their citations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ragops.errors import SpaceMismatch, UsageError
from ragops.retrieval import diversity, rerank
from ragops.retrieval.document import beside, chunks_of
from ragops.retrieval.fusion import Candidate, depth, paged
from ragops.retrieval.query import Hit, Query, Results, hit
from ragops.types import Embedder, Leg, Place, Reader

if TYPE_CHECKING:
    from ragops.types import Vectors

POOL = 50  # passages that are ordered anew by a reranker or for diversity, at least
LEGS = {"dense": ("dense",), "bm25": ("bm25",), "hybrid": ("dense", "bm25")}


def search(reader: Reader, encoder: Embedder | None, query: Query) -> Results:
    """Answer one query. `encoder` may be None where the mode is bm25.

    Raises UsageError for a filter that cannot be, SpaceMismatch for another model's encoder, StoreError.
    """
    return search_many(reader, encoder, [query])[0]


def search_many(reader: Reader, encoder: Embedder | None, queries: Sequence[Query]) -> list[Results]:
    """Answer several queries of one release; their texts are embedded together."""
    dense = [query for query in queries if "dense" in LEGS[query.mode]]
    vectors: dict[str, Sequence[float]] = {}
    if dense:
        if encoder is None:
            raise UsageError("a search by vectors needs the query encoder", 'Give one, or ask with mode="bm25".')
        check_space(reader, encoder)
        texts = list(dict.fromkeys(query.text for query in dense))
        vectors = dict(zip(texts, encoder.embed_queries(texts).tolist(), strict=True))
    return [_answer(reader, query, vectors.get(query.text)) for query in queries]


def check_space(reader: Reader, encoder: Embedder) -> None:
    release = reader.release
    if encoder.space.fingerprint != release.space.fingerprint:
        raise SpaceMismatch(
            f"release {release.number} holds vectors of {release.space.model}"
            f" (space {release.space.fingerprint[:12]}), the query encoder is {encoder.space.model}"
            f" (space {encoder.space.fingerprint[:12]})",
            "Query with the release's own encoder, or run `ragops ingest` to re-embed.",
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """A passage that may become a hit."""

    candidate: Candidate
    score: float
    payload: Mapping[str, Any]
    vector: Vectors | None
    scores: Mapping[str, float]
    also: tuple[str, ...] = ()


def _answer(reader: Reader, query: Query, vector: Sequence[float] | None) -> Results:
    wanted = query.offset + query.k
    reordered = query.rerank is not None or bool(query.diversity)
    deep = depth(wanted, len(LEGS[query.mode]))
    while True:
        legs = _legs(reader, query, vector, deep)
        found, enough = _passages(reader, query, paged(legs), max(POOL, wanted) if reordered else 0)
        low = query.rerank is None and not _good(query, found[-1:])  # everything further down scores less
        if enough or low or all(len(places) < deep for places in legs.values()):
            break
        deep *= 4  # what is collapsed, or of one document, makes room
    if query.rerank is not None:
        found = _reranked(query, query.rerank, found)
    found = _good(query, found)
    if query.diversity:
        vectors = [each.vector for each in found if each.vector is not None]
        order = diversity.order([each.score for each in found], vectors, query.diversity)
        found = [found[place] for place in order]
    if query.per_document is not None and reordered:
        found = _limited(found, query.per_document)
    hits = [
        hit(each.score, each.payload, scores=each.scores, ranks=dict(each.candidate.ranks), also=each.also)
        for each in found[query.offset : wanted]
    ]
    if query.expand:
        hits = _expanded(reader, query, hits)
    return Results(reader.release.number, query.text, tuple(hits), mode=query.mode)


def _good(query: Query, found: Sequence[_Found]) -> list[_Found]:
    least = -math.inf if query.min_score is None else query.min_score
    return [each for each in found if round(each.score, 6) >= least]


def _legs(reader: Reader, query: Query, vector: Sequence[float] | None, depth: int) -> dict[str, list[Place]]:
    names = LEGS[query.mode]
    legs: list[Leg] = [query.text if name == "bm25" or vector is None else vector for name in names]
    places = reader.rank(legs, depth, query.filter, scope=query.scope, exact=query.exact)
    return dict(zip(names, places, strict=True))


def _passages(reader: Reader, query: Query, candidates: Sequence[Candidate], pool: int) -> tuple[list[_Found], bool]:
    """The best of them, each text once, until as many hits as are wanted can be made of them, and whether they can.

    `pool`: of what is ordered anew, so many whatever their documents; beyond it, as where there is none, no more of one
    document than is wanted. Payloads are read as needed.
    """
    found: dict[str, _Found] = {}
    of_document: dict[str, int] = {}
    most = query.per_document or len(candidates)
    wanted = query.offset + query.k
    room = start = 0  # hits that what is found gives
    enough = False
    while start < len(candidates) and not enough:
        part = candidates[start : start + max(16, start, pool - len(found), wanted - room)]
        start += len(part)
        retrieved = reader.retrieve([each.place for each in part], vectors=bool(query.diversity))
        for candidate, (payload, vector) in zip(part, retrieved, strict=True):
            text = payload["text"] if query.collapse else candidate.place.point_id
            same = found.get(text)
            if same is not None:
                uri = payload["uri"]
                if uri != same.payload["uri"] and uri not in same.also:
                    found[text] = replace(same, also=(*same.also, uri))
                continue
            count = of_document.get(payload["document_id"], 0)
            if enough or (count >= most and len(found) >= pool):
                continue  # what says the same as a hit is still told
            of_document[payload["document_id"]] = count + 1
            room += count < most
            scores = {name: round(score, 6) for name, score in candidate.scores.items()}
            found[text] = _Found(candidate, candidate.score, payload, vector, scores)
            enough = room >= wanted and len(found) >= pool
    return list(found.values()), enough


def _reranked(query: Query, model: str, found: Sequence[_Found]) -> list[_Found]:
    texts = [f"{each.payload.get('title') or ''}\n{each.payload['text']}".strip() for each in found]
    scores = rerank.scores(model, query.text, texts)
    scored = [
        replace(each, score=score, scores={**each.scores, "rerank": round(score, 6)})
        for each, score in zip(found, scores, strict=True)
    ]
    return sorted(scored, key=lambda each: (-round(each.score, 6), each.candidate.place.point_id))


def _limited(found: Sequence[_Found], most: int) -> list[_Found]:
    seen: dict[str, int] = {}
    kept = []
    for each in found:
        document = each.payload["document_id"]
        seen[document] = seen.get(document, 0) + 1
        if seen[document] <= most:
            kept.append(each)
    return kept


def _expanded(reader: Reader, query: Query, hits: Sequence[Hit]) -> list[Hit]:
    chunks = chunks_of(reader, "document_id", {each.document_id for each in hits}, query.scope)
    around = [beside(chunks.get(each.document_id, []), each.chunk_id, query.expand) for each in hits]
    return [
        replace(each, before=tuple(before), after=tuple(after))
        for each, (before, after) in zip(hits, around, strict=True)
    ]
