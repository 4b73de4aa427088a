"""The application: the service behind its routes and pages."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ragops.errors import RagopsError
from ragops.service import answers, audit, pages, routes
from ragops.service.answers import Refused
from ragops.service.batches import MOST
from ragops.service.guard import Guard
from ragops.service.service import Service


def make(root: Path, *, auth: bool = True, together: int = MOST, parent: int | None = None) -> FastAPI:
    """The application over the workspace in `root`. `parent`: end with that process.

    Raises ConfigError, MissingExtra, UsageError.
    """
    service = Service(root, auth=auth, together=together)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with suppress(Refused, RagopsError):  # /readyz tells
            await service.ready()
        watching = asyncio.create_task(_watch(parent)) if parent is not None else None
        yield
        if watching is not None:
            watching.cancel()
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="ragops",
        version=version("ragops"),
        description="Search over a knowledge base: passages with citations, from one release at a time.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        # its own spans hold whole addresses, and so the queries of pages; see tracing.py
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.service = service
    app.include_router(routes.router)
    app.include_router(pages.router)
    app.add_middleware(Guard, service=service, routes=[*routes.router.routes, *pages.router.routes])
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)
    app.openapi = lambda: routes.describe(app, service.settings)  # type: ignore[method-assign]
    return app


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    record: audit.Record = request.scope["ragops"]
    record.reason = error.reason
    if error.reason is not None:
        request.app.state.service.metrics.refused.labels(error.reason).inc()
    return error.response()


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return answers.invalid(error).response()


async def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return answers.plain(error).response()


async def _watch(parent: int) -> None:
    """A worker whose parent was killed ends, too."""
    while os.getppid() == parent:
        await asyncio.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
