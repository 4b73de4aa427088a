"""What every request goes through, before and after the routes: key, bounds, time, and what is told of it."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
import traceback
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragops.errors import RagopsError
from ragops.service import access, answers, audit
from ragops.service.answers import Refused

if TYPE_CHECKING:
    from ragops.service.service import Service

log = logging.getLogger("ragops.service")
OPEN = ("/healthz", "/readyz", "/metrics")  # without a key, a rate or a place in the queue
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
BODY_SECONDS = 10.0  # for a body to arrive
_NAME = re.compile(r"[A-Za-z0-9._-]{8,64}")
_PLAIN = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}


class Guard:
    """The outermost part of the application."""

    def __init__(self, app: ASGIApp, service: Service, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes
        self._service = service
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        record = audit.Record(given if _NAME.fullmatch(given) else secrets.token_hex(8))
        scope["ragops"] = record
        status = 0

        async def telling(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                there = {name.lower() for name, _ in message.get("headers", ())}
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name, value) for name, value in _PLAIN.items() if name not in there),
                    (b"x-request-id", record.request.encode()),
                ]
            await send(message)

        with self._service.tracer.request(scope["method"], headers) as span:
            try:
                await self._through(scope, headers, receive, telling, record)
            except Refused as refused:
                record.reason = refused.reason
                if refused.reason is not None:
                    self._service.metrics.refused.labels(refused.reason).inc()
                if status:  # a part of the answer is out: it ends here
                    raise ConnectionAbortedError(refused.message) from None
                await refused.response()(scope, receive, telling)
            finally:
                seconds = time.perf_counter() - start
                record.route = record.route or _route(scope, self._routes)
                span.note("http.route", record.route)
                span.note("http.response.status_code", status)
                self._service.metrics.requests.labels(record.route, str(status)).inc()
                self._service.metrics.seconds.labels(record.route).observe(seconds)
                self._tell(record, status, seconds)

    def _tell(self, record: audit.Record, status: int, seconds: float) -> None:
        if record.route in OPEN:
            return
        try:
            self._service.audit.write(audit.line(record, status, seconds))
        except RagopsError as error:
            log.error("%s", error.message)

    async def _through(
        self, scope: Scope, headers: Headers, receive: Receive, send: Send, record: audit.Record
    ) -> None:
        """Raises Refused."""
        path = scope["path"]
        try:
            if path in OPEN:
                await self._within(self._app(scope, receive, send))
                return
            if self._service.keys is None and not _is_loopback(headers.get("host", "")):
                raise Refused(
                    403, "without keys this service answers only to its own machine's names",
                    "Ask http://127.0.0.1, or start the service with keys.", reason="host",
                )  # fmt: skip
            if _needs_key(path):
                record.asker = access.identify(self._service.keys, headers.get("authorization"))
            body = await self._body(headers, receive)
            if self._running >= self._service.settings.serve.concurrency:
                raise Refused(503, "the service is busy", "Try again in a moment.", reason="full", again=1)
            self._running += 1
            self._service.metrics.running.inc()
            try:
                await self._within(self._app(scope, _replay(body, receive), send))
            finally:
                self._running -= 1
                self._service.metrics.running.dec()
        except Refused:
            raise
        except RagopsError as error:
            log.error("%s %s: %s %s", record.request, _route(scope, self._routes), error.message, error.hint)
            raise answers.failed(error) from error
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            log.error("%s %s: %s", record.request, _route(scope, self._routes), _where(error))
            raise Refused(500, "an error in the service", answers.AGAIN, reason="error") from error

    async def _within(self, work: Awaitable[None]) -> None:
        """Run the routes, for as long as a request may take."""
        limit = self._service.settings.serve.timeout
        try:
            async with asyncio.timeout(limit):
                await work
        except TimeoutError:
            raise Refused(
                503, f"this took longer than {limit:g} seconds", "Ask for less, or again later.", reason="time", again=5
            ) from None

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body: bounded, and in a bounded time. Raises Refused."""
        most = self._service.settings.serve.max_body_kb * 1024
        close = {"Connection": "close"}
        told = headers.get("content-length", "0")
        if not told.isdecimal() or int(told[:20]) > most:
            raise Refused(413, f"the body is larger than {most} bytes", "Send less.", reason="body", headers=close)
        parts = bytearray()
        limit = min(BODY_SECONDS, self._service.settings.serve.timeout)
        try:
            async with asyncio.timeout(limit):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionAbortedError("the client went away")
                    parts += message.get("body", b"")
                    if len(parts) > most:
                        raise Refused(
                            413, f"the body is larger than {most} bytes", "Send less.", reason="body", headers=close
                        )
                    if not message.get("more_body", False):
                        return bytes(parts)
        except TimeoutError:
            raise Refused(
                408, f"the body did not arrive within {limit:g} seconds", "Send it at once.", reason="body",
                headers=close,
            ) from None  # fmt: skip


def _needs_key(path: str) -> bool:
    """Routes of the API. Pages and their files know their own way; the description of the API is open."""
    return path.startswith("/v1/") or path == "/v1"


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body in one piece, then what the client does."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _is_loopback(host: str) -> bool:
    """Against pages that make a browser ask here under their own name."""
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name.lower() in LOOPBACK


def _route(scope: Scope, known: Sequence[BaseRoute]) -> str:
    """The template of a route, never the address that was asked."""
    route = scope.get("route")
    if route is None:  # refused before it came so far
        route = next((each for each in known if each.matches(scope)[0] is Match.FULL), None)
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else "(none)"


def _where(error: BaseException) -> str:
    """An error by its kind and place, without its message, which may hold a query."""
    lines = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    return "\n  ".join([type(error).__name__, *lines])
