"""Reading one release on a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ragops.errors import StoreError
from ragops.stores import bm25, ranking, versions
from ragops.stores.connection import Connection, Missing
from ragops.stores.filters import for_server, parse
from ragops.stores.index import DENSE, EF, OVERSAMPLING, SPARSE
from ragops.types import Filter, Release, Scored

if TYPE_CHECKING:
    from qdrant_client import models

    from ragops.types import Vectors

LOOK = 5.0  # seconds between two looks whether the release is still kept


class QdrantReader:
    """One release on a server. It holds no lock there: when the release is removed, queries become errors."""

    def __init__(
        self, connection: Connection, name: str, release: Release, *, shared: bool, kept: Callable[[], bool]
    ) -> None:
        """`name`: the collection that holds it, `shared` with other releases or not. `kept()`: whether it counts."""
        self.release = release
        self._connection = connection
        self._name = name
        self._shared = shared
        self._kept = kept
        self._looked = time.monotonic()
        self._encoder: bm25.Bm25 | None = None

    def search(
        self, vector: Sequence[float], k: int, filter: Filter | None = None, *, exact: bool = False, offset: int = 0
    ) -> list[Scored]:
        from qdrant_client import models

        ranking.check_page(k, offset)
        query = ranking.unit(vector, self.release.space.dim)
        condition = self._condition(filter)

        def params(limit: int) -> models.SearchParams:
            if exact:
                quantization = models.QuantizationSearchParams(ignore=True)
            else:
                quantization = models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
            return models.SearchParams(hnsw_ef=max(EF, limit), exact=exact, quantization=quantization)

        return self._ranked(query, DENSE, k, offset, condition, params, ranking.PLACES)

    def search_text(self, text: str, k: int, filter: Filter | None = None) -> list[Scored]:
        from qdrant_client import models

        ranking.check_page(k)
        condition = self._condition(filter)
        if self._encoder is None:
            self._encoder = bm25.Bm25(self.release.avg_len)
        tokens, weights = self._encoder.query(text)
        if not tokens:
            return []
        query = models.SparseVector(indices=tokens, values=weights)
        corpus = None
        if self._shared:  # a word's weight is that in this release, not in all that the collection holds
            corpus = models.IdfCorpusParams(corpus=versions.every(*versions.seen_by(self.release.number)))
        params = models.SearchParams(idf=corpus)
        return self._ranked(query, SPARSE, k, 0, condition, lambda limit: params, ranking.TEXT_PLACES)

    def _ranked(
        self,
        query: list[float] | models.SparseVector,
        using: str,
        k: int,
        offset: int,
        condition: models.Filter | None,
        params: Callable[[int], models.SearchParams],
        places: int,
    ) -> list[Scored]:
        payloads: dict[str, dict[str, Any]] = {}

        def fetch(limit: int) -> list[tuple[str, float]]:
            points = self._connection.query(
                self._name,
                query=query,
                using=using,
                limit=min(limit, max(1, self.release.points)),
                query_filter=condition,
                search_params=params(limit),
                with_payload=True,
            )
            found = []
            for point in points:
                id, payload = _logical(point)
                payloads[id] = payload
                found.append((id, point.score))
            return found

        with self._asking():
            ranked = ranking.ranked(fetch, k, offset, places)
        return [Scored(id, score, payloads[id]) for id, score in ranked]

    def points(
        self, batch: int = 500, filter: Filter | None = None
    ) -> Iterator[tuple[str, Mapping[str, Any], Vectors]]:
        """Every point that matches, by id: id, payload, dense vector float32 (dim,) of unit length."""
        import numpy as np

        condition = self._condition(filter)
        records = self._connection.scroll(self._name, condition, payload=True, vectors=[DENSE], page=batch)
        while True:
            with self._asking():
                record = next(records, None)
            if record is None:
                return
            id, payload = _logical(record)
            vectors: Any = record.vector
            yield id, payload, np.asarray(vectors[DENSE], dtype=np.float32)

    def count(self, filter: Filter | None = None) -> int:
        condition = self._condition(filter)
        with self._asking():
            return self._connection.count(self._name, condition)

    def close(self) -> None:
        """Nothing to give back: the connection belongs to the store."""

    def __enter__(self) -> QdrantReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _condition(self, filter: Filter | None) -> models.Filter | None:
        """The release's and the caller's."""
        from qdrant_client import models

        own = for_server(parse(filter))
        if not self._shared:
            return own
        seen: list[Any] = list(versions.seen_by(self.release.number))
        return models.Filter(must=seen if own is None else [*seen, own])

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Around a request. Raises StoreError when the release was removed: what is left of it is not all of it."""
        try:
            yield
        except Missing as error:
            raise self._gone() from error
        now = time.monotonic()
        if now - self._looked >= LOOK:
            if not self._kept():
                raise self._gone()
            self._looked = now

    def _gone(self) -> StoreError:
        return StoreError(
            f"Release {self.release.number} was removed from {self._connection.where} while it was read.",
            "Open the store again: store.open() gives the live release.",
        )


def _logical(point: models.ScoredPoint | models.Record) -> tuple[str, dict[str, Any]]:
    payload = point.payload or {}
    return str(payload[versions.ID]), versions.plain(payload)
