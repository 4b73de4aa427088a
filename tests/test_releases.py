"""Releases of a workspace: rollback, hold, publish, prune, gc."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ragops.errors import UsageError
from ragops.workspace import Workspace
from tests.conftest import PAGES, Result, answer
from tests.pages import contents, edit, set_source, uris


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


def test_settings_are_those_of_the_moment(workspace: Workspace, pages: Path) -> None:
    """Another process may have added a source, or moved the store, since the workspace was opened."""
    for i in range(4):
        edit(pages, "page0.md", f"# Page 0\n\nVersion {i}.\n")
        workspace.ingest(pages)
    params = workspace.root / "params.yaml"
    params.write_text(params.read_text("utf-8").replace("keep: 5", "keep: 1"), "utf-8")
    assert workspace.prune() == ([1, 2], [])


def test_what_reads_no_source_needs_none(workspace: Workspace, pages: Path, ragops: Callable[..., Result]) -> None:
    workspace.ingest(pages)
    params = workspace.root / "params.yaml"
    text = params.read_text("utf-8")
    params.write_text(text[: text.index("sources:")] + text[text.index("\nparse:") :], "utf-8")
    assert answer(ragops("verify", "-w", workspace.root, "--json"))["ok"]
    assert answer(ragops("gc", "-w", workspace.root, "--json"))["models"] == []
    assert "names no source" in ragops("verify", "--repair", "-w", workspace.root).stderr


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
    assert summary.vectors == {"computed": 1, "reused": 0}  # the dataset forgot it, too


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
    for i in range(16):  # 22 of each, were nothing forgotten
        edit(pages, "page0.md", f"# Page 0\n\nPenguins, version {i}.\n")
        workspace.ingest()
    cache = Cache(workspace.local)
    assert cache.count("vectors") <= 2 * 6 + 4 + 1
    assert cache.count("parses") <= 2 * 6 + 4 + 1
    cache.close()
