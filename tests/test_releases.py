"""Releases as users handle them: hold and rollback, permissions over all of them, verification and repair, gc."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as edge

from ragops.errors import StoreError, UsageError
from ragops.workspace import Workspace
from ragops_pipelines import run as run_module
from ragops_pipelines.job import HeldBack
from tests.conftest import Result, answer, settle, write_corpus

PAGES = {f"page{i}.md": f"# Page {i}\n\nPenguins number {i} swim well.\n" for i in range(6)}


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "pages", PAGES)


def edit(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, "utf-8")
    settle(folder / name)


def contents(workspace: Workspace, number: int | None = None) -> dict[str, Any]:
    """Every point of a release as its reader gives it: id -> payload."""
    with workspace.store.open(number) as reader:
        return {id: dict(payload) for id, payload, _ in reader.points()}


def uris(workspace: Workspace, number: int | None = None, **filter: Any) -> list[str]:
    hits = workspace.search("penguins", 50, filter=filter or None, release=number).hits
    workspace.close()
    return sorted({hit.uri for hit in hits})


def set_source(root: Path, path: Path, **options: Any) -> Workspace:
    source = {"name": "pages", "connector": "files", "path": str(path), **options}
    root.mkdir(exist_ok=True)
    value = {"version": 1, "embed": {"model": "hash:64"}, "sources": [source]}
    (root / "params.yaml").write_text(json.dumps(value), "utf-8")
    return Workspace.open(root)


# ---------------------------------------------------------------- hold, rollback, publish, prune
def test_a_rollback_holds_until_told_otherwise(workspace: Workspace, pages: Path) -> None:
    workspace.ingest(pages)
    edit(pages, "page0.md", "# Page 0\n\nA mistake.\n")
    workspace.ingest()
    assert workspace.rollback().number == 1
    edit(pages, "page1.md", "# Page 1\n\nAnother text.\n")
    summary = workspace.ingest()
    assert summary.release == 3
    assert summary.held
    assert workspace.plan().held
    assert workspace.store.live().number == 1  # type: ignore[union-attr]
    again = workspace.ingest()
    assert again.noop
    assert again.held
    assert again.release == 3
    assert workspace.publish().number == 3
    assert not workspace.store.held()
    edit(pages, "page2.md", "# Page 2\n\nOne more.\n")
    summary = workspace.ingest()
    assert not summary.held
    assert workspace.store.live().number == summary.release


def test_what_is_sealed_under_a_hold_is_an_incremental_release(workspace: Workspace, pages: Path) -> None:
    workspace.ingest(pages)
    edit(pages, "page0.md", "# Page 0\n\nTwo.\n")
    workspace.ingest()
    workspace.rollback()
    edit(pages, "page1.md", "# Page 1\n\nThree.\n")
    number = workspace.ingest().release
    assert workspace.store.work(number)["added"] == 1  # from release 2, not from the live one
    assert workspace.verify().ok


def test_an_older_release_that_is_published_is_held(workspace: Workspace, pages: Path) -> None:
    workspace.ingest(pages)
    edit(pages, "page0.md", "# Page 0\n\nTwo.\n")
    workspace.ingest()
    workspace.publish(1)
    assert workspace.store.held()
    workspace.publish(2)
    assert not workspace.store.held()


def test_there_is_nothing_before_the_first(workspace: Workspace, pages: Path) -> None:
    with pytest.raises(UsageError, match="no earlier release"):
        workspace.rollback()
    workspace.ingest(pages)
    with pytest.raises(UsageError, match="no earlier release"):
        workspace.rollback()
    with pytest.raises(UsageError, match="kept are 1"):
        workspace.publish(9)


def test_prune_keeps_what_is_live_and_what_is_read(workspace: Workspace, pages: Path) -> None:
    workspace.ingest(pages)
    for i in range(4):
        edit(pages, "page0.md", f"# Page 0\n\nVersion {i}.\n")
        workspace.ingest()
    workspace.rollback(2)
    with workspace.store.open(1):
        assert workspace.prune(1) == ([3, 4], [1])
    assert [release["number"] for release in workspace.releases()] == [1, 2, 5]
    assert workspace.prune(0) == ([1, 5], [])
    assert [release["live"] for release in workspace.releases()] == [True]


def test_releases_on_the_command_line(ragops: Callable[..., Result], tmp_path: Path, pages: Path) -> None:
    root = tmp_path / "kb"
    set_source(root, pages)
    run = lambda *words: ragops(*words, "-w", root, "--json")  # noqa: E731
    assert answer(run("ingest"))["release"] == 1
    edit(pages, "page0.md", "# Page 0\n\nAuks instead.\n")
    assert answer(run("ingest"))["release"] == 2
    assert answer(run("releases", "rollback")) == {"release": 1, "held": True}
    assert [(r["number"], r["live"], r["held"]) for r in answer(run("releases", "list"))] == [
        (1, True, True),
        (2, False, False),
    ]
    assert answer(run("search", "auks", "--release", "2"))["release"] == 2
    assert answer(run("search", "auks"))["release"] == 1
    shown = answer(run("releases", "show", "2"))
    assert shown["points"] == 6
    assert shown["work"]["added"] == 1
    assert shown["damage"] == []
    assert answer(run("releases", "publish")) == {"release": 2, "held": False}
    assert answer(run("releases", "prune", "--keep", "0")) == {"removed": [1], "busy": []}
    wrong = run("releases", "publish", "7")
    assert wrong.returncode == 2
    assert "kept are 2" in answer(wrong)["error"]["message"]


# ---------------------------------------------------------------- permissions
def test_permissions_change_at_once_for_every_release(tmp_path: Path, pages: Path) -> None:
    root = tmp_path / "kb"
    set_source(root, pages, tenant="old").ingest()
    edit(pages, "page0.md", "# Page 0\n\nPenguins of another text.\n")
    set_source(root, pages, tenant="old").ingest()
    workspace = set_source(root, pages, tenant="new", groups=["staff"])
    summary = workspace.ingest()
    assert summary.noop
    assert summary.release == 2
    assert summary.vectors["computed"] == 0
    assert [release["number"] for release in workspace.releases()] == [1, 2]
    for number in (1, 2):
        assert uris(workspace, number, tenant="old") == []
        assert len(uris(workspace, number, tenant="new", groups="staff")) == 6
        assert {payload["tenant"] for payload in contents(workspace, number).values()} == {"new"}
    assert workspace.verify().ok


def test_a_later_release_holds_the_permissions_itself(tmp_path: Path, pages: Path) -> None:
    root = tmp_path / "kb"
    set_source(root, pages, tenant="old").ingest()
    set_source(root, pages, tenant="new").ingest()
    edit(pages, "page0.md", "# Page 0\n\nPenguins of another text.\n")
    workspace = set_source(root, pages, tenant="new")
    number = workspace.ingest().release
    assert workspace.store.permitted(number) == {}
    assert len(workspace.store.permitted(1)) == 6
    assert len(uris(workspace, number, tenant="new")) == 6
    clean = set_source(tmp_path / "clean", pages, tenant="new")
    clean.ingest()
    assert contents(workspace) == contents(clean)
    assert workspace.store.live().fingerprint == clean.store.live().fingerprint  # type: ignore[union-attr]


def test_front_matter_that_comes_back_has_todays_permissions_in_old_releases(workspace: Workspace, pages: Path) -> None:
    edit(pages, "page0.md", "---\ntenant: a\n---\n# Page 0\n\nPenguins.\n")
    workspace.ingest(pages)
    (pages / "page0.md").unlink()
    workspace.ingest()
    edit(pages, "page0.md", "---\ntenant: b\n---\n# Page 0\n\nPenguins.\n")
    workspace.ingest()
    assert uris(workspace, 1, tenant="a") == []
    assert uris(workspace, 1, tenant="b") == ["pages:/page0.md"]


def test_damaged_permissions_answer_nothing_until_an_ingest_mends_them(tmp_path: Path, pages: Path) -> None:
    root = tmp_path / "kb"
    set_source(root, pages, tenant="old").ingest()
    set_source(root, pages, tenant="new").ingest()
    workspace = Workspace.open(root)
    file = workspace.local / "store" / "main" / "permissions.json"
    file.write_text(file.read_text().replace("new", "old"))
    with pytest.raises(StoreError, match="damaged"):
        workspace.search("penguins")
    assert not workspace.verify().ok
    assert workspace.ingest().noop
    assert uris(workspace, tenant="old") == []
    assert len(uris(workspace, tenant="new")) == 6


def test_many_changed_permissions_are_sealed_anew(tmp_path: Path, pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "OVERLAY", 3)
    root = tmp_path / "kb"
    set_source(root, pages, tenant="old").ingest()
    summary = set_source(root, pages, tenant="new").ingest()
    assert summary.release == 2
    assert summary.vectors["computed"] == 0
    workspace = Workspace.open(root)
    assert workspace.store.permitted(2) == {}
    assert len(uris(workspace, 1, tenant="new")) == len(uris(workspace, 2, tenant="new")) == 6


READER = """
import sys
from ragops.workspace import Workspace
with Workspace.open(sys.argv[1]) as workspace:
    for line in sys.stdin:
        print(len(workspace.search("penguins", 50, filter={"tenant": line.strip()}).hits), flush=True)
"""


def test_an_open_reader_in_another_process_sees_them_at_once(tmp_path: Path, pages: Path) -> None:
    root = tmp_path / "kb"
    set_source(root, pages, tenant="old").ingest()
    command = [sys.executable, "-c", READER, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None

        def ask(tenant: str) -> str:
            print(tenant, file=reader.stdin, flush=True)
            return reader.stdout.readline().strip()  # type: ignore[union-attr]

        assert ask("old") == "6"
        set_source(root, pages, tenant="new").ingest()
        assert ask("old") == "0"
        assert ask("new") == "6"
        reader.stdin.close()


# ---------------------------------------------------------------- verify and repair
def shard(workspace: Workspace, number: int) -> edge.EdgeShard:
    folder = workspace.local / "store" / "main" / "releases" / f"{number:08d}" / "shard"
    return edge.EdgeShard.load(str(folder))


def tampered(workspace: Workspace, operation: Any) -> None:
    """As somebody would who opens the sealed folder with the engine itself."""
    opened = shard(workspace, workspace.store.live().number)  # type: ignore[union-attr]
    opened.update(operation)
    opened.flush()
    opened.close()


def test_a_sound_workspace_verifies(workspace: Workspace, pages: Path, ragops: Callable[..., Result]) -> None:
    workspace.ingest(pages)
    found = ragops("verify", "-w", workspace.root, "--json")
    assert found.returncode == 0
    value = answer(found)
    assert {name: value[name] for name in ("ok", "missing", "extra", "differing", "wrong_model")} == {
        "ok": True, "missing": 0, "extra": 0, "differing": 0, "wrong_model": 0,
    }  # fmt: skip


def test_verify_finds_and_repairs_what_was_done_to_a_release(
    workspace: Workspace, pages: Path, ragops: Callable[..., Result]
) -> None:
    workspace.ingest(pages)
    before = contents(workspace)
    lost, changed, turned, *_ = sorted(before)
    operation = edge.UpdateOperation
    tampered(workspace, operation.delete_points([lost]))
    tampered(workspace, operation.set_payload([changed], {"text": "not what the source says"}))
    stranger = "12345678-1234-5678-1234-567812345678"
    payload = before[changed] | {"text": "nobody wrote this"}
    tampered(workspace, operation.upsert_points([edge.Point(stranger, {"dense": [1.0] * 64}, payload)]))
    tampered(workspace, operation.upsert_points([edge.Point(turned, {"dense": [1.0] * 64}, before[turned])]))
    found = ragops("verify", "-w", workspace.root, "--json")
    assert found.returncode == 1
    value = answer(found)
    assert not value["ok"]
    assert (value["missing"], value["extra"], value["differing"], value["wrong_model"]) == (1, 1, 1, 1)
    assert value["examples"] == {
        "missing": [lost], "extra": [stranger], "differing": [changed], "wrong_model": [turned],
    }  # fmt: skip
    mended = ragops("verify", "--repair", "-w", workspace.root, "--json")
    assert mended.returncode == 0
    assert answer(mended)["ok"]
    assert answer(mended)["repaired"]
    assert contents(workspace) == before
    assert workspace.ingest().noop


def test_a_cut_file_is_told_and_repaired(workspace: Workspace, pages: Path) -> None:
    workspace.ingest(pages)
    before = contents(workspace)
    folder = workspace.local / "store" / "main" / "releases" / "00000001" / "shard"
    file = max((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    with file.open("rb+") as handle:
        handle.truncate(100)
    found = workspace.verify()
    assert not found.ok
    assert found.missing == 6
    assert any("damaged" in finding for finding in found.findings)
    assert workspace.verify(repair=True).ok
    assert contents(workspace) == before


def test_a_damaged_dataset_is_made_again(workspace: Workspace, pages: Path) -> None:
    fingerprint = workspace.ingest(pages).fingerprint
    for part in ("documents", "vectors"):
        file = next((workspace.data / "dataset" / part).iterdir())
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 255
        file.write_bytes(data)
        found = workspace.verify()
        assert not found.ok
        assert "damaged" in found.findings[-1]
        assert workspace.verify(repair=True).ok
    assert workspace.store.live().fingerprint == fingerprint  # type: ignore[union-attr]


def test_damaged_bytes_in_the_snapshot_are_read_again(workspace: Workspace, pages: Path) -> None:
    workspace.ingest(pages)
    pack = next((workspace.data / "snapshot" / "objects").glob("*.parquet"))
    pack.write_bytes(b"PAR1" + bytes(100))
    assert [str(pack) in finding for finding in workspace.verify().findings] == [True]
    edit(pages, "page0.md", "# Page 0\n\nPenguins, later.\n")
    with pytest.raises(StoreError, match="cannot be read"):
        workspace.ingest()
    assert workspace.verify(repair=True).ok
    assert workspace.ingest().noop


def test_a_repair_asks_before_it_deletes(workspace: Workspace, tmp_path: Path) -> None:
    many = write_corpus(tmp_path / "many", {f"{i}.txt": f"text {i}" for i in range(30)})
    workspace.ingest(many)
    next((workspace.data / "dataset" / "chunks").iterdir()).unlink()
    for i in range(20):
        (many / f"{i}.txt").unlink()
    with pytest.raises(HeldBack):
        workspace.verify(repair=True)
    assert len(contents(workspace)) == 30


def test_the_dataset_of_another_model_is_not_taken_for_the_release(tmp_path: Path, pages: Path) -> None:
    root = tmp_path / "kb"
    workspace = set_source(root, pages)
    workspace.ingest()
    shutil.copytree(workspace.data / "dataset", tmp_path / "of-another")
    (root / "params.yaml").write_text((root / "params.yaml").read_text().replace("hash:64", "hash:32"))
    workspace = Workspace.open(root)
    workspace.ingest()
    shutil.rmtree(workspace.data / "dataset")
    shutil.copytree(tmp_path / "of-another", workspace.data / "dataset")
    workspace.prune(0)
    found = workspace.verify()
    assert not found.ok
    assert found.wrong_model + found.missing >= 6
    assert workspace.verify(repair=True).ok
    assert len(uris(workspace)) == 6


# ---------------------------------------------------------------- what others do to a workspace
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
    assert summary.vectors == {"computed": 0, "reused": 6}
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


# ---------------------------------------------------------------- gc
def test_gc_forgets_what_nobody_needs(workspace: Workspace, pages: Path, ragops: Callable[..., Result]) -> None:
    workspace.ingest(pages)
    edit(pages, "page0.md", "# Page 0\n\nPenguins, later.\n")
    workspace.ingest()
    found = ragops("gc", "-w", workspace.root, "--json")
    assert answer(found)["rows"] == 2  # one parse, one vector
    assert answer(ragops("gc", "-w", workspace.root, "--json"))["rows"] == 0
    before = contents(workspace)
    edit(pages, "page0.md", PAGES["page0.md"])
    summary = workspace.ingest()
    assert workspace.verify().ok
    assert contents(workspace) != before
    assert summary.vectors == {"computed": 0, "reused": 1}  # its vector still stands in the dataset


def test_gc_forgets_permissions_that_no_kept_release_needs(workspace: Workspace, pages: Path) -> None:
    def remembered() -> int:
        with workspace.state() as state:
            return state.count("permissions")

    workspace.ingest(pages)
    (pages / "page0.md").unlink()
    workspace.ingest()
    workspace.gc()
    assert remembered() == 1  # release 1 holds the page still
    workspace.prune(keep=0)
    workspace.gc()
    assert remembered() == 0
    edit(pages, "page0.md", "---\ntenant: b\n---\n" + PAGES["page0.md"])
    workspace.ingest()
    assert uris(workspace, None, tenant="b") == ["pages:/page0.md"]


def test_what_is_remembered_stays_bounded(workspace: Workspace, pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ragops_pipelines import collect
    from ragops_pipelines.state import Cache

    monkeypatch.setattr(collect, "SLACK", 4)
    workspace.ingest(pages)
    for i in range(30):
        edit(pages, "page0.md", f"# Page 0\n\nPenguins, version {i}.\n")
        workspace.ingest()
    cache = Cache(workspace.local)
    assert cache.count("vectors") <= 2 * 6 + 4 + 1
    assert cache.count("parses") <= 2 * 6 + 4 + 1
    cache.close()
