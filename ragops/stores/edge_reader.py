"""Reading a sealed release with Qdrant Edge."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragops.errors import RagopsError, StoreError
from ragops.stores import bm25, files, permissions, ranking
from ragops.stores.filters import Every, for_edge, parse
from ragops.stores.index import DENSE, EF, OVERSAMPLING, SPARSE
from ragops.stores.manifest import MEND, Manifest
from ragops.types import Filter, Permission, Release, Scored

if TYPE_CHECKING:
    import qdrant_edge

    from ragops.types import Vectors

CONDITIONS = 16  # filters kept under one state of permissions: a megabyte each with 5,000 documents


@contextmanager
def engine_errors(folder: Path) -> Iterator[None]:
    """The engine raises bare Exceptions, and panics as BaseExceptions."""
    try:
        yield
    except RagopsError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        text = str(error)
        if any(sign in text for sign in ("ermission denied", "Read-only file system", "os error 13", "os error 30")):
            raise _not_writable(folder) from error
        raise StoreError(f"The release in {folder} cannot be read: {text}", MEND) from error


def _not_writable(folder: Path) -> StoreError:
    return StoreError(
        f"{folder} is not writable, and the engine cannot open a release without writing to its folder",
        "Give this user write permission, or copy the store onto a writable disk.",
    )


class EdgeReader:
    """One open release. For one process: a fork of it must open its own."""

    def __init__(self, folder: Path, manifest: Manifest, lock: int, today: permissions.Today) -> None:
        """`lock` is the descriptor of the shared lock; it is closed with the reader."""
        import qdrant_edge

        self.release: Release = manifest.release
        self._folder = folder
        self._deletes = manifest.deletes
        self._lock = lock
        self._today = today
        self._conditions: tuple[Mapping[str, Permission], dict[Every, qdrant_edge.Filter | None]] = ({}, {})
        self._pid = os.getpid()
        self._encoder: bm25.Bm25 | None = None
        self._shard: qdrant_edge.EdgeShard | None = None
        path = folder / "shard"
        if not os.access(path, os.W_OK):
            raise _not_writable(path)
        with engine_errors(folder):
            self._shard = qdrant_edge.EdgeShard.load(str(path))

    def _open(self) -> qdrant_edge.EdgeShard:
        if self._pid != os.getpid():  # a query would hang for ever
            raise StoreError(
                "This release was opened in another process, before a fork.",
                "Open the store in the process that uses it, or start processes with the spawn method.",
            )
        if self._shard is None:
            raise StoreError("This release was closed.", "Open it again: store.open().")
        return self._shard

    def search(
        self, vector: Sequence[float], k: int, filter: Filter | None = None, *, exact: bool = False, offset: int = 0
    ) -> list[Scored]:
        import qdrant_edge as edge

        shard = self._open()
        ranking.check_page(k, offset)
        query = edge.Query.Nearest(ranking.unit(vector, self.release.space.dim), using=DENSE)
        today = self._today()
        condition = self._condition(parse(filter), today)

        def fetch(limit: int) -> list[tuple[str, float]]:
            if exact:
                params = edge.SearchParams(exact=True, quantization=edge.QuantizationSearchParams(ignore=True))
            else:
                rescored = edge.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
                params = edge.SearchParams(hnsw_ef=max(EF, limit), quantization=rescored)
            return self._query(shard, query, limit, condition, params)

        return self._scored(shard, ranking.ranked(fetch, k, offset), today)

    def search_text(self, text: str, k: int, filter: Filter | None = None) -> list[Scored]:
        import qdrant_edge as edge

        shard = self._open()
        ranking.check_page(k)
        today = self._today()
        condition = self._condition(parse(filter), today)
        if self._encoder is None:
            self._encoder = bm25.Bm25(self.release.avg_len)
        tokens, weights = self._encoder.query(text)
        if not tokens:
            return []
        query = edge.Query.Nearest(edge.SparseVector(tokens, weights), using=SPARSE)
        # An indexed segment goes on counting deleted points in its IDF unless it is told what to count.
        corpus = edge.IdfParams(corpus=edge.Filter()) if self._deletes else None
        params = edge.SearchParams(idf=corpus)
        found = ranking.ranked(
            lambda limit: self._query(shard, query, limit, condition, params), k, places=ranking.TEXT_PLACES
        )
        return self._scored(shard, found, today)

    def _condition(self, tree: Every | None, today: Mapping[str, Permission]) -> qdrant_edge.Filter | None:
        """The engine's filter under today's permissions. Kept: thousands of documents take a while to write down."""
        if tree is None or not today:
            return for_edge(tree)
        under, known = self._conditions  # threads may share a reader: no step between two looks at it
        if under is not today:
            known = {}
            self._conditions = today, known
        found = known.get(tree)
        if found is None:
            if len(known) >= CONDITIONS:
                known.clear()
            found = known[tree] = for_edge(permissions.rewritten(tree, today))
        return found

    def _query(
        self,
        shard: qdrant_edge.EdgeShard,
        query: Any,
        limit: int,
        condition: qdrant_edge.Filter | None,
        params: qdrant_edge.SearchParams,
    ) -> list[tuple[str, float]]:
        import qdrant_edge as edge

        limit = min(limit, max(1, self.release.points))
        with engine_errors(self._folder):
            found = shard.query(
                edge.QueryRequest(limit=limit, query=query, filter=condition, params=params, with_payload=False)
            )
        return [(str(point.id), point.score) for point in found]

    def _scored(
        self, shard: qdrant_edge.EdgeShard, ranked: Sequence[tuple[str, float]], today: Mapping[str, Permission]
    ) -> list[Scored]:
        if not ranked:
            return []
        with engine_errors(self._folder):
            records = shard.retrieve([id for id, _ in ranked], with_payload=True, with_vector=False)
        payloads = {str(record.id): permissions.payload(record.payload or {}, today) for record in records}
        return [Scored(id, score, payloads[id]) for id, score in ranked]

    def points(
        self, batch: int = 500, filter: Filter | None = None
    ) -> Iterator[tuple[str, Mapping[str, Any], Vectors]]:
        """Every point that matches, by id: id, payload, dense vector float32 (dim,) of unit length."""
        import numpy as np
        import qdrant_edge as edge

        tree = parse(filter)
        offset: Any = None
        while True:
            shard = self._open()
            today = self._today()  # of each batch: a scan may take long
            request = edge.ScrollRequest(
                offset=offset,
                limit=batch,
                filter=self._condition(tree, today),
                with_payload=True,
                with_vector=[DENSE],
            )
            with engine_errors(self._folder):
                records, offset = shard.scroll(request)
            for record in records:
                vectors: Any = record.vector
                payload = permissions.payload(record.payload or {}, today)
                yield str(record.id), payload, np.asarray(vectors[DENSE], dtype=np.float32)
            if offset is None:
                return

    def count(self, filter: Filter | None = None) -> int:
        import qdrant_edge as edge

        shard = self._open()
        condition = self._condition(parse(filter), self._today())
        with engine_errors(self._folder):
            return shard.count(edge.CountRequest(exact=True, filter=condition))

    def close(self) -> None:
        """Gives the engine's memory and the lock back. A second call does nothing."""
        if self._pid != os.getpid():
            return  # the parent's engine and lock are not ours to end
        shard, self._shard = self._shard, None
        if shard is not None:
            with engine_errors(self._folder):
                shard.close()
        if self._lock >= 0:
            files.unlock(self._lock)
            self._lock = -1

    def __enter__(self) -> EdgeReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
