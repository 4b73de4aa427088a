"""Collections, points and layouts on a server that are not ours, or damaged."""

from __future__ import annotations

import pytest
from qdrant_client import QdrantClient, models

from ragops.errors import SchemaError, StoreError
from tests.server_stores import local, physical, strange
from tests.store_contract import DIM, everything, fill, pairs, point, release

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")


def test_a_meta_collection_of_somebody_else() -> None:
    client = QdrantClient(":memory:")
    strange(client, "main--meta")
    store = local(client)
    for call in (store.live, store.releases, lambda: fill(store, 3)):
        with pytest.raises(StoreError, match=r"main--meta .*was not made by ragops") as caught:
            call()
        assert "store.collection" in caught.value.hint
    assert [each.name for each in client.get_collections().collections] == ["main--meta"]
    assert physical(client, "main--meta")[0].payload == {"theirs": True}


def test_a_release_collection_of_somebody_else() -> None:
    client = QdrantClient(":memory:")
    strange(client, "main--00000001")
    store = local(client)
    with pytest.raises(StoreError, match="main--00000001 that no release here accounts for"):
        fill(store, 3)
    assert physical(client, "main--00000001")[0].payload == {"theirs": True}
    assert store.examine().strangers == ["main--00000001"]
    store.write(release(2, 3), base=None, delete=[], add=pairs(1, 2, 3))  # and it stays
    store.remove(2)
    assert client.collection_exists("main--00000001")


def test_a_collection_that_is_missing_or_another() -> None:
    client = QdrantClient(":memory:")
    store = local(client)
    fill(store, 3)
    store.write(release(2, 3), base=1, delete=[], add=[])
    reader = store.open()
    client.delete_collection("main--00000001")
    for found in (None, 4, DIM):
        if found is not None:
            strange(client, "main--00000001", found)
        words = "is missing" if found is None else "Somebody else made it"
        for call in (store.open, lambda: store.write(release(3, 3), base=2, delete=[], add=[])):
            with pytest.raises(StoreError, match=words) as caught:
                call()
            assert "verify --repair" in caught.value.hint
        assert all(words in problem for problem in store.check())
        assert len(store.check()) == 2
        if found is not None:
            client.delete_collection("main--00000001")
    with pytest.raises(StoreError, match="removed"):
        reader.count()
    store.write(release(3, 3), base=None, delete=[], add=pairs(1, 2, 3))  # the repair
    store.publish(3)
    store.remove(1)
    store.remove(2)
    assert store.check() == []
    assert len(everything(store)) == 3


def meta_point(client: QdrantClient, number: int) -> models.Record:
    return next(each for each in physical(client, "main--meta") if (each.payload or {}).get("number") == number)


def test_a_damaged_manifest() -> None:
    client = QdrantClient(":memory:")
    store = local(client)
    fill(store, 5)
    store.write(release(2, 6), base=1, delete=[], add=pairs(6))
    client.set_payload("main--meta", {"ragops": "{"}, points=[meta_point(client, 2).id])
    assert [each.number for each in store.releases()] == [1]
    assert store.numbers() == [1, 2]
    assert any("release 2" in problem for problem in store.check())
    with pytest.raises(StoreError, match="damaged"):
        store.open(2)
    store.write(release(3, 6), base=1, delete=[], add=pairs(7))  # not on top of what is unknown
    assert set(store.point_ids(3)) == {point(i).point_id for i in (0, 1, 2, 3, 4, 7)}
    store.remove(2)
    assert store.numbers() == [1, 3]
    assert store.check() == []
    assert len(physical(client, store.place(1))) == 5


def test_a_newer_schema_and_an_early_layout_are_refused() -> None:
    client = QdrantClient(":memory:")
    store = local(client)
    fill(store, 3)
    id = meta_point(client, 1).id
    client.set_payload("main--meta", {"ragops": '{"schema": 99, "kind": "release", "number": 1}'}, points=[id])
    for call in (store.live, lambda: store.write(release(2, 1), base=None, delete=[], add=pairs(1))):
        with pytest.raises(SchemaError, match="schema 99") as caught:
            call()
        assert "pip install -U ragops" in caught.value.hint
    client.overwrite_payload("main--meta", {"json": '{"kind": "live"}'}, points=[id])
    with pytest.raises(StoreError, match="early ragops"):
        store.live()
