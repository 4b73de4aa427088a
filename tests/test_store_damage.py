"""Damaged releases, manifests and pointers of the store in a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ragops.errors import SchemaError, StoreError
from ragops.stores.edge import EdgeStore
from tests.edge_stores import folder, sound
from tests.store_contract import everything, release


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
