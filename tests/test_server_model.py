"""A store on a server does what a simple model of it does, and what a folder's does."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule
from qdrant_client import QdrantClient

from ragops.stores.edge import EdgeStore
from tests.qdrant_stub import Stub
from tests.server_stores import local, over, physical
from tests.store_contract import SPACE, answers, everything, fill, pairs, point, release, vector

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")


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
