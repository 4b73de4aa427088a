"""A store on a server whose requests fail, and servers that are down, slow, full or strangers to us."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragops.config import StoreSettings
from ragops.errors import ConfigError, DiskFull, StoreError
from ragops.stores import connection as border
from ragops.stores import open_store
from ragops.stores.releases import is_held, live_release, prune
from ragops.stores.server import QdrantStore
from ragops.types import Store
from tests.qdrant_stub import Fault, Request, Stub
from tests.server_stores import GONE, local, over
from tests.store_contract import answers, everything, fill, pairs, point, release, vector

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")
UPSERT = "PUT /collections/*/points"


# ---------------------------------------------------------------- requests that fail
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


@pytest.mark.parametrize("ask", [live_release, is_held, lambda store: prune(store, 0)])
def test_no_answer_does_not_pass_for_one(stub: Stub, ask: Callable[[Store], object]) -> None:
    """Nothing is live, or nothing is held: only the server can say so, else a run publishes over a rollback."""
    fill(over(stub), 3)
    stub.fault = lambda request: Fault(403)
    with pytest.raises(StoreError, match="forbids this"):
        ask(over(stub))


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
