"""What a service is made of, and the one way to what a knowledge base holds."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from ragops.errors import UsageError
from ragops.keys import Keys
from ragops.retrieval.document import StoredDocument, beside, chunks_of, document
from ragops.retrieval.query import Hit, Query, Results, hit
from ragops.retrieval.search import search_many
from ragops.retriever import Retriever
from ragops.service import answers, audit, rates, tracing
from ragops.service.access import Asker
from ragops.service.answers import Refused
from ragops.service.batches import MOST, Batches
from ragops.service.metrics import Metrics
from ragops.types import Embedder, Reader, Release
from ragops.workspace import Workspace

log = logging.getLogger("ragops.service")
P = ParamSpec("P")
T = TypeVar("T")


class _Lease:
    """A release that is kept open until all who hold it are done: a thread may go on when its request was given up."""

    def __init__(self, reading: AbstractContextManager[tuple[Reader, Callable[[], Embedder]]], *, encode: bool) -> None:
        """`encode`: with the release's query encoder."""
        self._reading = reading
        self._lock = threading.Lock()
        self._holders = 1
        self.reader, encoder = reading.__enter__()
        try:
            self.encoder = encoder() if encode else None
        except BaseException:
            self.drop()
            raise

    def hold(self) -> None:
        with self._lock:
            self._holders += 1

    def drop(self, _: object = None) -> None:
        with self._lock:
            self._holders -= 1
            last = self._holders == 0
        if last:
            self._reading.__exit__(None, None, None)


class Service:
    """One worker: its own engine, encoder and threads. Everything that returns content takes an Asker."""

    def __init__(self, root: Path, *, auth: bool = True, together: int = MOST) -> None:
        """`auth` False: nobody needs a key. `together`: queries that are embedded at once, at most."""
        self.workspace = Workspace.open(root)
        self.settings = self.workspace.settings
        local = self.workspace.local
        self.keys = Keys(local) if auth else None
        self.rates = rates.Rates(rates.address(self.settings.serve.limits), self.settings.serve.rate)
        self.audit = audit.Log(local / audit.FILE)
        self.feedback = audit.Log(local / audit.FEEDBACK)
        self.metrics = Metrics()
        self.tracer = tracing.tracer()
        self._batches = Batches(self.settings.serve.batch_ms / 1000, most=together, told=self.metrics.together.observe)
        self._threads = ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 1)), "ragops-search")
        self._encoders: dict[str, Embedder] = {}
        self._loading = threading.Lock()
        self._live = self._retriever(None)
        self._seen: int | None = None
        self._asking = asyncio.Lock()

    def _retriever(self, release: int | None) -> Retriever:
        refresh = 0.0 if self.settings.store.url is None else 1.0
        return Retriever(
            lambda: self.workspace.store, self._encoder, search=self.settings.search, release=release, refresh=refresh
        )

    def _encoder(self, release: Release) -> Embedder:
        with self._loading:
            space = release.space.fingerprint
            if space not in self._encoders:
                self._encoders[space] = self.workspace.encoder(release)
            return self._encoders[space]

    def close(self) -> None:
        self._batches.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._live.close()
        self.workspace.close()
        self.audit.close()
        self.feedback.close()
        self.metrics.close()
        self.tracer.close()

    # ------------------------------------------------------------------ threads and releases
    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Something that blocks, in a thread of the service's own."""
        return await asyncio.wrap_future(self._threads.submit(work, *args, **kwargs))

    @asynccontextmanager
    async def _leased(self, release: int | None, *, encode: bool = False) -> AsyncIterator[_Lease]:
        """The live release, or a kept one, to the end of what is done with it. Raises Refused."""
        retriever = self._live if release is None else self._retriever(release)
        taking: Future[_Lease] = self._threads.submit(lambda: _Lease(retriever.reading(), encode=encode))
        try:
            lease = await asyncio.wrap_future(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(_drop)
            raise
        except UsageError as error:
            if release is None:
                raise Refused(
                    503, "the knowledge base has no release yet", answers.AGAIN, reason="failed", again=5
                ) from error
            raise Refused(
                404, f"there is no release {release}", "GET /v1/releases lists those that are kept.", field="release"
            ) from error
        try:
            yield lease
        finally:
            lease.drop()
            if release is not None:
                retriever.close()  # its lease, if anybody still has it, ends first

    async def _in(self, lease: _Lease, work: Callable[Concatenate[Reader, P], T], *args: P.args, **kw: P.kwargs) -> T:
        """Something that reads a release: it stays open until that is done, whether or not anybody still waits."""
        lease.hold()
        job = self._threads.submit(work, lease.reader, *args, **kw)
        job.add_done_callback(lease.drop)
        return await asyncio.wrap_future(job)

    def _note(self, number: int) -> None:
        if self._seen is not None and self._seen != number:
            self.metrics.switches.inc()
            log.info("release %d is live, after %d", number, self._seen)
        if self._seen != number:
            self.metrics.release.set(number)
        self._seen = number

    # ------------------------------------------------------------------ what can be asked
    async def search(
        self, asker: Asker, queries: Sequence[Query], release: int | None = None
    ) -> tuple[int, list[Results]]:
        """Queries under what the asker may see, answered by one release, whose number comes first. Raises Refused."""
        asked = [replace(query, scope=asker.scope) for query in queries]
        texts = list(dict.fromkeys(query.text for query in asked if query.mode != "bm25"))
        try:
            async with self._leased(release, encode=bool(texts)) as lease:
                number = lease.reader.release.number
                if release is None:
                    self._note(number)
                encoder: Embedder | None = None
                if lease.encoder is not None:
                    start = time.perf_counter()
                    with self.tracer.part("embed"):
                        encoder = await self._batches.embed(lease.encoder, texts)
                    self.metrics.parts.labels("embed").observe(time.perf_counter() - start)
                start = time.perf_counter()
                with self.tracer.part("search") as span:
                    span.note("ragops.release", number)
                    span.note("ragops.queries", len(asked))
                    found = await self._in(lease, search_many, encoder, asked)
                self.metrics.parts.labels("search").observe(time.perf_counter() - start)
        except UsageError as error:
            raise answers.unfit(error) from error
        for query in asked:
            self.metrics.queries.labels(query.mode).inc()
        return number, found

    async def document(self, asker: Asker, name: str, release: int | None = None) -> tuple[int, StoredDocument | None]:
        """A document by uri or id, as far as the asker may see it, and the release that says so."""
        async with self._leased(release) as lease:
            return lease.reader.release.number, await self._in(lease, document, name, asker.scope)

    async def chunk(
        self, asker: Asker, document_id: str, chunk_id: str, *, expand: int = 0, release: int | None = None
    ) -> tuple[int, Hit | None]:
        """A chunk with its neighbours, as far as the asker may see it, and the release that says so."""
        async with self._leased(release) as lease:
            found = await self._in(lease, _chunk, document_id, chunk_id, expand, asker)
            return lease.reader.release.number, found

    async def releases(self, asker: Asker) -> list[dict[str, Any]]:
        """The kept releases, oldest first; what they hold in all for keys with the scope admin only."""
        found = await self.run(self.workspace.releases)
        if "admin" in asker.scopes:
            return found
        return [{name: each[name] for name in ("number", "live", "held", "created", "model")} for each in found]

    async def ready(self) -> tuple[int, str]:
        """The live release's number and model, once it is open and its encoder is loaded. Raises Refused."""
        async with self._asking, self._leased(None, encode=True) as lease:  # strangers may ask: one at a time
            self._note(lease.reader.release.number)
            if self.keys is not None:
                self.keys.all()
            if not await self.rates.reachable():
                raise Refused(503, "the rates cannot be counted now", answers.AGAIN, reason="redis", again=2)
            return lease.reader.release.number, lease.reader.release.space.model


def _drop(taking: Future[_Lease]) -> None:
    if not taking.cancelled() and taking.exception() is None:
        taking.result().drop()


def _chunk(reader: Reader, document_id: str, chunk_id: str, expand: int, asker: Asker) -> Hit | None:
    """By its document, for which the store has an index."""
    chunks = chunks_of(reader, "document_id", [document_id], asker.scope).get(document_id, [])
    payload = next((each for each in chunks if each["chunk_id"] == chunk_id), None)
    if payload is None:
        return None
    before, after = beside(chunks, chunk_id, expand)
    return hit(0.0, payload, before=tuple(before), after=tuple(after))
