"""Permissions of documents are always today's, whatever release is asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ragops.errors import StoreError
from ragops.workspace import Workspace
from ragops_pipelines import run as run_module
from tests.pages import contents, edit, set_source, uris


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
