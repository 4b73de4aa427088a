from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragops.stores import open_store
from ragops.types import Store
from tests.store_contract import *  # noqa: F403

BACKENDS = ["edge", "local"] + (["server"] if os.environ.get("QDRANT_URL") else [])


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "edge":
        yield open_store(tmp_path / "store")
        return
    from qdrant_client import QdrantClient

    from ragops.stores.server import QdrantStore

    if request.param == "local":
        yield QdrantStore(QdrantClient(":memory:"))
        return
    yield open_store(tmp_path, url=os.environ["QDRANT_URL"])
