"""`ragops store migrate` killed with SIGKILL: run again it goes on, and both stores hold the same."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragops import embedders
from ragops.stores.edge import EdgeStore
from ragops.types import Store
from ragops.workspace import Workspace
from tests.conftest import copy, settle
from tests.qdrant_stub import Fault, Request, Stub
from tests.server_stores import over
from tests.test_migrate import assert_same
from tests.versioned import QUERIES

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Local mode performs exact")]

ROOT = Path(__file__).parents[1]
MOMENTS = (0, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1)  # of all requests, or of all steps on the disk


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as stub:
        yield stub


@pytest.fixture(scope="module")
def three(_ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three releases, the second live and held; a tenant that came after they were sealed."""
    place = tmp_path_factory.mktemp("three")
    copy(_ingested, place)
    for text in ("Penguins live far in the south.\n", "Penguins live nowhere else.\n"):
        (place / "corpus/notes.txt").write_text(text, "utf-8")
        settle(place / "corpus/notes.txt")
        Workspace.open(place / "kb").ingest()
    params = place / "kb/params.yaml"
    params.write_text(
        params.read_text("utf-8").replace("path: ../corpus", "path: ../corpus\n    tenant: acme"), "utf-8"
    )
    with Workspace.open(place / "kb") as workspace:
        assert workspace.ingest().noop
        assert workspace.rollback().number == 2
    return place


def placed(three: Path, place: Path) -> Path:
    copy(three, place)
    return place / "kb"


def command(to: str, kb: Path) -> list[str]:
    return ["store", "migrate", "--to", to, "-w", str(kb)]


def at(moment: float, of: int) -> int:
    return min(int(moment * of), of - 1)


def test_killed_on_its_way_to_a_server(three: Path, stub: Stub, tmp_path: Path) -> None:
    Workspace.open(placed(three, tmp_path / "whole")).migrate_store(stub.url)
    requests, collections = sum(stub.seen.values()), names(stub)
    for number, moment in enumerate(MOMENTS):
        kb = placed(three, tmp_path / str(number))
        with Stub() as server:
            killed_at_request(server, at(moment, requests), kb, done=bool(number % 2))
            workspace = Workspace.open(kb)
            assert workspace.settings.store.url is None
            workspace.migrate_store(server.url)
            target = over(server)
            equal(EdgeStore(kb / ".ragops/store"), target)
            assert names(server) == collections
            assert target.examine().writer is None
            workspace = Workspace.open(kb)
            assert workspace.settings.store.url == server.url
            assert workspace.verify().ok


def killed_at_request(server: Stub, nth: int, kb: Path, *, done: bool) -> None:
    """`done`: the server carries the request out, though nobody waits for its answer any more."""
    process: list[subprocess.Popen[bytes]] = []
    seen: list[Request] = []

    def fault(request: Request) -> Fault | None:
        seen.append(request)
        if len(seen) == nth + 1:
            process[0].kill()
            return Fault(cut=True, done=done)
        return None

    server.fault = fault
    process.append(subprocess.Popen([sys.executable, "-m", "ragops", *command(server.url, kb)], cwd=ROOT))
    assert process[0].wait(120) == -signal.SIGKILL
    server.fault = lambda request: None


def test_killed_on_its_way_back(three: Path, stub: Stub, tmp_path: Path) -> None:
    kb = placed(three, tmp_path / "whole")
    Workspace.open(kb).migrate_store(stub.url)
    shutil.rmtree(kb / ".ragops/store")  # as on a machine that never had them
    prepared = tmp_path / "prepared"
    copy(kb.parent, prepared)
    listed = injected("--list", "--", *command("embedded", kb))
    assert listed.returncode == 0, listed.stderr
    steps = [line for line in listed.stderr.splitlines() if "#" in line]
    assert len(steps) > 40
    equal(over(stub), EdgeStore(kb / ".ragops/store"))
    for number, moment in enumerate(MOMENTS):
        kb = placed(prepared, tmp_path / str(number))
        step = steps[at(moment, len(steps))]
        after = ["--after"] if number % 2 else []
        found = injected(step, *after, "--", *command("embedded", kb))
        assert found.returncode == -signal.SIGKILL, (step, found.stderr)
        workspace = Workspace.open(kb)
        if workspace.settings.store.url is not None:  # else it was done but for what comes after
            workspace.migrate_store("embedded")
        equal(over(stub), EdgeStore(kb / ".ragops/store"))
        assert not [file for file in kb.rglob("*") if file.name.endswith((".tmp", ".draft", ".old"))], step
        assert Workspace.open(kb).verify().ok, step


def injected(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.injector", *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def equal(left: Store, right: Store) -> None:
    assert left.releases() == right.releases()
    assert [each.number for each in right.releases()] == right.numbers() == [1, 2, 3]
    live = right.live()
    assert live is not None
    assert (live.number, right.held()) == (2, True)
    for number in (1, 2, 3):
        assert_same(left, right, number)
        assert found(left, number) == found(right, number)


def found(store: Store, number: int) -> list[list[tuple[str, float]]]:
    """What a few queries find, by meaning and by words."""
    model = embedders.load("hash:64")
    with contextlib.closing(store.open(number)) as reader:
        hits = [reader.search(vector.tolist(), 5, exact=True) for vector in model.embed_queries(QUERIES)]
        hits += [reader.search_text(text, 5) for text in QUERIES]
    return [[(hit.point_id, round(hit.score, 4)) for hit in some] for some in hits]


def names(server: Stub) -> set[str]:
    return {each.name for each in server.client.get_collections().collections}
