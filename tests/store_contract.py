"""What every store must do, as tests over a `store` fixture: an empty `ragops.types.Store` for the collection "main".

A module runs the suite on its own store by `from tests.store_contract import *` and a fixture of that name.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from ragops.errors import RagopsError, SpaceMismatch, StoreError, UsageError
from ragops.types import Permission, Point, Reader, Release, Space, Store

DIM = 16
SPACE = Space("ab" * 32, "tests/random", DIM, 256, "cd" * 32, normalized=True)
WORDS = ("harbour", "lantern", "copper", "meadow", "violin", "glacier", "pepper", "orbit", "saddle", "thimble")


def release(number: int, points: int, **changes: Any) -> Release:
    values: dict[str, Any] = {
        "number": number,
        "collection": "main",
        "fingerprint": f"{number:064x}",
        "space": SPACE,
        "numerics": "float32/numpy/cpu",
        "points": points,
        "created": "2026-01-31T12:00:00+00:00",
        "avg_len": 12,
        "notes": {"incomplete": False, "why": "a test"},
    }
    return Release(**(values | changes))


def vector(i: int, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(i).standard_normal(dim).astype(np.float32)


def point(i: int, **payload: Any) -> Point:
    """The i-th point: the same at every call. Texts, tenants, groups, pages and meta follow from i."""
    id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"point/{i}/{sorted(payload.items())!r}"))
    own = {
        "chunk_id": f"chunk-{i}",
        "document_id": f"document-{i // 3}",
        "uri": f"notes:/folder {i % 4}/ünï-{i // 3}.md",
        "source": "notes",
        "title": f"About {WORDS[i % 10]}",
        "heading": ["Part", f"Section {i % 5}"],
        "page": None if i % 4 == 0 else i % 6,
        "start": i,
        "end": i + 10,
        "text": " ".join(WORDS[(i * step) % 10] for step in range(1, 4 + i % 5)) + f" item{i}",
        "tenant": "acme" if i % 2 else "globex",
        "groups": [f"g{i % 3}", "all"] if i % 7 else [],
        "meta": {"n": i, "share": i / 8, "draft": i % 3 == 0, "day": f"2026-01-{i % 28 + 1:02d}", "a.b c": f"x{i % 2}"},
        "payload_sha": f"{i:064x}",
    }
    return Point(id, f"chunk-{i}", f"document-{i // 3}", f"key-{i}", own | payload)


def pairs(*numbers: int) -> list[tuple[Point, np.ndarray]]:
    return [(point(i), vector(i)) for i in numbers]


def fill(store: Store, n: int = 60, number: int = 1) -> Release:
    sealed = store.write(release(number, n), base=None, delete=[], add=pairs(*range(n)))
    store.publish(number)
    return sealed


def everything(store: Store, number: int | None = None) -> dict[str, tuple[Any, np.ndarray]]:
    reader = store.open(number)
    try:
        return {id: (payload, dense) for id, payload, dense in reader.points(batch=7)}
    finally:
        reader.close()


def answers(store: Store, number: int) -> list[Any]:
    """Exact and BM25 results of a few queries, with scores."""
    reader = store.open(number)
    try:
        found: list[Any] = [
            [(hit.point_id, hit.score) for hit in reader.search(vector(900 + i), 7, exact=True)] for i in range(5)
        ]
        found += [
            [(hit.point_id, hit.score) for hit in reader.search_text(text, 9)]
            for text in ("harbour lantern", "glacier", "item3 item3 orbit", "about the meadow")
        ]
        return found
    finally:
        reader.close()


# ---------------------------------------------------------------- writing and reading back
def test_an_empty_store_has_nothing(store: Store) -> None:
    assert store.releases() == []
    assert store.live() is None
    with pytest.raises(StoreError, match="published"):
        store.open()
    with pytest.raises(StoreError, match="no release 3"):
        store.open(3)
    with pytest.raises(StoreError, match="no release 3"):
        store.publish(3)
    with pytest.raises(StoreError, match="no release 3"):
        store.remove(3)
    with pytest.raises(StoreError, match="no release 3"):
        list(store.point_ids(3))


def test_what_is_written_is_read_back(store: Store) -> None:
    sealed = fill(store, 60)
    assert sealed == release(1, 60)
    assert store.releases() == [sealed]
    assert store.live() == sealed
    assert store.opens(1)
    found = everything(store)
    assert list(found) == sorted(point(i).point_id for i in range(60))
    assert list(store.point_ids(1)) == list(found)
    for i in range(60):
        payload, dense = found[point(i).point_id]
        assert payload == point(i).payload
        assert dense.dtype == np.float32
        assert dense.shape == (DIM,)
        np.testing.assert_allclose(dense, vector(i) / np.linalg.norm(vector(i)), atol=1e-5)


def test_payloads_keep_their_types(store: Store) -> None:
    odd = {
        "int": 2**53 + 1,
        "negative": -(2**63),
        "float": 0.1,
        "tiny": 5e-324,
        "bool": True,
        "none": None,
        "zero": 0.0,
        "text": 'quote " back\\ nul\x00 emoji 🦊 \u2028',
        "list": [1, "a", False, None],
        "": "no name",
        "a.b[0]": {"c": []},
    }
    one = point(1, meta=odd)
    store.write(release(1, 1), base=None, delete=[], add=[(one, vector(1))])
    [(payload, _)] = everything(store, 1).values()
    assert payload == one.payload
    assert {key: type(value) for key, value in payload["meta"].items()} == {
        key: type(value) for key, value in odd.items()
    }


def test_neighbours_keep_what_sets_them_apart(store: Store) -> None:
    """Chunks of one document come one after another and are nearly alike, but 1 is not True."""
    alike = {"document_id": "one", "uri": "notes:/a.md", "title": "A", "tenant": "acme", "groups": ["all"]}
    metas: list[Any] = [{"n": 1}, {"n": True}, {"n": 1.0}, {"n": "1"}, {}, {"n": [1]}]
    payloads: list[dict[str, Any]] = [alike | {"meta": metas[i // 4 % 6]} for i in range(60)]
    payloads += [alike | {"groups": ["all", "g"][: i % 3]} for i in range(12)]
    payloads[9]["title"] = None
    told = [(replace(point(i, **some), document_id="one"), vector(i)) for i, some in enumerate(payloads)]
    for i in range(100, 105):  # no more than there must be
        bare = {"chunk_id": f"chunk-{i}", "document_id": "two", "text": "bare"}
        told.append((replace(point(i), document_id="two", payload=bare), vector(i)))
    store.write(release(1, len(told)), base=None, delete=[], add=told)
    store.publish(1)
    found = everything(store)
    for one, _ in told:
        assert sorted(map(repr, found[one.point_id][0].items())) == sorted(map(repr, one.payload.items()))
    with closing(store.open()) as reader:
        assert reader.count({"document_id": "one"}) == 72
        assert reader.count({"tenant": "acme", "uri": "notes:/a.md"}) == 72
        assert reader.count({"title": "A"}) == 71
        assert reader.count({"groups": "g"}) == 4


def test_an_empty_release(store: Store) -> None:
    store.write(release(1, 0), base=None, delete=[], add=[])
    store.publish(1)
    reader = store.open()
    assert reader.count() == 0
    assert list(reader.points()) == []
    assert reader.search(vector(1), 5) == []
    assert reader.search(vector(1), 5, exact=True) == []
    assert reader.search_text("harbour", 5) == []
    reader.close()
    assert list(store.point_ids(1)) == []
    store.write(release(2, 2), base=1, delete=[], add=pairs(1, 2))
    assert len(everything(store, 2)) == 2
    store.write(release(3, 0), base=2, delete=[point(1).point_id, point(2).point_id], add=[])
    assert everything(store, 3) == {}


def test_an_incremental_release_equals_a_clean_build(store: Store) -> None:
    fill(store, 60)
    gone = [point(i).point_id for i in range(0, 40)]
    store.write(release(2, 50), base=1, delete=gone, add=pairs(*range(60, 90)))
    store.write(release(3, 49), base=2, delete=[point(70).point_id, point(50).point_id], add=pairs(3))
    clean = [*range(40, 50), *range(51, 70), *range(71, 90), 3]
    store.write(release(4, 49), base=None, delete=[], add=pairs(*clean))
    left, right = everything(store, 3), everything(store, 4)
    assert left.keys() == right.keys()
    for id, (payload, dense) in left.items():
        assert payload == right[id][0]
        np.testing.assert_allclose(dense, right[id][1], atol=1e-5)
    assert answers(store, 3) == answers(store, 4)
    assert everything(store, 1).keys() == {point(i).point_id for i in range(60)}  # the base is as it was


def test_a_point_may_be_deleted_and_added_again(store: Store) -> None:
    fill(store, 5)
    again = point(2)
    store.write(release(2, 5), base=1, delete=[again.point_id], add=[(again, vector(99))])
    np.testing.assert_allclose(
        everything(store, 2)[again.point_id][1], vector(99) / np.linalg.norm(vector(99)), atol=1e-5
    )


def test_a_point_added_again_has_its_new_payload(store: Store) -> None:
    """Tenant and groups are no part of a point's identity: the loader writes them anew under the same id."""
    fill(store, 12)
    changed = [Point(p.point_id, p.chunk_id, p.document_id, p.vector_key, p.payload | {"tenant": "moved", "groups": []})
               for p in map(point, (3, 4, 5))]  # fmt: skip
    ids = [each.point_id for each in changed]
    add = [(each, vector(i)) for each, i in zip(changed, (3, 4, 5), strict=True)]
    store.write(release(2, 12), base=1, delete=ids, add=add)
    found = everything(store, 2)
    assert [found[id][0] for id in ids] == [each.payload for each in changed]
    with closing(store.open(2)) as reader:
        assert reader.count({"tenant": "moved"}) == 3
        assert reader.count({"tenant": "moved", "groups": {"exists": False}}) == 3
        assert {hit.point_id for hit in reader.search(vector(1), 12, {"tenant": "moved"})} == set(ids)
        assert reader.count({"document_id": "document-1"}) == 3
    assert answers(store, 1) == answers(store, 2)
    with closing(store.open(1)) as reader:
        assert reader.count({"tenant": "moved"}) == 0


def test_progress_counts_up(store: Store) -> None:
    seen: list[int] = []
    store.write(release(1, 1200), base=None, delete=[], add=pairs(*range(1200)), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1200


def test_iterables_are_read_once_and_lazily(store: Store) -> None:
    fill(store, 5)
    store.write(release(2, 4), base=1, delete=iter([point(0).point_id]), add=iter(()))
    assert len(everything(store, 2)) == 4


# ---------------------------------------------------------------- releases
def test_writing_publishes_nothing(store: Store) -> None:
    fill(store, 10)
    store.write(release(2, 11), base=1, delete=[], add=pairs(10))
    live = store.live()
    assert live is not None
    assert live.number == 1
    assert [each.number for each in store.releases()] == [1, 2]
    assert len(everything(store)) == 10
    store.publish(2)
    assert len(everything(store)) == 11
    store.publish(1)  # rollback is the same step
    assert len(everything(store)) == 10


def test_releases_are_listed_by_number(store: Store) -> None:
    for number in (5, 101, 12):
        store.write(release(number, 1), base=None, delete=[], add=pairs(number))
    assert [each.number for each in store.releases()] == [5, 12, 101]


def test_an_old_release_answers_by_number(store: Store) -> None:
    fill(store, 10)
    store.write(release(2, 9), base=1, delete=[point(3).point_id], add=[])
    store.publish(2)
    for number, there in ((1, True), (2, False)):
        reader = store.open(number)
        assert (reader.search(vector(3), 1, exact=True)[0].point_id == point(3).point_id) is there
        assert reader.release.number == number
        reader.close()


def test_an_open_reader_stays_with_its_release(store: Store) -> None:
    fill(store, 10)
    reader = store.open()
    store.write(release(2, 1), base=None, delete=[], add=pairs(99))
    store.publish(2)
    assert reader.count() == 10
    assert reader.search(vector(4), 1)[0].point_id == point(4).point_id
    reader.close()


def test_numbers(store: Store) -> None:
    assert store.numbers() == []
    for number in (5, 101, 12):
        store.write(release(number, 1), base=None, delete=[], add=pairs(number))
    assert store.numbers() == [5, 12, 101]
    store.remove(12)
    assert store.numbers() == [5, 101]


def test_a_release_may_be_held(store: Store) -> None:
    assert not store.held()
    fill(store, 3)
    store.write(release(2, 3), base=1, delete=[], add=[])
    assert not store.held()
    for number in (1, 2, 1):
        store.publish(number, hold=True)
        assert store.held()
        live = store.live()
        assert live is not None
        assert live.number == number
        assert len(everything(store)) == 3
    store.write(release(3, 3), base=2, delete=[], add=[])
    store.permit({"document-0": ("acme", ())}, upto=3)
    store.remove(2)
    assert store.held()  # until somebody publishes
    with pytest.raises(StoreError):
        store.publish(99)
    assert store.held()
    store.publish(1)
    assert not store.held()


def test_rows_of_points(store: Store) -> None:
    fill(store, 9)
    store.write(release(2, 8), base=1, delete=[point(4).point_id, point(5).point_id], add=pairs(20))
    for number, numbers in ((1, [*range(9)]), (2, [0, 1, 2, 3, 6, 7, 8, 20])):
        rows = list(store.point_rows(number))
        expected = sorted(
            (each.point_id, each.chunk_id, each.document_id, each.vector_key, each.payload["uri"])
            for each in map(point, numbers)
        )
        assert rows == expected
    with pytest.raises(StoreError, match="no release 7"):
        list(store.point_rows(7))


def test_points_by_filter(store: Store) -> None:
    fill(store, 40)
    with closing(store.open()) as reader:
        for filter, holds in FILTERS:
            expected = sorted(point(i).point_id for i in range(40) if holds(dict(point(i).payload)))
            for batch in (1, 7, 500):
                assert [id for id, _, _ in reader.points(batch=batch, filter=filter)] == expected, filter
        with pytest.raises(UsageError, match=r"meta\.colour"):
            list(reader.points(filter={"colour": "red"}))


def test_remove(store: Store) -> None:
    fill(store, 10)
    store.write(release(2, 3), base=None, delete=[], add=pairs(1, 2, 3))
    with pytest.raises(StoreError, match="live"):
        store.remove(1)
    store.publish(2)
    store.remove(1, timeout=0)
    assert [each.number for each in store.releases()] == [2]
    with pytest.raises(StoreError, match="no release 1"):
        store.open(1)
    assert len(everything(store)) == 3


def test_a_number_is_used_once(store: Store) -> None:
    fill(store, 3)
    with pytest.raises(StoreError, match="exists"):
        store.write(release(1, 1), base=None, delete=[], add=pairs(1))
    with pytest.raises(StoreError, match="count from 1"):
        store.write(release(0, 1), base=None, delete=[], add=pairs(1))
    assert len(everything(store)) == 3


# ---------------------------------------------------------------- permissions
def under(permissions: dict[str, Permission], numbers: Iterable[int]) -> dict[str, Any]:
    """Point id -> payload, as it must be under these permissions."""
    expected = {}
    for i in numbers:
        payload = dict(point(i).payload)
        if payload["document_id"] in permissions:
            tenant, groups = permissions[payload["document_id"]]
            payload |= {"tenant": tenant, "groups": list(groups)}
        expected[point(i).point_id] = payload
    return expected


def asked(reader: Reader, expected: dict[str, Any]) -> None:
    """Everything that a reader gives, and what it filters on, is as expected."""
    n = len(expected)
    assert {id: payload for id, payload, _ in reader.points(batch=7)} == expected
    assert {hit.point_id: hit.payload for hit in reader.search(vector(5), n)} == expected
    assert reader.count() == n
    texts = reader.search_text("about part section", n)
    assert texts
    assert all(hit.payload == expected[hit.point_id] for hit in texts)
    for filter, holds in PERMISSION_FILTERS:
        ids = {id for id, payload in expected.items() if holds(payload)}
        assert reader.count(filter) == len(ids), filter
        assert {id for id, _, _ in reader.points(batch=7, filter=filter)} == ids, filter
        for exact in (True, False):
            hits = reader.search(vector(5), n, filter, exact=exact)
            assert {hit.point_id: hit.payload for hit in hits} == {id: expected[id] for id in ids}, filter
        some = [hit for hit in texts if hit.point_id in ids]
        assert reader.search_text("about part section", n, filter) == some, filter


def asked_of(store: Store, number: int, expected: dict[str, Any]) -> None:
    with closing(store.open(number)) as reader:
        asked(reader, expected)


PERMISSION_FILTERS: list[tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = [
    ({"tenant": "acme"}, lambda p: p["tenant"] == "acme"),
    ({"tenant": "secret"}, lambda p: p["tenant"] == "secret"),
    ({"tenant": ""}, lambda p: p["tenant"] == ""),
    ({"tenant": {"exists": True}}, lambda p: True),
    ({"groups": "board"}, lambda p: "board" in p["groups"]),
    ({"groups": {"in": ["g1", "board"]}}, lambda p: bool({"g1", "board"} & set(p["groups"]))),
    ({"groups": {"in": []}}, lambda p: False),
    ({"groups": {"exists": False}}, lambda p: not p["groups"]),
    ({"tenant": "acme", "groups": "all", "page": {"gte": 2}},
     lambda p: p["tenant"] == "acme" and "all" in p["groups"] and (p["page"] or 0) >= 2),
    ({"any": [{"tenant": "secret", "meta.draft": True}, {"groups": "board"}, {"page": 1}]},
     lambda p: (p["tenant"] == "secret" and p["meta"]["draft"]) or "board" in p["groups"] or p["page"] == 1),
    ({"document_id": {"in": ["document-1", "document-9"]}}, lambda p: p["document_id"] in ("document-1", "document-9")),
]  # fmt: skip
TODAY: dict[str, Permission] = {
    "document-1": ("secret", ("board",)),
    "document-2": ("", ()),
    "document-4": ("secret", ("board", "g1")),
    "document-5": ("acme", ()),
    "document-7": ("globex", ("all",)),
    "unheard of": ("acme", ("all",)),
}


def test_permissions_change_at_once_and_for_every_release(store: Store) -> None:
    fill(store, 30)
    store.write(release(2, 24), base=1, delete=[point(i).point_id for i in range(24, 30)], add=[])
    first, second = store.open(1), store.open(2)
    before = answers(store, 1)
    store.permit({}, upto=2)
    store.permit({"document-1": ("elsewhere", ("x",)), "document-2": ("elsewhere", ())}, upto=2)
    store.permit(TODAY, upto=2)  # the later word wins
    for _ in range(2):
        for reader, n in ((first, 30), (second, 24)):
            asked(reader, under(TODAY, range(n)))
        for number, n in ((1, 30), (2, 24)):
            asked_of(store, number, under(TODAY, range(n)))
        store.permit(TODAY, upto=2)  # again: the same
    for number in (1, 2):
        assert set(store.permitted(number).items()) <= set(TODAY.items())
    assert answers(store, 1) == before  # scores are those of the release
    assert [each.number for each in store.releases()] == [1, 2]
    assert store.check(1) == store.check(2) == []
    first.close()
    second.close()


def test_a_later_release_has_its_own_permissions(store: Store) -> None:
    fill(store, 12)
    store.permit({"document-1": ("secret", ("board",)), "document-2": ("secret", ())}, upto=1)
    ids = [point(i).point_id for i in (3, 4, 5)]
    own: dict[str, Permission] = {"document-1": ("own", ("new",))}
    add = [(Point(id, f"chunk-{i}", "document-1", "", under(own, [i])[id]), vector(i))
           for i, id in zip((3, 4, 5), ids, strict=True)]  # fmt: skip
    store.write(release(2, 12), base=1, delete=ids, add=add)
    # What was added has its own, what was kept of the base keeps today's.
    asked_of(store, 2, under(own | {"document-2": ("secret", ())}, range(12)))
    asked_of(store, 1, under({"document-1": ("secret", ("board",)), "document-2": ("secret", ())}, range(12)))
    store.write(release(3, 12), base=None, delete=[], add=pairs(*range(12)))
    asked_of(store, 3, under({}, range(12)))
    assert store.permitted(3) == {}
    store.permit({"document-3": ("late", ())}, upto=3)
    store.publish(3)
    store.remove(2)
    asked_of(store, 3, under({"document-3": ("late", ())}, range(12)))
    store.remove(1)
    store.write(release(4, 12), base=3, delete=[], add=[])
    asked_of(store, 4, under({"document-3": ("late", ())}, range(12)))


# ---------------------------------------------------------------- refusals: an error, and nothing has changed
def broken(reason: str) -> Iterator[tuple[Point, Any]]:
    yield from pairs(*range(100, 103))
    good = vector(1)
    bad = point(1)
    match reason:
        case "nan":
            yield bad, np.where(np.arange(DIM) == 3, np.nan, good)
        case "inf":
            yield bad, np.where(np.arange(DIM) == 3, np.inf, good)
        case "overflow":
            yield bad, [1e200] * DIM
        case "zero":
            yield bad, [0.0] * DIM
        case "short":
            yield bad, good[:-1]
        case "long":
            yield bad, [*good, 1.0]
        case "twice":
            yield from pairs(100)
        case "no uuid":
            yield Point("seven", bad.chunk_id, bad.document_id, "", bad.payload), good
        case "uuid in capitals":
            yield Point(bad.point_id.upper(), bad.chunk_id, bad.document_id, "", bad.payload), good
        case "no text":
            yield point(1, text=None), good
        case "no heading":
            yield point(1, heading="Part"), good
        case "another chunk":
            yield Point(bad.point_id, "other", bad.document_id, "", bad.payload), good
        case "payload nan":
            yield point(1, meta={"n": math.nan}), good
        case "payload object":
            yield point(1, meta={"n": datetime(2026, 1, 1, tzinfo=UTC)}), good
        case "payload key":
            yield point(1, meta={1: "one"}), good
        case "payload tuple":
            yield point(1, groups=("a", "b")), good
        case "payload integer":
            yield point(1, meta={"n": 2**63}), good
        case "surrogate":
            yield point(1, text="\ud800"), good
        case "huge":
            yield point(1, text="x" * (1 << 20)), good
        case "in base":
            yield from pairs(2)
        case _:
            raise AssertionError(reason)


REASONS = (
    "nan", "inf", "overflow", "zero", "short", "long", "twice", "no uuid", "uuid in capitals", "no text", "no heading",
    "another chunk", "payload nan", "payload object", "payload key", "payload tuple", "payload integer", "surrogate",
    "huge", "in base",
)  # fmt: skip


def test_a_bad_point_is_refused_whole(store: Store) -> None:
    fill(store, 10)
    for number, reason in enumerate(REASONS, 2):
        with pytest.raises(StoreError, match="point"):
            store.write(release(number, 14), base=1, delete=[], add=broken(reason))
        assert [each.number for each in store.releases()] == [1], reason
    assert len(everything(store)) == 10
    store.write(release(99, 13), base=1, delete=[], add=pairs(*range(100, 103)))  # and the next write works
    assert len(everything(store, 99)) == 13


def test_other_refusals(store: Store) -> None:
    fill(store, 10)
    stranger = point(77).point_id
    cases: list[tuple[type[RagopsError], str, Callable[[], object]]] = [
        (StoreError, "11", lambda: store.write(release(2, 11), base=1, delete=[], add=[])),
        (StoreError, "not in the base", lambda: store.write(release(2, 10), base=1, delete=[stranger], add=[])),
        (StoreError, "not a UUID", lambda: store.write(release(2, 10), base=1, delete=["x"], add=[])),
        (StoreError, "no release 9", lambda: store.write(release(2, 10), base=9, delete=[], add=[])),
        (StoreError, "avg_len", lambda: store.write(release(2, 10, avg_len=13), base=1, delete=[], add=[])),
        (SpaceMismatch, "space", lambda: store.write(
            release(2, 10, space=Space("ef" * 32, "other", DIM, 9, "", normalized=True)), base=1, delete=[], add=[])),
    ]  # fmt: skip
    for kind, words, call in cases:
        with pytest.raises(kind, match=words):
            call()
        assert [each.number for each in store.releases()] == [1]
    assert len(everything(store)) == 10


def test_an_error_in_what_is_added_goes_through(store: Store) -> None:
    fill(store, 10)

    def dying() -> Iterator[tuple[Point, np.ndarray]]:
        yield from pairs(*range(100, 900))
        raise FileNotFoundError("the dataset went away")

    with pytest.raises(FileNotFoundError, match="dataset"):
        store.write(release(2, 810), base=1, delete=[], add=dying())
    assert [each.number for each in store.releases()] == [1]
    assert len(everything(store)) == 10


# ---------------------------------------------------------------- searching
def test_search_finds_the_nearest(store: Store) -> None:
    fill(store, 60)
    unit = np.stack([vector(i) / np.linalg.norm(vector(i)) for i in range(60)])
    reader = store.open()
    for seed in range(500, 510):
        query = vector(seed) * 7.5  # of any length
        scores = unit @ (query / np.linalg.norm(query))
        expected = sorted(
            ((round(float(score), 4), point(i).point_id) for i, score in enumerate(scores)),
            key=lambda hit: (-hit[0], hit[1]),
        )
        for exact in (True, False):
            hits = reader.search(query, 8, exact=exact)
            assert [hit.point_id for hit in hits] == [id for _, id in expected[:8]]
            assert [hit.score for hit in hits] == pytest.approx([score for score, _ in expected[:8]], abs=1.01e-4)
            assert all(hit.payload == point(hit.payload["meta"]["n"]).payload for hit in hits)
        page = reader.search(query, 8, offset=5, exact=True)
        assert [hit.point_id for hit in page] == [id for _, id in expected[5:13]]
    assert len(reader.search(vector(1), 1000)) == 60
    assert len(reader.search(vector(1), 1000, offset=55)) == 5
    assert reader.search(vector(1), 3, offset=60) == []
    reader.close()


def test_ties_are_in_the_order_of_ids(store: Store) -> None:
    same = vector(1)
    store.write(release(1, 150), base=None, delete=[], add=[(point(i, text="same"), same) for i in range(150)])
    ids = sorted(point(i, text="same").point_id for i in range(150))
    reader = store.open(1)
    for k, offset in ((1, 0), (10, 0), (10, 10), (149, 0), (7, 140)):
        for exact in (True, False):
            hits = reader.search(same, k, offset=offset, exact=exact)
            assert [hit.point_id for hit in hits] == ids[offset : offset + k]
    alike = reader.search_text("same", 150)
    assert [hit.point_id for hit in alike] == [
        hit.point_id for hit in sorted(alike, key=lambda h: (-h.score, h.point_id))
    ]
    assert reader.search_text("same", 5) == alike[:5]
    reader.close()


def test_bad_queries(store: Store) -> None:
    fill(store, 3)
    reader = store.open()
    for bad in ([0.0] * DIM, [math.nan] * DIM, [math.inf] * DIM):
        with pytest.raises(UsageError):
            reader.search(bad, 3)
    with pytest.raises(SpaceMismatch, match="dimensions"):
        reader.search([1.0], 3)
    for k, offset in ((0, 0), (-1, 0), (3, -1), (1.5, 0), (True, 0)):
        with pytest.raises(UsageError):
            reader.search(vector(1), k, offset=offset)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        reader.search_text("harbour", 0)
    with pytest.raises(UsageError, match=r"meta\.colour"):
        reader.search(vector(1), 3, {"colour": "red"})
    reader.close()


FILTERS: list[tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = [
    ({"tenant": "acme"}, lambda p: p["tenant"] == "acme"),
    ({"tenant": "acme", "page": 3}, lambda p: p["tenant"] == "acme" and p["page"] == 3),
    ({"groups": "g1"}, lambda p: "g1" in p["groups"]),
    ({"groups": {"in": ["g0", "g1", "nobody"]}}, lambda p: bool({"g0", "g1"} & set(p["groups"]))),
    ({"groups": {"in": []}}, lambda p: False),
    ({"groups": {"exists": False}}, lambda p: not p["groups"]),
    ({"source": "notes"}, lambda p: True),
    ({"source": "Notes"}, lambda p: False),
    ({"uri": "notes:/folder 1/ünï-3.md"}, lambda p: p["uri"] == "notes:/folder 1/ünï-3.md"),
    ({"document_id": {"in": ["document-3", "document-9"]}}, lambda p: p["document_id"] in ("document-3", "document-9")),
    ({"chunk_id": "chunk-7"}, lambda p: p["chunk_id"] == "chunk-7"),
    ({"title": "About copper"}, lambda p: p["title"] == "About copper"),
    ({"heading": "Section 2"}, lambda p: "Section 2" in p["heading"]),
    ({"page": {"gte": 2, "lt": 4}}, lambda p: p["page"] in (2, 3)),
    ({"page": {"exists": True}}, lambda p: p["page"] is not None),
    ({"page": {"exists": False}}, lambda p: p["page"] is None),
    ({"page": {"in": [1, 5], "lt": 4}}, lambda p: p["page"] == 1),
    ({"meta.n": 7}, lambda p: p["meta"]["n"] == 7),
    ({"meta.n": 7.0}, lambda p: p["meta"]["n"] == 7),
    ({"meta.share": 0.5}, lambda p: p["meta"]["share"] == 0.5),
    ({"meta.share": {"gte": 1, "lt": 2.5}}, lambda p: 1 <= p["meta"]["share"] < 2.5),
    ({"meta.draft": True}, lambda p: p["meta"]["draft"] is True),
    ({"meta.draft": False}, lambda p: p["meta"]["draft"] is False),
    ({"meta.draft": {"in": [True, "yes", 3]}}, lambda p: p["meta"]["draft"] is True),
    ({"meta.draft": 1}, lambda p: False),
    ({"meta.n": True}, lambda p: False),
    ({"meta.day": {"gte": "2026-01-10", "lt": "2026-01-20"}},
     lambda p: "2026-01-10" <= p["meta"]["day"] < "2026-01-20"),
    ({"meta.day": "2026-01-10"}, lambda p: p["meta"]["day"] == "2026-01-10"),
    ({"meta.a.b c": "x1"}, lambda p: p["meta"]["a.b c"] == "x1"),
    ({"meta.missing": {"exists": True}}, lambda p: False),
    ({"meta.missing": "x"}, lambda p: False),
    ({"any": [{"page": 1}, {"tenant": "globex", "groups": "g2"}]},
     lambda p: p["page"] == 1 or (p["tenant"] == "globex" and "g2" in p["groups"])),
    ({"tenant": "acme", "any": [{"any": [{"page": 1}, {"page": 2}]}, {"meta.draft": True}]},
     lambda p: p["tenant"] == "acme" and (p["page"] in (1, 2) or p["meta"]["draft"])),
    ({}, lambda p: True),
]  # fmt: skip


def test_filters(store: Store) -> None:
    fill(store, 84)
    reader = store.open()
    for filter, holds in FILTERS:
        expected = {point(i).point_id for i in range(84) if holds(dict(point(i).payload))}
        assert {hit.point_id for hit in reader.search(vector(5), 100, filter)} == expected, filter
        assert {hit.point_id for hit in reader.search(vector(5), 100, filter, exact=True)} == expected, filter
        assert reader.count(filter) == len(expected), filter
        assert {hit.point_id for hit in reader.search_text("about", 100, filter)} <= expected, filter
        with_copper = {
            point(i).point_id for i in range(84) if "copper" in (point(i).payload["text"] + point(i).payload["title"])
        }
        assert {hit.point_id for hit in reader.search_text("copper", 100, filter)} == expected & with_copper, filter
    assert reader.count() == 84
    reader.close()


def test_bm25(store: Store) -> None:
    texts = [
        "the harbour was quiet",
        "harbour harbour harbour lights",
        "a lantern in the meadow",
        "lanterns and meadows and harbours",
        "violin violin",
        "the and of",
        "a quiet violin by the harbour " + "under the wide grey evening sky " * 8,
    ]
    add = [(point(i, text=text, title="", heading=[]), vector(i)) for i, text in enumerate(texts)]
    store.write(release(1, len(add)), base=None, delete=[], add=add)
    reader = store.open(1)

    def found(query: str) -> list[int]:
        ids = [item.point_id for item, _ in add]
        return [ids.index(hit.point_id) for hit in reader.search_text(query, 10)]

    assert found("harbour")[0] == 1  # says it most often
    assert set(found("harbour")) == {0, 1, 3, 6}  # by its stem
    assert found("harbour").index(0) < found("harbour").index(6)  # the shorter of two that say it once
    assert found("LANTERN meadow")[:2] in ([2, 3], [3, 2])
    assert found("the of and") == []  # nothing but stop words
    assert found("") == []
    assert found("zeppelin") == []
    assert found("violin violin violin quiet")[0] == 4  # a word that is said thrice counts thrice
    assert found("violin quiet quiet quiet")[0] in (0, 6)
    scores = [hit.score for hit in reader.search_text("harbour", 10)]
    assert scores == sorted(scores, reverse=True)
    assert all(score > 0 for score in scores)
    reader.close()


def test_bm25_reads_title_and_headings(store: Store) -> None:
    add = [
        (point(1, title="Zeppelin", text="plain"), vector(1)),
        (point(2, heading=["Airships"], text="plain"), vector(2)),
    ]
    store.write(release(1, 2), base=None, delete=[], add=add)
    reader = store.open(1)
    assert [hit.point_id for hit in reader.search_text("zeppelin", 5)] == [add[0][0].point_id]
    assert [hit.point_id for hit in reader.search_text("airship", 5)] == [add[1][0].point_id]
    reader.close()


def test_idf_counts_only_what_the_release_holds(store: Store) -> None:
    """Most holders of a word are deleted: its weight must be that of a clean build."""
    texts = ["rare common" if i < 80 else "common" for i in range(100)]
    add = [(point(i, text=text, title="", heading=[]), vector(i)) for i, text in enumerate(texts)]
    store.write(release(1, 100), base=None, delete=[], add=add)
    store.write(release(2, 30), base=1, delete=[item.point_id for item, _ in add[:70]], add=[])
    store.write(release(3, 30), base=None, delete=[], add=add[70:])
    scores = []
    for number in (1, 2, 3):
        reader = store.open(number)
        [hit] = reader.search_text("rare", 1)
        scores.append((hit.point_id, hit.score))
        reader.close()
    assert scores[1] == scores[2]
    assert scores[1][1] > scores[0][1]


def test_legs_are_ranked_as_they_are_searched(store: Store) -> None:
    fill(store, 84)
    reader = store.open()
    filter = {"tenant": "acme"}
    dense, words, none = reader.rank([vector(5).tolist(), "harbour copper", "the of"], 12, filter)
    assert [(each.point_id, each.score) for each in dense] == [
        (hit.point_id, hit.score) for hit in reader.search(vector(5), 12, filter)
    ]
    assert [(each.point_id, each.score) for each in words] == [
        (hit.point_id, hit.score) for hit in reader.search_text("harbour copper", 12, filter)
    ]
    assert none == []
    assert reader.rank([], 3) == []
    assert reader.retrieve([]) == []
    backwards = dense[::-1]
    for place, (payload, nothing) in zip(backwards, reader.retrieve(backwards), strict=True):
        assert payload["chunk_id"] == next(p.chunk_id for p in map(point, range(84)) if p.point_id == place.point_id)
        assert nothing is None
    for place, (payload, found) in zip(dense, reader.retrieve(dense, vectors=True), strict=True):
        assert found is not None
        expected = vector(int(payload["chunk_id"].removeprefix("chunk-")))
        assert found == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5), place
    with pytest.raises(UsageError):
        reader.rank(["harbour"], 0)
    with pytest.raises(UsageError, match="no field"):
        reader.rank(["harbour"], 3, scope={"owner": "me"})
    reader.close()


def test_a_scope_bounds_what_is_found_and_what_idf_counts(store: Store) -> None:
    """What other tenants own neither shows nor weighs: scores are those of a release with the tenant's points alone."""
    texts = ["rare harbour lantern", "harbour lantern", "harbour", "rare rare lantern meadow"]
    ours = [(point(i, text=texts[i % 4], tenant="ours", title="", heading=[]), vector(i)) for i in range(12)]
    others = [(point(i, text="rare orbit", tenant="others", title="", heading=[]), vector(i)) for i in range(12, 90)]
    store.write(release(1, 90), base=None, delete=[], add=[*ours, *others])
    store.write(release(2, 12), base=None, delete=[], add=ours)
    asked: list[Any] = ["rare lantern", "harbour", "orbit", vector(3).tolist()]
    with closing(store.open(1)) as all_of_them, closing(store.open(2)) as alone:
        found = all_of_them.rank(asked, 20, scope={"tenant": "ours"})
        assert [[(p.point_id, p.score) for p in leg] for leg in found] == [
            [(p.point_id, p.score) for p in leg] for leg in alone.rank(asked, 20)
        ]
        assert found[2] == []
        narrow = all_of_them.rank(asked, 20, {"document_id": "document-0"}, scope={"tenant": "ours"})
        scores = {p.point_id: p.score for p in found[0]}
        assert narrow[0]
        assert all(scores[p.point_id] == p.score for p in narrow[0])  # a filter does not change what a word weighs
        assert all_of_them.rank(["rare"], 20, {"tenant": "others"}, scope={"tenant": "ours"}) == [[]]


def test_a_scope_looks_at_todays_permissions(store: Store) -> None:
    fill(store, 12)
    with closing(store.open()) as reader:
        store.permit({"document-1": ("moved", ()), "document-2": ("acme", ("board",))}, upto=1)

        def found(scope: dict[str, Any]) -> set[str]:
            [leg] = reader.rank([vector(0).tolist()], 50, scope=scope)
            return {payload["document_id"] for payload, _ in reader.retrieve(leg)}

        assert found({"tenant": "moved"}) == {"document-1"}
        assert "document-1" not in found({"tenant": "acme"}) | found({"tenant": "globex"})
        assert "document-2" not in found({"tenant": "globex"})
        assert "document-2" in found({"tenant": "acme", "any": [{"groups": {"in": ["board"]}}]})
        assert "document-2" not in found({"tenant": "acme", "any": [{"groups": {"in": ["all"]}}]})
