"""What a server knows of releases: one point per sealed release, the live pointer, drafts, and the writer's lease.

All in the collection `<collection>--meta`, read whole in one request. A release counts once its point is there.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ragops.errors import SchemaError, StoreError
from ragops.stores import manifest
from ragops.stores.connection import Connection, Missing
from ragops.stores.manifest import Damaged, Manifest

if TYPE_CHECKING:
    from qdrant_client import models

SCHEMA = 2
_NAMESPACE = uuid.UUID("6f0b5d5e-6c3c-5b3e-9d3a-2b1f7c1f0a02")
_VECTOR = "none"  # a server wants one


@dataclass(frozen=True, slots=True)
class Draft:
    """A write or removal of release `number` that has begun: until it ends, points of it may lie in `collection`."""

    number: int
    collection: str


@dataclass(frozen=True, slots=True)
class Records:
    """The state of one moment."""

    seals: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)  # release number -> its record
    live: Mapping[str, Any] | None = None
    drafts: tuple[Draft, ...] = ()
    lease: Mapping[str, Any] | None = None


class Meta:
    """The records of one collection."""

    def __init__(
        self, connection: Connection, collection: str, *, replicas: int | None, consistency: int | None
    ) -> None:
        """`replicas` and `consistency` are those of the collections whose releases stand here."""
        self.name = f"{collection}--meta"
        self._replicas = replicas
        self._consistency = consistency
        self._connection = connection
        self._where = f"{self.name} on {connection.where}"

    def prepare(self) -> None:
        """Make the collection where there is none. Raises StoreError where it is somebody else's."""
        from qdrant_client import models

        found = self._connection.describe(self.name)
        if found is not None:
            vectors = found.config.params.vectors
            if not isinstance(vectors, dict) or set(vectors) != {_VECTOR}:
                raise self._stranger("its vectors are not ours")
            return
        one = {_VECTOR: models.VectorParams(size=1, distance=models.Distance.DOT)}
        self._connection.create(
            self.name,
            vectors_config=one,
            shard_number=1,  # so that its points are written in one order
            replication_factor=self._replicas,
            write_consistency_factor=self._consistency,
        )
        self._connection.index(self.name, "token", models.PayloadSchemaType.KEYWORD)

    def read(self) -> Records:
        """Everything; of an absent collection nothing. Raises StoreError, SchemaError."""
        seals: dict[int, Mapping[str, Any]] = {}
        others: dict[str, Mapping[str, Any]] = {}
        drafts = []
        try:
            replicated = (self._replicas or 1) > 1
            for record in self._connection.scroll(self.name, payload=True, majority=replicated):
                try:
                    kind, value = self._value(record)
                except Damaged:
                    number = (record.payload or {}).get("number")
                    if not isinstance(number, int):
                        raise
                    kind, value = "release", {"number": number}  # its manifest tells, when it is asked for
                if kind == "release":
                    seals[int(value["number"])] = value
                elif kind == "draft":
                    drafts.append(Draft(int(value["number"]), str(value["collection"])))
                else:
                    others[kind] = value
        except Missing:
            return Records()
        return Records(
            dict(sorted(seals.items())), others.get("live"), tuple(sorted(drafts, key=_number)), others.get("lease")
        )

    def manifest(self, records: Records, number: int) -> Manifest | None:
        """The seal of a release, None where there is none. Raises Damaged, SchemaError."""
        value = records.seals.get(number)
        if value is None:
            return None
        where = f"the manifest of release {number} in {self._where}"
        if "manifest" not in value:
            raise Damaged(f"{where} is damaged: it is not there", manifest.MEND)
        found = manifest.load(value["manifest"], where)
        if found.release.number != number:
            raise Damaged(f"{where} is that of release {found.release.number}", manifest.MEND)
        return found

    # ------------------------------------------------------------ writing
    def seal(self, seal: Manifest) -> None:
        number = seal.release.number
        self._put(f"release/{number}", {"kind": "release", "number": number, "manifest": manifest.dump(seal)})

    def unseal(self, number: int) -> None:
        self._connection.delete(self.name, [_id(f"release/{number}")])

    def publish(self, number: int, *, hold: bool) -> None:
        self._put("live", {"kind": "live", "number": number, "hold": hold})

    def begin(self, draft: Draft) -> None:
        self._put(
            f"draft/{draft.number}/{draft.collection}",
            {"kind": "draft", "number": draft.number, "collection": draft.collection},
        )

    def end(self, draft: Draft) -> None:
        self._connection.delete(self.name, [_id(f"draft/{draft.number}/{draft.collection}")])

    def take_lease(self, value: Mapping[str, Any], before: str) -> Mapping[str, Any]:
        """Write the lease if its token is `before` (or there never was one), in one step; the lease as it then is."""
        from qdrant_client import models

        same = models.FieldCondition(key="token", match=models.MatchValue(value=before))
        self._put("lease", {"kind": "lease", **value}, token=value["token"], over=models.Filter(must=[same]))
        return self.read().lease or {}

    def _put(
        self, id: str, value: Mapping[str, Any], *, token: str | None = None, over: models.Filter | None = None
    ) -> None:
        from qdrant_client import models

        # Kept as text: a server must not read numbers out of it in its own way.
        payload: dict[str, Any] = {"ragops": json.dumps({"schema": SCHEMA, **value})}
        if token is not None:
            payload["token"] = token
        if value["kind"] == "release":
            payload["number"] = value["number"]
        point = models.PointStruct(id=_id(id), vector={_VECTOR: [1.0]}, payload=payload)
        self._connection.put(self.name, point, over=over)

    def _value(self, record: models.Record) -> tuple[str, Mapping[str, Any]]:
        payload = record.payload or {}
        if "ragops" not in payload:
            if "json" in payload:
                raise StoreError(
                    f"{self._where} was written by an early ragops, with a collection per release",
                    "Choose another store.collection and run `ragops ingest`: it is built there from the dataset.",
                )
            raise self._stranger(f"its point {record.id} is not ours")
        try:
            value = json.loads(payload["ragops"])
            if value["schema"] > SCHEMA:
                raise SchemaError.newer(self._where, value["schema"], SCHEMA)
            if value["kind"] in ("release", "draft", "live"):
                int(value["number"])
            return value["kind"], value
        except (ValueError, TypeError, KeyError) as error:
            raise Damaged(f"{self._where} is damaged: point {record.id}: {error}", manifest.MEND) from error

    def _stranger(self, why: str) -> StoreError:
        return StoreError(
            f"{self._where} was not made by ragops: {why}",
            "Set another store.collection in params.yaml. Nothing was changed there.",
        )


def _id(name: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, name))


def _number(draft: Draft) -> int:
    return draft.number
