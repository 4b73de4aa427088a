"""The contract over every backend, and what only sealed folders of Qdrant Edge must do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragops.config import StoreSettings
from ragops.errors import DiskFull, SchemaError, StoreError, UsageError
from ragops.stores import files, open_store
from ragops.stores.bm25 import Bm25
from ragops.stores.edge import EdgeStore
from ragops.types import Point, Reader, Store
from tests.qdrant_stub import Stub
from tests.store_contract import *  # noqa: F403
from tests.store_contract import DIM, answers, everything, fill, pairs, point, release, vector

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")
needs_server = pytest.mark.skipif(not os.environ.get("QDRANT_URL"), reason="no Qdrant server: QDRANT_URL is not set")
LAYOUTS = ("in_place", "collection_per_release")
BACKENDS: list[Any] = ["edge", *(f"local {layout}" for layout in LAYOUTS), "http in_place"]
BACKENDS += [pytest.param("http collection_per_release", marks=pytest.mark.slow)]
BACKENDS += [pytest.param(f"server {layout}", marks=needs_server) for layout in LAYOUTS]
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "edge":
        yield open_store(tmp_path / "store")
        return
    from qdrant_client import QdrantClient

    from ragops.stores.server import QdrantStore

    where, _, layout = request.param.partition(" ")
    if where == "local":
        yield QdrantStore(QdrantClient(":memory:"), options=StoreSettings(layout=layout))
        return
    if where == "http":  # the same through real HTTP and JSON
        with Stub() as stub:
            server = QdrantStore.connect(StoreSettings(stub.url, layout=layout))
            yield server
            server.close()
        return
    collection = f"test-{os.getpid()}-{time.monotonic_ns()}"
    server = QdrantStore.connect(StoreSettings(os.environ["QDRANT_URL"], collection, layout=layout))
    yield server
    server.close()
    client = QdrantClient(url=os.environ["QDRANT_URL"], api_key=os.environ.get("QDRANT_API_KEY"))
    for found in client.get_collections().collections:
        if found.name.startswith(f"{collection}--"):
            client.delete_collection(found.name)


@pytest.fixture
def edge(tmp_path: Path) -> EdgeStore:
    return EdgeStore(tmp_path / "store")


@pytest.fixture(scope="module")
def _sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = EdgeStore(tmp_path_factory.mktemp("sealed") / "store")
    fill(store, 50)
    store.write(release(2, 3), base=None, delete=[], add=pairs(1, 2, 3))
    return store.root


@pytest.fixture
def sealed(_sealed: Path, tmp_path: Path) -> EdgeStore:
    """Release 1 with 50 points, live, and release 2 with 3: a copy, to be damaged."""
    subprocess.run(["cp", "-a", "--sparse=always", str(_sealed), str(tmp_path / "store")], check=True)
    return EdgeStore(tmp_path / "store")


def folder(store: EdgeStore, number: int) -> Path:
    return store.root / store.collection / "releases" / f"{number:08d}"


def python(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Another process that runs `code` after the imports that all of them need."""
    head = (
        "import sys, os, time, json; from pathlib import Path\n"
        "from ragops.stores.edge import EdgeStore\n"
        "from tests.store_contract import *\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            status = (entry / "stat").read_text() if entry.name.isdigit() else ""
        except (FileNotFoundError, ProcessLookupError):
            continue
        if status and int(status.rpartition(")")[2].split()[1]) == pid:
            found.append(int(entry.name))
    return found


def writers(pid: int) -> list[int]:
    return [child for child in children(pid) if b"edge_writer" in Path(f"/proc/{child}/cmdline").read_bytes()]


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def sound(store: EdgeStore, number: int, points: int) -> None:
    assert store.check() == []
    live = store.live()
    assert live is not None
    assert live.number == number
    assert len(everything(store)) == points


# ---------------------------------------------------------------- both backends give the same answers
def test_backends_agree_on_order_and_scores(tmp_path: Path) -> None:
    from qdrant_client import QdrantClient

    from ragops.stores.server import QdrantStore

    embedded, local = EdgeStore(tmp_path), QdrantStore(QdrantClient(":memory:"))
    for each in (embedded, local):
        fill(each, 300)
        each.write(release(2, 280), base=1, delete=[point(i).point_id for i in range(20)], add=[])
        each.publish(2)
    assert answers(embedded, 2) == answers(local, 2)
    left, right = embedded.open(), local.open()
    for text in ("harbour harbour lantern", "copper", "orbit saddle thimble pepper", "item77 glacier"):
        for filter in (None, {"tenant": "acme"}, {"groups": "g1", "page": {"gte": 2}}):
            assert left.search_text(text, 20, filter) == right.search_text(text, 20, filter)
    for seed in range(20):
        assert left.search(vector(700 + seed), 20, exact=True) == right.search(vector(700 + seed), 20, exact=True)
    left.close()


# ---------------------------------------------------------------- the index of a large release
@pytest.mark.slow
def test_a_large_release_is_indexed_and_an_exact_search_is_exact(edge: EdgeStore) -> None:
    n = 12_000

    def made(i: int) -> Point:
        return point(i, text="rare words") if i < 310 else point(i)

    rows = np.random.default_rng(0).standard_normal((n + 300, 32)).astype(np.float32)
    space = Space("99" * 32, "tests/wide", 32, 256, "", normalized=True)  # noqa: F405
    small = release(1, 9_000, space=space)
    edge.write(small, base=None, delete=[], add=((made(i), rows[i]) for i in range(9_000)))
    edge.write(release(2, n, space=space), base=1, delete=[], add=((made(i), rows[i]) for i in range(9_000, n)))
    gone = [made(i).point_id for i in range(300)]
    added = ((made(i), rows[i]) for i in range(n, n + 300))
    edge.write(release(3, n, space=space), base=2, delete=gone, add=added)
    kept = rows[300:] / np.linalg.norm(rows[300:], axis=1)[:, None]
    import qdrant_edge

    for number, indexed in ((1, False), (3, True)):
        shard = qdrant_edge.EdgeShard.load(str(folder(edge, number) / "shard"))
        parts = [path.name for path in (folder(edge, number) / "shard").rglob("*graph*")]
        shard.close()
        assert bool(parts) is indexed
    reader = edge.open(3)
    hits = 0
    for seed in range(30):
        query = np.random.default_rng(1000 + seed).standard_normal(32)
        best = {made(300 + int(i)).point_id for i in np.argsort(-(kept @ query))[:10]}
        assert len(best & {hit.point_id for hit in reader.search(query, 10, exact=True)}) == 10
        hits += len(best & {hit.point_id for hit in reader.search(query, 10)})
    assert hits >= 285  # of 300
    # Deleted points stay in an indexed segment: BM25 must not count them.
    clean = ((made(i), rows[i]) for i in range(300, n + 300))
    edge.write(release(4, n, space=space), base=None, delete=[], add=clean)
    with edge.open(4) as other:
        for text in ("rare", "rare harbour", "about copper copper"):
            assert reader.search_text(text, 20) == other.search_text(text, 20)
    reader.close()
    assert edge.check() == []


# ---------------------------------------------------------------- deaths
def test_the_writing_process_is_killed(edge: EdgeStore) -> None:
    fill(edge, 10)

    def shot() -> Iterator[tuple[Point, np.ndarray]]:
        yield from pairs(*range(100, 800))
        [pid] = writers(os.getpid())
        os.kill(pid, signal.SIGKILL)
        yield from pairs(*range(800, 3000))

    with pytest.raises(StoreError, match="killed"):
        edge.write(release(2, 2910), base=1, delete=[], add=shot())
    assert not folder(edge, 2).exists()
    sound(edge, 1, 10)
    edge.write(release(3, 12), base=1, delete=[], add=pairs(50, 51))
    assert len(everything(edge, 3)) == 12


@pytest.mark.parametrize("after", [0, 600, 1400])
def test_the_parent_is_killed(edge: EdgeStore, after: int) -> None:
    fill(edge, 10)
    code = """
def slow():
    for i in range(100, 1600):
        if i == 100 + int(sys.argv[2]):
            print("now", flush=True); time.sleep(600)
        yield point(i), vector(i)
EdgeStore(Path(sys.argv[1])).write(release(2, 1510), base=1, delete=[], add=slow())
"""
    process = python(code, edge.root, after)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n", process.communicate()[1]
        [child] = writers(process.pid)
    finally:
        process.kill()
        process.communicate()
    wait_for(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2])
    assert folder(edge, 2).exists()  # the draft
    sound(edge, 1, 10)
    assert [each.number for each in edge.releases()] == [1]
    with pytest.raises(StoreError, match="no release 2"):
        edge.open(2)
    edge.write(release(3, 11), base=1, delete=[], add=pairs(50))
    assert not folder(edge, 2).exists()
    assert len(everything(edge, 3)) == 11


def test_a_left_over_draft_is_discarded(edge: EdgeStore) -> None:
    fill(edge, 3)
    shutil.copytree(folder(edge, 1), folder(edge, 7), ignore=lambda *_: ["manifest.json"])
    (edge.root / "main" / ".LIVE.1.tmp").write_text("9")
    assert [each.number for each in edge.releases()] == [1]
    with pytest.raises(StoreError, match="no release 7"):
        edge.publish(7)
    edge.write(release(7, 1), base=None, delete=[], add=pairs(5))
    assert len(everything(edge, 7)) == 1
    assert not list((edge.root / "main").glob(".LIVE*"))


# ---------------------------------------------------------------- full disks
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a tmpfs of so many MiB (a release takes 70 there, holes and all). Skipped without root, never in CI."""
    mounted: list[Path] = []

    def mount(mib: int) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            if os.environ.get("CI"):
                pytest.fail(f"CI must be able to mount a tmpfs: {done.stderr}")
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def long_points(count: int) -> Iterator[tuple[Point, np.ndarray]]:
    for i in range(1000, 1000 + count):
        yield point(i, meta={"filler": os.urandom(9000).hex()}), vector(i)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(small_disk: Callable[[int], Path]) -> None:
    edge = EdgeStore(small_disk(100))
    fill(edge, 10)
    with pytest.raises(DiskFull, match="too full for release 2"):
        edge.write(release(2, 100_010), base=1, delete=[], add=long_points(100_000))
    sound(edge, 1, 10)


def test_a_disk_that_fills_while_writing(small_disk: Callable[[int], Path]) -> None:
    edge = EdgeStore(small_disk(160))
    fill(edge, 10)
    with pytest.raises(DiskFull, match="full"):
        edge.write(release(2, 3010), base=1, delete=[], add=long_points(3000))
    assert not folder(edge, 2).exists()
    sound(edge, 1, 10)
    edge.write(release(3, 11), base=1, delete=[], add=pairs(50))  # its space is free again


def test_a_disk_that_fills_under_the_engine(small_disk: Callable[[int], Path]) -> None:
    """Without any check of the free space the engine dies of SIGBUS: an error here, and the live release answers."""
    edge = EdgeStore(small_disk(150), reserve=None)
    fill(edge, 10)
    reader = edge.open()
    with pytest.raises(DiskFull, match=r"SIGBUS|No space"):
        edge.write(release(2, 3010), base=1, delete=[], add=long_points(3000))
    assert reader.search(vector(3), 1)[0].point_id == point(3).point_id
    reader.close()
    assert not folder(edge, 2).exists()
    sound(edge, 1, 10)
    edge.write(release(3, 11), base=1, delete=[], add=pairs(50))
    edge.publish(3)
    sound(edge, 3, 11)


def test_a_disk_without_a_free_byte(small_disk: Callable[[int], Path]) -> None:
    place = small_disk(100)
    edge = EdgeStore(place, reserve=None)
    fill(edge, 10)
    with open(place / "filler", "wb") as file, pytest.raises(OSError, match="space"):
        while True:
            os.write(file.fileno(), b"x" * 4096)
    with pytest.raises(DiskFull):
        edge.write(release(2, 11), base=1, delete=[], add=pairs(50))
    with pytest.raises(DiskFull):
        EdgeStore(place, "another").write(release(1, 1), base=None, delete=[], add=pairs(50))
    (place / "filler").unlink()
    sound(edge, 1, 10)


def test_a_read_only_disk(small_disk: Callable[[int], Path]) -> None:
    place = small_disk(100)
    edge = EdgeStore(place)
    fill(edge, 10)
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    with pytest.raises(StoreError, match="not writable"):
        edge.open()
    with pytest.raises(StoreError, match=r"(?i)read-only"):
        edge.write(release(2, 11), base=1, delete=[], add=pairs(50))
    live = edge.live()
    assert live is not None
    assert list(edge.point_ids(1))
    subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
    sound(edge, 1, 10)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_store_of_another_user(edge: EdgeStore) -> None:
    fill(edge, 3)
    os.chmod(edge.root, 0o700)
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(65534)
            for call in (edge.live, edge.releases, edge.open, edge.check, lambda: edge.publish(1)):
                with pytest.raises(StoreError, match="ermission"):
                    call()
            os._exit(0)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# ---------------------------------------------------------------- damage
def some_file(store: EdgeStore, pattern: str) -> Path:
    return max((folder(store, 1) / "shard").rglob(pattern), key=lambda path: path.stat().st_blocks)


def flip(path: Path) -> None:
    data = path.read_bytes()
    at = next(i for i, byte in enumerate(data) if byte)
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(bytes([data[at] ^ 1]))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    size = path.stat().st_size
    os.truncate(path, 0)
    os.truncate(path, size)


@pytest.mark.parametrize(
    ("pattern", "damage", "seen_at_open"),
    [
        ("version.info", Path.unlink, True),
        ("segment.json", Path.unlink, True),
        ("page_0.dat", truncate, True),
        ("*.mmap", truncate, True),
        ("*.mmap", flip, False),
        ("*.mmap", empty, False),
        ("page_0.dat", flip, False),
        ("*.mappings", flip, False),
    ],
)
def test_a_damaged_release(sealed: EdgeStore, pattern: str, damage: Callable[[Path], None], seen_at_open: bool) -> None:
    path = some_file(sealed, pattern)
    damage(path)
    [problem] = sealed.check(1)
    assert path.name in problem
    assert sealed.check(2) == []
    assert sealed.check() == [problem]
    if seen_at_open:
        with pytest.raises(StoreError, match=r"Release 1 is damaged: .*\n.*verify --repair"):
            sealed.open(1)
        with pytest.raises(StoreError, match="damaged"):
            sealed.publish(1)
    with pytest.raises(StoreError, match="damaged"):  # damage is never sealed anew
        sealed.write(release(3, 50), base=1, delete=[], add=[])
    sealed.publish(2)  # the way back
    assert len(everything(sealed)) == 3


def test_a_strange_file_in_a_release_is_told(sealed: EdgeStore) -> None:
    (folder(sealed, 1) / "shard" / "segments" / "stranger").write_bytes(b"x")
    [problem] = sealed.check()
    assert "stranger" in problem


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1}', "null", "\xff\xfe"])
def test_a_damaged_manifest(sealed: EdgeStore, content: str) -> None:
    (folder(sealed, 1) / "manifest.json").write_bytes(content.encode("latin-1"))
    for call in (sealed.open, sealed.live, lambda: sealed.open(1), lambda: sealed.publish(1)):
        with pytest.raises(StoreError, match=r"(?s)damaged.*repair"):
            call()
    assert [each.number for each in sealed.releases()] == [2]
    assert len(sealed.check()) == 2  # the release, and LIVE that names it
    sealed.publish(2)
    assert len(everything(sealed)) == 3


def test_a_changed_manifest_is_noticed(sealed: EdgeStore) -> None:
    path = folder(sealed, 1) / "manifest.json"
    path.write_text(path.read_text().replace('"points": 50', '"points": 51'))
    with pytest.raises(StoreError, match="seal"):
        sealed.open()


def test_a_release_of_a_newer_version(sealed: EdgeStore) -> None:
    path = folder(sealed, 1) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 2}))
    with pytest.raises(SchemaError, match=r"newer(?s:.)*pip install -U ragops"):
        sealed.open()


@pytest.mark.parametrize("content", [b"", b"x", b"7", b"-1", b"\xff", b"1 hold", b"1 held held", b"held"])
def test_a_damaged_live_pointer(sealed: EdgeStore, content: bytes) -> None:
    (sealed.root / "main" / "LIVE").write_bytes(content)
    for call in (sealed.live, sealed.open):
        with pytest.raises(StoreError, match="repair"):
            call()
    assert sealed.check()
    sealed.publish(1)
    sound(sealed, 1, 50)


def test_a_lost_engine_configuration_is_restored(sealed: EdgeStore) -> None:
    """The one file that a reader may leave half-written is not sealed, so it is kept in the manifest."""
    for content in (None, b"", b"{"):
        path = folder(sealed, 1) / "shard" / "edge_config.json"
        path.unlink() if content is None else path.write_bytes(content)
        assert len(everything(sealed)) == 50


# ---------------------------------------------------------------- permissions, in a file beside the releases
def permissions_file(store: EdgeStore) -> Path:
    return store.root / store.collection / "permissions.json"


def tenants(reader: Reader) -> dict[str, str]:
    """Of each document, as every way to read gives it."""
    listed = {payload["document_id"]: payload["tenant"] for _, payload, _ in reader.points()}
    found = {hit.payload["document_id"]: hit.payload["tenant"] for hit in reader.search(vector(1), 1000)}
    counted = {document: tenant for document, tenant in listed.items()
               if reader.count({"document_id": document, "tenant": tenant})}  # fmt: skip
    assert listed == found == counted
    return listed


def sealed_tenants(*numbers: int) -> dict[str, str]:
    """Three points are a document, and the last one speaks for it."""
    return {f"document-{i // 3}": point(i).payload["tenant"] for i in numbers}


def test_permissions_reach_open_readers_of_other_processes(edge: EdgeStore) -> None:
    fill(edge, 30)
    code = """
reader = EdgeStore(Path(sys.argv[1])).open()
print(reader.count({"tenant": "secret"}), flush=True)
for line in sys.stdin:
    print(reader.count({"tenant": line.strip()}), flush=True)
"""
    process = python(code, edge.root, stdin=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "0\n"
        for n in range(1, 8):
            edge.permit({f"document-{i}": (f"secret-{n}", ()) for i in range(n)}, upto=1)
            process.stdin.write(f"secret-{n}\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{3 * n}\n"
    finally:
        process.kill()
        process.communicate()


def test_permissions_of_the_same_size_in_one_tick_are_noticed(edge: EdgeStore) -> None:
    fill(edge, 6)
    with edge.open() as reader:
        for n in range(100):
            edge.permit({"document-1": (f"t{n % 2}", ())}, upto=1)
            assert reader.count({"tenant": f"t{n % 2}"}) == 3
            assert reader.count({"tenant": f"t{1 - n % 2}"}) == 0


def test_a_scan_under_way_goes_on_with_new_permissions(edge: EdgeStore) -> None:
    fill(edge, 30)
    everybody = {f"document-{i}": ("secret", ("board",)) for i in range(10)}
    with edge.open() as reader:
        scan = reader.points(batch=10)
        assert next(scan)[1]["tenant"] != "secret"
        edge.permit(everybody, upto=1)
        rest = [payload["tenant"] for _, payload, _ in scan]
        assert len(rest) == 29
        assert rest[9:] == ["secret"] * 20
        scan = reader.points(batch=10, filter={"tenant": "secret"})
        next(scan)
        edge.permit(dict.fromkeys(everybody, ("public", ())), upto=1)
        assert len(list(scan)) == 9  # of the batch that was read


def test_repeating_permissions_writes_nothing(edge: EdgeStore) -> None:
    fill(edge, 6)
    edge.permit({}, upto=1)
    assert not permissions_file(edge).exists()
    edge.permit({"document-1": ("a", ("b", "c"))}, upto=1)
    before = permissions_file(edge).stat()
    edge.permit({"document-1": ("a", ("b", "c"))}, upto=1)
    edge.permit({}, upto=1)
    assert permissions_file(edge).stat().st_mtime_ns == before.st_mtime_ns
    assert edge.permitted(1) == {"document-1": ("a", ("b", "c"))}
    assert edge.permitted(2) == {}


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"null", b'{"schema": 1}', b'{"schema": 1, "documents": {}, "seal": ""}', b"\xff", None],
)
def test_damaged_permissions_give_nothing_out(edge: EdgeStore, damage: bytes | None) -> None:
    fill(edge, 12)
    store = EdgeStore(edge.root, patience=1)
    store.permit({"document-1": ("secret", ())}, upto=1)
    path = permissions_file(store)
    with store.open() as reader:
        assert tenants(reader)["document-1"] == "secret"
        path.write_bytes(path.read_bytes().replace(b"secret", b"public") if damage is None else damage)
        opened_later = store.open()
        for each in (reader, opened_later):
            for call in (
                lambda each=each: each.search(vector(1), 3),
                lambda each=each: each.search(vector(1), 3, {"tenant": "acme"}),
                lambda each=each: each.search_text("harbour", 3),
                lambda each=each: next(each.points()),
                each.count,
                lambda: store.permitted(1),
                lambda: store.permit({"document-1": ("x", ())}, upto=1),  # what of the others?
                lambda: store.write(release(2, 12), base=1, delete=[], add=[]),
            ):
                with pytest.raises(StoreError, match=r"permissions\.json.*damaged(?s:.)*`ragops ingest`"):
                    call()
        opened_later.close()
        for problems in (store.check(1), store.check()):
            assert len(problems) == 1
            assert "permissions.json" in problems[0]
        assert [each.number for each in store.releases()] == [1]
        # A clean build needs none of them, and every document's permissions mend it.
        store.write(release(3, 3), base=None, delete=[], add=pairs(0, 1, 2))
        store.remove(3)
        store.permit({f"document-{i}": (f"t{i}", ()) for i in range(4)}, upto=1)
        assert tenants(reader) == {f"document-{i}": f"t{i}" for i in range(4)}
        assert store.check() == []


def test_mended_permissions_show_no_document_that_they_do_not_know(edge: EdgeStore) -> None:
    fill(edge, 12)
    edge.write(release(2, 6), base=1, delete=[point(i).point_id for i in range(6, 12)], add=[])
    edge.permit({"document-2": ("secret", ()), "document-3": ("secret", ())}, upto=2)
    permissions_file(edge).write_text("x")
    edge.permit({"document-0": ("a", ("g",)), "document-1": ("b", ())}, upto=2)
    with edge.open(1) as reader:
        assert tenants(reader) == {"document-0": "a", "document-1": "b", "document-2": "", "document-3": ""}
        assert reader.count({"groups": {"exists": True}}) == 3
    assert edge.check() == []


def test_permissions_of_a_newer_version_or_unreadable(edge: EdgeStore) -> None:
    fill(edge, 6)
    edge.permit({"document-1": ("a", ())}, upto=1)
    path = permissions_file(edge)
    with edge.open() as reader:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 2}))
        for call in (reader.count, lambda: edge.permit({"document-1": ("a", ())}, upto=1), lambda: edge.permitted(1)):
            with pytest.raises(SchemaError, match="pip install -U ragops"):
                call()
        path.unlink()
        path.mkdir()
        with pytest.raises(StoreError, match=r"permissions\.json.*cannot be read"):
            reader.count()
        path.rmdir()  # no file, no permissions that differ
        assert tenants(reader) == sealed_tenants(*range(6))


def test_permissions_that_no_release_needs_are_dropped(edge: EdgeStore) -> None:
    fill(edge, 6)
    edge.write(release(2, 6), base=None, delete=[], add=pairs(*range(6)))
    edge.permit({"document-0": ("old", ())}, upto=1)
    edge.permit({"document-1": ("new", ())}, upto=2)
    edge.write(release(3, 6), base=None, delete=[], add=pairs(*range(6)))
    kept = json.loads(permissions_file(edge).read_text())["documents"]
    assert kept == {"document-0": ["old", [], 1], "document-1": ["new", [], 2]}
    edge.publish(3)
    edge.remove(1)
    assert json.loads(permissions_file(edge).read_text())["documents"] == {"document-1": ["new", [], 2]}
    edge.remove(2)
    assert json.loads(permissions_file(edge).read_text())["documents"] == {}


def test_permissions_never_reach_a_release_of_a_number_that_comes_again(edge: EdgeStore) -> None:
    fill(edge, 6)
    edge.write(release(2, 6), base=1, delete=[], add=[])
    edge.permit({"document-1": ("stale", ())}, upto=2)
    shutil.rmtree(folder(edge, 2))  # by hand
    edge.write(release(2, 6), base=None, delete=[], add=pairs(*range(6)))
    with edge.open(2) as reader:
        assert tenants(reader) == sealed_tenants(*range(6))
    with edge.open(1) as reader:
        assert tenants(reader)["document-1"] == "stale"
    edge.permit({"document-0": ("early", ())}, upto=70)  # for what is there
    edge.write(release(3, 6), base=None, delete=[], add=pairs(*range(6)))
    assert edge.permitted(3) == {}
    assert set(edge.permitted(2)) == {"document-0"}


def test_what_is_left_of_a_dead_attempt_at_permissions(edge: EdgeStore) -> None:
    fill(edge, 6)
    stray = edge.root / "main" / ".permissions.json.77.tmp"
    stray.write_text("half")
    edge.write(release(2, 6), base=1, delete=[], add=[])
    assert not stray.exists()
    assert edge.check() == []


def test_permissions_wait_for_a_writer(edge: EdgeStore) -> None:
    fill(edge, 6)

    def adding() -> Iterator[tuple[Point, np.ndarray]]:
        with pytest.raises(StoreError, match="Another process is writing"):
            EdgeStore(edge.root, patience=0.1).permit({"document-1": ("a", ())}, upto=1)
        yield from pairs(7)

    edge.write(release(2, 7), base=1, delete=[], add=adding())
    assert not permissions_file(edge).exists()


# ---------------------------------------------------------------- many processes
def test_a_reader_is_not_used_after_a_fork(edge: EdgeStore) -> None:
    fill(edge, 10)
    reader = edge.open()
    pid = os.fork()
    if pid == 0:
        status = 5
        try:
            for call in (
                lambda: reader.search(vector(1), 1),
                lambda: reader.search_text("harbour", 1),
                reader.count,
                lambda: next(reader.points()),
            ):
                with pytest.raises(StoreError, match="fork"):
                    call()
            reader.close()
            with edge.open() as own:
                status = 0 if own.search(vector(3), 1)[0].point_id == point(3).point_id else 4
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert reader.count() == 10  # ours still works
    reader.close()


def test_four_processes_read_one_release(edge: EdgeStore) -> None:
    fill(edge, 200)
    code = """
for _ in range(5):
    with EdgeStore(Path(sys.argv[1])).open() as reader:
        found = [[hit.point_id for hit in reader.search(vector(i), 5)] for i in range(20)]
print(json.dumps(found))
"""
    processes = [python(code, edge.root) for _ in range(4)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    found = [json.loads(out) for out, _ in outputs]
    assert found[0] == found[1] == found[2] == found[3]
    assert [ids[0] for ids in found[0]] == [point(i).point_id for i in range(20)]
    assert edge.check() == []  # reading changes nothing that was sealed


def test_readers_see_one_release_while_others_are_published_and_pruned(edge: EdgeStore) -> None:
    """Release n holds 10 n points, all of which say n."""

    def points(n: int) -> Iterator[tuple[Point, np.ndarray]]:
        return ((point(i, meta={"release": n}), vector(i)) for i in range(10 * n))

    edge.write(release(1, 10), base=None, delete=[], add=points(1))
    edge.publish(1)
    code = """
store = EdgeStore(Path(sys.argv[1])); print("ready", flush=True)
seen = {}
while not os.path.exists(sys.argv[2]):
    with store.open() as reader:
        n = reader.release.number
        hits = reader.search(vector(3), 1000)
        assert len(hits) == reader.count() == 10 * n, (n, len(hits))
        assert {hit.payload["meta"]["release"] for hit in hits} == {n}
        seen[n] = seen.get(n, 0) + 1
print(json.dumps(seen))
"""
    stop = edge.root / "stop"
    processes = [python(code, edge.root, stop) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    old = [point(i, meta={"release": 1}).point_id for i in range(10)]
    for n in range(2, 6):
        edge.write(release(n, 10 * n), base=n - 1, delete=old, add=points(n))
        old = [point(i, meta={"release": n}).point_id for i in range(10 * n)]
        edge.publish(n)
        edge.remove(n - 1, timeout=60)
    stop.touch()
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert json.loads(out)  # it saw something
    sound(edge, 5, 50)


def test_remove_waits_for_readers_of_other_processes(edge: EdgeStore) -> None:
    fill(edge, 3)
    edge.write(release(2, 1), base=None, delete=[], add=pairs(1))
    code = 'r = EdgeStore(Path(sys.argv[1])).open(1); print("open", flush=True); sys.stdin.readline(); print(r.count())'
    process = python(code, edge.root, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    edge.publish(2)
    with pytest.raises(StoreError, match="in use"):
        edge.remove(1, timeout=0.2)
    out, err = process.communicate("go\n", timeout=60)
    assert out == "3\n", err
    edge.remove(1, timeout=0.2)
    assert not folder(edge, 1).exists()


def test_two_writers(edge: EdgeStore) -> None:
    fill(edge, 3)
    code = """
def slow():
    print("now", flush=True); sys.stdin.readline(); yield from pairs(7)
EdgeStore(Path(sys.argv[1])).write(release(2, 1), base=None, delete=[], add=slow())
"""
    process = python(code, edge.root, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    with pytest.raises(StoreError, match="Another process is writing"):
        EdgeStore(edge.root, patience=0.2).write(release(3, 1), base=None, delete=[], add=pairs(8))
    _, err = process.communicate("go\n", timeout=60)
    assert process.returncode == 0, err
    assert [each.number for each in edge.releases()] == [1, 2]


def test_a_closed_reader_says_so(edge: EdgeStore) -> None:
    fill(edge, 3)
    reader = edge.open()
    reader.close()
    reader.close()
    with pytest.raises(StoreError, match="closed"):
        reader.search(vector(1), 1)


# ---------------------------------------------------------------- the folder itself
def test_files_of_the_current_folder_shadow_nothing(edge: EdgeStore, tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("json", "array", "qdrant_edge", "struct"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    fill(edge, 3)


def test_the_index_of_points_is_deterministic(edge: EdgeStore) -> None:
    fill(edge, 30)
    edge.write(release(2, 30), base=None, delete=[], add=reversed(pairs(*range(30))))
    assert (folder(edge, 1) / "points.parquet").read_bytes() == (folder(edge, 2) / "points.parquet").read_bytes()
    rows = list(edge.point_rows(1))
    assert rows == sorted(
        (point(i).point_id, f"chunk-{i}", f"document-{i // 3}", f"key-{i}", point(i).payload["uri"]) for i in range(30)
    )


def test_work_is_reported(edge: EdgeStore) -> None:
    fill(edge, 30)
    assert edge.work(1) == {"copied_bytes": 0, "added": 30, "deleted": 0}
    edge.write(release(2, 29), base=1, delete=[point(1).point_id, point(2).point_id], add=pairs(90))
    work = edge.work(2)
    assert work["copied_bytes"] > 0
    assert (work["added"], work["deleted"]) == (1, 2)


def test_a_sparse_copy_stays_sparse(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    with open(source, "wb") as file:
        file.truncate(64 << 20)
        for at in (0, 70_000, 33 << 20, (64 << 20) - 5):
            file.seek(at)
            file.write(b"data!")
    checksum, copied = files.copy_sparse(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert checksum == files.checksum(source) == files.checksum(target)
    assert copied <= 4 * files.BLOCK
    assert target.stat().st_blocks * 512 <= 1 << 20
    dense = tmp_path / "dense"
    dense.write_bytes(source.read_bytes())
    assert files.checksum(dense) == checksum
    os.truncate(dense, (64 << 20) + 1)
    assert files.checksum(dense) != checksum


def test_what_is_no_release_is_left_alone(edge: EdgeStore) -> None:
    fill(edge, 3)
    releases = edge.root / "main" / "releases"
    (releases / "notes.txt").write_text("mine")
    (releases / "00000009").write_text("a file")
    (releases / "²").mkdir()
    (releases / "5").mkdir()
    edge.write(release(2, 1), base=None, delete=[], add=pairs(1))
    assert [each.number for each in edge.releases()] == [1, 2]
    assert {"notes.txt", "00000009", "²", "5"} <= {path.name for path in releases.iterdir()}
    assert edge.numbers() == [1, 2, 9]  # a number that is taken, by whatever


def test_numbers_know_damaged_and_unsealed_releases(sealed: EdgeStore) -> None:
    (folder(sealed, 1) / "manifest.json").write_bytes(b"{")
    shutil.copytree(folder(sealed, 2), folder(sealed, 7), ignore=lambda *_: ["manifest.json"])
    folder(sealed, 1234567890).mkdir()
    assert sealed.numbers() == [1, 2, 7, 1234567890]
    assert [each.number for each in sealed.releases()] == [2]


@pytest.mark.parametrize("content", [b"1 held", b"1 held\n", b" 1 held "])
def test_a_live_pointer_that_is_held(sealed: EdgeStore, content: bytes) -> None:
    (sealed.root / "main" / "LIVE").write_bytes(content)
    assert sealed.held()
    sound(sealed, 1, 50)
    sealed.publish(2)
    assert not sealed.held()
    assert (sealed.root / "main" / "LIVE").read_bytes() == b"2\n"


def test_a_release_whose_lock_was_tidied_away(edge: EdgeStore) -> None:
    fill(edge, 3)
    (folder(edge, 1) / "LOCK").unlink()
    assert len(everything(edge)) == 3


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    store = open_store(tmp_path, StoreSettings(url="http://127.0.0.1:9"))
    for call in (store.live, store.releases, store.open, lambda: store.publish(1)):
        with pytest.raises(StoreError, match=r"http://127\.0\.0\.1:9(?s:.)*ragops doctor"):
            call()


def test_bm25_counts_words() -> None:
    encoder = Bm25(100)
    assert encoder.length("The harbour and the harbours of a copper sea") == 4
    assert encoder.length("") == 0
    tokens, weights = encoder.query("sea Sea SEAS copper")
    assert sorted(weights) == [1.0, 3.0]
    assert len(tokens) == 2
    assert encoder.query("of the and") == ([], [])


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "ä", "x" * 65, "-x"])
def test_names_of_collections(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no name for a collection"):
        EdgeStore(tmp_path, name)


def test_importing_and_searching_loads_nothing_heavy(edge: EdgeStore) -> None:
    fill(edge, 10)
    code = """
import sys
from pathlib import Path
from ragops.stores import open_store
assert "qdrant_edge" not in sys.modules
store = open_store(Path(sys.argv[1]))
reader = store.open()
assert reader.search([1.0] * 16, 3, {"tenant": "acme", "page": {"gte": 1}}) and reader.search_text("harbour", 3)
store.releases(); store.live(); reader.close()
print(*sorted({"numpy", "polars", "qdrant_client", "torch"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(edge.root)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n"
    assert DIM == 16
