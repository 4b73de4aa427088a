"""A workspace into one file, and back: releases, pointer and hold, permissions, local state, snapshot, dataset, models.

Ingests wait meanwhile, readers go on. What is wrong with a backup is found before anything of a workspace is touched:
it is unpacked beside, compared, and only then put in its place, `params.yaml` last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import glob
import json
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ragops import archive, config, durable, keys, lock, params
from ragops.errors import DiskFull, StoreError, UsageError
from ragops.migration import refuse_newer
from ragops.stores import files, open_store
from ragops.stores.releases import is_held, live_release
from ragops.stores.transfer import transfer
from ragops.types import Release, Store
from ragops_pipelines.state import State

DRAFT = ".ragops-restore"  # in the workspace's folder, so that what is unpacked is renamed into its place
READY = "READY"  # in it: all is unpacked and compared, and what is still there is to be put in its place
LOCAL = ("state.db", "cache.db", "loaded.json", keys.FILE, "log/overrides.jsonl")  # below .ragops, beside the store
EVALUATIONS = ".ragops/evaluations"
_JOURNALS = tuple(f".ragops/{name}{end}" for name in ("state.db", "cache.db") for end in ("-wal", "-shm", "-journal"))
#: What a restore puts in its place or takes away; params.yaml, without which there is no workspace, comes last.
ITEMS = (*_JOURNALS, *(f".ragops/{name}" for name in LOCAL), EVALUATIONS, ".ragops/store", "data", "dvc.yaml",
         "dvc.lock", ".gitignore", ".dvcignore")  # fmt: skip
KEPT = (".gitignore", ".dvcignore")  # a folder's own stay, where it holds no workspace

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class BackedUp:
    """What stands in a backup. `damage`: what was found to be wrong with it before, in words."""

    file: str
    bytes: int
    files: int
    releases: Sequence[int]
    live: int | None
    held: bool
    documents: int
    chunks: int
    damage: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Restored:
    """What came out of a backup, and where the releases are now."""

    workspace: str
    created: str  # when the backup was taken
    files: int
    releases: Sequence[int]
    live: int | None
    held: bool
    documents: int
    chunks: int
    store: str  # "embedded", or the server's address
    replaced: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# ---------------------------------------------------------------- into a file
def backup(root: Path, settings: config.Settings, store: Store, file: Path, *, replace: bool, tell: Tell) -> BackedUp:
    """Write the workspace into `file`, which is whole or not there. Raises UsageError, StoreError, DiskFull."""
    file = file.absolute()
    if file.is_dir() or not file.parent.is_dir():
        raise UsageError(f"{file} is no place for a file", "Give a file in a folder that exists: backup.tar")
    for part in (root / "data", root / ".ragops"):
        if file.resolve().is_relative_to(part.resolve()):
            raise UsageError(f"{file} lies in {part}, which is a part of the backup", "Give a place outside of it.")
    if file.exists() and not replace:
        raise UsageError(f"{file} exists already", "Choose another name, or replace it: --replace")
    for stray in file.parent.glob(f".{glob.escape(file.name)}.*.tmp"):  # of one that was killed
        shutil.rmtree(stray) if stray.is_dir() else stray.unlink()
    work = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        work.mkdir()
        return _write(root, settings, store, file, work, tell)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space left for {file}; nothing of it was kept", "Free some space there.") from error
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(root: Path, settings: config.Settings, store: Store, file: Path, work: Path, tell: Tell) -> BackedUp:
    """`work`: an empty folder beside `file`, for what is made on the way."""
    damage: list[str] = []
    embedded = settings.store.url is None
    collection = settings.store.collection
    local = root / ".ragops"
    if embedded:
        store.tidy()
        for number in store.numbers():
            damage += store.check(number)
        base = local / "store"
    else:
        base = work / "store"
        if store.releases():
            copy = open_store(base, dataclasses.replace(settings.store, url=None))
            transfer(store, copy, name="the backup", tell=tell)
    for name in ("state.db", "cache.db"):
        damage += _copy_database(local / name, work / name)
    documents, chunks = _counts(work)
    listed = [*_top(root), *_local(local, work), *_tree(root / "data", "data")]
    if (root / EVALUATIONS).is_dir():
        listed += _tree(root / EVALUATIONS, EVALUATIONS)
    listed += _releases(base / collection, f".ragops/store/{collection}", store)
    total = sum(_used(path) for _, path in listed if path is not None)
    releases = store.releases()
    live = live_release(store)
    now, held = None if live is None else live.number, is_held(store)
    head: dict[str, Any] = {
        "kind": archive.KIND,
        "schema": archive.SCHEMA,
        "ragops": version("ragops"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "workspace": root.name,
        "store": "embedded" if embedded else "server",
        "collection": collection,
        "releases": {str(release.number): release.points for release in releases},
        "live": now,
        "held": held,
        "documents": documents,
        "chunks": chunks,
    }
    draft = work / "backup.tar"
    with tarfile.open(draft, "x:", format=tarfile.PAX_FORMAT) as tar:
        writer = archive.Writer(tar, lambda done: tell("backup", _mb(done), _mb(total)), {})
        writer.add_bytes(archive.HEAD, _json(head))
        writer.checksums.clear()
        for name, path in listed:
            if path is None:
                writer.add_folder(name)
            else:
                writer.add(name, path)
        checksums = dict(writer.checksums)
        writer.add_bytes(archive.TAIL, _json(checksums))
    durable.replace(draft, file)
    durable.sync(file.parent)
    return BackedUp(
        file=str(file), bytes=file.stat().st_size, files=len(checksums),
        releases=[release.number for release in releases], live=now, held=held, documents=documents, chunks=chunks,
        damage=damage,
    )  # fmt: skip


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _mb(count: int) -> int:
    return -(-count // 1_000_000)


def _used(path: Path) -> int:
    status = path.stat()
    return min(status.st_size, status.st_blocks * 512)


def _copy_database(source: Path, target: Path) -> list[str]:
    """A consistent copy, journals and all, by sqlite's own means. What cannot be copied is told."""
    if not source.exists():
        return []
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as old,
            contextlib.closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new)
            problem = new.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError:  # a full disk, a lock
        raise
    except sqlite3.DatabaseError as error:
        problem = str(error)
    if problem != "ok":
        target.unlink(missing_ok=True)
        return [f"{source} is damaged and left out: {problem}"]
    return []


def _counts(folder: Path) -> tuple[int, int]:
    """Documents and chunks that a state knows of."""
    if not (folder / "state.db").exists():
        return 0, 0
    with contextlib.closing(State(folder)) as state:
        return state.documents(), state.count("points")


Listed = list[tuple[str, Path | None]]  # name in the archive, file; None: an empty folder


def _top(root: Path) -> Listed:
    names = [*archive.FILES, *sorted(path.name for path in root.glob("*.dvc"))]
    return [(name, root / name) for name in names if (root / name).is_file()]


def _local(local: Path, work: Path) -> Listed:
    places = ((name, (work if name.endswith(".db") else local) / name) for name in LOCAL)
    return [(f".ragops/{name}", path) for name, path in places if path.is_file()]


def _tree(folder: Path, name: str) -> Listed:
    """Every file below, and folders that are empty; drafts left out."""
    found: Listed = []
    for base, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        place = Path(base)
        below = f"{name}/{place.relative_to(folder).as_posix()}".removesuffix("/.")
        kept = [each for each in sorted(names) if not (each.startswith(".") and each.endswith(".tmp"))]
        found += [(f"{below}/{each}", place / each) for each in kept]
        if not kept and not folders:
            found.append((below, None))
    return found


def _releases(folder: Path, name: str, store: Store) -> Listed:
    """The sealed releases, the pointer and today's permissions, without drafts and locks."""
    found: Listed = [(f"{name}/{each}", folder / each) for each in ("LIVE", "permissions.json")]
    for number in store.numbers():
        found += _tree(folder / "releases" / f"{number:08d}", f"{name}/releases/{number:08d}")
    return [(each, path) for each, path in found if path is None or path.is_file()]


# ---------------------------------------------------------------- out of it
def restore(file: Path, root: Path, *, to: str | None, replace: bool, wait: float, tell: Tell) -> Restored:
    """Make the workspace of a backup in the folder `root`; on a server, put its releases back there first.

    `to`: "embedded" or a server's address, instead of what its params.yaml says. `replace`: where there is a workspace,
    it goes. Raises UsageError, SchemaError, StoreError, DiskFull; the folder is then as it was.
    """
    tar, head, members = archive.open_archive(file)
    root = root.absolute()
    with contextlib.closing(tar):
        if root.exists() and not root.is_dir():
            raise UsageError(f"{root} is a file; a workspace is a folder", "Choose another path.")
        fresh = [path for path in (root, root / ".ragops") if not path.exists()]
        durable.make_folder(root / ".ragops")
        try:
            with lock.hold(root / ".ragops" / "lock", wait):
                return _restore(file, tar, head, members, root, to=to, replace=replace, tell=tell)
        except BaseException as error:
            if not (root / DRAFT / READY).exists():
                shutil.rmtree(root / DRAFT, ignore_errors=True)
                for path in fresh[:1]:
                    shutil.rmtree(path, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"no space left in {root}; nothing was changed", "Free some space there.") from error
            raise


def _restore(
    file: Path, tar: tarfile.TarFile, head: Mapping[str, Any], members: list[tarfile.TarInfo], root: Path, *,
    to: str | None, replace: bool, tell: Tell,
) -> Restored:  # fmt: skip
    draft = root / DRAFT
    if (draft / READY).exists() and not (root / config.FILE).exists():  # one that was killed while it replaced
        finish(root)
    shutil.rmtree(draft, ignore_errors=True)
    occupied = [name for name in ("params.yaml", ".ragops/state.db", ".ragops/store", "data") if (root / name).exists()]
    if occupied and not replace:
        raise UsageError(
            f"{root} holds a workspace already, or a part of one ({', '.join(occupied)})",
            "Restore into another folder, or give that up: ragops restore --replace",
        )
    total = sum(map(archive.stored_size, members))
    free = files.free_bytes(root)
    if total > free:
        raise DiskFull(f"the backup needs {total:,} bytes in {root}, {free:,} are free", "Free some space there.")
    new = draft / "new"
    new.mkdir(parents=True)
    try:
        archive.unpack(file, tar, members, head["checksums"], new, lambda done: tell("restore", _mb(done), _mb(total)))
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{file} is damaged: {error}", "Take another backup. Nothing was changed.") from error
    if (new / ".ragops" / keys.FILE).is_file():
        (new / ".ragops" / keys.FILE).chmod(0o600)
    url = _check(file, new, head, to, replace=replace, tell=tell)
    shipped = [name for name in ITEMS if (new / name).exists()]
    shipped += sorted(path.name for path in new.glob("*.dvc"))
    if not occupied:
        shipped = [name for name in shipped if name not in KEPT or not (root / name).exists()]
    durable.sync_tree(new)
    durable.write_atomic(draft / READY, _json({"items": shipped, "replace": bool(occupied)}))
    finish(root)
    return Restored(
        workspace=str(root),
        created=head["created"],
        files=len(members),
        releases=[int(number) for number in head["releases"]],
        live=head["live"],
        held=head["held"],
        documents=head["documents"],
        chunks=head["chunks"],
        store=url or config.EMBEDDED,
        replaced=bool(occupied),
    )


def _check(file: Path, new: Path, head: Mapping[str, Any], to: str | None, *, replace: bool, tell: Tell) -> str | None:
    """What was unpacked is a workspace of this ragops or an older one; its releases are put where they belong.

    Returns the server's address, None for the embedded store.
    """
    where = new / config.FILE
    if not where.is_file():
        raise UsageError(f"{file} has no {config.FILE}", "Take another backup. Nothing was changed.")
    text = where.read_text("utf-8")
    if to is not None:
        text = params.with_store_url(text, params.destination(to))
        where.write_text(text, "utf-8")
    settings = config.parse(text)
    refuse_newer(new, settings)
    store = settings.store
    unpacked = open_store(new / ".ragops" / "store", dataclasses.replace(store, url=None))
    found = {str(release.number): release.points for release in unpacked.releases()}
    live = live_release(unpacked)
    if found != head["releases"] or (None if live is None else live.number) != head["live"]:
        raise UsageError(
            f"{file} says that it has releases {_numbers(head['releases'])}, it has {_numbers(found)}",
            "Take another backup. Nothing was changed.",
        )
    if store.url is None or not found:
        return store.url
    server = open_store(new / ".ragops" / "store", store)
    with contextlib.closing(State(new / ".ragops")) as state:

        def ours(release: Release) -> bool:
            return state.made(release.number, release.fingerprint, release.created)

        name = f"the collection {store.collection} of the {store.url}"
        transfer(unpacked, server, name=name, ours=ours, replace=replace, tell=tell)
    shutil.rmtree(new / ".ragops" / "store")
    return store.url


def _numbers(found: Mapping[str, int]) -> str:
    return ", ".join(found) or "none"


def finish(root: Path) -> None:
    """Put in its place what a restore unpacked. May be repeated: each rename is done or still to do."""
    draft = root / DRAFT
    try:
        said = json.loads((draft / READY).read_bytes())
        shipped, replace = list(said["items"]), bool(said["replace"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{draft / READY} is damaged", f"Remove {draft} and restore again.") from error
    new, old = draft / "new", draft / "old"
    (old / ".ragops").mkdir(parents=True, exist_ok=True)
    if (new / config.FILE).exists() and (root / config.FILE).exists():
        os.replace(root / config.FILE, old / config.FILE)  # from here on there is no workspace, until all is there
        durable.sync(root)
    going = [name for name in ITEMS if replace and name not in KEPT]
    for name in dict.fromkeys([*(name for name in ITEMS if name in going or name in shipped), *shipped]):
        if name in shipped and not (new / name).exists():
            continue  # done
        if (root / name).exists():
            (old / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(root / name, old / name)
        if name in shipped:
            durable.make_folder((root / name).parent)
            os.replace(new / name, root / name)
    durable.sync(root / ".ragops")
    durable.sync(root)
    if (new / config.FILE).exists():
        os.replace(new / config.FILE, root / config.FILE)
        durable.sync(root)
    (draft / READY).unlink()
    shutil.rmtree(draft, ignore_errors=True)
