"""Stores on a server: at the stub, and within the process."""

from __future__ import annotations

from typing import Any

from qdrant_client import QdrantClient, models

from ragops.config import StoreSettings
from ragops.stores.connection import Connection
from ragops.stores.server import QdrantStore
from tests.qdrant_stub import Stub
from tests.store_contract import point

GONE = [point(i).point_id for i in range(4)]


def over(stub: Stub, *, timeout: int = 30, **options: Any) -> QdrantStore:
    """A store at the stub that does not pause long between two tries."""
    client = QdrantClient(url=stub.url, timeout=timeout, check_compatibility=False)
    return QdrantStore(Connection(client, stub.url, pause=0.001), options=StoreSettings(stub.url, **options))


def local(client: QdrantClient | None = None, **options: Any) -> QdrantStore:
    return QdrantStore(client or QdrantClient(":memory:"), options=StoreSettings(**options))


def physical(client: QdrantClient, name: str) -> list[models.Record]:
    return client.scroll(name, limit=10_000, with_payload=True)[0]


def strange(client: QdrantClient, name: str, size: int = 4) -> None:
    client.create_collection(name, vectors_config=models.VectorParams(size=size, distance=models.Distance.COSINE))
    client.upsert(name, [models.PointStruct(id=1, vector=[0.5] * size, payload={"theirs": True})])
