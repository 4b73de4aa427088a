"""The Python API of apps: one retriever, open as long as the app runs."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from ragops import config
from ragops.errors import StoreError, UsageError
from ragops.retrieval.query import Options, Query, Results, ask
from ragops.stores.releases import find

if TYPE_CHECKING:
    from ragops.retrieval.context import Context
    from ragops.retrieval.document import StoredDocument
    from ragops.retrieval.query import Hit
    from ragops.retrieval.why import Explanation
    from ragops.types import Embedder, Filter, Reader, Release, Store


class Retriever:
    """Answers from the live release of one knowledge base, and follows it from query to query.

    For any number of threads; after a fork the child opens its own engine. A query is answered by one release, and so
    is a batch. What it was opened with as `scope` stands over the scope of any query; one that was opened without takes
    the scope that each query brings, as a service does. Close it, or use it as a context manager.
    """

    def __init__(
        self,
        store: Callable[[], Store],
        encoder: Callable[[Release], Embedder],
        *,
        search: config.SearchSettings = config.SearchSettings(),
        scope: Filter | None = None,
        release: int | None = None,
        refresh: float = 0.0,
    ) -> None:
        """`store()` and `encoder(release)` open anew in each process. `release`: stay with this one. `refresh`: seconds
        for which the live release is not looked up again."""
        self.scope = scope
        self._store = store
        self._encoder = encoder
        self._search = search
        self._release = release
        self._refresh = refresh
        self._by_process: dict[int, _Open] = {}
        self._closed = False

    @classmethod
    def open(
        cls,
        where: str | os.PathLike[str] | None = None,
        *,
        collection: str = "main",
        model: str | os.PathLike[str] | None = None,
        api_key: str = "env:QDRANT_API_KEY",
        tenant: str | None = None,
        groups: Sequence[str] | None = None,
        release: int | None = None,
    ) -> Retriever:
        """The knowledge base of a workspace's folder (default: the nearest one upwards from here), or of a Qdrant
        server's URL, which needs the `model`: the folder of an exported query encoder, or a model's name or folder.

        `tenant`: only its documents ("": of no tenant, None: of all); `groups`: of those only what is open to
        everybody or to one of them. `release`: a kept one instead of the live one.
        Raises UsageError, StoreError, SpaceMismatch (at the first search, where the model is of another space).
        """
        from ragops.retrieval.scope import scope

        seen = scope(tenant, groups)
        if where is not None and re.match(r"https?://", str(where)):
            return _on_server(str(where), collection, model, api_key, seen, release)
        if model is not None or collection != "main":
            raise UsageError("collection and model are those of the workspace", "Give them with a server's URL only.")
        from ragops.workspace import Workspace

        found = Workspace.open(where)
        return cls(
            lambda: Workspace(found.root, found.settings).store,
            lambda kept: Workspace(found.root, found.settings).encoder(kept),
            search=found.settings.search,
            scope=seen,
            release=release,
            refresh=0.0 if found.settings.store.url is None else 1.0,
        )

    def close(self) -> None:
        """Queries that run end well; later ones raise StoreError."""
        self._closed = True
        found = self._by_process.pop(os.getpid(), None)
        if found is not None:
            found.close()

    def __enter__(self) -> Retriever:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ asking
    def search(self, query: str | Query, k: int | None = None, **options: Unpack[Options]) -> Results:
        """The `k` best passages. Options are the fields of `Query`. Raises UsageError, SpaceMismatch, StoreError."""
        return self.search_many([query], k, **options)[0]

    def search_many(
        self, queries: Sequence[str | Query], k: int | None = None, **options: Unpack[Options]
    ) -> list[Results]:
        """Several queries, answered by one release; their texts are embedded together."""
        from ragops.retrieval.search import search_many

        if isinstance(queries, (str, Query)):
            raise UsageError("search_many takes a list of queries, not one", "Ask one with search(query).")
        asked = [self._asked(query, k, options) for query in queries]
        with self.reading() as (reader, encoder):
            needed = any(query.mode != "bm25" for query in asked)
            return search_many(reader, encoder() if needed else None, asked)

    async def asearch(self, query: str | Query, k: int | None = None, **options: Unpack[Options]) -> Results:
        """`search` in a thread of the event loop's pool."""
        return await asyncio.to_thread(self.search, query, k, **options)

    async def asearch_many(
        self, queries: Sequence[str | Query], k: int | None = None, **options: Unpack[Options]
    ) -> list[Results]:
        """`search_many` in a thread of the event loop's pool."""
        return await asyncio.to_thread(self.search_many, queries, k, **options)

    def context(
        self, results: Results, *, tokens: int = 2000, count: Callable[[Sequence[str]], list[int]] | None = None
    ) -> Context:
        """The hits as text for a language model, within `tokens`, with numbered citations.

        `count` gives the tokens of texts; without it they are those of the embedding model, which are near to those of
        a language model and not the same.
        """
        from ragops.retrieval.context import context

        if count is None:
            with self.reading() as (_, encoder):
                count = encoder().tokenizer.count
        return context(results.hits, count, tokens)

    def document(self, name: str, *, scope: Filter | None = None) -> StoredDocument | None:
        """A document by its uri or id; None where there is none, or none that may be seen."""
        from ragops.retrieval.document import document

        with self.reading() as (reader, _):
            return document(reader, name, self.scope or scope)

    def chunk(self, chunk_id: str, *, scope: Filter | None = None) -> Hit | None:
        """A chunk by its id, with its citation; None where there is none, or none that may be seen."""
        from ragops.retrieval.document import chunk

        with self.reading() as (reader, _):
            return chunk(reader, chunk_id, self.scope or scope)

    def why(self, query: str | Query, uri: str, k: int | None = None, **options: Unpack[Options]) -> Explanation:
        """Why a document is a hit of a query, a low one, or none."""
        from ragops.retrieval.why import why

        asked = self._asked(query, k, options)
        with self.reading() as (reader, encoder):
            return why(reader, None if asked.mode == "bm25" else encoder(), asked, uri)

    def release(self) -> Release:
        """The release that answers now."""
        with self.reading() as (reader, _):
            return reader.release

    def _asked(self, query: str | Query, k: int | None, options: Options) -> Query:
        asked = ask(query, k, options, {"mode": self._search.mode, "rerank": self._search.rerank}, self._search.k)
        return asked if self.scope is None else replace(asked, scope=self.scope)

    # ------------------------------------------------------------------ what is open
    @contextmanager
    def reading(self) -> Iterator[tuple[Reader, Callable[[], Embedder]]]:
        """The release that answers now, kept open until the end, and its query encoder."""
        process = os.getpid()
        here = self._by_process.get(process)
        if here is None:  # what a parent opened stays as it is: to give it back would end the parent's
            mine = _Open(self._store, self._encoder, self._release, self._refresh)
            here = self._by_process.setdefault(process, mine)
        if self._closed:  # looked at last: what a thread opens that `close` overtakes would stay open
            raise _was_closed()
        opened = here.take()
        try:
            yield opened.reader, lambda: here.encoder(opened.reader.release)
        finally:
            here.give(opened)


def _was_closed() -> StoreError:
    return StoreError("This retriever was closed.", "Open it again: Retriever.open(...).")


@dataclass(slots=True)
class _Opened:
    reader: Reader
    users: int = 0


class _Open:
    """What one process has open: the release that answers, those that still do, encoders by space."""

    def __init__(
        self,
        store: Callable[[], Store],
        encoder: Callable[[Release], Embedder],
        release: int | None,
        refresh: float,
    ) -> None:
        self._make_store = store
        self._make_encoder = encoder
        self._release = release
        self._refresh = refresh
        self._lock = threading.Lock()  # of the fields; never held while something is opened
        self._opening = threading.Lock()  # one thread at a time opens the next release
        self._loading = threading.Lock()  # an encoder
        self._store: Store | None = None
        self._now: _Opened | None = None
        self._looked = 0.0
        self._closed = False
        self._encoders: dict[str, Embedder] = {}

    def take(self) -> _Opened:
        """The release that is to answer, counted as in use until `give`."""
        with self._lock:
            now = self._now
            if now is not None and (self._release is not None or time.monotonic() - self._looked < self._refresh):
                now.users += 1
                return now
        if now is None:
            with self._opening:
                if self._now is None:
                    self._follow()
        elif self._opening.acquire(blocking=False):  # others go on with what is open
            try:
                self._follow()
            finally:
                self._opening.release()
        with self._lock:
            if self._now is None:
                raise _was_closed()
            self._now.users += 1
            return self._now

    def _follow(self) -> None:
        """Open the live release, unless it is the one that is open. The old one ends with its last query."""
        if self._store is None:
            self._store = self._make_store()
        now = self._now
        try:
            wanted = find(self._store, self._release) if self._release is not None else self._store.live()
        except StoreError:
            if now is None:
                raise
            wanted = now.reader.release  # what is open is sound, whatever became of the pointer
        if wanted is None and now is not None:
            raise StoreError(
                "the knowledge base has no live release any more",
                "If its workspace was moved, open it at its new place; if it was removed, restore it.",
            )
        if wanted is None:
            raise UsageError("the knowledge base has no release yet", "Make one: ragops ingest")
        opened = None
        if now is None or now.reader.release != wanted:
            try:  # without a number: it may be live no more, and pruned
                opened = _Opened(self._store.open(self._release))
            except StoreError:
                if now is None:
                    raise  # else a sound release answers until there is another
        with self._lock:
            self._looked = time.monotonic()
            if opened is None:
                return
            if self._closed:
                spare: _Opened | None = opened
            else:
                spare, self._now = self._now, opened
            idle = spare is not None and spare.users == 0
        if spare is not None and idle:
            spare.reader.close()

    def give(self, opened: _Opened) -> None:
        with self._lock:
            opened.users -= 1
            last = opened.users == 0 and opened is not self._now
        if last:
            opened.reader.close()

    def encoder(self, release: Release) -> Embedder:
        space = release.space.fingerprint
        found = self._encoders.get(space)
        if found is None:
            with self._loading:
                found = self._encoders.get(space)
                if found is None:
                    found = self._encoders[space] = self._make_encoder(release)
        return found

    def close(self) -> None:
        with self._lock:
            self._closed = True
            old, self._now = self._now, None
            idle = old is not None and old.users == 0
        if old is not None and idle:
            old.reader.close()


def _on_server(
    url: str, collection: str, model: str | os.PathLike[str] | None, api_key: str, scope: Filter | None,
    release: int | None,
) -> Retriever:  # fmt: skip
    if model is None:
        raise UsageError(
            "a server keeps vectors and no model: say which encodes the queries",
            'Retriever.open(url, model="all-MiniLM-L6-v2"), or the folder data/models/<space> of the workspace',
        )
    from ragops.stores import open_store

    name = os.fspath(model)
    settings = config.StoreSettings(url=url, collection=collection, api_key=api_key)
    config.check_ranges(config.Settings(store=settings), config.Where("Retriever.open"))

    def encoder(kept: Release) -> Embedder:
        from ragops import embedders

        if (Path(name) / "manifest.json").is_file():
            return embedders.load_query_encoder(Path(name), kept.space.fingerprint)
        return embedders.load(name)

    return Retriever(lambda: open_store(Path(), settings), encoder, scope=scope, release=release, refresh=1.0)
