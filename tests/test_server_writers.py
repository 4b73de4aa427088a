"""Writers of a store on a server that die, or meet: the lease."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient

from ragops import lock
from ragops.errors import Locked, StoreError
from ragops.stores import lease as leases
from ragops.stores.server import QdrantStore
from ragops.types import Point
from ragops.workspace import Workspace
from tests.conftest import write_corpus
from tests.qdrant_stub import Fault, Request, Stub
from tests.server_stores import GONE, local, over, physical
from tests.store_contract import answers, everything, fill, pairs, point, release

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")
ROOT = Path(__file__).resolve().parents[1]
UPSERT = "PUT /collections/*/points"


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


def elsewhere(store: QdrantStore, seconds: float) -> None:
    """Another machine begins to write, and is not heard of again."""
    lease = store._meta.read().lease or {"token": ""}
    value = {"token": "theirs", "epoch": 7, "host": "elsewhere", "pid": 1, "machine": "another"}
    store._meta.take_lease({**value, "expires": time.time() + seconds}, str(lease["token"]))


def test_an_ingest_waits_for_another_machine(ingested: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    found = local()
    monkeypatch.setattr(QdrantStore, "connect", classmethod(lambda cls, *args, **options: found))
    monkeypatch.setattr(lock, "_PAUSES", (0.1, 0.2))
    ingested.migrate_store("http://localhost:6333")
    write_corpus(ingested.root.parent / "corpus", {"new.md": "Foxes dig in the snow."})
    elsewhere(found, 3600)
    for wait in (0, 0.5):
        with pytest.raises(Locked, match="process 1 on elsewhere is writing to main"):
            ingested.ingest(wait=wait)
    elsewhere(found, 1.5)
    summary = ingested.ingest(wait=60)
    assert (summary.release, summary.noop) == (found.releases()[-1].number, False)
    assert ingested.search("foxes").hits[0].text == "Foxes dig in the snow."
    assert ingested.verify().ok
    assert (found._meta.read().lease or {})["token"] == ""
