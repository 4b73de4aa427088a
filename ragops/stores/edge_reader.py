"""Reading a sealed release with Qdrant Edge."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragops.errors import RagopsError, StoreError
from ragops.stores import bm25, files, permissions, ranking
from ragops.stores.filters import Every, both, for_edge, parse
from ragops.stores.index import DENSE, EF, OVERSAMPLING, SPARSE
from ragops.stores.manifest import MEND, Manifest
from ragops.types import Filter, Leg, Permission, Place, Release, Scored

if TYPE_CHECKING:
    import qdrant_edge

    from ragops.types import Retrieved, Vectors

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

    def rank(
        self, legs: Sequence[Leg], k: int, filter: Filter | None = None, *, scope: Filter | None = None,
        exact: bool = False,
    ) -> list[list[Place]]:  # fmt: skip
        shard = self._open()
        ranking.check_page(k)
        today = self._today()
        seen = parse(scope)
        condition = self._condition(both(parse(filter), seen), today)
        return [
            self._words(shard, leg, k, condition, self._condition(seen, today))
            if isinstance(leg, str)
            else self._nearest(shard, leg, k, condition, exact=exact)
            for leg in legs
        ]

    def _nearest(
        self,
        shard: qdrant_edge.EdgeShard,
        vector: Sequence[float],
        k: int,
        condition: qdrant_edge.Filter | None,
        *,
        exact: bool,
    ) -> list[Place]:
        import qdrant_edge as edge

        query = edge.Query.Nearest(ranking.unit(vector, self.release.space.dim), using=DENSE)

        def fetch(limit: int) -> list[Place]:
            if exact:
                params = edge.SearchParams(exact=True, quantization=edge.QuantizationSearchParams(ignore=True))
            else:
                rescored = edge.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
                params = edge.SearchParams(hnsw_ef=max(EF, limit), quantization=rescored)
            return self._query(shard, query, limit, condition, params)

        return ranking.ranked(fetch, k)

    def _words(
        self,
        shard: qdrant_edge.EdgeShard,
        text: str,
        k: int,
        condition: qdrant_edge.Filter | None,
        seen: qdrant_edge.Filter | None,
    ) -> list[Place]:
        import qdrant_edge as edge

        if self._encoder is None:
            self._encoder = bm25.Bm25(self.release.avg_len)
        tokens, weights = self._encoder.query(text)
        if not tokens:
            return []
        query = edge.Query.Nearest(edge.SparseVector(tokens, weights), using=SPARSE)
        corpus = None
        if seen is not None:
            corpus = edge.IdfParams(corpus=seen)
        elif self._deletes:  # an indexed segment goes on counting deleted points unless it is told what to count
            corpus = edge.IdfParams(corpus=edge.Filter())
        params = edge.SearchParams(idf=corpus)
        return ranking.ranked(
            lambda limit: self._query(shard, query, limit, condition, params), k, places=ranking.TEXT_PLACES
        )

    def search(
        self, vector: Sequence[float], k: int, filter: Filter | None = None, *, exact: bool = False, offset: int = 0
    ) -> list[Scored]:
        ranking.check_page(k, offset)
        return ranking.scored(self, self.rank([vector], k + offset, filter, exact=exact)[0][offset:])

    def search_text(self, text: str, k: int, filter: Filter | None = None) -> list[Scored]:
        return ranking.scored(self, self.rank([text], k, filter)[0])

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
    ) -> list[Place]:
        import qdrant_edge as edge

        limit = min(limit, max(1, self.release.points))
        with engine_errors(self._folder):
            found = shard.query(
                edge.QueryRequest(limit=limit, query=query, filter=condition, params=params, with_payload=False)
            )
        return [Place(id := str(point.id), point.score, id) for point in found]

    def retrieve(self, places: Sequence[Place], *, vectors: bool = False) -> Retrieved:
        if not places:
            return []
        shard, today = self._open(), self._today()
        with engine_errors(self._folder):
            records = shard.retrieve(
                [place.key for place in places], with_payload=True, with_vector=[DENSE] if vectors else False
            )
        found = {str(record.id): record for record in records}
        answer: Retrieved = []
        for place in places:
            record: Any = found[place.key]
            vector = _vector(record) if vectors else None
            answer.append((permissions.payload(record.payload or {}, today), vector))
        return answer

    def points(
        self, batch: int = 500, filter: Filter | None = None
    ) -> Iterator[tuple[str, Mapping[str, Any], Vectors]]:
        """Every point that matches, by id: id, payload, dense vector float32 (dim,) of unit length."""
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
                payload = permissions.payload(record.payload or {}, today)
                yield str(record.id), payload, _vector(record)
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


def _vector(record: Any) -> Vectors:
    import numpy as np

    return np.asarray(record.vector[DENSE], dtype=np.float32)
