"""Releases from one store to another and back: what goes along, what is refused, what is compared first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragops import config, params
from ragops.errors import StoreError, UsageError
from ragops.stores import transfer as transfer_module
from ragops.stores.edge import EdgeStore
from ragops.stores.transfer import same, transfer
from ragops.types import Store
from ragops.workspace import Workspace
from tests.conftest import Result, answer, copy, settle
from tests.store_contract import answers, everything, pairs, point, release, vector

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")


def local() -> Store:
    from qdrant_client import QdrantClient

    from ragops.stores.server import QdrantStore

    return QdrantStore(QdrantClient(":memory:"))


@pytest.fixture(scope="module")
def _filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = EdgeStore(tmp_path_factory.mktemp("filled") / "store")
    fill(store)
    return store.root


@pytest.fixture
def edge_pair(_filled: Path, tmp_path: Path) -> tuple[EdgeStore, EdgeStore]:
    """A filled store, and an empty one."""
    copy(_filled, tmp_path / "source")
    return EdgeStore(tmp_path / "source"), EdgeStore(tmp_path / "target")


@pytest.fixture(params=["edge to edge", "edge to local", "local to edge"])
def stores(request: pytest.FixtureRequest, edge_pair: tuple[EdgeStore, EdgeStore]) -> tuple[Store, Store]:
    """A filled store, and an empty one."""
    source, target = edge_pair
    if request.param == "edge to local":
        return source, local()
    if request.param == "local to edge":
        full = local()
        fill(full)
        return full, target
    return source, target


def fill(store: Store) -> None:
    """Three releases, the second live and held; then other permissions for one document."""
    store.write(release(1, 40), base=None, delete=[], add=pairs(*range(40)))
    store.write(release(2, 41), base=1, delete=[point(i).point_id for i in range(3)], add=pairs(*range(40, 44)))
    store.write(release(5, 20, avg_len=30), base=None, delete=[], add=pairs(*range(20)))  # numbers have gaps
    store.publish(2, hold=True)
    store.permit({"document-4": ("initech", ("g9",))}, upto=5)


def assert_same(a: Store, b: Store, number: int) -> None:
    left, right = everything(a, number), everything(b, number)
    assert {id: dict(payload) for id, (payload, _) in left.items()} == {id: dict(p) for id, (p, _) in right.items()}
    assert all(np.allclose(vector, right[id][1], atol=1e-6) for id, (_, vector) in left.items())


def test_everything_goes_along(stores: tuple[Store, Store]) -> None:
    source, target = stores
    before = source.releases()
    told: list[tuple[str, int, int]] = []
    done = transfer(source, target, name="the target", tell=lambda *event: told.append(event))
    assert done.copied == done.releases == [1, 2, 5]
    assert done.points == 40 + 4 + 20
    assert done.queries == 3 * 2 * 20
    assert target.releases() == source.releases() == before
    for number in (1, 2, 5):
        assert_same(source, target, number)
        assert answers(target, number) == answers(source, number)
        assert sorted(target.point_ids(number)) == sorted(source.point_ids(number))
    live = target.live()
    assert live is not None
    assert live.number == 2
    assert target.held()
    assert ("copy", 64, 64) in told
    assert all(done <= total for _, done, total in told)


def test_the_second_release_costs_its_difference(edge_pair: tuple[EdgeStore, EdgeStore]) -> None:
    source, target = edge_pair
    transfer(source, target, name="the target")
    assert target.work(2)["added"] == 4
    assert target.work(2)["deleted"] == 3
    assert [row.vector_key for row in target.point_rows(2)] == [row.vector_key for row in source.point_rows(2)]


def test_it_goes_on_where_it_stopped(stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = stores
    copy = transfer_module._copy

    def dies(source: Store, target: Store, release: Any, *rest: Any) -> int:
        if release.number == 2:
            raise KeyboardInterrupt
        return copy(source, target, release, *rest)

    monkeypatch.setattr(transfer_module, "_copy", dies)
    with pytest.raises(KeyboardInterrupt):
        transfer(source, target, name="the target")
    assert target.live() is None
    monkeypatch.undo()
    # what changed meanwhile counts for what was copied before
    source.permit({"document-5": ("umbrella", ())}, upto=5)
    done = transfer(source, target, name="the target")
    assert (done.copied, done.skipped) == ([2, 5], [1])
    for number in (1, 2, 5):
        assert_same(source, target, number)
    assert transfer(source, target, name="the target").copied == []


def test_what_is_no_longer_kept_leaves_the_target(stores: tuple[Store, Store]) -> None:
    source, target = stores
    transfer(source, target, name="the target")
    source.remove(1)
    source.publish(5)
    done = transfer(source, target, name="the target")
    assert (done.removed, done.live, done.held) == ([1], 5, False)
    assert [each.number for each in target.releases()] == [2, 5]


def test_another_knowledge_base_is_refused_by_name(stores: tuple[Store, Store]) -> None:
    source, target = stores
    target.write(release(2, 1, created="2025-01-01T00:00:00+00:00"), base=None, delete=[], add=pairs(7))
    with pytest.raises(UsageError, match=r"the shelf holds another knowledge base: its release 2 of 2025-01-01"):
        transfer(source, target, name="the shelf")
    assert [each.number for each in target.releases()] == [2]
    assert target.live() is None


def test_one_that_shares_no_release_is_refused_unless_it_was_made_here(tmp_path: Path) -> None:
    source, target = EdgeStore(tmp_path / "a"), EdgeStore(tmp_path / "b")
    source.write(release(7, 2), base=None, delete=[], add=pairs(1, 2))
    target.write(release(3, 1), base=None, delete=[], add=pairs(1))
    with pytest.raises(UsageError, match="another knowledge base"):
        transfer(source, target, name="the target")
    assert transfer(source, target, name="the target", ours=lambda found: found.number == 3).removed == [3]


def test_a_target_that_is_ahead_is_refused(edge_pair: tuple[EdgeStore, EdgeStore]) -> None:
    source, target = edge_pair
    transfer(source, target, name="the target")
    target.write(release(9, 1), base=None, delete=[], add=pairs(1))
    target.publish(9)
    with pytest.raises(UsageError, match="ahead: it has release 9"):
        transfer(source, target, name="the target")
    done = transfer(source, target, name="the target", replace=True)
    assert (done.removed, done.live) == ([9], 2)


def test_a_damaged_source_is_not_copied(edge_pair: tuple[EdgeStore, EdgeStore]) -> None:
    source, target = edge_pair
    file = source.root / "main/releases/00000002/points.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    with pytest.raises(StoreError, match="Release 2 is damaged"):
        transfer(source, target, name="the target")
    assert target.numbers() == []


def test_a_target_that_answers_otherwise_is_not_switched_to(tmp_path: Path) -> None:
    """Same manifest, same count, other vectors: only the queries can tell."""
    source, target = EdgeStore(tmp_path / "a"), EdgeStore(tmp_path / "b")
    source.write(release(1, 30), base=None, delete=[], add=pairs(*range(30)))
    source.publish(1)
    turned = [(here, there[1]) for (here, _), there in zip(pairs(*range(30)), pairs(*range(1, 31)), strict=True)]
    target.write(release(1, 30), base=None, delete=[], add=turned)
    with pytest.raises(StoreError, match="other answers to the vector"):
        transfer(source, target, name="the target")
    assert target.live() is None
    renamed = EdgeStore(tmp_path / "c")
    words = [(replace(point(i, text="no such thing"), point_id=point(i).point_id), vector(i)) for i in range(30)]
    renamed.write(release(1, 30), base=None, delete=[], add=words)
    with pytest.raises(StoreError, match="other answers to the words"):
        transfer(source, renamed, name="the target")


def test_an_empty_store_has_nothing_to_copy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no release to copy"):
        transfer(EdgeStore(tmp_path / "a"), EdgeStore(tmp_path / "b"), name="the target")


# ---------------------------------------------------------------- params.yaml
URL = "http://localhost:6333"
LAYOUTS = {
    "": "store:\n  url: http://localhost:6333\n",
    "version: 1": "version: 1\nstore:\n  url: http://localhost:6333\n",
    "store:\n": "store:\n  url: http://localhost:6333\n",
    "store: # where\n  # mine\n  collection: main  # its name\n\n# below\nsearch:\n  k: 3\n": "store: # where"
    "\n  # mine\n  collection: main  # its name\n  url: http://localhost:6333\n\n# below\nsearch:\n  k: 3\n",
    "store:\n    url: null # none\n    collection: main\n": "store:\n    url: http://localhost:6333 # none\n"
    "    collection: main\n",
    "store:\n  url:\n": "store:\n  url: http://localhost:6333\n",
    "store: {collection: main}\n": "store: {url: http://localhost:6333, collection: main}\n",
    "store: {}\n": "store: {url: http://localhost:6333}\n",
    "store:\n  url: 'http://other:1' # old\n": "store:\n  url: http://localhost:6333 # old\n",
    "store:\n  collection: main": "store:\n  collection: main\n  url: http://localhost:6333\n",
}


@pytest.mark.parametrize("text", LAYOUTS)
def test_only_the_url_changes(text: str) -> None:
    changed = params.with_store_url(text, URL)
    assert changed == LAYOUTS[text]
    assert config.parse(changed).store.url == URL
    back = params.with_store_url(changed, None)
    assert back == changed.replace(URL, "null")
    assert params.with_store_url(back, None) == back


def test_the_template_keeps_its_comments() -> None:
    from ragops.templates import PARAMS

    changed = params.with_store_url(PARAMS, URL)
    assert [line for line in changed.splitlines() if line not in PARAMS.splitlines()] == [f"  url: {URL}"]
    odd = "http://host/?a=b #c"
    assert config.parse(params.with_store_url(PARAMS, odd)).store.url == odd


# ---------------------------------------------------------------- a workspace
@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store at any URL: qdrant-client's local mode, the same for all who connect."""
    from ragops.stores import server as module

    found = local()
    monkeypatch.setattr(module.QdrantStore, "connect", classmethod(lambda cls, *args, **options: found))
    return found


def edit(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, "utf-8")
    settle(folder / name)


def test_to_a_server_and_back(workspace: Workspace, corpus: Path, server: Store) -> None:
    workspace.ingest(corpus)
    edit(corpus, "notes.txt", "Penguins live far in the south.\n")
    workspace.ingest()
    hits = workspace.search("penguins", exact=True).as_dict()["hits"]
    file = workspace.root / "params.yaml"
    before = file.read_text()
    assert workspace.migrate_store(URL, switch=False).copied == [1, 2]
    assert file.read_text() == before
    done = workspace.migrate_store(URL)
    assert (done.copied, done.skipped, done.live) == ([], [1, 2], 2)
    assert [line for line in file.read_text().splitlines() if line not in before.splitlines()] == [f"  url: {URL}"]
    assert workspace.settings.store.url == URL
    assert workspace.search("penguins", exact=True).as_dict()["hits"] == hits
    summary = workspace.ingest()
    assert summary.noop
    assert summary.release == 2
    edit(corpus, "notes.txt", "Penguins live nowhere else.\n")
    summary = workspace.ingest()
    assert (summary.release, summary.vectors["computed"]) == (3, 1)
    assert server.work(3)["added"] == 1
    assert workspace.verify().ok
    assert [each.number for each in EdgeStore(workspace.local / "store").releases()] == [1, 2]  # as it was
    back = workspace.migrate_store("embedded")
    assert (back.copied, back.skipped) == ([3], [1, 2])
    assert Workspace.open(workspace.root).settings.store.url is None
    assert workspace.ingest().noop
    assert workspace.verify().ok
    assert workspace.rollback().number == 2
    assert workspace.migrate_store(URL).held
    assert server.held()


def test_permissions_that_changed_on_the_server_are_todays_again(
    workspace: Workspace, corpus: Path, server: Store
) -> None:
    workspace.ingest(corpus)
    workspace.migrate_store(URL)
    file = workspace.root / "params.yaml"
    file.write_text(file.read_text().replace("    connector: files", "    connector: files\n    tenant: acme", 1))
    workspace = Workspace.open(workspace.root)
    assert workspace.ingest().noop
    workspace.migrate_store("embedded")
    found = {payload["tenant"] for payload, _ in everything(workspace.store, 1).values()}
    assert found == {"acme"}


def test_a_server_with_old_releases_of_ours(workspace: Workspace, corpus: Path, server: Store) -> None:
    """All that it has was pruned here since: the state knows that they were made here."""
    workspace.ingest(corpus)
    workspace.migrate_store(URL, switch=False)
    edit(corpus, "notes.txt", "Penguins, later.\n")
    workspace.ingest()
    workspace.prune(0)
    done = workspace.migrate_store(URL)
    assert (done.copied, done.removed) == ([2], [1])
    with workspace.state() as state:
        first = server.releases()[0]
        assert same(first, first)
        assert not state.made(first.number, "f" * 64, first.created)
        assert not state.made(first.number, first.fingerprint, "2020-01-01T00:00:00+00:00")


def test_there_already(workspace: Workspace, corpus: Path) -> None:
    workspace.ingest(corpus)
    with pytest.raises(UsageError, match="there already"):
        workspace.migrate_store("embedded")


def test_a_foreign_collection_changes_nothing_here(workspace: Workspace, corpus: Path, server: Store) -> None:
    server.write(release(1, 1), base=None, delete=[], add=pairs(1))
    workspace.ingest(corpus)
    before = (workspace.root / "params.yaml").read_text()
    with pytest.raises(UsageError, match=f"the collection main of the {URL} holds another knowledge base"):
        workspace.migrate_store(URL)
    assert (workspace.root / "params.yaml").read_text() == before
    assert workspace.ingest().noop


def test_on_the_command_line(ragops: Callable[..., Result], workspace: Workspace, corpus: Path) -> None:
    workspace.ingest(corpus)
    found = ragops("store", "migrate", "--to", "http://127.0.0.1:9", "-w", workspace.root, "--json")
    assert found.returncode in (2, 3)
    assert "127.0.0.1:9" in answer(found)["error"]["message"]
    assert "url:" not in (workspace.root / "params.yaml").read_text().replace("# url:", "")
    for wrong in ("nonsense", "", "ftp://host", "http://me:secret@host:6333"):
        found = ragops("store", "migrate", "--to", wrong, "-w", workspace.root)
        assert found.returncode == 2
        assert f'{wrong!r} is neither the address of a Qdrant server nor "embedded"' in found.stderr
