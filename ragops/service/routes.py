"""The routes of the API. Each that returns content asks the service with the asker, who alone says what may be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response, Security
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ragops import config
from ragops.errors import UsageError
from ragops.retrieval import query as asked
from ragops.service import answers, audit, models
from ragops.service.access import Asker
from ragops.service.answers import Refused
from ragops.service.metrics import CONTENT_TYPE
from ragops.service.service import Service
from ragops.stores import filters

RERANKED, EXACT, KEPT = 10, 2, 5  # what such a query counts, and what opening a kept release adds
CHUNKS = 200  # of a document in one answer, where a request does not say

_says = {
    400: "Not HTTP as it should be",
    401: "No key, or one that is unknown, revoked or expired",
    403: "The key lacks the scope",
    404: "Not there, or not for this key",
    408: "The body did not arrive in time",
    413: "The body is too large",
    422: "A field is unknown, missing, of another type or out of bounds; `error.field` names it",
    429: "The key's rate is spent; Retry-After says for how long",
    503: "Busy, or not able to answer now; Retry-After says when to try again",
}


def _wrong(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": models.Problem, "description": _says[status]} for status in statuses}


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _record(request: Request) -> audit.Record:
    record: audit.Record = request.scope["ragops"]
    return record


_bearer = HTTPBearer(auto_error=False, bearerFormat="ragops_<id>_<secret>", description="A key of `ragops keys create`")


class May:
    """A dependency of routes: the asker, if the key has that scope and something is left of its rate."""

    def __init__(self, scope: str) -> None:
        self.scope = scope

    async def __call__(
        self, request: Request, shown: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
    ) -> Asker:
        asker = _record(request).asker
        assert asker is not None  # the guard has let it in
        if self.scope not in asker.scopes:
            raise Refused(
                403, f"this key has no scope '{self.scope}'", f"It has {', '.join(asker.scopes)}.", reason="scope"
            )
        await _service(request).rates.spend(asker, 1)
        return asker


COMMON = _wrong(401, 403, 413, 422, 429, 503)
router = APIRouter()
Searcher = Annotated[Asker, Depends(May("search"))]
ReaderOf = Annotated[Asker, Depends(May("read"))]
Critic = Annotated[Asker, Depends(May("feedback"))]
Number = Annotated[int | None, Query(ge=1, le=2**31, description="A kept release instead of the live one")]
Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]


# ---------------------------------------------------------------- search
@router.post(
    "/v1/search", tags=["search"], summary="The best passages for a question",
    responses={200: {"model": models.Answer}, **COMMON, **_wrong(400, 404, 408)}, operation_id="search",
)  # fmt: skip
async def search(request: Request, body: models.Ask, asker: Searcher) -> Response:
    """Passages with citations and scores, from one release, under what the key may see."""
    return (await _answer(request, asker, [body], body.release, [""]))[0]


@router.post(
    "/v1/search/batch", tags=["search"], summary="Several questions at once",
    responses={200: {"model": models.Answers}, **COMMON, **_wrong(400, 404, 408)}, operation_id="search_batch",
)  # fmt: skip
async def search_batch(request: Request, body: models.Batch, asker: Searcher) -> Response:
    """All are answered by one release. A batch of n counts n against the key's rate."""
    most = _service(request).settings.serve.max_batch
    if len(body.queries) > most:
        raise _out(f"a batch has at most {most} queries, this one {len(body.queries)}", "queries")
    places = [f"queries.{n}." for n in range(len(body.queries))]
    _, number, results = await _answer(request, asker, body.queries, body.release, places)
    return answers.json({"release": number, "results": [each.as_dict() for each in results]})


async def _answer(
    request: Request, asker: Asker, asks: Sequence[models.Question], release: int | None, places: Sequence[str]
) -> tuple[Response, int, list[asked.Results]]:
    service, record = _service(request), _record(request)
    queries = [query_of(each, service.settings, place) for each, place in zip(asks, places, strict=True)]
    record.queries = len(queries)
    weight = sum(cost(query) for query in queries) + (KEPT if release is not None else 0)
    await service.rates.spend(asker, weight, paid=1)
    number, results = await service.search(asker, queries, release)
    record.release, record.hits = number, sum(len(each.hits) for each in results)
    return answers.json(results[0].as_dict()), number, results


def query_of(ask: models.Question, settings: config.Settings, place: str = "") -> asked.Query:
    """A request's query, within the bounds of this service. Raises Refused, which names the field after `place`."""
    serve, usual = settings.serve, settings.search
    k = min(usual.k, serve.max_k) if ask.k is None else ask.k
    rerank = ask.rerank if "rerank" in ask.model_fields_set else usual.rerank
    if not ask.text.strip():
        raise _out("the query is empty", place + "text")
    if len(ask.text) > serve.max_text:
        raise _out(f"the query has {len(ask.text)} characters; it takes {serve.max_text}", place + "text")
    if k > serve.max_k:
        raise _out(f"k is {k}; this service gives at most {serve.max_k}", place + "k")
    if ask.offset > serve.max_offset:
        raise _out(f"offset is {ask.offset}; this service takes at most {serve.max_offset}", place + "offset")
    if k + ask.offset > asked.MAX_K:
        raise _out(f"k and offset together are {k + ask.offset}; they take at most {asked.MAX_K}", place + "offset")
    if rerank is not None and rerank not in (*serve.rerank, usual.rerank):
        known = ", ".join(serve.rerank) or "none"
        raise _out(f"there is no reranker of that name here (allowed: {known})", place + "rerank")
    try:
        filters.parse(ask.filter)
    except UsageError as error:
        raise answers.unfit(error, place + "filter") from error
    try:
        return asked.Query(
            ask.text, k, mode=ask.mode or usual.mode, filter=ask.filter, offset=ask.offset,
            per_document=ask.per_document, expand=ask.expand, exact=ask.exact, min_score=ask.min_score,
            diversity=ask.diversity, rerank=rerank, collapse=ask.collapse,
        )  # fmt: skip
    except UsageError as error:
        raise answers.unfit(error, place + "text") from error


def cost(query: asked.Query) -> int:
    """What a query counts against the key's rate."""
    return RERANKED if query.rerank is not None else EXACT if query.exact else 1


def _out(message: str, field: str) -> Refused:
    return Refused(422, message, "The bounds of this service are in /openapi.json.", field=field)


# ---------------------------------------------------------------- documents and chunks
@router.get(
    "/v1/documents", tags=["documents"], summary="A document by its uri",
    responses={200: {"model": models.Document}, **COMMON, **_wrong(404)}, operation_id="document_by_uri",
)  # fmt: skip
async def document_by_uri(
    request: Request, asker: ReaderOf,
    uri: Annotated[str, Query(min_length=1, max_length=4000, examples=["handbook:/finance/invoices.md"])],
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Passages in one answer")] = CHUNKS,
    release: Number = None,
) -> Response:  # fmt: skip
    """Its passages in the order of its text."""
    return await _document(request, asker, uri, offset, limit, release)


@router.get(
    "/v1/documents/{document_id}", tags=["documents"], summary="A document by its id",
    responses={200: {"model": models.Document}, **COMMON, **_wrong(404)}, operation_id="document",
)  # fmt: skip
async def document(
    request: Request, asker: ReaderOf, document_id: Digest,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Passages in one answer")] = CHUNKS,
    release: Number = None,
) -> Response:  # fmt: skip
    """Its passages in the order of its text."""
    return await _document(request, asker, document_id, offset, limit, release)


async def _document(
    request: Request, asker: Asker, name: str, offset: int, limit: int, release: int | None
) -> Response:
    service, record = _service(request), _record(request)
    await _kept(service, asker, release)
    number, found = await service.document(asker, name, release)
    if found is None:
        raise Refused(404, "there is no such document", "A document of others is none for this key.")
    passages = found.passages[offset : offset + limit]
    record.release, record.hits = number, len(passages)
    after = offset + len(passages)
    return answers.json(
        {
            "release": number, "document_id": found.document_id, "uri": found.uri, "source": found.source,
            "title": found.title, "meta": found.meta, "total": len(found.passages), "offset": offset,
            "next": after if passages and after < len(found.passages) else None,
            "chunks": [asdict(each) for each in passages],
        }
    )  # fmt: skip


@router.get(
    "/v1/documents/{document_id}/chunks/{chunk_id}", tags=["documents"], summary="A passage of a document",
    responses={200: {"model": models.OneChunk}, **COMMON, **_wrong(404)}, operation_id="chunk",
)  # fmt: skip
async def chunk(
    request: Request, asker: ReaderOf, document_id: Digest, chunk_id: Digest,
    expand: Annotated[int, Query(ge=0, le=asked.MAX_EXPAND, description="Passages before and after it")] = 0,
    release: Number = None,
) -> Response:  # fmt: skip
    """The passage with its citation, by the ids that a hit has."""
    service, record = _service(request), _record(request)
    await _kept(service, asker, release)
    number, found = await service.chunk(asker, document_id, chunk_id, expand=expand, release=release)
    if found is None:
        raise Refused(404, "there is no such chunk", "A chunk of others is none for this key.")
    record.release, record.hits = number, 1
    value = asdict(found)
    for name in ("score", "scores", "ranks", "also"):
        del value[name]
    return answers.json({"release": number, **value})


@router.post(
    "/v1/feedback", status_code=201, tags=["feedback"], summary="Whether a passage answered",
    responses={201: {"model": models.Stored}, **COMMON, **_wrong(400, 404, 408)}, operation_id="feedback",
)  # fmt: skip
async def feedback(request: Request, body: models.Feedback, asker: Critic) -> Response:
    """Kept in `.ragops/feedback.jsonl`, if the key may see the passage."""
    service, record = _service(request), _record(request)
    await _kept(service, asker, body.release)
    number, found = await service.chunk(asker, body.document_id, body.chunk_id, release=body.release)
    if found is None:
        raise Refused(404, "there is no such chunk", "A chunk of others is none for this key.", field="chunk_id")
    record.release = number
    value = {
        "time": audit.now(), "id": record.request, "key": asker.key, "tenant": asker.tenant, "release": number,
        "chunk_id": found.chunk_id, "document_id": found.document_id, "uri": found.uri, "relevant": body.relevant,
        "request": body.request, "query": body.query, "comment": body.comment,
    }  # fmt: skip
    service.feedback.write(value)
    return answers.json({"id": record.request}, 201)


# ---------------------------------------------------------------- releases
@router.get(
    "/v1/releases", tags=["releases"], summary="The kept releases, oldest first",
    responses={200: {"model": list[models.Kept]}, **COMMON}, operation_id="releases",
)  # fmt: skip
async def releases(request: Request, asker: ReaderOf) -> Response:
    return answers.json(await _service(request).releases(asker))


@router.get(
    "/v1/releases/live", tags=["releases"], summary="The release that answers now",
    responses={200: {"model": models.Kept}, **COMMON, **_wrong(404)}, operation_id="live_release",
)  # fmt: skip
async def live_release(request: Request, asker: ReaderOf) -> Response:
    live = next((each for each in await _service(request).releases(asker) if each["live"]), None)
    if live is None:
        raise Refused(404, "there is no live release", "The operator makes one: ragops ingest")
    _record(request).release = live["number"]
    return answers.json(live)


# ---------------------------------------------------------------- for operators
@router.get("/healthz", tags=["operation"], summary="Whether the process answers", operation_id="health")
async def health() -> dict[str, bool]:
    return {"ok": True}


@router.get(
    "/readyz", tags=["operation"], summary="Whether it can answer queries",
    responses=_wrong(503), operation_id="ready",
)  # fmt: skip
async def ready(request: Request) -> dict[str, Any]:
    """The live release opens, its encoder is loaded, and the rates can be counted."""
    number, model = await _service(request).ready()
    return {"ready": True, "release": number, "model": model}


@router.get(
    "/metrics", tags=["operation"], summary="For Prometheus", response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}, operation_id="metrics",
)  # fmt: skip
async def metrics(request: Request) -> Response:
    return Response(_service(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE})


# ---------------------------------------------------------------- the description
def describe(app: FastAPI, settings: config.Settings) -> dict[str, Any]:
    """OpenAPI with the bounds and defaults of this service."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        serve, usual = settings.serve, settings.search
        schemas = found["components"]["schemas"]
        for ask in (schemas["Ask"]["properties"], schemas["Question"]["properties"]):
            _bound(ask["k"], maximum=serve.max_k)
            ask["k"]["default"] = min(usual.k, serve.max_k)
            ask["mode"]["default"] = usual.mode
            ask["text"] |= {"maxLength": serve.max_text, "pattern": r"\S"}
            ask["offset"]["maximum"] = serve.max_offset
            ask["rerank"]["enum"] = [None, *dict.fromkeys([*serve.rerank, *([usual.rerank] if usual.rerank else [])])]
        schemas["Batch"]["properties"]["queries"]["maxItems"] = serve.max_batch
        app.openapi_schema = found
    return app.openapi_schema


def _bound(schema: dict[str, Any], *, maximum: int) -> None:
    for option in schema.get("anyOf", [schema]):
        if option.get("type") == "integer":
            option["maximum"] = maximum


async def _kept(service: Service, asker: Asker, release: int | None) -> None:
    if release is not None:
        await service.rates.spend(asker, 1 + KEPT, paid=1)
