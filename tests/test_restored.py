"""What others do to a workspace: lost pointers, backups of parts, copies, clocks, clones."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ragops.errors import StoreError
from ragops.workspace import Workspace
from tests.conftest import PAGES, write_corpus
from tests.pages import contents, edit, set_source, uris


def test_a_lost_pointer_is_found_again(workspace: Workspace, pages: Path) -> None:
    workspace.ingest(pages)
    live = workspace.local / "store" / "main" / "LIVE"
    for text in (None, "nonsense", "77\n"):
        live.unlink() if text is None else live.write_text(text)
        assert workspace.ingest().release == 1
        assert workspace.verify().ok


def test_a_store_from_a_backup_is_brought_up_to_date(workspace: Workspace, pages: Path, tmp_path: Path) -> None:
    workspace.ingest(pages)
    store = workspace.local / "store"
    subprocess.run(["cp", "-a", "--sparse=always", store, tmp_path / "backup"], check=True)
    edit(pages, "page0.md", "# Page 0\n\nPenguins, later.\n")
    workspace.ingest()
    after = contents(workspace)
    shutil.rmtree(store)
    (tmp_path / "backup").rename(store)
    assert not workspace.verify().ok
    summary = workspace.ingest()
    assert not summary.noop
    assert summary.vectors["computed"] == 0
    assert contents(workspace) == after
    assert workspace.verify().ok


def test_a_state_from_a_backup_catches_up_with_its_store(workspace: Workspace, pages: Path, tmp_path: Path) -> None:
    workspace.ingest(pages)
    shutil.copy(workspace.local / "state.db", tmp_path / "state.db")
    edit(pages, "page0.md", "# Page 0\n\nPenguins, later.\n")
    workspace.ingest()
    after = contents(workspace)
    for name in ("state.db-wal", "state.db-shm"):
        (workspace.local / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "state.db", workspace.local / "state.db")
    summary = workspace.ingest()
    assert summary.vectors["computed"] == 0
    assert contents(workspace) == after
    assert workspace.verify().ok


def test_a_release_folder_that_is_none_of_ours(workspace: Workspace, pages: Path) -> None:
    workspace.ingest(pages)
    foreign = workspace.local / "store" / "main" / "releases" / "00000002"
    foreign.mkdir()
    (foreign / "manifest.json").write_text('{"made": "by something else"}')
    assert workspace.ingest().noop
    assert not workspace.verify().ok
    edit(pages, "page0.md", "# Page 0\n\nPenguins, later.\n")
    assert workspace.ingest().release == 3
    assert (foreign / "manifest.json").exists()
    assert len(uris(workspace)) == 6
    with pytest.raises(StoreError):
        workspace.store.open(2)


def test_a_workspace_copied_elsewhere_goes_on(tmp_path: Path) -> None:
    root = tmp_path / "here"
    write_corpus(root / "pages", PAGES)
    workspace = set_source(root, Path("pages"))
    first = workspace.ingest()
    subprocess.run(["cp", "-r", root, tmp_path / "there"], check=True)  # new inodes, new times, no holes
    shutil.rmtree(root)
    moved = Workspace.open(tmp_path / "there")
    assert len(uris(moved)) == 6
    summary = moved.ingest()
    assert summary.noop
    assert summary.release == first.release
    assert summary.vectors["computed"] == 0
    edit(tmp_path / "there" / "pages", "page0.md", "# Page 0\n\nPenguins, there.\n")
    assert moved.ingest().vectors["computed"] == 1
    assert moved.verify().ok


def test_a_clock_that_went_backwards(workspace: Workspace, pages: Path) -> None:
    """Files from the future are read again when their token says so, and released in the order of numbers."""
    import os

    future = time.time_ns() + 10**18
    os.utime(pages / "page0.md", ns=(future, future))
    workspace.ingest(pages)
    assert workspace.ingest().noop
    (pages / "page0.md").write_text("# Page 0\n\nPenguins of the present.\n", "utf-8")
    assert workspace.ingest().sources["changed"] == 1
    assert [release["number"] for release in workspace.releases()] == [1, 2]


def test_a_dataset_taken_back_to_an_older_revision(workspace: Workspace, pages: Path, tmp_path: Path) -> None:
    """As `git checkout` and `dvc checkout` do: the sources say what is right, nothing is embedded again."""
    workspace.ingest(pages)
    shutil.copytree(workspace.data, tmp_path / "data")
    edit(pages, "page0.md", "# Page 0\n\nPenguins, later.\n")
    after = workspace.ingest()
    shutil.rmtree(workspace.data / "dataset")
    shutil.copytree(tmp_path / "data" / "dataset", workspace.data / "dataset")
    summary = workspace.ingest()
    assert summary.fingerprint == after.fingerprint
    assert summary.vectors["computed"] == 0
    assert workspace.verify().ok


def test_a_clone_takes_its_vectors_from_the_dataset(workspace: Workspace, pages: Path) -> None:
    first = workspace.ingest(pages)
    shutil.rmtree(workspace.local)
    summary = workspace.ingest()
    assert summary.fingerprint == first.fingerprint
    assert summary.vectors == {"computed": 0, "reused": 0}  # nothing is even chunked again
    assert workspace.verify().ok


def test_a_damaged_cache_costs_time_only(workspace: Workspace, pages: Path, tmp_path: Path) -> None:
    workspace.ingest(pages)
    cache = workspace.local / "cache.db"
    data = bytearray(cache.read_bytes())
    for place in range(4096, len(data), 97):
        data[place] ^= 255
    for name in ("cache.db-wal", "cache.db-shm"):
        (workspace.local / name).unlink(missing_ok=True)
    cache.write_bytes(data)
    edit(pages, "page0.md", "# Page 0\n\nPenguins, later.\n")
    (workspace.root / "params.yaml").write_text(
        (workspace.root / "params.yaml").read_text().replace("hash:64", "hash:32")
    )
    workspace = Workspace.open(workspace.root)
    assert workspace.ingest().sources["changed"] == 1
    assert workspace.verify().ok
    assert len(uris(workspace)) == 6
