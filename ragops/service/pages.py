"""The pages of the service, for people: a search to try, documents, releases and who uses the service.

They ask the service as the API does: with an asker, whose key says what may be seen and how much may be asked. No
script runs in them, and nothing is asked of another host.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import RedirectResponse

from ragops.errors import RagopsError, UsageError
from ragops.evaluation import results as evaluations
from ragops.retrieval.diff import DocumentChange, between, diff
from ragops.retrieval.document import StoredDocument
from ragops.retrieval.query import Hit
from ragops.service import access, answers, audit, changes, forms, models
from ragops.service.access import Asker
from ragops.service.answers import Refused
from ragops.service.marks import Marker
from ragops.service.routes import KEPT, cost, query_of
from ragops.service.service import Service
from ragops.service.sessions import SECONDS, Sessions

log = logging.getLogger("ragops.service")
HERE = Path(__file__).parent
COOKIE = "ragops_session"
KINDS = {"style.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"}
KS = (5, 10, 20, 50)
AROUND = 60  # passages of a document on one page
LISTED = 200  # documents of one kind of change
TOLD = 30  # evaluations
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "X-Frame-Options": "DENY",
}
TITLES = {401: "Log in", 403: "Not with this key", 404: "Not found", 429: "Too many questions", 503: "Not now"}


class _Stranger(Exception):
    """Nobody is logged in, and the page is for somebody."""


class _Pages(APIRoute):
    """What is refused is told as a page; whoever is not logged in gets the login first."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await inner(request)
            except _Stranger:
                return _login(request)
            except Refused as refused:
                return _problem(request, refused)
            except RagopsError as error:
                log.error("%s %s: %s %s", request.scope["ragops"].request, self.path, error.message, error.hint)
                return _problem(request, answers.failed(error))

        return handler


router = APIRouter(include_in_schema=False, route_class=_Pages)


# ---------------------------------------------------------------- who is looking
def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _sessions(request: Request) -> Sessions | None:
    """None: this service needs no keys."""
    state = request.app.state
    if not hasattr(state, "sessions"):
        service = _service(request)
        state.sessions = None if service.keys is None else Sessions(service.keys, service.workspace.local)
    found: Sessions | None = state.sessions
    return found


def _visitor(request: Request) -> Asker | None:
    """Whoever is logged in; None: nobody is."""
    sessions = _sessions(request)
    if sessions is None:
        asker = access.ANYBODY
    else:
        key = sessions.key(request.cookies.get(COOKIE, ""))
        if key is None:
            return None
        asker = access.of(key)
    request.scope["ragops"].asker = asker
    return asker


def _asker(request: Request, scope: str | None = None) -> Asker:
    """Whoever is logged in. Raises _Stranger, and Refused for a key without the scope."""
    asker = _visitor(request)
    if asker is None:
        raise _Stranger
    if scope is not None and scope not in asker.scopes:
        raise Refused(403, f"this key has no scope '{scope}'", f"It has {', '.join(asker.scopes)}.", reason="scope")
    return asker


def _cookie(request: Request, response: Response, value: str, seconds: int) -> None:
    response.set_cookie(
        COOKIE, value, max_age=seconds, path=_root(request) or "/", secure=_over_tls(request),
        httponly=True, samesite="strict",
    )  # fmt: skip


def _over_tls(request: Request) -> bool:
    """Also to a proxy that says so: who lies about it, does so of a cookie of his own."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", ""))


# ---------------------------------------------------------------- how a page is made
@cache
def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    found.globals["version"] = _version()
    return found


@cache
def _version() -> str:
    """Of the files beside the templates: a changed one has another address."""
    return hashlib.sha256(b"".join((HERE / "static" / name).read_bytes() for name in sorted(KINDS))).hexdigest()[:12]


def _page(
    request: Request, template: str, asker: Asker | None, *, status: int = 200, problem: Refused | None = None,
    headers: Mapping[str, str] | None = None, **values: Any,
) -> Response:  # fmt: skip
    sessions = _sessions(request)
    cookie = request.cookies.get(COOKIE, "")
    logged_in = sessions is not None and asker is not None
    if sessions is not None and not logged_in:
        cookie = sessions.nonce(cookie)
    elif sessions is not None and asker is not None and asker.key is not None and sessions.ages(cookie):
        key = sessions.key(cookie)
        cookie = cookie if key is None else sessions.begin(key, cookie)
    html = _templates().get_template(template).render(
        root=_root(request), asker=asker, logged_in=logged_in, problem=problem,
        token="" if sessions is None else sessions.form(cookie), **{"section": None, **values},
    )  # fmt: skip
    response = Response(html, status, {**HEADERS, **(headers or {})}, "text/html")
    if sessions is not None and cookie != request.cookies.get(COOKIE):
        _cookie(request, response, cookie, SECONDS)
    return response


def _problem(request: Request, refused: Refused) -> Response:
    """A page that says what is wrong; counted as the API counts it."""
    _note(request, refused)
    return _page(
        request, "error.html", _visitor(request), status=refused.status, problem=refused, headers=refused.headers,
        heading=TITLES.get(refused.status, "Not possible"),
    )  # fmt: skip


def _note(request: Request, refused: Refused) -> None:
    request.scope["ragops"].reason = refused.reason
    if refused.reason is not None:
        _service(request).metrics.refused.labels(refused.reason).inc()


def _login(request: Request, problem: Refused | None = None, going: str | None = None) -> Response:
    if going is None:
        going = request.url.path.removeprefix(_root(request))
        going += f"?{request.url.query}" if request.url.query else ""
    if problem is not None:
        _note(request, problem)
    status = 200 if problem is None else problem.status
    return _page(request, "login.html", None, status=status, problem=problem, going=_inside(going))


def _inside(address: str) -> str:
    """An address of these pages, whatever somebody wrote into a form."""
    plain = address.isprintable() and "\\" not in address and not address.startswith("//")
    return address if plain and (address == "/" or address.startswith(("/?", "/pages/"))) else "/"


def _same_site(request: Request, token: str) -> None:
    """Raises Refused for a form that was not sent by a page of this session."""
    sessions = _sessions(request)
    known = sessions is None or sessions.sent(request.cookies.get(COOKIE, ""), token)
    if not known or request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Refused(403, "this form is too old, or was not sent by a page of this service", "Send it again.")


async def _form(request: Request) -> dict[str, str]:
    try:
        found = parse_qs((await request.body()).decode(), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise Refused(422, "this is no form", "Use the page's own.") from None
    return {name: values[-1] for name, values in found.items()}


# ---------------------------------------------------------------- in and out
@router.post("/pages/login")
async def login(request: Request) -> Response:
    """A key opens a session; a wrong one is told as such, and never why."""
    sessions = _sessions(request)
    form = await _form(request)
    going = _inside(form.get("going", "/"))
    response = RedirectResponse(_root(request) + going, 303, HEADERS)
    if sessions is None:
        return response
    try:
        _same_site(request, form.get("token", ""))
    except Refused as refused:
        return _login(request, refused, going)
    key = sessions.login(form.get("key", ""))
    if key is None:
        return _login(request, Refused(401, "this key is unknown, revoked or expired", reason="key"), going)
    request.scope["ragops"].asker = access.of(key)
    _cookie(request, response, sessions.begin(key), SECONDS)
    return response


@router.post("/pages/logout")
async def logout(request: Request) -> Response:
    _visitor(request)
    _same_site(request, (await _form(request)).get("token", ""))
    response = RedirectResponse(_root(request) + "/", 303, HEADERS)
    _cookie(request, response, "", 0)
    return response


@router.get("/pages/login")
async def login_form(request: Request) -> Response:
    if _visitor(request) is not None:
        return RedirectResponse(_root(request) + "/", 303, HEADERS)
    return _login(request, None, "/")


@router.get("/pages/static/{name}")
async def static(name: str) -> Response:
    if name not in KINDS:
        raise Refused(404, "there is no such file")
    headers = {"Cache-Control": "public, max-age=86400", "Content-Security-Policy": "default-src 'none'"}
    return Response((HERE / "static" / name).read_bytes(), 200, headers, KINDS[name])


# ---------------------------------------------------------------- search
@router.get("/")
async def search(request: Request) -> Response:
    """The hits of a query, with scores by leg and the query's words marked."""
    asker = _asker(request, "search")
    service = _service(request)
    usual, most = service.settings.search, service.settings.serve.max_k
    given = {name: value for name, value in request.query_params.items() if value.strip()}
    numbers: list[int] = []
    if "read" in asker.scopes:
        numbers = [each["number"] for each in reversed(await service.releases(asker))]
    problem: Refused | None = None
    found: dict[str, Any] | None = None
    try:
        ask = forms.ask(given, min(usual.k, most))
        found = await _found(request, asker, ask, given) if ask is not None else None
    except Refused as refused:
        problem = refused
        _note(request, refused)
    chosen = {
        "q": given.get("q", ""),
        "mode": given.get("mode", usual.mode),
        "k": given.get("k", str(min(usual.k, most))),
        "release": given.get("release", ""),
        "per_document": given.get("per_document", ""),
        "filter": given.get("filter", ""),
        "changed": bool(given.keys() - {"q", "offset"}) and not (found and _usual(given, usual.mode, usual.k)),
    }
    ks = sorted({*(k for k in KS if k <= most), min(usual.k, most)})
    return _page(
        request, "search.html", asker, status=200 if problem is None else problem.status, problem=problem,
        headers={} if problem is None else problem.headers, section="Search", asked=chosen, found=found,
        modes=("hybrid", "dense", "bm25"), ks=ks, releases=numbers,
    )  # fmt: skip


def _usual(given: Mapping[str, str], mode: str, k: int) -> bool:
    """Whether the options that a form always sends are the usual ones."""
    usual = {"mode": mode, "k": str(k)}
    return all(usual.get(name) == value for name, value in given.items() if name not in ("q", "offset"))


async def _found(request: Request, asker: Asker, ask: models.Ask, given: Mapping[str, str]) -> dict[str, Any]:
    service, record = _service(request), request.scope["ragops"]
    query = query_of(ask, service.settings)
    record.queries = 1
    await service.rates.spend(asker, cost(query) + (KEPT if ask.release is not None else 0))
    number, (results,) = await service.search(asker, [query], ask.release)
    record.release, record.hits = number, len(results.hits)
    marker = Marker(query.text)
    reads = "read" in asker.scopes
    back = urlencode(given)

    def link(hit: Hit) -> str | None:
        if not reads:
            return None
        pinned = {} if ask.release is None else {"release": str(ask.release)}
        return urlencode({"id": hit.document_id, "chunk": hit.chunk_id, **pinned, "back": back, "q": query.text})

    texts = await service.run(lambda: [marker.paragraphs(hit.text) for hit in results.hits])
    hits = [
        {
            "hit": hit,
            "paragraphs": paragraphs,
            "link": link(hit),
            "legs": [(leg, score, hit.ranks.get(leg)) for leg, score in hit.scores.items()],
        }
        for hit, paragraphs in zip(results.hits, texts, strict=True)
    ]

    def turned(offset: int) -> str:
        return urlencode({**given, "offset": str(offset)})

    return {
        "release": number,
        "mode": results.mode,
        "filtered": ask.filter is not None,
        "offset": query.offset,
        "hits": hits,
        "previous": turned(max(0, query.offset - query.k)) if query.offset else None,
        "next": turned(query.offset + query.k) if len(hits) == query.k else None,
    }


# ---------------------------------------------------------------- documents
@router.get("/pages/document")
async def document(request: Request) -> Response:
    """A document's passages, from the one that was found on; the query's words are marked."""
    asker = _asker(request, "read")
    service = _service(request)
    given = dict(request.query_params)
    release = forms.number(given, "release")
    offset = forms.number(given, "offset")
    await service.rates.spend(asker, 1 + (KEPT if release is not None else 0))
    number, found = await service.document(asker, given.get("id", ""), release)
    if found is None:
        raise Refused(404, "there is no such document", "It may have been removed, or is not for this key.")
    record = request.scope["ragops"]
    record.release = number
    at = next((n for n, each in enumerate(found.passages) if each.chunk_id == given.get("chunk")), None)
    start = offset if offset is not None else max(0, (at or 0) - AROUND // 2)
    parts = await service.run(_parts, found, start, given.get("chunk"), Marker(given.get("q", "")))
    record.hits = len(parts)

    def turned(offset: int) -> str:
        return urlencode({**given, "offset": str(max(0, offset))})

    return _page(
        request, "document.html", asker, section="Search", document=found, release=number, parts=parts,
        back=given.get("back"), gone="chunk" in given and at is None, meta=_meta(found),
        earlier=turned(start - AROUND) if start else None,
        later=turned(start + AROUND) if start + AROUND < len(found.passages) else None,
    )  # fmt: skip


def _parts(found: StoredDocument, start: int, chunk_id: str | None, marker: Marker) -> list[dict[str, Any]]:
    """What the page shows: each passage without what the next one repeats, headings and pages where they change."""
    shown = found.passages[start : start + AROUND]
    parts = []
    ends = [after.start for _, after in pairwise(shown)]
    heading: tuple[str, ...] = ()
    page: int | None = None
    for each, end in zip(shown, [*ends, None], strict=True):
        text = each.text if end is None or end >= each.end else each.text[: max(0, end - each.start)]
        parts.append(
            {
                "heading": each.heading if each.heading != heading else (),
                "page": each.page if each.page != page else None,
                "paragraphs": marker.paragraphs(text),
                "hit": each.chunk_id == chunk_id,
            }
        )
        heading, page = each.heading, each.page
    return parts


def _meta(found: StoredDocument) -> list[tuple[str, str]]:
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in sorted(found.meta.items())
    ]


# ---------------------------------------------------------------- releases
@router.get("/pages/releases")
async def releases(request: Request) -> Response:
    """The kept releases, and what evaluations found; totals and evaluations for keys with the scope admin only."""
    asker = _asker(request, "read")
    service = _service(request)
    await service.rates.spend(asker, 1)
    kept = await service.releases(asker)
    admin = "admin" in asker.scopes
    told: Sequence[evaluations.Evaluation] = ()
    if admin:
        told = (await service.run(evaluations.kept, service.workspace.local / evaluations.FOLDER))[::-1][:TOLD]
    before: list[int | None] = [None, *(each["number"] for each in kept)]
    rows = [{**each, "before": older} for each, older in zip(kept, before, strict=False)]
    return _page(
        request, "releases.html", asker, section="Releases", releases=rows[::-1], admin=admin, evaluations=told,
        measures=list(dict.fromkeys(name for each in told for name in each.metrics)), synthetic=evaluations.SYNTHETIC,
    )  # fmt: skip


@router.get("/pages/diff")
async def difference(request: Request) -> Response:
    """What changed from one release to another, as far as the key may see it."""
    asker = _asker(request, "read")
    service = _service(request)
    given = {name: value for name, value in request.query_params.items() if value}
    asked = forms.number(given, "a"), forms.number(given, "b")
    await service.rates.spend(asker, 1 + 2 * KEPT)
    numbers = [each["number"] for each in await service.releases(asker)]
    try:
        a, b = await service.run(between, service.workspace.store, *asked)
        found = await service.run(diff, service.workspace.store, a, b)
    except UsageError as error:
        raise Refused(404, error.message, "The page of releases has those that are kept.") from error
    seen = await service.run(changes.seen, service.workspace.store, a, b, found.documents, asker.scope)
    groups = []
    for name in ("added", "removed", "changed", "moved"):
        documents = [_told(each, b) for each in seen if each.change == name]
        groups.append({"name": name, "total": len(documents), "documents": documents[:LISTED]})
    return _page(
        request, "diff.html", asker, section="Releases", a=a, b=b, numbers=numbers[::-1], groups=groups,
        space_changed=found.space_changed, chunker_changed=found.chunker_changed,
    )  # fmt: skip


def _told(change: DocumentChange, b: int) -> dict[str, Any]:
    said = ((change.added, "new"), (change.removed, "gone"), (change.changed, "the same words at another place"))
    parts = [f"{len(chunks)} {what}" for chunks, what in said if chunks] if change.change == "changed" else []
    return {
        "uri": change.uri,
        "was": change.was,
        "said": f"passages: {', '.join(parts)}" if parts else "",
        "link": urlencode({"id": change.uri, "release": b}) if change.change != "removed" else None,
    }


# ---------------------------------------------------------------- who uses it
@router.get("/pages/usage")
async def usage(request: Request) -> Response:
    """What keys did lately: one's own, or with the scope admin all of them."""
    asker = _asker(request)
    service = _service(request)
    await service.rates.spend(asker, 1)
    rows: list[dict[str, Any]] = []
    if service.keys is not None:
        counted = await service.run(audit.usage, service.audit.path)
        rows = [
            {"key": key, "state": key.state(), "mine": key.id == asker.key, "used": counted.get(key.id)}
            for key in reversed(service.keys.all())
            if key.id == asker.key or "admin" in asker.scopes
        ]
    return _page(
        request, "usage.html", asker, section="Usage", rows=rows, keys=service.keys is not None,
        rate=service.settings.serve.rate,
    )  # fmt: skip
