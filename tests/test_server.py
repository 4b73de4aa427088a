"""What only a store on a server must do: releases in place, the lease, requests that fail, deaths, strangers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule
from qdrant_client import QdrantClient, models

from ragops.config import StoreSettings
from ragops.doctor import Check, examine
from ragops.errors import ConfigError, DiskFull, Locked, SchemaError, StoreError
from ragops.params import with_store_url
from ragops.stores import connection as border
from ragops.stores import lease as leases
from ragops.stores import open_store, server_reader, versions
from ragops.stores.connection import Connection
from ragops.stores.edge import EdgeStore
from ragops.stores.server import QdrantStore
from ragops.types import Point
from ragops.workspace import Workspace
from tests.conftest import use_model, write_corpus
from tests.qdrant_stub import Fault, Request, Stub
from tests.store_contract import DIM, SPACE, answers, everything, fill, pairs, point, release, vector

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")
ROOT = Path(__file__).resolve().parents[1]
UPSERT = "PUT /collections/*/points"


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as stub:
        yield stub


def over(stub: Stub, *, timeout: int = 30, **options: Any) -> QdrantStore:
    """A store at the stub that does not pause long between two tries."""
    client = QdrantClient(url=stub.url, timeout=timeout, check_compatibility=False)
    return QdrantStore(Connection(client, stub.url, pause=0.001), options=StoreSettings(stub.url, **options))


def local(client: QdrantClient | None = None, **options: Any) -> QdrantStore:
    return QdrantStore(client or QdrantClient(":memory:"), options=StoreSettings(**options))


def physical(client: QdrantClient, name: str) -> list[models.Record]:
    return client.scroll(name, limit=10_000, with_payload=True)[0]


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


# ---------------------------------------------------------------- a model of it
class InPlace(RuleBasedStateMachine):
    """Random writes, publishes, rollbacks, removals and permissions, against a dictionary of sets."""

    numbers = Bundle("numbers")

    def __init__(self) -> None:
        super().__init__()
        self.client = QdrantClient(":memory:")
        self.store = local(self.client)
        self.releases: dict[int, frozenset[int]] = {}
        self.tenants: dict[tuple[int, int], str] = {}  # of (point, release that brought it)
        self.brought: dict[int, dict[int, int]] = {}  # release -> point -> release that brought it
        self.live: int | None = None
        self.next = 1

    @rule(data=st.data(), skip=st.integers(0, 2))
    def write(self, data: st.DataObject, skip: int) -> None:
        base = data.draw(st.sampled_from([None, *sorted(self.releases)[-2:]]))
        before = self.releases.get(base, frozenset()) if base is not None else frozenset()
        gone = data.draw(st.frozensets(st.sampled_from(sorted(before)), max_size=4)) if before else frozenset()
        new = data.draw(st.frozensets(st.integers(0, 11), max_size=4)) - (before - gone)
        number = self.next + skip
        self.next = number + 1
        after = (before - gone) | new
        self.store.write(
            release(number, len(after)), base=base, delete=[point(i).point_id for i in sorted(gone)], add=pairs(*new)
        )
        self.releases[number] = after
        came = {i: at for i, at in self.brought.get(base or 0, {}).items() if i in before - gone}
        self.brought[number] = came | dict.fromkeys(new, number)
        for i in new:
            self.tenants[i, number] = str(point(i).payload["tenant"])

    @precondition(lambda self: self.releases)
    @rule(data=st.data(), hold=st.booleans())
    def publish(self, data: st.DataObject, hold: bool) -> None:
        self.live = data.draw(st.sampled_from(sorted(self.releases)))
        self.store.publish(self.live, hold=hold)
        assert self.store.held() is hold

    @precondition(lambda self: self.releases.keys() - {self.live})
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.releases.keys() - {self.live})))
        self.store.remove(number)
        del self.releases[number], self.brought[number]

    @precondition(lambda self: self.releases)
    @rule(document=st.integers(0, 3), tenant=st.sampled_from(["a", "b"]))
    def permit(self, document: int, tenant: str) -> None:
        self.store.permit({f"document-{document}": (tenant, ())}, upto=max(self.releases))
        for i, at in self.tenants:
            if i // 3 == document:
                self.tenants[i, at] = tenant

    @invariant()
    def releases_are_what_was_written(self) -> None:
        assert self.store.numbers() == sorted(self.releases)
        live = self.store.live()
        assert (None if live is None else live.number) == self.live
        for number, points in self.releases.items():
            assert list(self.store.point_ids(number)) == sorted(point(i).point_id for i in points)

    def teardown(self) -> None:
        assert self.store.check() == []
        for number, points in self.releases.items():
            clean = local()
            clean.write(release(number, len(points)), base=None, delete=[], add=pairs(*points))
            assert answers(self.store, number) == answers(clean, number)
            found = {payload["meta"]["n"]: payload["tenant"] for payload, _ in everything(self.store, number).values()}
            assert found == {i: self.tenants[i, self.brought[number][i]] for i in points}
            if self.live == number:
                assert {hit.point_id for hit in self.store.open().search(vector(1), 99)} == set(
                    self.store.point_ids(number)
                )
        # Nothing is left that no kept release sees.
        held = [each for each in self.store.examine().collections if not each.endswith("--meta")]
        for name in held:
            mine = [number for number in self.releases if self.store.place(number) == name]
            assert mine
            for record in physical(self.client, name):
                payload = record.payload or {}
                assert any(payload["added"] <= number < payload["removed"] for number in mine)
        assert self.store.examine().strangers == []


InPlace.TestCase.settings = settings(
    max_examples=25, stateful_step_count=14, deadline=None, derandomize=True, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip
TestInPlace = InPlace.TestCase


# ---------------------------------------------------------------- requests that fail
GONE = [point(i).point_id for i in range(4)]


def story(store: QdrantStore) -> None:
    """Every kind of request."""
    fill(store, 12)
    store.write(release(2, 10), base=1, delete=GONE, add=pairs(30, 31))
    store.permit({"document-3": ("secret", ("board",))}, upto=2)
    store.publish(2)
    store.remove(1)


def told(store: QdrantStore) -> Any:
    return ([(each.number, each.points) for each in store.releases()], store.held(), store.check(), answers(store, 2),
            {id: payload for id, (payload, _) in everything(store).items()}, store.examine().strangers)  # fmt: skip


FAULTS = {
    "busy": Fault(429, {"Retry-After": "0"}),
    "busy without a time": Fault(429),
    "failing": Fault(500),
    "unavailable": Fault(503, done=True),
    "cut": Fault(cut=True),
    "cut when done": Fault(cut=True, done=True),
}


def hit_each(kinds: Callable[[int], list[str]]) -> None:
    with Stub() as stub:
        story(over(stub))
        expected = told(over(stub))
        verbs = {verb: count for verb, count in stub.seen.items() if verb != "GET /"}
    with Stub() as stub:
        story(over(stub))
        total = sum(stub.seen.values())
    assert len(verbs) >= 10
    for i in range(1, total + 1):
        for kind in kinds(i):
            with Stub() as stub:

                def fault(request: Request, stub: Stub = stub, i: int = i, kind: str = kind) -> Fault | None:
                    return FAULTS[kind] if sum(stub.seen.values()) == i else None

                stub.fault = fault
                store = over(stub)
                story(store)
                stub.fault = lambda request: None
                assert told(store) == expected, (i, kind)


def test_each_request_fails_once() -> None:
    names = list(FAULTS)
    hit_each(lambda i: [names[i // 3 % len(names)]] if i % 3 == 0 else [])


@pytest.mark.slow
def test_each_request_fails_in_each_way() -> None:
    names = list(FAULTS)
    hit_each(lambda i: names[i % 2 :: 2])


def test_pauses_grow_and_retry_after_is_honoured(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(border.time, "sleep", pauses.append)
    store = QdrantStore.connect(StoreSettings(stub.url))
    stub.fault = lambda request: Fault(503)
    with pytest.raises(StoreError, match="failed: HTTP 503, injected"):
        store.releases()
    assert len(pauses) == border.TRIES - 1
    assert all(0.5 * 0.2 * 2**i <= pause <= 0.2 * 2**i for i, pause in enumerate(pauses))
    pauses.clear()
    stub.fault = lambda request: Fault(429, {"Retry-After": "7"}) if request.nth <= 8 else None
    assert store.releases() == []
    assert pauses == [7.0, 7.0]
    pauses.clear()
    stub.fault = lambda request: Fault(429, {"Retry-After": "3600"})
    with pytest.raises(StoreError, match="too many"):
        store.releases()
    assert pauses == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422])
def test_what_will_not_get_better_is_not_tried_again(stub: Stub, status: int) -> None:
    stub.fault = lambda request: Fault(status, text="no")
    with pytest.raises(StoreError, match=rf"HTTP {status}, no"):
        over(stub).numbers()
    assert sum(stub.seen.values()) == 1


def test_requests_become_smaller_where_they_are_too_large(stub: Stub) -> None:
    store = over(stub)
    stub.largest = 12_000
    fill(store, 300)
    assert stub.seen[UPSERT] > 30
    clean = local()
    fill(clean, 300)
    assert answers(store, 1) == answers(clean, 1)
    stub.largest = 900
    with pytest.raises(StoreError, match="too large") as caught:
        store.write(release(2, 301), base=1, delete=[], add=pairs(301))
    assert "max_request_size_mb" in caught.value.hint
    stub.largest = 32 << 20
    assert answers(store, 1) == answers(clean, 1)
    assert store.check() == []


def test_requests_become_smaller_where_they_are_too_slow(stub: Stub) -> None:
    def fault(request: Request) -> Fault | None:
        return Fault(slow=1.5) if request.verb == UPSERT and len(request.body["points"]) > 60 else None

    stub.fault = fault
    store = over(stub, timeout=1)
    fill(store, 130)
    assert len(everything(store)) == 130
    assert store.check() == []


def test_requests_are_bounded_in_bytes(stub: Stub) -> None:
    sizes: list[int] = []

    def look(request: Request) -> None:
        sizes.append(request.size)

    stub.fault = look
    big = [(point(i, text="word " * 180_000), vector(i)) for i in range(40)]
    over(stub).write(release(1, 40), base=None, delete=[], add=big)
    assert 4 << 20 < max(sizes) < 10 << 20


# ---------------------------------------------------------------- deaths
def after_death(stub: Stub) -> None:
    """What the next writer makes of it equals a clean build, and nothing is left over."""
    store = over(stub)
    numbers = store.numbers()
    live = store.live()
    assert live is None or live.number in numbers
    head = max(numbers, default=None)
    kept = set(store.point_ids(head)) if head else set()
    wanted = {point(i).point_id: i for i in (*range(4, 12), 30, 31, 40)}
    add = pairs(*(i for id, i in wanted.items() if id not in kept))
    store.write(release(9, 11), base=head, delete=sorted(kept - wanted.keys()), add=add)
    clean = local()
    clean.write(release(9, 11), base=None, delete=[], add=pairs(*wanted.values()))
    assert answers(store, 9) == answers(clean, 9)
    assert everything(store, 9).keys() == everything(clean, 9).keys()
    store.publish(9)
    for number in numbers:
        store.remove(number)
    assert store.check() == []
    found = store.examine()
    assert (found.strangers, found.writer) == ([], None)
    [name] = [each for each in found.collections if not each.endswith("--meta")]
    assert len(physical(stub.client, name)) == 11


@pytest.mark.parametrize(
    ("step", "done"),
    [(3, True), pytest.param(1, True, marks=pytest.mark.slow), pytest.param(1, False, marks=pytest.mark.slow)],
)
def test_a_death_at_any_request(step: int, done: bool) -> None:
    """From the i-th request on nothing comes through, not even the taking back."""
    with Stub() as stub:
        fill(over(stub), 12)
        stub.forget()
        store = over(stub)
        store.write(release(2, 10), base=1, delete=GONE, add=pairs(30, 31))
        writing = sum(stub.seen.values())
        store.publish(2)
        store.remove(1)
        total = sum(stub.seen.values())
    for i in range(1, total + 1, step):
        with Stub() as stub:
            fill(over(stub), 12)
            stub.forget()

            def fault(request: Request, stub: Stub = stub, i: int = i) -> Fault | None:
                now = sum(stub.seen.values())
                return None if now < i else Fault(500, done=now == i and done)

            stub.fault = fault
            store = over(stub)
            try:
                store.write(release(2, 10), base=1, delete=GONE, add=pairs(30, 31))
                store.publish(2)
                store.remove(1)
            except StoreError:
                pass
            else:
                assert i > total - 2  # the lease was not given back: nobody's loss
            stub.fault = lambda request: None
            if i <= writing:
                assert set(store.point_ids(1)) == {point(n).point_id for n in range(12)}, i
            after_death(stub)


def test_the_answer_to_the_seal_is_lost(stub: Stub) -> None:
    """Sealed on the server, an error here: then it is unsealed again."""
    fill(over(stub), 12)

    def fault(request: Request) -> Fault | None:
        seals = "--meta" in request.path and request.verb == UPSERT and '"release"' in str(request.body)
        return Fault(cut=True, done=True) if seals else None

    stub.fault = fault
    with pytest.raises(StoreError, match="failed"):
        over(stub).write(release(2, 10), base=1, delete=GONE, add=pairs(30, 31))
    stub.fault = lambda request: None
    assert over(stub).numbers() == [1]
    after_death(stub)


def test_what_fails_after_the_seal_is_no_failure(stub: Stub) -> None:
    store = over(stub)
    fill(store, 12)
    sealed: list[bool] = []

    def fault(request: Request) -> Fault | None:
        if sealed:
            return Fault(500)
        if "--meta" in request.path and request.verb == UPSERT and '"release"' in str(request.body):
            sealed.append(True)
        return None

    stub.fault = fault
    store.write(release(2, 10), base=1, delete=GONE, add=pairs(30, 31))
    stub.fault = lambda request: None
    assert over(stub).numbers() == [1, 2]
    after_death(stub)


KILLED = """
import sys
from ragops.config import StoreSettings
from ragops.doctor import Check, examine
from ragops.stores.server import QdrantStore
from tests.store_contract import *
store = QdrantStore.connect(StoreSettings(sys.argv[1]))
gone = [point(i).point_id for i in range(4)]
store.write(release(2, 1208), base=1, delete=gone, add=pairs(*range(1000, 2200)))
"""


@pytest.mark.parametrize(("nth", "done"), [(1, False), (2, True), (4, False)])
def test_a_writer_is_killed(stub: Stub, nth: int, done: bool) -> None:
    """kill -9 in the middle of its points; the next writer does not wait for the lease of a process that is gone."""
    fill(over(stub), 12)
    stub.forget()
    process: list[subprocess.Popen[bytes]] = []

    def fault(request: Request) -> Fault | None:
        if request.verb == UPSERT and "--meta" not in request.path:
            upserts.append(request)
            if len(upserts) == nth:
                process[0].kill()
                return Fault(cut=True, done=done)
        return None

    upserts: list[Request] = []
    stub.fault = fault
    process.append(subprocess.Popen([sys.executable, "-c", KILLED, stub.url], cwd=ROOT))
    assert process[0].wait(60) == -signal.SIGKILL
    stub.fault = lambda request: None
    assert len(upserts) == nth
    assert over(stub).examine().writer == f"process {process[0].pid} on {os.uname().nodename}"
    assert over(stub).numbers() == [1]
    after_death(stub)


# ---------------------------------------------------------------- one writer
def test_two_writers() -> None:
    client = QdrantClient(":memory:")
    first, second = local(client), local(client)
    fill(first, 3)

    def meanwhile() -> Iterator[tuple[Point, np.ndarray]]:
        yield from pairs(7)
        for call in (lambda: second.write(release(3, 1), base=None, delete=[], add=pairs(8)),
                     lambda: second.remove(1)):  # fmt: skip
            with pytest.raises(Locked, match=rf"process {os.getpid()} on .* is writing to main .*its lease ends at 20"):
                call()
        second.publish(1)  # one write of one point: needs no lease
        assert second.examine().writer == f"process {os.getpid()} on {os.uname().nodename}"

    first.write(release(2, 1), base=None, delete=[], add=meanwhile())
    assert [each.number for each in first.releases()] == [1, 2]
    assert first.examine().writer is None
    second.write(release(3, 1), base=None, delete=[], add=pairs(8))


def test_a_writer_that_lost_its_lease_stops() -> None:
    client = QdrantClient(":memory:")
    slow = QdrantStore(client, lease=0.05)
    other = local(client)
    fill(slow, 3)

    def late() -> Iterator[tuple[Point, np.ndarray]]:
        yield from pairs(*range(100, 600))
        time.sleep(0.1)
        other.write(release(3, 4), base=1, delete=[], add=pairs(50))
        yield from pairs(*range(600, 700))

    with pytest.raises(Locked, match="took over the lease"):
        slow.write(release(2, 603), base=1, delete=[], add=late())
    assert [each.number for each in other.releases()] == [1, 3]
    other.write(release(4, 4), base=3, delete=[], add=[])
    for number in (3, 4):
        assert set(other.point_ids(number)) == {point(i).point_id for i in (0, 1, 2, 50)}
    assert other.check() == []
    assert len(physical(client, other.place(4))) == 4


def test_a_lease_that_ran_out_before_the_seal() -> None:
    client = QdrantClient(":memory:")
    slow, other = QdrantStore(client, lease=0.05), local(client)
    fill(slow, 3)

    def late() -> Iterator[tuple[Point, np.ndarray]]:
        yield from pairs(9)
        time.sleep(0.1)
        with leases.Lease.hold(other._meta, "main"):  # came and went
            pass

    with pytest.raises(Locked):
        slow.write(release(2, 4), base=1, delete=[], add=late())
    assert other.numbers() == [1]


@pytest.mark.parametrize(
    ("change", "over_"),
    [
        ({"machine": "another"}, False),
        ({"machine": "another", "expires": 1.0}, True),
        ({"pid": 1}, False),
        ({"pid": 2**22 + 1}, True),
        ({"token": "of nobody's"}, True),  # this process gave it up, the server did not hear of it
    ],
)
def test_whose_lease_is_taken_over(change: dict[str, Any], over_: bool) -> None:
    store = local()
    fill(store, 3)
    value = {"token": "t", "epoch": 3, "host": "elsewhere", "pid": os.getpid(), "machine": leases.machine(),
             "expires": time.time() + 1000}  # fmt: skip
    assert store._meta.take_lease(value | change, "")["epoch"] == 3
    if over_:
        store.write(release(2, 3), base=1, delete=[], add=[])
        return
    with pytest.raises(Locked, match="on elsewhere is writing"):
        store.write(release(2, 3), base=1, delete=[], add=[])
    assert store.numbers() == [1]
    assert len(everything(store)) == 3  # readers need no lease
    store.permit({"document-0": ("now", ())}, upto=1)  # nor do permissions wait
    assert store.open().count({"tenant": "now"}) == 3


# ---------------------------------------------------------------- bad servers
def test_a_server_that_is_down(stub: Stub) -> None:
    store = over(stub)
    fill(store, 3)
    stub.__exit__()
    with pytest.raises(StoreError, match="cannot be reached") as caught:
        store.live()
    assert stub.url in caught.value.message
    for grpc in (False, True):
        with pytest.raises(StoreError, match="cannot be reached"):
            open_store(Path("nowhere"), StoreSettings("http://127.0.0.1:9", grpc=grpc)).live()
    stub.__init__(stub.client)  # type: ignore[misc]
    stub.__enter__()


def test_a_server_that_is_too_slow(stub: Stub) -> None:
    store = over(stub, timeout=1)
    stub.fault = lambda request: Fault(slow=1.3)
    with pytest.raises(StoreError, match=r"did not answer in time") as caught:
        store.live()
    assert "store.timeout" in caught.value.hint


def test_keys(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.key, stub.read_key = "secret-key", "read-key"

    def store(key: str | None, name: str = "QDRANT_API_KEY") -> QdrantStore:
        for each in ("QDRANT_API_KEY", "OTHER_KEY"):
            monkeypatch.delenv(each, raising=False)
        if key is not None:
            monkeypatch.setenv(name, key)
        return QdrantStore.connect(StoreSettings(stub.url, api_key=f"env:{name}"))

    for key in (None, "wrong-key"):
        with pytest.raises(StoreError, match="wants an API key") as caught:
            store(key).live()
        assert "QDRANT_API_KEY" in caught.value.hint
        assert "wrong-key" not in str(caught.value)
    fill(store("secret-key", "OTHER_KEY"), 3)
    with pytest.raises(ConfigError, match="OTHER_KEY, which is not set"):
        store(None, "OTHER_KEY")
    reading = store("read-key")
    assert len(everything(reading)) == 3
    for call in (lambda: reading.write(release(2, 3), base=1, delete=[], add=[]), lambda: reading.publish(1),
                 lambda: reading.remove(1), lambda: reading.permit({"document-0": ("", ())}, upto=1)):  # fmt: skip
        with pytest.raises(StoreError, match="forbids this to our API key"):
            call()
    assert store("secret-key").check() == []


@pytest.mark.parametrize(
    ("version", "layout", "words"),
    [
        ("1.18.4", "in_place", r"is Qdrant 1\.18\.4; 1\.19 or newer.*\n.*collection_per_release"),
        ("1.15.0", "in_place", r"1\.19 or newer.*\nUpgrade the server\.$"),
        ("1.15.0", "collection_per_release", r"1\.16 or newer"),
        ("1.18.4", "collection_per_release", None),
        ("1.19.0-dev", "in_place", None),
        ("2.0.0", "in_place", None),
        ("nightly", "in_place", None),
    ],
)
def test_versions_of_servers(stub: Stub, version: str, layout: Any, words: str | None) -> None:
    stub.version = version
    store = over(stub, layout=layout)
    if words is None:
        fill(store, 3)
        assert store.open().search_text("harbour lantern about", 3)
        return
    with pytest.raises(StoreError, match=words):
        fill(store, 3)
    assert store.numbers() == []
    assert stub.client.get_collections().collections == []


def test_a_server_that_was_set_back_refuses_the_readers_too(stub: Stub) -> None:
    fill(over(stub), 3)
    stub.version = "1.18.0"
    with pytest.raises(StoreError, match="share a collection"):
        over(stub).open()


def test_strict_mode_and_full_disks(stub: Stub) -> None:
    store = over(stub)
    fill(store, 3)
    strict = 'Bad request: Index required but not found for "meta.n"'
    stub.fault = lambda request: Fault(400, text=strict) if request.path.endswith("/count") else None
    with pytest.raises(StoreError, match=r'refused: HTTP 400, Bad request: Index required but not found for "meta.n"'):
        store.open().count({"meta.n": 1})
    no_space = "Service internal error: No space left on device: WAL buffer size exceeds available disk space"
    stub.fault = lambda request: Fault(500, text=no_space) if request.verb == UPSERT else None
    with pytest.raises(DiskFull, match="is full"):
        store.write(release(2, 4), base=1, delete=[], add=pairs(9))
    stub.fault = lambda request: None
    assert store.check() == []
    store.write(release(2, 4), base=1, delete=[], add=pairs(9))


def test_something_else_listens_there(stub: Stub) -> None:
    stub.fault = lambda request: Fault(200, text="hello")
    with pytest.raises(StoreError, match="not Qdrant's"):
        over(stub).live()


# ---------------------------------------------------------------- strangers
def strange(client: QdrantClient, name: str, size: int = 4) -> None:
    client.create_collection(name, vectors_config=models.VectorParams(size=size, distance=models.Distance.COSINE))
    client.upsert(name, [models.PointStruct(id=1, vector=[0.5] * size, payload={"theirs": True})])


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


# ---------------------------------------------------------------- both stores
def test_server_and_edge_agree_after_many_changes(tmp_path: Path, stub: Stub) -> None:
    embedded, remote = EdgeStore(tmp_path), over(stub)
    for store in (embedded, remote):
        fill(store, 120)
        for n in range(2, 6):
            gone = [point(i).point_id for i in range(20 * (n - 2), 20 * (n - 1))]
            new = pairs(*range(100 + 20 * (n - 1), 100 + 20 * n))
            store.write(release(n, 120), base=n - 1, delete=gone, add=new)
        store.permit({f"document-{i}": ("moved", ()) for i in range(30, 40)}, upto=5)
        store.publish(5)
        store.remove(2)
    for number in (1, 3, 4, 5):
        assert list(embedded.point_rows(number)) == list(remote.point_rows(number))
        with closing(embedded.open(number)) as left, closing(remote.open(number)) as right:
            for text in ("harbour harbour lantern", "copper", "orbit saddle thimble pepper", "item77 glacier"):
                for filter in (None, {"tenant": "acme"}, {"tenant": "moved"}, {"groups": "g1", "page": {"gte": 2}}):
                    assert left.search_text(text, 20, filter) == right.search_text(text, 20, filter)
            for seed in range(10):
                query = vector(700 + seed)
                assert left.search(query, 20, exact=True) == right.search(query, 20, exact=True)


def test_spaces_are_told_apart() -> None:
    store = local()
    fill(store, 3)
    assert store.open().release.space == SPACE


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
