"""The contract over every backend, and what only sealed folders of Qdrant Edge must do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragops.config import StoreSettings
from ragops.errors import StoreError, UsageError
from ragops.stores import files, open_store, ranking
from ragops.stores.bm25 import Bm25
from ragops.stores.edge import EdgeStore
from ragops.types import Place, Point, Store
from tests.edge_stores import ROOT, folder, sound
from tests.qdrant_stub import Stub
from tests.store_contract import *  # noqa: F403
from tests.store_contract import DIM, answers, everything, fill, pairs, point, release, vector

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")
needs_server = pytest.mark.skipif(not os.environ.get("QDRANT_URL"), reason="no Qdrant server: QDRANT_URL is not set")
LAYOUTS = ("in_place", "collection_per_release")
BACKENDS: list[Any] = ["edge", *(f"local {layout}" for layout in LAYOUTS), "http in_place"]
BACKENDS += [pytest.param("http collection_per_release", marks=pytest.mark.slow)]
BACKENDS += [pytest.param(f"server {layout}", marks=needs_server) for layout in LAYOUTS]


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


def test_a_word_that_all_say_is_no_cliff() -> None:
    """Ties are looked through until they end, or until there are too many of them."""
    asked: list[int] = []

    def fetch(points: int, limit: int) -> list[Place]:
        asked.append(limit)
        return [Place(f"{n:06d}", 0.0, "") for n in range(points)][::-1][:limit]

    assert [place.point_id for place in ranking.ranked(lambda n: fetch(500, n), 3)] == ["000000", "000001", "000002"]
    asked.clear()
    assert len(ranking.ranked(lambda n: fetch(100_000, n), 100)) == 100
    assert max(asked) <= 2 * (ranking.TIES + 100 + ranking.SLACK)
