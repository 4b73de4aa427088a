"""Why a document is a hit of a query, a low one, or none: looked up, never guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from ragops.retrieval.fusion import paged
from ragops.retrieval.query import MAX_K, Hit, Query, hit
from ragops.retrieval.search import LEGS, search
from ragops.types import Embedder, Leg, Place, Reader

Verdict: TypeAlias = Literal[
    "hit",  # it is one
    "collapsed",  # another document says the same, and stands for it
    "missing",  # the release has no such document
    "permission",  # the asker may not see it
    "filter",  # the filter lets none of its passages through
    "unfound",  # no leg finds it: it shares no word with the query (bm25)
    "min_score",  # it scores less than was asked for
    "index",  # the approximate search passed it over: an exact one finds it
    "cut",  # others are better: it stands further down than was asked for
    "reordered",  # it is a candidate; the reranker, or the wish for diversity, put others before it
]


@dataclass(frozen=True, slots=True)
class Explanation:
    """`best` is its best passage where every vector is compared and the list goes on, `rank` its place there (from 1,
    those that say the same counted too), `legs` rank and score in each leg. `last`: the score of the last hit."""

    uri: str
    verdict: Verdict
    said: str
    release: int
    rank: int | None = None
    legs: Mapping[str, Mapping[str, float]] | None = None
    best: Hit | None = None
    last: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def why(
    reader: Reader, encoder: Embedder | None, query: Query, uri: str, rejects: Sequence[Mapping[str, Any]] = ()
) -> Explanation:
    """Explain. `rejects`: rows with uri, stage, code, reason and hint, for a document that never came in.

    Raises UsageError, SpaceMismatch, StoreError.
    """
    number = reader.release.number
    points = {id for id, _, _ in reader.points(filter={"uri": uri})}
    rejected = next((row for row in rejects if row["uri"] == uri), None)
    if not points:
        if rejected is not None:
            said = f"it was rejected ({rejected['stage']}: {rejected['code']}): {rejected['reason'].rstrip('.')}."
            return Explanation(uri, "missing", f"{said} {rejected['hint']}".strip(), number)
        return Explanation(uri, "missing", f"release {number} has no document of this uri", number)
    if query.scope and not reader.count({"uri": uri, "any": [query.scope]}):
        return Explanation(uri, "permission", "its tenant or its groups are not the asker's", number)
    if query.filter:
        both = {"any": [query.filter], "uri": uri}
        if not reader.count(both):
            return Explanation(uri, "filter", "none of its passages passes the filter", number)

    hits = search(reader, encoder, replace(query, k=query.offset + query.k, offset=0)).hits
    last = hits[-1].score if len(hits) > query.offset else None
    places = [n for n, found in enumerate(hits, 1) if found.uri == uri]
    place = next((n for n in places if n > query.offset), places[0] if places else None)
    legs = _legs(reader, encoder, query)
    ours = [(n, each) for n, each in enumerate(paged(legs), 1) if each.place.point_id in points]
    if not ours:
        said = "it shares no word with the query" if query.mode == "bm25" else f"it is not among the best {MAX_K}"
        return Explanation(uri, "unfound", said, number, last=last)
    rank, candidate = ours[0]
    payload = reader.retrieve([candidate.place])[0][0]
    told = {
        name: {"rank": place_of, "score": each.score}
        for name, places in legs.items()
        for place_of, each in enumerate(places, 1)
        if each.point_id == candidate.place.point_id
    }
    scores = {name: leg["score"] for name, leg in told.items()}
    best = hit(candidate.score, payload, scores=scores, ranks={name: int(leg["rank"]) for name, leg in told.items()})
    same = next((found for found in hits if query.collapse and found.text == best.text), None)
    lacking = [name for name in legs if name not in told]
    note = f"; {' and '.join(lacking)} does not find it" if lacking else ""
    verdict: Verdict
    if place is not None and place > query.offset:
        verdict, said = "hit", f"it is hit {place}"
    elif place is not None:
        verdict, said = "cut", f"it stands at {place}, before the offset"
    elif same is not None:
        verdict, said = "collapsed", f"{same.uri} says the same and stands for it"
    elif query.min_score is not None and query.rerank is None and best.score < query.min_score:
        verdict, said = "min_score", f"it scores {best.score:g}, less than {query.min_score:g}"
    elif query.rerank is not None or query.diversity:
        verdict, said = "reordered", "what orders the candidates anew puts others before it"
    elif not query.exact and any(
        found.uri == uri for found in search(reader, encoder, replace(query, exact=True)).hits
    ):
        verdict, said = "index", "the approximate search passed it over; --exact finds it"
    else:
        verdict, said = "cut", f"its best passage stands at {rank}; k is {query.k}"
    if rejected is not None:
        note += f"; its newest content was rejected ({rejected['code']}), this is the last that was not"
    return Explanation(uri, verdict, said + note, number, rank, told, best, last)


def _legs(reader: Reader, encoder: Embedder | None, query: Query) -> dict[str, list[Place]]:
    legs: list[Leg] = []
    for name in LEGS[query.mode]:
        if name == "bm25":
            legs.append(query.text)
        else:
            assert encoder is not None
            legs.append(encoder.embed_queries([query.text])[0].tolist())
    places = reader.rank(legs, MAX_K, query.filter, scope=query.scope, exact=True)
    return dict(zip(LEGS[query.mode], places, strict=True))
