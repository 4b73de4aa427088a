"""The bodies of requests, strict, and of answers, for the API's description."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FILTER: dict[str, JsonValue] = {"source": "handbook", "meta.year": {"gte": 2020}}


class Body(BaseModel):
    """Of a request: a field that is not known is an error, and so is one of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """JSON has one kind of number: 5.0 is 5."""
        if not isinstance(value, dict):
            return value
        return {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in value.items()}


class Question(Body):
    """One query. Bounds are those of this service."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "how long are invoices kept?", "k": 5},
                {"text": "notice period", "k": 10, "mode": "hybrid", "filter": FILTER, "expand": 1, "per_document": 2},
            ]
        }
    )

    text: str = Field(min_length=1, description="The question, in plain words")
    k: int | None = Field(None, ge=1, le=10_000, description="How many passages")
    mode: Literal["dense", "bm25", "hybrid"] | None = Field(
        None, description="By meaning, by words, or both; null: what the operator chose"
    )
    filter: dict[str, Any] | None = Field(
        None,
        description='{"field": value | {"in": [...], "gte":, "lt":, "exists":}}, all must hold; {"any": [filter, ...]}.'
        " It narrows what the key may see, and never widens it",
        examples=[FILTER],
    )
    offset: int = Field(0, ge=0, le=10_000, description="Passages to leave out at the top")
    per_document: int | None = Field(None, ge=1, le=10_000, description="At most so many passages of one document")
    expand: int = Field(0, ge=0, le=20, description="Passages before and after each that come with it")
    exact: bool = Field(False, description="Compare with every vector, without the index")
    min_score: float | None = Field(None, description="Leave out what scores less")
    diversity: float | None = Field(None, ge=0, le=1, description="Maximal marginal relevance: 0 none, 1 most")
    rerank: str | None = Field(None, description="A cross-encoder that the operator allows")
    collapse: bool = Field(True, description="Passages that say exactly the same are one")


class Ask(Question):
    """One query, and the release that is to answer it."""

    release: int | None = Field(None, ge=1, le=2**31, description="A kept release instead of the live one")


class Batch(Body):
    """Several queries, answered by one release."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"queries": [{"text": "notice period"}, {"text": "holidays", "k": 3}]}]}
    )

    queries: list[Question] = Field(min_length=1, max_length=1000)
    release: int | None = Field(None, ge=1, le=2**31, description="A kept release instead of the live one")


class Feedback(Body):
    """What somebody thinks of a passage. The texts are kept as they are: leave them out where they are private."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"document_id": "5c1d" * 16, "chunk_id": "a94f" * 16, "relevant": True}]}
    )

    document_id: Id
    chunk_id: Id
    relevant: bool = Field(description="Whether it answers the question")
    request: str | None = Field(
        None, pattern=r"^[A-Za-z0-9._-]{8,64}$", description="The X-Request-Id of the search that gave it"
    )
    query: str | None = Field(None, max_length=4000)
    comment: str | None = Field(None, max_length=4000)
    release: int | None = Field(None, ge=1, le=2**31)


# ---------------------------------------------------------------- answers
class Wrong(BaseModel):
    message: str
    hint: str
    field: str | None = None


class Problem(BaseModel):
    """The form of every error."""

    error: Wrong


class Neighbour(BaseModel):
    text: str
    start: int
    end: int
    heading: list[str]
    page: int | None
    chunk_id: str


class Chunk(BaseModel):
    """A passage with its citation; `start` and `end` are characters of the document's text."""

    chunk_id: str
    document_id: str
    uri: str
    source: str
    title: str
    heading: list[str]
    page: int | None
    start: int
    end: int
    text: str
    meta: dict[str, Any]


class Found(Chunk):
    """A hit. `scores` and `ranks` by leg; `also`: documents that say exactly the same."""

    score: float
    scores: dict[str, float]
    ranks: dict[str, int]
    also: list[str]
    before: list[Neighbour]
    after: list[Neighbour]


class Answer(BaseModel):
    """Passages, best first, and the release that gave them."""

    release: int
    query: str
    mode: str
    hits: list[Found]


class Answers(BaseModel):
    release: int
    results: list[Answer]


class Piece(BaseModel):
    chunk_id: str
    heading: list[str]
    page: int | None
    start: int
    end: int
    text: str


class Document(BaseModel):
    """A document's passages as they stand in its text, `total` in all; `next`: the offset of those that follow."""

    release: int
    document_id: str
    uri: str
    source: str
    title: str
    meta: dict[str, Any]
    total: int
    offset: int
    next: int | None
    chunks: list[Piece]


class OneChunk(Chunk):
    release: int
    before: list[Neighbour]
    after: list[Neighbour]


class Kept(BaseModel):
    """A release. What it holds in all is told to keys with the scope admin only."""

    number: int
    live: bool
    held: bool
    created: str
    model: str
    points: int | None = None
    fingerprint: str | None = None
    space: str | None = None
    numerics: str | None = None
    incomplete: list[str] | None = None


class Stored(BaseModel):
    id: str
