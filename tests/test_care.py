"""Backup and restore, schema versions of every artefact, and releases of another engine."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ragops import archive, backup, ids
from ragops.errors import Locked, RagopsError, SchemaError, StoreError, UsageError
from ragops.stores import files
from ragops.stores import manifest as manifests
from ragops.types import Store
from ragops.workspace import Workspace
from tests.conftest import Result, answer, copy, settle, write_corpus

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")


@pytest.fixture(scope="module")
def _kb(_ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("two")
    copy(_ingested, place)
    edit(place / "corpus", "notes.txt", "Penguins live far in the south, and nowhere else.\n")
    Workspace.open(place / "kb").ingest()
    return place


@pytest.fixture
def kb(_kb: Path, tmp_path: Path) -> Workspace:
    """Two releases of the folder `corpus` beside it; the first was rolled back to, and is held."""
    copy(_kb, tmp_path)
    workspace = Workspace.open(tmp_path / "kb")
    workspace.rollback()
    return workspace


@pytest.fixture
def corpus(kb: Workspace) -> Path:
    return kb.root.parent / "corpus"


def edit(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, "utf-8")
    settle(folder / name)


def hits(workspace: Workspace, number: int | None = None) -> Any:
    found = workspace.search("where do penguins live", 5, release=number, exact=True).as_dict()["hits"]
    workspace.close()
    return found


def tree(root: Path) -> dict[str, str]:
    """What stands in a workspace, locks and sqlite's journals left out: an open database makes those."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not name.endswith(("-wal", "-shm", "lock", "LOCK", "WRITER")):
            found[name] = ids.sha256(path.read_bytes())
    return found


def size_on_disk(root: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in root.rglob("*") if path.is_file())


# ---------------------------------------------------------------- backup and restore
def test_a_restored_workspace_goes_on(kb: Workspace, corpus: Path, tmp_path: Path) -> None:
    before = {number: hits(kb, number) for number in (1, 2)}
    done = kb.backup(tmp_path / "kb.tar")
    assert (done.releases, done.live, done.held, done.documents, done.damage) == ([1, 2], 1, True, 5, [])
    shutil.rmtree(kb.root)
    back = Workspace.restore(tmp_path / "kb.tar", tmp_path / "again")
    assert (back.releases, back.live, back.held, back.documents) == ([1, 2], 1, True, 5)
    again = Workspace.open(tmp_path / "again")
    assert {number: hits(again, number) for number in (1, 2)} == before
    assert again.store.held()
    assert again.store.check() == []  # type: ignore[attr-defined]
    summary = again.ingest()
    assert summary.noop
    assert summary.vectors == {"computed": 0, "reused": 0}
    again.publish()
    assert again.verify().ok
    assert again.rollback().number == 1
    again.publish()
    edit(corpus, "notes.txt", "Auks.\n")
    assert again.ingest().vectors["computed"] == 1
    assert again.verify().ok
    assert not list((tmp_path / "again").glob(".ragops-restore*"))


def test_it_stays_small_and_keeps_its_holes(workspace: Workspace, tmp_path: Path) -> None:
    kb = workspace  # as the engine wrote it: a copy has other holes
    kb.ingest(write_corpus(tmp_path / "corpus"))
    edit(tmp_path / "corpus", "notes.txt", "Penguins live far in the south, and nowhere else.\n")
    kb.ingest()
    shard = kb.local / "store/main/releases/00000001/shard"
    apparent = sum(path.stat().st_size for path in shard.rglob("*") if path.is_file())
    done = kb.backup(tmp_path / "kb.tar")
    assert done.bytes == (tmp_path / "kb.tar").stat().st_size
    assert done.bytes < apparent / 4
    Workspace.restore(tmp_path / "kb.tar", tmp_path / "again")
    assert size_on_disk(tmp_path / "again") < 2 * size_on_disk(kb.root) + (1 << 20)
    left, right = tree(kb.root), tree(tmp_path / "again")
    for name in left:
        if not name.startswith(".ragops/") or "/releases/" in name:
            assert right[name] == left[name], name


def test_tar_itself_unpacks_it(kb: Workspace, tmp_path: Path) -> None:
    before = hits(kb)
    kb.backup(tmp_path / "kb.tar")
    (tmp_path / "plain").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "kb.tar", "-C", tmp_path / "plain"], check=True)
    plain = Workspace.open(tmp_path / "plain")
    assert hits(plain) == before
    assert plain.ingest().noop


def test_a_file_is_whole_or_not_there(kb: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "kb.tar"
    target.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        kb.backup(target)
    assert target.read_text() == "mine"
    (tmp_path / ".kb.tar.1.tmp").write_text("of one that was killed")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(archive.Writer, "add", full)
    with pytest.raises(StoreError, match="no space left"):
        kb.backup(target, replace=True)
    assert target.read_text() == "mine"
    assert list(tmp_path.glob(".kb*")) == []
    monkeypatch.undo()
    kb.backup(target, replace=True)
    assert archive.open_archive(target)[1]["live"] == 1
    for inside in ("data/kb.tar", ".ragops/store/kb.tar", "docs/../data/dataset/kb.tar"):
        (kb.root / "docs").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match="a part of the backup"):
            kb.backup(kb.root / inside)
    with pytest.raises(UsageError, match="no place for a file"):
        kb.backup(tmp_path / "nowhere" / "kb.tar")


def test_no_secret_and_nothing_foreign_is_in_it(kb: Workspace, tmp_path: Path) -> None:
    (kb.root / ".env").write_text("QDRANT_API_KEY=secret")
    (kb.root / ".dvc").mkdir()
    (kb.root / ".dvc" / "config.local").write_text("password = secret")
    (kb.root / "docs.dvc").write_text("outs: []\n")
    (kb.local / "work.db").write_text("draft")
    (kb.local / "store/main/releases/00000009").mkdir()
    kb.backup(tmp_path / "kb.tar")
    with tarfile.open(tmp_path / "kb.tar") as tar:
        names = tar.getnames()
    assert "docs.dvc" in names
    assert "dvc.yaml" in names
    assert [
        name for name in names if ".env" in name or ".dvc/" in name or "work.db" in name or "00000009" in name
    ] == []
    assert not [name for name in names if name.endswith(("-wal", "-shm", "/lock", "WRITER"))]


def test_readers_go_on_and_an_ingest_waits(kb: Workspace, tmp_path: Path) -> None:
    with kb.store.open() as reader, kb._locked(0):  # type: ignore[attr-defined]
        assert reader.count() > 0
        with pytest.raises(Locked):
            Workspace.open(kb.root).backup(tmp_path / "kb.tar")
    with kb.store.open(1):  # type: ignore[attr-defined]
        assert kb.backup(tmp_path / "kb.tar").releases == [1, 2]


def test_damage_is_told_and_backed_up_as_it_is(kb: Workspace, tmp_path: Path, ragops: Callable[..., Result]) -> None:
    points = kb.local / "store/main/releases/00000002/points.parquet"
    points.write_bytes(points.read_bytes()[:-9])
    kb.close()
    for name in ("cache.db-wal", "cache.db-shm"):
        (kb.local / name).unlink(missing_ok=True)
    (kb.local / "cache.db").write_bytes(b"no database at all" * 400)
    found = ragops("backup", tmp_path / "kb.tar", "-w", kb.root, "--json")
    assert found.returncode == 1
    damage = answer(found)["damage"]
    assert ["Release 2 is damaged" in damage[0], "cache.db is damaged and left out" in damage[1]] == [True, True]
    Workspace.restore(tmp_path / "kb.tar", tmp_path / "again")
    again = Workspace.open(tmp_path / "again")
    assert again.verify(repair=True).ok


def test_an_empty_workspace(workspace: Workspace, tmp_path: Path) -> None:
    assert workspace.backup(tmp_path / "kb.tar").releases == []
    Workspace.restore(tmp_path / "kb.tar", tmp_path / "again")
    assert Workspace.open(tmp_path / "again").status()["release"] is None


# ---------------------------------------------------------------- what restore refuses
def test_a_workspace_that_is_there_stays_unless_told(kb: Workspace, corpus: Path, tmp_path: Path) -> None:
    kb.backup(tmp_path / "kb.tar")
    kb.publish()
    edit(corpus, "more.txt", "Auks.\n")
    kb.ingest()
    before = tree(kb.root)
    with pytest.raises(UsageError, match="holds a workspace already"):
        Workspace.restore(tmp_path / "kb.tar", kb.root)
    assert tree(kb.root) == before
    kb.close()
    (kb.root / "mine.txt").write_text("stays")
    done = Workspace.restore(tmp_path / "kb.tar", kb.root, replace=True)
    assert done.replaced
    again = Workspace.open(kb.root)
    assert [release["number"] for release in again.releases()] == [1, 2]
    assert (kb.root / "mine.txt").read_text() == "stays"
    assert again.ingest().sources["added"] == 1
    again.publish()
    assert again.verify().ok


def test_not_while_another_works_there(kb: Workspace, tmp_path: Path) -> None:
    kb.backup(tmp_path / "kb.tar")
    before = tree(kb.root)
    with kb._locked(0), pytest.raises(Locked):
        Workspace.restore(tmp_path / "kb.tar", kb.root, replace=True)
    assert tree(kb.root) == before


def forged(source: Path, target: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> Path:
    """A backup whose members were changed by somebody who keeps its checksums right."""
    with tarfile.open(source) as tar:
        members = [(each, tar.extractfile(each).read() if each.isreg() else b"") for each in tar.getmembers()]  # type: ignore[union-attr]
    change(members)
    checksums = {each.name: archive.checksum(data) if each.isreg() else "" for each, data in members[1:-1]}
    members[-1] = (members[-1][0], json.dumps(checksums).encode())
    with tarfile.open(target, "w:") as tar:
        for info, data in members:
            plain = tarfile.TarInfo(info.name)
            plain.type, plain.linkname, plain.size = info.type, info.linkname, len(data)
            tar.addfile(plain, io.BytesIO(data))
    return target


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


HOSTILE = {
    "upwards": member("data/../../evil"),
    "absolute": member("/tmp/evil"),
    "beside": member("evil.py"),
    "git": member(".git/hooks/post-checkout"),
    "a link": member("data/link", tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": member("data/link", tarfile.LNKTYPE, "params.yaml"),
    "a device": member("data/null", tarfile.CHRTYPE),
    "a pipe": member("data/pipe", tarfile.FIFOTYPE),
    "dots": member("data/./x"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_members_are_refused(kind: str, kb: Workspace, tmp_path: Path) -> None:
    kb.backup(tmp_path / "kb.tar")
    evil = forged(tmp_path / "kb.tar", tmp_path / "evil.tar", lambda members: members.insert(3, (HOSTILE[kind], b"")))
    with pytest.raises(UsageError, match="which no backup of a workspace has"):
        Workspace.restore(evil, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert not (tmp_path / "evil").exists()


def test_what_is_no_sound_backup_is_refused(kb: Workspace, tmp_path: Path) -> None:
    kb.backup(tmp_path / "kb.tar")
    data = (tmp_path / "kb.tar").read_bytes()
    bad = tmp_path / "bad.tar"

    def refused(what: str) -> None:
        with pytest.raises(UsageError, match=what):
            Workspace.restore(bad, tmp_path / "again")
        assert not (tmp_path / "again").exists()

    for cut in (len(data) // 3, len(data) // 2, len(data) - 20_000):
        bad.write_bytes(data[:cut])
        refused("cut short")
    bad.write_bytes(b"")
    refused("no backup")
    bad.write_bytes(os.urandom(40_000))
    refused("no backup")
    with tarfile.open(bad, "w") as tar:
        tar.add(kb.root / "params.yaml", "params.yaml")
    refused("no backup")
    at = data.index(b"sources:")
    bad.write_bytes(data[:at] + b"sourceZ:" + data[at + 8 :])
    refused("params.yaml does not have its checksum")
    forged(tmp_path / "kb.tar", bad, lambda members: members.pop(2))
    with tarfile.open(bad) as tar:
        assert len(tar.getnames()) > 10
    forged(tmp_path / "kb.tar", bad, lambda members: members.insert(3, members[3]))
    refused("its members are not those")

    def twisted(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        head = json.loads(members[0][1])
        members[0] = (members[0][0], json.dumps(head | {"releases": {"1": 5}}).encode())

    forged(tmp_path / "kb.tar", bad, twisted)
    refused("says that it has releases 1, it has 1, 2")
    with pytest.raises(UsageError, match="no such file"):
        Workspace.restore(tmp_path / "none.tar", tmp_path / "again")


def test_holes_cost_nothing_however_large(kb: Workspace, tmp_path: Path) -> None:
    """A file of mostly nothing: written, read and checked by its data alone."""
    wide = kb.data / "snapshot" / "wide"
    with wide.open("wb") as file:
        file.truncate(50 << 30)
        file.seek(30 << 30)
        file.write(b"in the middle of nothing")
    kb.backup(tmp_path / "kb.tar")
    assert (tmp_path / "kb.tar").stat().st_size < 40 << 20
    Workspace.restore(tmp_path / "kb.tar", tmp_path / "again")
    copy = tmp_path / "again/data/snapshot/wide"
    assert copy.stat().st_size == 50 << 30
    assert files.checksum(copy) == files.checksum(wide)


SWAP = """
import os, signal, sys
from pathlib import Path
from ragops import backup
from ragops.workspace import Workspace
left = int(sys.argv[3])
def counted(a, b, replace=os.replace):
    global left
    if ".ragops-restore/" in f"{a} {b}" and "READY" not in f"{a}{b}":
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
    replace(a, b)
backup.os.replace = counted
Workspace.restore(sys.argv[1], sys.argv[2], replace=True)
print("done")
"""


@pytest.mark.slow
def test_killed_at_any_rename_it_is_finished_by_the_next(kb: Workspace, corpus: Path, tmp_path: Path) -> None:
    kb.backup(tmp_path / "old.tar")
    kb.publish()
    edit(corpus, "more.txt", "Auks.\n")
    kb.ingest()
    kb.close()
    kb.backup(tmp_path / "new.tar")
    for step in range(40):
        run = subprocess.run(
            [sys.executable, "-c", SWAP, tmp_path / "old.tar", kb.root, str(step)], capture_output=True, text=True
        )
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, run.stderr
        if step == 0:  # nothing was moved yet: the workspace is whole, and stays so without consent
            with pytest.raises(UsageError, match="holds a workspace already"):
                Workspace.restore(tmp_path / "old.tar", kb.root)
            assert [release["number"] for release in Workspace.open(kb.root).releases()] == [1, 2, 3]
        else:
            with pytest.raises(UsageError, match="stopped at its end"):
                Workspace.open(kb.root)
        Workspace.restore(tmp_path / "old.tar", kb.root, replace=True)
        found = Workspace.open(kb.root)
        assert [release["number"] for release in found.releases()] == [1, 2]
        assert found.store.held()
        with found.state() as state:
            assert state.documents() == 5
        assert not (kb.root / ".ragops-restore").exists()
        Workspace.restore(tmp_path / "new.tar", kb.root, replace=True)
        assert [release["number"] for release in Workspace.open(kb.root).releases()] == [1, 2, 3]
    else:
        pytest.fail("never came to its end")
    assert step >= 6


def test_on_the_command_line(kb: Workspace, tmp_path: Path, ragops: Callable[..., Result]) -> None:
    written = ragops("backup", tmp_path / "kb.tar", "-w", kb.root)
    assert written.returncode == 0, written.stderr
    assert "releases 1, 2; live is 1, held" in written.stdout
    again = tmp_path / "again"
    done = answer(ragops("restore", tmp_path / "kb.tar", again, "--json"))
    assert (done["workspace"], done["releases"], done["store"]) == (str(again), [1, 2], "embedded")
    assert answer(ragops("ingest", "-w", again, "--json"))["noop"]
    assert answer(ragops("releases", "publish", "-w", again, "--json"))["release"] == 2
    assert ragops("verify", "-w", again).returncode == 0
    assert answer(ragops("search", "penguins", "-w", again, "--json"))["release"] == 2
    refused = ragops("restore", tmp_path / "kb.tar", again)
    assert refused.returncode == 2
    assert "--replace" in refused.stderr


# ---------------------------------------------------------------- a server's releases
@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Store]:
    """A store at any URL: qdrant-client's local mode, the same for all who connect there."""
    from qdrant_client import QdrantClient

    from ragops.stores import server as module

    made: dict[str, Store] = {}

    def connect(cls: Any, url: Any, *_: Any, **__: Any) -> Store:
        key = str(getattr(url, "url", url))
        return made.setdefault(key, module.QdrantStore(QdrantClient(":memory:")))

    monkeypatch.setattr(module.QdrantStore, "connect", classmethod(connect))
    return made


def test_a_servers_releases_are_in_it(kb: Workspace, corpus: Path, tmp_path: Path, servers: dict[str, Store]) -> None:
    before = {number: hits(kb, number) for number in (1, 2)}
    kb.migrate_store("http://one:6333")
    shutil.rmtree(kb.local / "store")
    done = kb.backup(tmp_path / "kb.tar")
    assert (done.releases, done.live, done.held) == ([1, 2], 1, True)
    assert not list(tmp_path.glob(".kb*"))
    # into the workspace
    Workspace.restore(tmp_path / "kb.tar", tmp_path / "local", to="embedded")
    embedded = Workspace.open(tmp_path / "local")
    assert embedded.settings.store.url is None
    assert {number: hits(embedded, number) for number in (1, 2)} == before
    assert embedded.ingest().noop
    # back to the server, which has lost everything
    servers.clear()
    back = Workspace.restore(tmp_path / "kb.tar", tmp_path / "remote")
    assert back.store == "http://one:6333"
    remote = Workspace.open(tmp_path / "remote")
    assert not (remote.local / "store").exists()
    assert {number: hits(remote, number) for number in (1, 2)} == before
    assert remote.ingest().noop
    remote.publish()
    assert remote.verify().ok
    # and to another one
    Workspace.restore(tmp_path / "kb.tar", tmp_path / "other", to="http://two:6333")
    assert [release.number for release in servers["http://two:6333"].releases()] == [1, 2]


def test_a_server_that_is_ahead_or_anothers(
    kb: Workspace, corpus: Path, tmp_path: Path, servers: dict[str, Store]
) -> None:
    kb.migrate_store("http://one:6333")
    kb.publish()
    kb.backup(tmp_path / "kb.tar")
    edit(corpus, "notes.txt", "Auks.\n")
    assert kb.ingest().release == 3
    with pytest.raises(UsageError, match="ahead: it has release 3"):
        Workspace.restore(tmp_path / "kb.tar", tmp_path / "again")
    assert not (tmp_path / "again").exists()
    Workspace.restore(tmp_path / "kb.tar", tmp_path / "again", replace=True)
    assert [release.number for release in servers["http://one:6333"].releases()] == [1, 2]


# ---------------------------------------------------------------- schema versions
def newer_json(path: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (file,) = sorted(root.glob(path))[:1]
        file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 99}))

    return change


def newer_db(name: str, version: int = 99) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        with sqlite3.connect(root / ".ragops" / name) as db:
            db.execute(f"PRAGMA user_version = {version}")
        db.close()

    return change


def newer_params(root: Path) -> None:
    file = root / "params.yaml"
    file.write_text(file.read_text().replace("version: 1", "version: 99"))


ARTEFACTS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "params": (newer_params, ("search", "ingest", "rebuild", "verify", "repair", "status", "gc")),
    "state": (newer_db("state.db"), ("ingest", "rebuild", "verify", "repair", "status", "gc")),
    "cache": (newer_db("cache.db"), ("ingest", "rebuild", "verify", "repair", "gc")),
    "dataset": (newer_json("data/dataset/dataset.json"), ("ingest", "rebuild", "verify", "repair")),
    "snapshot": (newer_json("data/snapshot/snapshot.json"), ("ingest", "rebuild", "verify", "repair")),
    "model": (newer_json("data/models/*/manifest.json"), ("search",)),
    "permissions": (newer_json(".ragops/store/main/permissions.json"), ("search",)),
    "release": (
        newer_json(".ragops/store/main/releases/00000002/manifest.json"),
        ("search", "ingest", "rebuild", "verify", "repair", "status", "releases"),
    ),
}
USES: dict[str, Callable[[Path], Any]] = {
    "search": lambda root: Workspace.open(root).search("penguins"),
    "ingest": lambda root: Workspace.open(root).ingest(),
    "rebuild": lambda root: Workspace.open(root).ingest(rebuild=True),
    "verify": lambda root: Workspace.open(root).verify(),
    "repair": lambda root: Workspace.open(root).verify(repair=True),
    "status": lambda root: Workspace.open(root).status(),
    "releases": lambda root: Workspace.open(root).releases(),
    "gc": lambda root: Workspace.open(root).gc(),
}


@pytest.fixture
def lifted(_kb: Path, tmp_path: Path) -> Path:
    """Two releases, and permissions that changed since."""
    copy(_kb, tmp_path)
    Workspace.open(tmp_path / "kb").store.permit({"nobody": ("acme", ())}, upto=2)
    return tmp_path / "kb"


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_what_a_newer_ragops_wrote_is_refused_everywhere(
    artefact: str, lifted: Path, tmp_path: Path, ragops: Callable[..., Result]
) -> None:
    change, uses = ARTEFACTS[artefact]
    kept = Workspace.open(lifted)
    change(lifted)
    before = tree(lifted)
    for use in (*uses, "migrate"):
        with pytest.raises(RagopsError) as caught:
            USES[use](lifted) if use != "migrate" else Workspace.open(lifted).migrate()
        assert "pip install -U ragops" in caught.value.hint, use
        assert "newer ragops" in caught.value.message, use
        assert caught.value.exit_code == 2
        assert tree(lifted) == before, use
    planned = ragops("migrate", "--plan", "-w", lifted, "--json")
    assert planned.returncode == 1
    assert [step["artefact"] for step in answer(planned) if step["action"] == "upgrade"] == [artefact]
    refused = ragops("migrate", "-w", lifted)
    assert refused.returncode == 2
    assert "pip install -U ragops" in refused.stderr
    assert tree(lifted) == before
    # nor is it restored
    if artefact not in ("params", "state"):
        with kept._locked(0):
            backup.backup(kept.root, kept.settings, Unchecked(kept.store), tmp_path / "kb.tar", replace=False,
                          tell=lambda *_: None)  # fmt: skip
        with pytest.raises(SchemaError, match="newer ragops"):
            Workspace.restore(tmp_path / "kb.tar", tmp_path / "again")
        assert not (tmp_path / "again").exists()


class Unchecked:
    """The store of a newer ragops, which knows its own schema."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return {"releases": list, "check": lambda number: [], "live": lambda: None, "held": lambda: False}.get(
            name
        ) or getattr(self._store, name)


def test_a_backup_of_a_newer_ragops_is_refused(kb: Workspace, tmp_path: Path) -> None:
    kb.backup(tmp_path / "kb.tar")

    def newer(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members[0] = (members[0][0], json.dumps(json.loads(members[0][1]) | {"schema": 99}).encode())

    forged(tmp_path / "kb.tar", tmp_path / "new.tar", newer)
    with pytest.raises(SchemaError, match="newer ragops") as caught:
        Workspace.restore(tmp_path / "new.tar", tmp_path / "again")
    assert caught.value.hint == "Upgrade: pip install -U ragops"


def test_what_is_older_is_lifted(lifted: Path, ragops: Callable[..., Result]) -> None:
    newer_db("state.db", 1)(lifted)
    newer_db("cache.db", 0)(lifted)
    file = lifted / "params.yaml"
    file.write_text(file.read_text().replace("version: 1", "version: 0  # mine"))
    before = tree(lifted)
    planned = answer(ragops("migrate", "--plan", "-w", lifted, "--json"))
    assert {step["artefact"]: (step["found"], step["action"]) for step in planned if step["action"] != "nothing"} == {
        "params": (0, "lift"), "state": (1, "lift"), "cache": (0, "lift"),
    }  # fmt: skip
    assert tree(lifted) == before
    done = answer(ragops("migrate", "-w", lifted, "--json"))
    assert [step["artefact"] for step in done if step["action"] == "lifted"] == ["params", "state", "cache"]
    assert "version: 1  # mine" in file.read_text()
    again = answer(ragops("migrate", "-w", lifted, "--json"))
    assert {step["action"] for step in again} == {"nothing"}
    summary = Workspace.open(lifted).ingest()
    assert summary.vectors["computed"] == 0
    assert Workspace.open(lifted).verify().ok


# ---------------------------------------------------------------- another engine
def resealed(workspace: Workspace, number: int, *, version: str, broken: bool) -> None:
    """As another version of the engine would have left it; `broken`: so that this one cannot open it."""
    folder = workspace.local / "store/main/releases" / f"{number:08d}"
    value = json.loads((folder / "manifest.json").read_text())
    if broken:
        for path in (folder / "shard").rglob("segment.json"):
            path.write_bytes(b"#" * path.stat().st_size)
            value["files"][path.relative_to(folder).as_posix()][1] = files.checksum(path)
    seal = manifests.load(value | {"seal": manifests._seal({k: v for k, v in value.items() if k != "seal"})}, "test")
    other = replace(seal, engine=dict(seal.engine) | {"version": version})
    (folder / "manifest.json").write_text(json.dumps(manifests.dump(other)))


def test_a_release_of_another_engine_is_read_and_not_built_on(kb: Workspace, corpus: Path) -> None:
    before = hits(kb)
    kb.publish()
    for number in (1, 2):
        resealed(kb, number, version="0.0.1", broken=False)
    assert hits(kb, 1) == before
    assert kb.ingest().noop
    assert kb.store.check(2) == []
    edit(corpus, "notes.txt", "Auks.\n")
    summary = kb.ingest()
    assert (summary.release, summary.vectors["computed"]) == (4, 1)  # the run before read the copied files, as run 3
    assert kb.store.work(4)["copied_bytes"] == 0
    assert kb.verify().ok


@pytest.mark.parametrize("mend", ["ingest", "repair"])
def test_one_that_this_engine_cannot_open_is_built_again(mend: str, kb: Workspace) -> None:
    kb.publish()
    before = hits(kb)
    resealed(kb, 2, version="0.0.1", broken=True)
    assert kb.store.check(2) == []
    with pytest.raises(StoreError, match=r"sealed by qdrant-edge 0\.0\.1, which qdrant-edge .* cannot open") as caught:
        kb.search("penguins")
    assert "ragops ingest" in caught.value.hint
    assert not kb.verify().ok
    if mend == "ingest":
        summary = kb.ingest()
        assert (summary.release, summary.vectors) == (3, {"computed": 0, "reused": 0})
    else:
        assert kb.verify(repair=True).ok
    assert kb.store.live().number == 3  # type: ignore[union-attr]
    assert hits(kb) == before
    assert kb.ingest().noop
    assert kb.verify().ok


def test_a_shard_that_does_not_load_is_repaired(kb: Workspace) -> None:
    """The same engine, whole files, right checksums: nothing but opening it tells."""
    from importlib.metadata import version

    kb.publish()
    before = hits(kb)
    resealed(kb, 2, version=version("qdrant-edge-py"), broken=True)
    with pytest.raises(StoreError, match="cannot be read"):
        kb.search("penguins")
    assert not kb.verify().ok
    assert kb.verify(repair=True).ok
    assert hits(kb) == before
