"""A query and what answers it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypedDict, get_args

from ragops.errors import UsageError
from ragops.types import Filter, Mode

MAX_K = 10_000  # of offset and k together
MAX_TEXT = 50_000  # characters of a query
MAX_EXPAND = 20


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked, and how. Checked where it is made; filters are checked where they meet the store.

    `scope` is what the asker may see, and what BM25 counts its IDF in: an app or a service sets it, never a user.
    `per_document`: at most so many hits of one document. `expand`: so many chunks before and after each hit come with
    it. `diversity`: 0 (none) to 1, by maximal marginal relevance. `min_score` bounds `Hit.score`. `rerank`: name or
    folder of a cross-encoder. `collapse`: passages that say the same are one hit.
    Raises UsageError.
    """

    text: str
    k: int = 10
    mode: Mode = "hybrid"
    filter: Filter | None = None
    scope: Filter | None = None
    offset: int = 0
    per_document: int | None = None
    expand: int = 0
    exact: bool = False
    min_score: float | None = None
    diversity: float | None = None
    rerank: str | None = None
    collapse: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise UsageError(f"a query is text, not {type(self.text).__name__}")
        if not self.text.strip():
            raise UsageError("the query is empty", 'Ask something: ragops search "what happens to a broken file?"')
        if len(self.text) > MAX_TEXT:
            raise UsageError(f"the query has {len(self.text)} characters; it takes {MAX_TEXT}", "Ask a question of it.")
        try:
            self.text.encode()
        except UnicodeEncodeError:
            raise UsageError("the query is not valid Unicode") from None
        if self.mode not in get_args(Mode):
            raise UsageError(f"mode is {self.mode!r}; it takes one of {', '.join(get_args(Mode))}")
        _whole("k", self.k, 1, MAX_K)
        _whole("offset", self.offset, 0, MAX_K)
        _whole("k and offset together", self.k + self.offset, 1, MAX_K)
        _whole("expand", self.expand, 0, MAX_EXPAND)
        if self.per_document is not None:
            _whole("per_document", self.per_document, 1, MAX_K)
        if self.min_score is not None:
            _number("min_score", self.min_score, -math.inf, math.inf)
        if self.diversity is not None:
            _number("diversity", self.diversity, 0.0, 1.0)
        for name, value in (("exact", self.exact), ("collapse", self.collapse)):
            if not isinstance(value, bool):
                raise UsageError(f"{name} is {value!r}; it takes True or False")
        if self.rerank is not None and (not isinstance(self.rerank, str) or not self.rerank.strip()):
            raise UsageError("rerank takes the name or the folder of a cross-encoder")


class Options(TypedDict, total=False):
    """The fields of a Query that may stand beside its text."""

    mode: Mode
    filter: Filter | None
    offset: int
    per_document: int | None
    expand: int
    exact: bool
    min_score: float | None
    diversity: float | None
    rerank: str | None
    collapse: bool


def ask(query: str | Query, k: int | None, options: Options, defaults: Options, default_k: int) -> Query:
    """A query of a text, its options and what stands for those that are not given; of a Query, with what is given.

    Raises UsageError.
    """
    given: dict[str, Any] = dict(options) if k is None else {**options, "k": k}
    return (
        replace(query, **given) if isinstance(query, Query) else Query(query, **{"k": default_k, **defaults, **given})
    )


def _whole(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{name} is {value!r}; it takes a whole number")
    if not least <= value <= most:
        raise UsageError(f"{name} is {value}; it takes {least} to {most}")


def _number(name: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"{name} is {value!r}; it takes a number")
    if not least <= value <= most:
        raise UsageError(f"{name} is {value}; it takes {least:g} to {most:g}")


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk beside a hit. `start` and `end` are code points of the document's text."""

    text: str
    start: int
    end: int
    heading: tuple[str, ...]
    page: int | None
    chunk_id: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that answers, with its citation. `start` and `end` are code points of the document's text.

    `score` is what orders: cosine (dense), BM25, the mean of both scaled to 0..1 (hybrid), or the
    cross-encoder's. `scores` and
    `ranks` (from 1) are those of each leg; a leg is missing where the passage was not among its candidates.
    `also`: uris of other documents that say exactly the same, as far as they were among the candidates.
    """

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
    scores: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    before: tuple[Passage, ...] = ()
    after: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True)
class Results:
    """Hits of one query, best first, and the release that gave them.

    `release` is None where a revision was asked of which none is kept."""

    release: int | None
    query: str
    hits: tuple[Hit, ...]
    revision: str | None = None
    mode: Mode = "dense"

    def as_dict(self) -> dict[str, Any]:
        asked = {"revision": self.revision} if self.revision is not None else {}
        hits = [asdict(hit) for hit in self.hits]
        return {"release": self.release, **asked, "query": self.query, "mode": self.mode, "hits": hits}


def hit(score: float, payload: Mapping[str, Any], **more: Any) -> Hit:
    names = ("uri", "title", "page", "text", "start", "end", "document_id", "chunk_id", "source")
    found: dict[str, Any] = {name: payload.get(name) for name in names}
    heading = tuple(payload.get("heading") or ())
    return Hit(round(score, 6), heading=heading, meta=payload.get("meta") or {}, **found, **more)
