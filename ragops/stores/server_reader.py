"""Reading one release on a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ragops.errors import StoreError
from ragops.stores import bm25, ranking, versions
from ragops.stores.connection import Connection, Missing
from ragops.stores.filters import Every, both, for_server, parse
from ragops.stores.index import DENSE, EF, OVERSAMPLING, SPARSE
from ragops.types import Filter, Leg, Place, Release, Scored

if TYPE_CHECKING:
    from qdrant_client import models

    from ragops.types import Retrieved, Vectors

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

    def rank(
        self, legs: Sequence[Leg], k: int, filter: Filter | None = None, *, scope: Filter | None = None,
        exact: bool = False,
    ) -> list[list[Place]]:  # fmt: skip
        from qdrant_client import models

        ranking.check_page(k)
        seen = parse(scope)
        condition = self._condition(both(parse(filter), seen))
        corpus = self._condition(seen)  # a word's weight is that in what the asker may see of this release

        def ask(leg: Leg, limit: int) -> models.QueryRequest | None:
            limit = min(limit, max(1, self.release.points))
            asked: dict[str, Any] = {"limit": limit, "filter": condition, "with_payload": [versions.ID]}
            if isinstance(leg, str):
                if self._encoder is None:
                    self._encoder = bm25.Bm25(self.release.avg_len)
                tokens, weights = self._encoder.query(leg)
                if not tokens:
                    return None
                words = models.SparseVector(indices=tokens, values=weights)
                idf = None if corpus is None else models.IdfCorpusParams(corpus=corpus)
                return models.QueryRequest(query=words, using=SPARSE, params=models.SearchParams(idf=idf), **asked)
            if exact:
                quantization = models.QuantizationSearchParams(ignore=True)
            else:
                quantization = models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
            params = models.SearchParams(hnsw_ef=max(EF, limit), exact=exact, quantization=quantization)
            vector = ranking.unit(leg, self.release.space.dim)
            return models.QueryRequest(query=vector, using=DENSE, params=params, **asked)

        def fetch(requests: Sequence[models.QueryRequest]) -> list[list[Place]]:
            answers = self._connection.query(self._name, requests)
            return [[Place(_logical(point), point.score, str(point.id)) for point in answer] for answer in answers]

        first = [ask(leg, k + ranking.SLACK) for leg in legs]
        with self._asking():
            answers = iter(fetch([request for request in first if request is not None]))
            return [
                []
                if request is None
                else ranking.ranked(
                    lambda limit, leg=leg: fetch([ask(leg, limit)])[0],  # type: ignore[misc, list-item]
                    k,
                    ranking.TEXT_PLACES if isinstance(leg, str) else ranking.PLACES,
                    next(answers),
                )
                for leg, request in zip(legs, first, strict=True)
            ]

    def retrieve(self, places: Sequence[Place], *, vectors: bool = False) -> Retrieved:
        if not places:
            return []
        with self._asking():
            records = self._connection.retrieve(
                self._name, [place.key for place in places], vectors=[DENSE] if vectors else False
            )
        found = {str(record.id): record for record in records}
        if len(found) < len({place.key for place in places}):
            raise self._gone()
        answer: Retrieved = []
        for place in places:
            record: Any = found[place.key]
            vector = _vector(record) if vectors else None
            answer.append((versions.plain(record.payload), vector))
        return answer

    def search(
        self, vector: Sequence[float], k: int, filter: Filter | None = None, *, exact: bool = False, offset: int = 0
    ) -> list[Scored]:
        ranking.check_page(k, offset)
        return ranking.scored(self, self.rank([vector], k + offset, filter, exact=exact)[0][offset:])

    def search_text(self, text: str, k: int, filter: Filter | None = None) -> list[Scored]:
        return ranking.scored(self, self.rank([text], k, filter)[0])

    def points(
        self, batch: int = 500, filter: Filter | None = None
    ) -> Iterator[tuple[str, Mapping[str, Any], Vectors]]:
        """Every point that matches, by id: id, payload, dense vector float32 (dim,) of unit length."""

        condition = self._condition(parse(filter))
        records = self._connection.scroll(self._name, condition, payload=True, vectors=[DENSE], page=batch)
        while True:
            with self._asking():
                record = next(records, None)
            if record is None:
                return
            yield _logical(record), versions.plain(record.payload), _vector(record)

    def count(self, filter: Filter | None = None) -> int:
        condition = self._condition(parse(filter))
        with self._asking():
            return self._connection.count(self._name, condition)

    def close(self) -> None:
        """Nothing to give back: the connection belongs to the store."""

    def __enter__(self) -> QdrantReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _condition(self, tree: Every | None) -> models.Filter | None:
        """The release's and the caller's."""
        from qdrant_client import models

        own = for_server(tree)
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


def _logical(point: models.ScoredPoint | models.Record) -> str:
    return str((point.payload or {})[versions.ID])


def _vector(record: Any) -> Vectors:
    import numpy as np

    return np.asarray(record.vector[DENSE], dtype=np.float32)
