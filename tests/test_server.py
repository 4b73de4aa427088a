"""What only a store on a server must do: releases in place, through the command line too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from ragops.doctor import Check, examine
from ragops.errors import StoreError
from ragops.params import with_store_url
from ragops.stores import server_reader, versions
from ragops.workspace import Workspace
from tests.conftest import use_model, write_corpus
from tests.qdrant_stub import Request, Stub
from tests.server_stores import local, over, physical, strange
from tests.store_contract import answers, everything, fill, pairs, point, release, vector

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")
ROOT = Path(__file__).resolve().parents[1]
UPSERT = "PUT /collections/*/points"


# ---------------------------------------------------------------- in place
def test_a_release_costs_what_changed(stub: Stub) -> None:
    store = over(stub)
    fill(store, 600)
    whole = stub.received
    stub.forget()
    store.write(release(2, 600), base=1, delete=[point(0).point_id, point(1).point_id], add=pairs(700, 701))
    store.publish(2)
    assert stub.received < whole / 20
    assert sum(stub.seen.values()) < 30
    assert store.work(2) == {"copied_points": 0, "added": 2, "deleted": 2}
    stub.forget()
    store.publish(1)  # a rollback
    assert sum(stub.seen.values()) <= 2
    assert stub.received < 2_000
    name = store.place(1)
    assert store.place(2) == name
    assert len(physical(stub.client, name)) == 602


def test_nothing_of_the_stores_own_leaves_it() -> None:
    store = local()
    fill(store, 20)
    for _, payload, _ in store.open().points():
        assert not versions.PRIVATE & payload.keys()
    hits = [*store.open().search(vector(1), 20), *store.open().search_text("harbour lantern", 20)]
    assert hits
    assert all(not versions.PRIVATE & hit.payload.keys() for hit in hits)


def test_ids_stay_in_order() -> None:
    for i in range(200):
        first, second = point(i).point_id, point(i + 1).point_id
        assert (versions.physical(first, 7) < versions.physical(second, 9)) is (first < second)
        assert versions.physical(first, 7) != versions.physical(first, 8)


def test_a_new_space_and_a_new_average_length_begin_a_collection() -> None:
    client = QdrantClient(":memory:")
    store = local(client)
    fill(store, 5)
    store.write(release(2, 5), base=1, delete=[], add=[])
    wide = release(3, 1, avg_len=40)
    store.write(wide, base=None, delete=[], add=pairs(1))
    assert store.place(1) == store.place(2) == "main--00000001"
    assert store.place(3) == "main--00000003"
    assert client.get_aliases().aliases[0].collection_name == "main--00000001"
    store.publish(3)
    assert client.get_aliases().aliases[0].collection_name == "main--00000003"
    store.remove(1)
    assert client.collection_exists("main--00000001")
    store.remove(2)
    assert not client.collection_exists("main--00000001")
    assert store.examine().strangers == []


def test_a_base_that_is_not_the_newest() -> None:
    """As after a run whose release was sealed and never recorded."""
    client = QdrantClient(":memory:")
    store = local(client)
    fill(store, 10)
    store.write(release(2, 9), base=1, delete=[point(0).point_id, point(1).point_id], add=pairs(20))
    store.write(release(3, 10), base=1, delete=[point(1).point_id, point(5).point_id], add=pairs(20, 21))
    clean = local()
    clean.write(release(3, 10), base=None, delete=[], add=pairs(0, 2, 3, 4, 6, 7, 8, 9, 20, 21))
    assert everything(store, 3).keys() == everything(clean, 3).keys()
    assert answers(store, 3) == answers(clean, 3)
    assert set(store.point_ids(2)) == {point(i).point_id for i in (*range(2, 10), 20)}
    assert store.place(3) == store.place(1)
    with pytest.raises(StoreError, match="not in the base"):
        store.write(release(4, 9), base=1, delete=[point(20).point_id], add=[])


def test_a_lower_number_gets_its_own_collection() -> None:
    store = local()
    store.write(release(5, 2), base=None, delete=[], add=pairs(1, 2))
    store.write(release(3, 3), base=5, delete=[], add=pairs(3))
    assert store.place(3) != store.place(5)
    assert len(everything(store, 3)) == 3
    assert len(everything(store, 5)) == 2


def test_layouts_may_be_changed() -> None:
    client = QdrantClient(":memory:")
    apart, together = local(client, layout="collection_per_release"), local(client)
    fill(apart, 10)
    apart.write(release(2, 11), base=1, delete=[], add=pairs(11))
    together.write(release(3, 12), base=2, delete=[], add=pairs(12))
    together.write(release(4, 11), base=3, delete=[point(0).point_id], add=[])
    apart.write(release(5, 12), base=4, delete=[], add=pairs(13))
    assert [apart.place(n) for n in range(1, 6)] == [f"main--{n:08d}" for n in (1, 2, 3, 3, 5)]
    assert [apart.work(n)["copied_points"] for n in range(1, 6)] == [0, 10, 11, 0, 11]
    clean = local()
    for number, n in ((1, range(10)), (2, [*range(10), 11]), (3, [*range(10), 11, 12]), (4, [*range(1, 10), 11, 12]),
                      (5, [*range(1, 10), 11, 12, 13])):  # fmt: skip
        clean.write(release(number, len(n)), base=None, delete=[], add=pairs(*n))
        assert answers(apart, number) == answers(together, number) == answers(clean, number)


def test_the_filter_that_others_use(stub: Stub) -> None:
    store = over(stub)
    fill(store, 20)
    store.write(release(2, 19), base=1, delete=[point(3).point_id], add=[])
    other = QdrantClient(url=stub.url, check_compatibility=False)
    for number, n in ((None, 20), (1, 20), (2, 19)):
        condition = models.Filter.model_validate(store.filter(number))
        records, _ = stub.client.scroll("main", condition, limit=100)  # the alias
        assert sorted(record.payload[versions.ID] for record in records if record.payload) == list(
            store.point_ids(number or 1)
        )
        assert len(records) == n
        assert other.count(store.place(number), condition).count == n


def test_a_collection_that_has_our_name_keeps_it() -> None:
    client = QdrantClient(":memory:")
    client.create_collection("main", vectors_config=models.VectorParams(size=3, distance=models.Distance.DOT))
    store = local(client)
    fill(store, 3)
    assert client.get_aliases().aliases == []
    assert client.get_collection("main").points_count == 0
    assert store.examine().strangers == ["main"]


def test_an_open_reader_of_a_removed_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_reader, "LOOK", 0.0)
    store = local()
    fill(store, 10)
    store.write(release(2, 9), base=1, delete=[point(3).point_id], add=[])
    store.write(release(3, 1), base=None, delete=[], add=pairs(1))
    readers = [store.open(1), store.open(3)]
    store.publish(2)
    store.remove(1)
    store.remove(3)
    for reader in readers:
        for ask in (reader.count, lambda: reader.search(vector(1), 3), lambda: list(reader.points())):
            with pytest.raises(StoreError, match=r"Release \d was removed"):
                ask()


def test_settings_reach_the_server(stub: Stub) -> None:
    asked: list[Any] = []

    def look(request: Request) -> None:
        if request.verb == "PUT /collections/*" and "--meta" not in request.path:
            asked.append(request.body)

    stub.fault = look
    fill(over(stub, shards=3, replicas=2, write_consistency=2, on_disk=True, quantization="binary"), 3)
    [body] = asked
    assert (body["shard_number"], body["replication_factor"], body["write_consistency_factor"]) == (3, 2, 2)
    assert (body["vectors"]["dense"]["on_disk"], body["on_disk_payload"]) == (True, True)
    assert "binary" in body["quantization_config"]
    asked.clear()
    over(stub, quantization="none").write(release(2, 1), base=None, delete=[], add=pairs(1))
    assert not asked[0].keys() & {"shard_number", "replication_factor", "quantization_config", "on_disk_payload"}


# ---------------------------------------------------------------- through the command line
def test_doctor_examines_the_server(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Workspace.create(tmp_path / "kb")
    use_model(tmp_path / "kb")
    params = tmp_path / "kb" / "params.yaml"

    def checks(url: str = stub.url) -> dict[str, Check]:
        text = params.read_text("utf-8")
        params.write_text(with_store_url(text, url), "utf-8")
        return {check.name: check for check in examine(tmp_path / "kb")}

    found = checks()
    assert (found["server"].state, found["store"].state) == ("ok", "note")
    assert found["server"].found == f"{stub.url}, Qdrant 1.19.0, 0 collections of ours"
    fill(over(stub), 3)
    strange(stub.client, "main--00000077")
    found = checks()
    assert "2 collections of ours" in found["server"].found
    assert "main--00000077" in found["server collections"].found
    assert "release 1, 3 points" in found["store"].found
    stub.version = "1.12.0"
    assert "1.19 or newer" in checks()["server"].found
    stub.key = "k"
    assert "wants an API key" in checks()["server"].found
    found = checks("http://127.0.0.1:9")
    assert "cannot be reached" in found["server"].found
    assert found["server"].state == "wrong"
    assert "store" not in found


def reads(stub: Stub, act: Callable[[], object]) -> int:
    """How often the meta collection is read."""
    stub.forget()
    act()
    return stub.seen["POST /collections/*/points/scroll"]


def test_an_ingest_over_http(stub: Stub, tmp_path: Path, corpus: Path) -> None:
    """What the loader asks of a store: changes, moves, permissions, rollback, prune, verification."""
    Workspace.create(tmp_path / "kb")
    use_model(tmp_path / "kb")
    params = tmp_path / "kb" / "params.yaml"
    params.write_text(with_store_url(params.read_text("utf-8"), stub.url), "utf-8")
    with Workspace.open(tmp_path / "kb") as kb:
        first = kb.ingest(corpus)
        assert first.release is not None
        assert kb.ingest().noop
        stub.forget()
        write_corpus(corpus, {"notes.txt": "Penguins live in the far south.\n"})
        (corpus / "data.csv").unlink()
        (corpus / "page.html").rename(corpus / "moved.html")
        kb.ingest(allow_deletes=True)
        assert kb.verify().ok
        found = kb.diff(query="where do penguins live")
        assert [change.was for change in found.of("moved")] == ["corpus:/page.html"]
        assert "Penguins live in the far south." in {hit.text for hit in kb.search("penguins").hits}
        kb.rollback()
        assert reads(stub, kb.releases) == 3
    with Workspace.open(tmp_path / "kb") as kb:
        assert any("southern hemisphere" in hit.text for hit in kb.search("penguins").hits)
        kb.publish()
        kb.prune(0)
        assert [each["number"] for each in kb.releases()] == [2]
        assert reads(stub, kb.releases) == 3  # whatever the number of releases
        assert kb.verify().ok
    name = over(stub).place()
    assert len(physical(stub.client, name)) == len(list(over(stub).point_ids(2)))
