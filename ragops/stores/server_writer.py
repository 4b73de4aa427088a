"""Writing the points of one release into its collection on a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ragops.stores import bm25, versions
from ragops.stores.batches import Batch, check_ids, in_base_already, not_in_base
from ragops.stores.connection import PAGE, Connection
from ragops.stores.index import DENSE, SPARSE
from ragops.stores.lease import Lease
from ragops.types import Release

if TYPE_CHECKING:
    from qdrant_client import models

PLACES = 10  # decimals of a vector's numbers: float32 of unit length, in half of JSON's digits


class Writer:
    """Points of one release into its collection."""

    def __init__(
        self, connection: Connection, lease: Lease, name: str, release: Release, progress: Callable[[int], None]
    ) -> None:
        self.name = name
        self.release = release
        self.lease = lease
        self.copied = 0
        self.added = 0
        self._connection = connection
        self._progress = progress
        self._encoder = bm25.Bm25(release.avg_len)

    def go_on(self, base: int, head: int, delete: Iterable[str]) -> int:
        """From `head`, the newest release of the collection, to `base` less `delete`: how many were deleted.

        Nothing but the deletes where the two are the same, as they are unless the newest release was not recorded.
        """
        gone: set[str] = set()
        some: list[str] = []
        for id in check_ids(delete):
            some.append(id)
            if len(some) == PAGE:
                gone |= self._leave_out(some, base)
                some = []
        if some:
            gone |= self._leave_out(some, base)
        deleted = len(gone)
        if base != head:
            came = versions.every(
                versions.between(versions.ADDED, after=base), versions.between(versions.REMOVED, after=head)
            )
            self._close(came)
            went = [
                versions.between(versions.ADDED, upto=base), versions.between(versions.REMOVED, after=base, upto=head)
            ]  # fmt: skip
            self.copy(self.name, went, gone)
        return deleted

    def _leave_out(self, ids: list[str], base: int) -> set[str]:
        """Close the points of the base that have these logical ids. Raises StoreError for those that it lacks."""
        condition = versions.every(versions.any_of(versions.ID, ids), *versions.seen_by(base))
        found = {}
        for record in self._connection.scroll(self.name, condition, payload=[versions.ID, versions.REMOVED]):
            payload = record.payload or {}
            found[payload[versions.ID]] = str(record.id) if payload[versions.REMOVED] == versions.OPEN else None
        lacking = set(ids) - found.keys()
        if lacking:
            raise not_in_base(lacking)
        open_ = [id for id in found.values() if id is not None]
        if open_:
            self.lease.keep()
            self._connection.set_payload(self.name, {versions.REMOVED: self.release.number}, open_)
        return set(ids)

    def _close(self, condition: models.Filter) -> None:
        self.lease.keep()
        self._connection.set_payload(self.name, {versions.REMOVED: self.release.number}, condition)

    def copy(self, source: str, seen: Sequence[models.FieldCondition], gone: set[str]) -> None:
        """Points of an older release, with their vectors, but for those in `gone`, which are taken out of it."""
        from qdrant_client import models

        some: list[models.PointStruct] = []
        number = self.release.number
        records = self._connection.scroll(source, versions.every(*seen), payload=True, vectors=True)
        for record in records:
            payload = record.payload or {}
            id = str(payload[versions.ID])
            if id in gone:
                gone.discard(id)
                continue
            vectors: Any = record.vector
            stamped = versions.stamped(payload, id, payload[versions.KEY], number)
            some.append(models.PointStruct(id=versions.physical(id, number), vector=vectors, payload=stamped))
            if len(some) == PAGE:
                self._upsert(some)
                self.copied, some = self.copied + len(some), []
        if some:
            self._upsert(some)
            self.copied += len(some)

    def add(self, batch: Batch, *, fresh: bool) -> None:
        """New points; unless the release is `fresh`, none of them may be in its base still."""
        import numpy as np
        from qdrant_client import models

        number = self.release.number
        if not fresh:
            self._check_new([point.point_id for point in batch.points])
        rows = np.round(batch.vectors.astype(np.float64), PLACES).tolist()
        points, sizes = [], []
        for point, text, dense in zip(batch.points, batch.payloads, rows, strict=True):
            payload = json.loads(text)
            named: dict[str, Any] = {DENSE: dense}
            tokens, weights = self._encoder.document(bm25.text_of(payload))
            if tokens:
                named[SPARSE] = models.SparseVector(indices=tokens, values=weights)
            stamped = versions.stamped(payload, point.point_id, point.vector_key, number)
            id = versions.physical(point.point_id, number)
            points.append(models.PointStruct(id=id, vector=named, payload=stamped))
            sizes.append(len(text) + 14 * len(dense) + 32 * len(tokens) + 300)
        self.lease.keep()
        self._connection.upsert(self.name, points, sizes)
        self.added += len(points)
        self._progress(self.added)

    def _check_new(self, ids: list[str]) -> None:
        for start in range(0, len(ids), PAGE):
            these = versions.any_of(versions.ID, ids[start : start + PAGE])
            condition = versions.every(these, *versions.seen_by(self.release.number))
            for record in self._connection.scroll(self.name, condition, payload=[versions.ID], page=1):
                raise in_base_already((record.payload or {})[versions.ID])

    def _upsert(self, points: list[models.PointStruct]) -> None:
        self.lease.keep()
        sizes = [len(json.dumps(point.payload)) + 20_000 for point in points]
        self._connection.upsert(self.name, points, sizes)
