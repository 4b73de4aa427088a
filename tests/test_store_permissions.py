"""Permissions of the store in a folder: in a file beside the releases."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ragops.errors import SchemaError, StoreError
from ragops.stores.edge import EdgeStore
from ragops.types import Point, Reader
from tests.edge_stores import folder, python
from tests.store_contract import fill, pairs, point, release, vector


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
