"""verify compares dataset and release both ways; --repair mends."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as edge

from ragops.errors import StoreError
from ragops.workspace import Workspace
from ragops_pipelines.dataset import Dataset
from ragops_pipelines.job import HeldBack
from tests.conftest import Result, answer, write_corpus
from tests.pages import contents, edit, set_source, uris


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


def test_verify_finds_every_flip_in_the_rejects(workspace: Workspace, pages: Path) -> None:
    """Also where polars reads it as other rows, or dies of it."""
    (pages / "bad.pdf").write_bytes(b"%PDF-1.7 nothing")
    workspace.ingest(pages)
    known = workspace.rejects()
    assert [reject["uri"] for reject in known] == ["pages:/bad.pdf"]
    file = next((workspace.data / "dataset/rejects").glob("*.parquet"))
    sealed = (workspace.data / "dataset/dataset.json").read_bytes()
    data = file.read_bytes()
    for place in range(0, len(data), 7):
        file.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(StoreError, match="damaged"):
            Dataset(workspace.data / "dataset").rejects()
    found = workspace.verify()
    assert not found.ok
    assert not found.dataset_sound
    (workspace.local / "state.db").unlink()  # what it said of them is lost, too: they are made again
    workspace.ingest()
    assert [reject["uri"] for reject in workspace.rejects()] == ["pages:/bad.pdf"]
    assert workspace.verify().ok
    assert file.read_bytes() == data
    assert (workspace.data / "dataset/dataset.json").read_bytes() == sealed


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
    assert workspace.ingest().sources["changed"] == 1  # what is damaged is not needed for it
    assert [str(pack) in finding for finding in workspace.verify().findings] == [True]
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
