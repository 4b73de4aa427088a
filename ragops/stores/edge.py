"""Releases in sealed folders of Qdrant Edge: `<root>/<collection>/releases/00000042/` and `<root>/<collection>/LIVE`.

A folder is a release if and only if it has a manifest.json, which is written last. Folders without one are what a dead
attempt left; the next write discards them. See `manifest.Manifest` for what a seal says.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragops import durable
from ragops.errors import DiskFull, RagopsError, StoreError, UsageError
from ragops.stores import files, manifest
from ragops.stores import permissions as overlay
from ragops.stores.index import INDEXED_FROM, settings
from ragops.stores.manifest import MEND, SPACE_HINT, Damaged, Manifest
from ragops.types import Permission, Point, PointRow, Release

if TYPE_CHECKING:
    import polars as pl

    from ragops.stores.batches import Batch
    from ragops.stores.edge_reader import EdgeReader

ENGINE = "qdrant-edge"
RESERVE = 8 << 20  # bytes of disk that stay free
ROW_BYTES = 3_000  # of disk per point beside its vectors: payload, sparse vector, indexes (measured: 2,900)
STRETCH = 1 << 16  # rows of points.parquet that are read at a time, where not all are needed at once
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_RELEASE = re.compile(r"[0-9]{8,18}")
_SHARD, _POINTS, _MANIFEST, _LOCK = "shard", "points.parquet", "manifest.json", "LOCK"
_CONFIG = f"{_SHARD}/edge_config.json"  # rewritten by every load, so not sealed but kept in the manifest


def _ignore(_: int) -> None:
    return None


class EdgeStore:
    """The embedded store of one collection. Opening it touches nothing; it may be shared by threads and forked."""

    def __init__(
        self, root: Path, collection: str = "main", *, reserve: int | None = RESERVE, patience: float = 10.0
    ) -> None:
        """`reserve` is what stays free on the disk, in bytes; None checks no free space (file systems with quotas).
        `patience` is how long to wait for another writer, in seconds.
        """
        if not _NAME.fullmatch(collection):
            raise UsageError(
                f"{collection!r} is no name for a collection",
                "Use up to 64 letters, digits, '-', '_' and '.', with a letter or digit first.",
            )
        self.root = Path(root)
        self.collection = collection
        self._folder = self.root / collection
        self._releases = self._folder / "releases"
        self._permissions = self._folder / "permissions.json"
        self._reserve = reserve
        self._patience = patience

    # ------------------------------------------------------------ reading
    def releases(self) -> list[Release]:
        """Sealed releases, oldest first. One whose manifest is damaged is left out; `check` tells of it."""
        found = []
        for number in self._numbers():
            try:
                found.append(self._manifest(number).release)
            except Damaged:
                continue
        return found

    def numbers(self) -> list[int]:
        """Every number in use, that of a damaged release or of a folder that is none of ours too."""
        try:
            return sorted(int(name) for name in os.listdir(self._releases) if _RELEASE.fullmatch(name))
        except FileNotFoundError:
            return []
        except PermissionError as error:
            raise _forbidden(error) from error

    def live(self) -> Release | None:
        """The release that readers get. Raises StoreError where LIVE or its release is damaged."""
        number = self._live_number()
        return None if number is None else self._manifest(number).release

    def held(self) -> bool:
        """Whether LIVE says that its release stays until somebody publishes another."""
        pointer = self._pointer()
        return pointer is not None and pointer[1]

    def open(self, number: int | None = None, *, unsound: bool = False) -> EdgeReader:
        """The live release, or the numbered one, locked against removal. Raises StoreError.

        `unsound`: also one that is not what was sealed, as far as no file is gone or cut short (the engine would drop
        a segment in silence, or die); for verification, not for answers.
        """
        while True:
            chosen = self._live_number() if number is None else number
            if chosen is None:
                raise StoreError(f"Nothing is published in {self._folder} yet.", "Run `ragops ingest` first.")
            try:
                return self._open(chosen, unsound=unsound)
            except FileNotFoundError:
                if number is not None or self._live_number() == chosen:
                    raise self._missing(chosen) from None
                # Another was published and this one pruned between two lines of ours: take that one.

    def point_ids(self, number: int) -> Iterator[str]:
        """Ids of a sealed release, sorted, without opening the engine."""
        yield from self._rows(number, ["point_id"])["point_id"]

    def point_rows(self, number: int) -> Iterator[PointRow]:
        """The points of a sealed release, sorted by id, without opening the engine."""
        start = 0
        while len(rows := self._rows(number, list(PointRow._fields), start, STRETCH)):
            yield from map(PointRow._make, rows.iter_rows())
            start += len(rows)

    def permitted(self, number: int) -> Mapping[str, Permission]:
        """Documents whose permissions were told since they were sealed. Raises StoreError where that is damaged."""
        return overlay.applying(overlay.read(self._permissions), number)

    def opens(self, number: int) -> bool:
        """Whether the engine at hand opens a sealed release. It is tried only where another one sealed it."""
        if _other_engine(self._manifest(number)) is None:
            return True
        try:
            self.open(number).close()
        except StoreError:
            return False
        return True

    def work(self, number: int) -> dict[str, int]:
        """What sealing a release cost: `copied_bytes` of the base, points `added` and `deleted`."""
        return dict(self._manifest(number).work)

    def check(self, number: int | None = None) -> list[str]:
        """Compare a sealed release, or all of them and LIVE, with their checksums. Empty: all is well.

        Today's permissions are part of every release.
        """
        found = [problem for each in (self._numbers() if number is None else [number]) for problem in self._check(each)]
        try:
            overlay.read(self._permissions)
        except RagopsError as error:
            found.append(error.message)
        if number is None:
            try:
                self.live()
            except RagopsError as error:
                found.append(error.message)
        return found

    # ------------------------------------------------------------ writing
    def write(
        self,
        release: Release,
        *,
        base: int | None,
        delete: Iterable[str],
        add: Iterable[tuple[Point, Sequence[float]]],
        progress: Callable[[int], None] = _ignore,
    ) -> Release:
        """Seal a new release: `base` (or nothing) less `delete` plus `add`. Nothing is published.

        Vectors are sequences of `release.space.dim` numbers of any length but zero; they are stored as float32 of unit
        length. `progress` gets the number of points written so far. Raises StoreError, DiskFull, SpaceMismatch; then,
        as after any other exception out of the iterables, no release exists and the live one is untouched.
        What is kept of `base` keeps today's permissions, what is added has its own.
        """
        if release.number < 1:
            raise StoreError(f"{release.number} is no number for a release: they count from 1.")
        with self._writing() as lock:
            folder = self._path(release.number)
            with _disk_errors(self._folder):
                self._discard_drafts()
                if folder.exists():
                    raise StoreError(
                        f"Release {release.number} exists already in {self._releases}.", "Use a new number."
                    )
                before = None if base is None else self._base(base, release)
                self._check_space(release, before)
            try:
                return self._write(folder, release, before, delete, add, progress, lock)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise

    def tidy(self) -> None:
        """Remove what dead writers left."""
        if self._releases.exists():
            with self._writing(), _disk_errors(self._folder):
                self._discard_drafts()

    def publish(self, number: int, *, hold: bool = False) -> None:
        """Make a sealed release the live one, in one atomic step. Raises StoreError."""
        with self._writing(), _disk_errors(self._folder):
            try:
                self._sound(number)
            except FileNotFoundError:
                raise self._missing(number) from None
            durable.write_atomic(self._folder / "LIVE", f"{number}{' held' if hold else ''}\n".encode())

    def permit(self, permissions: Mapping[str, Permission], *, upto: int) -> None:
        """Today's permissions of documents, by document id, in every release up to `upto`, for open readers too.

        Where the file of permissions is damaged, only those of every document of the newest release can replace it
        (StoreError otherwise); documents that are in older ones alone then have no tenant and no groups.
        """
        with self._writing(), _disk_errors(self._folder):
            numbers = self._numbers()
            try:
                before = overlay.read(self._permissions)
                lost = False
            except Damaged as error:
                before = self._nobodys(permissions, numbers, error)
                lost = True
            after = overlay.trimmed(overlay.merged(before, permissions, upto), numbers)
            if lost or after != before:
                overlay.write(self._permissions, after)

    def remove(self, number: int, *, timeout: float = 30.0) -> None:
        """Delete a sealed release that is not live. Waits `timeout` seconds for its readers, then raises StoreError."""
        with self._writing(), _disk_errors(self._folder):
            folder = self._path(number)
            if not self._sealed(folder):
                raise self._missing(number)
            if self._live_number() == number:
                raise StoreError(f"Release {number} is live and stays.", "Publish another one first.")
            try:
                with files.locked(folder / _LOCK, exclusive=True, timeout=timeout):
                    self._unseal(folder)
            except FileNotFoundError:  # no LOCK, so no reader either
                self._unseal(folder)
            except TimeoutError:
                raise StoreError(
                    f"Release {number} is in use: a reader has kept it open for {timeout:g} s.",
                    "Close the processes that read it, or try again later.",
                ) from None
            try:
                before = overlay.read(self._permissions)
            except Damaged:
                return  # every reader and `check` tell of it, the next ingest mends it
            after = overlay.trimmed(before, self._numbers())
            if after != before:
                overlay.write(self._permissions, after)

    # ------------------------------------------------------------ below
    def _nobodys(
        self, permissions: Mapping[str, Permission], numbers: list[int], damage: Damaged
    ) -> dict[str, overlay.Entry]:
        """What stands in for permissions that are lost: every document as nobody's.

        Raises the damage unless `permissions` tell of every document of the newest release: a run that knows of a few
        changes must not take the others' permissions away.
        """
        found: dict[str, overlay.Entry] = {}
        for number in reversed(numbers):
            documents = set(self._rows(number, ["document_id"])["document_id"])
            if number == numbers[-1] and not permissions.keys() >= documents:
                raise damage
            found |= dict.fromkeys(documents, overlay.Entry("", (), numbers[-1]))
        return found

    def _path(self, number: int) -> Path:
        return self._releases / f"{number:08d}"

    def _numbers(self) -> list[int]:
        try:
            names = os.listdir(self._releases)
            return sorted(
                int(name) for name in names if _RELEASE.fullmatch(name) and self._sealed(self._releases / name)
            )
        except FileNotFoundError:
            return []
        except PermissionError as error:
            raise _forbidden(error) from error

    def _sealed(self, folder: Path) -> bool:
        return (folder / _MANIFEST).exists()  # raises PermissionError: a folder we cannot see into is no draft

    def _live_number(self) -> int | None:
        pointer = self._pointer()
        return None if pointer is None else pointer[0]

    def _pointer(self) -> tuple[int, bool] | None:
        """What LIVE says: the number, and whether it is held."""
        try:
            text = (self._folder / "LIVE").read_text("ascii")
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise _forbidden(error) from error
        except UnicodeDecodeError:
            text = "?"
        number, _, rest = text.strip().partition(" ")
        if not number.isdigit() or rest not in ("", "held"):
            raise Damaged(f"{self._folder / 'LIVE'} is damaged: it names no release.", MEND)
        return int(number), rest == "held"

    def _missing(self, number: int) -> StoreError:
        there = ", ".join(str(each) for each in self._numbers()) or "none"
        return StoreError(f"There is no release {number} in {self._releases} (there: {there}).", MEND)

    def _manifest(self, number: int) -> Manifest:
        path = self._path(number) / _MANIFEST
        try:
            value = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise self._missing(number) from None
        except PermissionError as error:
            raise _forbidden(error) from error
        except ValueError as error:
            raise Damaged(f"{path} is damaged: {error}", MEND) from error
        found = manifest.load(value, str(path))
        if found.release.number != number:
            raise Damaged(f"{path} is that of release {found.release.number}: its folder was renamed.", MEND)
        return found

    def _sound(self, number: int, *, longer: bool = False) -> Manifest:
        """The manifest, after a quick look: every file is there in its size (or `longer`, if that is allowed).

        Raises FileNotFoundError if unsealed, Damaged.
        """
        folder = self._path(number)
        if not self._sealed(folder):
            raise FileNotFoundError(folder)
        seal = self._manifest(number)
        for name, (size, _) in seal.files.items():
            try:
                actual = os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                # The engine drops a segment in silence when one of its files is gone: never let it see this.
                raise self._damaged(folder, f"{name} is missing") from None
            except PermissionError as error:
                raise _forbidden(error) from error
            if actual < size or (actual > size and not longer):
                raise self._damaged(folder, f"{name} has {actual:,} bytes instead of {size:,}")
        return seal

    def _damaged(self, folder: Path, what: str) -> Damaged:
        return Damaged(f"Release {int(folder.name)} is damaged: {what} (in {folder}).", MEND)

    def _open(self, number: int, *, unsound: bool) -> EdgeReader:
        folder = self._path(number)
        try:
            lock = files.lock(folder / _LOCK, exclusive=False, timeout=5.0)
        except TimeoutError:
            raise FileNotFoundError(folder) from None  # being removed
        except FileNotFoundError:
            if not self._sealed(folder):
                raise
            (folder / _LOCK).touch()  # someone tidied it away
            lock = files.lock(folder / _LOCK, exclusive=False, timeout=5.0)
        except PermissionError as error:
            raise _forbidden(error) from error
        try:
            seal = self._sound(number, longer=unsound)
            self._mend_config(folder, seal)
            from ragops.stores.edge_reader import EdgeReader

            try:
                return EdgeReader(folder, seal, lock, overlay.Today(self._permissions, number))
            except StoreError as error:
                if other := _other_engine(seal):
                    raise StoreError(
                        f"Release {number} was sealed by {other}, which {_engine_name()} cannot open: {error.message}",
                        "`ragops ingest` builds the newest release again from the dataset; nothing is embedded for it.",
                    ) from error
                raise
        except BaseException:
            files.unlock(lock)
            raise

    def _mend_config(self, folder: Path, seal: Manifest) -> None:
        try:
            config = json.loads((folder / _CONFIG).read_bytes())
        except (FileNotFoundError, ValueError):
            config = None
        if config != seal.engine["edge_config"]:
            with _disk_errors(self._folder):
                durable.write_atomic(folder / _CONFIG, json.dumps(seal.engine["edge_config"]).encode())

    def _check(self, number: int) -> list[str]:
        folder = self._path(number)
        try:
            seal = self._sound(number)
        except FileNotFoundError:
            return [self._missing(number).message]
        except RagopsError as error:
            return [error.message]
        found = [
            f"Release {number} is damaged: {name} does not have its checksum (in {folder})."
            for name, (_, expected) in seal.files.items()
            if files.checksum(folder / name) != expected
        ]
        known = {*seal.files, _CONFIG}
        found.extend(
            f"Release {number} is damaged: {_SHARD}/{name} does not belong to it (in {folder})."
            for name in files.walk(folder / _SHARD)
            if f"{_SHARD}/{name}" not in known
        )
        return found

    def _rows(self, number: int, columns: list[str] | None, start: int = 0, count: int | None = None) -> pl.DataFrame:
        import polars as pl

        path = self._path(number) / _POINTS
        if not self._sealed(self._path(number)):
            raise self._missing(number)
        try:
            if count is not None:
                return pl.scan_parquet(path).select(columns or pl.all()).slice(start, count).collect()
            return pl.read_parquet(path, columns=columns)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise Damaged(f"{path} cannot be read: {error}", MEND) from error

    @contextmanager
    def _writing(self) -> Iterator[int]:
        """The store's own lock. The writing process holds it too, so a draft is never swept away under one."""
        try:
            durable.make_folder(self._releases)
            path = self._folder / "WRITER"
            path.touch(exist_ok=True)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"The disk under {self._folder} is full: {error.strerror}.", SPACE_HINT) from error
            raise StoreError(
                f"The store in {self._folder} cannot be written: {error.strerror} ({error.filename!r}).",
                "Check the folder's owner and permissions, and that its disk is not mounted read-only.",
            ) from error
        try:
            fd = files.lock(path, exclusive=True, timeout=self._patience)
        except TimeoutError:
            raise StoreError(
                f"Another process is writing to the store in {self._folder}.",
                f"Wait for it; `fuser {path}` names it.",
            ) from None
        try:
            yield fd
        finally:
            files.unlock(fd)

    def _discard_drafts(self) -> None:
        for name in os.listdir(self._releases):
            folder = self._releases / name
            if _RELEASE.fullmatch(name) and folder.is_dir() and not self._sealed(folder):
                shutil.rmtree(folder)
        for pattern in (".LIVE.*.tmp", ".permissions.json.*.tmp"):
            for stray in self._folder.glob(pattern):
                stray.unlink()

    def _unseal(self, folder: Path) -> None:
        (folder / _MANIFEST).unlink()  # from here on it is a draft, whatever happens
        durable.sync(folder)
        shutil.rmtree(folder)

    def _base(self, number: int, release: Release) -> Manifest:
        try:
            seal = self._sound(number)
        except FileNotFoundError:
            raise self._missing(number) from None
        if other := _other_engine(seal):  # readers may try; what is to last is not built on it
            raise Damaged(f"Release {number} was sealed by {other}, and is no base for {_engine_name()}.", MEND)
        manifest.check_base(seal.release, release)
        return seal

    def _check_space(self, release: Release, before: Manifest | None) -> None:
        if self._reserve is None:
            return
        held = 0 if before is None else files.allocated(self._path(before.release.number))
        old = 0 if before is None else before.release.points
        need = held + max(0, release.points - old) * (release.space.dim * 5 + ROW_BYTES)
        if release.points - old > release.points // 10 and release.points >= INDEXED_FROM:
            need *= 2  # an index is built beside what it replaces
        free = files.free_bytes(self._folder)
        if free < need + self._reserve:
            raise DiskFull(
                f"The disk under {self._folder} is too full for release {release.number}: "
                f"about {need + self._reserve:,} bytes are needed, {free:,} are free.",
                SPACE_HINT,
            )

    def _write(
        self,
        folder: Path,
        release: Release,
        before: Manifest | None,
        delete: Iterable[str],
        add: Iterable[tuple[Point, Sequence[float]]],
        progress: Callable[[int], None],
        lock: int,
    ) -> Release:
        from ragops.stores.batches import BATCH, REBUILD, batches, check_ids
        from ragops.stores.edge_process import Writer

        entries = self._entries(before)
        with _disk_errors(self._folder):
            (folder / _SHARD).mkdir(parents=True)
            copied = 0 if before is None else self._copy(before, folder)
        config = {
            "path": str(folder / _SHARD),
            "dim": release.space.dim,
            "avg_len": release.avg_len,
            "base": before is not None,
            "reserve": self._reserve,
        }
        frames: list[pl.DataFrame] = []
        deleted: list[str] = []
        writer = Writer(folder, config, lock)
        try:
            for some in _chunks(check_ids(delete), BATCH):
                writer.send(b"D", json.dumps(some))
                deleted.extend(some)
            for batch in batches(add, release.space.dim):
                writer.send(b"A", _rows_json(batch), batch.vectors.tobytes())
                frames.append(_index(batch))
                progress(writer.written)
            count = writer.finish()
            progress(writer.written)
        finally:
            writer.close()
        rows = self._merged(before, deleted, frames)  # only now: the writer's memory is given back
        if len(rows) != release.points:
            raise StoreError(
                f"release {release.number} was to have {release.points:,} points, but base, delete and add give "
                f"{len(rows):,}",
                REBUILD,
            )
        if count != release.points:
            raise StoreError(
                f"release {release.number} has {count:,} points on disk instead of {release.points:,}",
                "Nothing was published. Run it again; `ragops doctor` checks the store.",
            )
        work = {"copied_bytes": copied, "added": writer.written, "deleted": len(deleted)}
        deletes = bool(deleted) or (before is not None and before.deletes)
        with _disk_errors(self._folder):
            self._carry(entries, before, deleted, release.number)
            return self._seal(folder, release, rows, deletes, work)

    def _entries(self, before: Manifest | None) -> overlay.Entries:
        try:
            return overlay.read(self._permissions)
        except Damaged:
            if before is None:
                return {}  # a clean build needs none of them
            raise

    def _carry(self, entries: overlay.Entries, before: Manifest | None, deleted: list[str], number: int) -> None:
        """Let entries reach to the new release for documents of which points are kept from its base, for no others."""
        import polars as pl

        after = overlay.trimmed(entries, self._numbers())
        if after and before is not None:
            base = before.release.number
            kept = self._rows(base, ["point_id", "document_id"]).filter(~pl.col("point_id").is_in(deleted))
            after = overlay.carried(after, kept["document_id"].unique(), base, number)
        if after != entries:
            overlay.write(self._permissions, after)

    def _seal(self, folder: Path, release: Release, rows: pl.DataFrame, deletes: bool, work: dict[str, int]) -> Release:
        rows.write_parquet(folder / _POINTS, compression="zstd")
        (folder / _LOCK).touch()
        sealed = replace(release, collection=self.collection)
        engine = _engine(release) | {"edge_config": json.loads((folder / _CONFIG).read_bytes())}
        seal = Manifest(sealed, engine, self._checksums(folder), deletes, work)
        durable.sync_tree(folder)
        durable.write_atomic(folder / _MANIFEST, json.dumps(manifest.dump(seal), indent=1, ensure_ascii=False).encode())
        durable.sync(self._releases)
        return sealed

    def _copy(self, before: Manifest, folder: Path) -> int:
        """The base's shard, checked against its seal on the way: damage must not be sealed anew."""
        source = self._path(before.release.number)
        copied = 0
        for base, _, _ in os.walk(source / _SHARD):  # empty folders too
            os.makedirs(os.path.join(folder, os.path.relpath(base, source)), exist_ok=True)
        for name in [name for name in before.files if name.startswith(f"{_SHARD}/")]:
            checksum, size = files.copy_sparse(os.path.join(source, name), os.path.join(folder, name))
            copied += size
            if checksum != before.files[name][1]:
                raise self._damaged(source, f"{name} does not have its checksum")
        (folder / _CONFIG).write_text(json.dumps(before.engine["edge_config"]))
        return copied

    def _merged(self, before: Manifest | None, deleted: list[str], added: list[pl.DataFrame]) -> pl.DataFrame:
        """The rows of points.parquet, sorted. Raises StoreError for what does not fit together."""
        import polars as pl

        from ragops.stores.batches import in_base_already, not_in_base

        empty = pl.DataFrame(schema=dict.fromkeys(PointRow._fields, pl.String))
        old = empty if before is None else self._rows(before.release.number, list(PointRow._fields))
        gone = pl.DataFrame({"point_id": deleted}, schema={"point_id": pl.String}).unique()
        unknown = gone.join(old, on="point_id", how="anti")
        if len(unknown):
            raise not_in_base(unknown["point_id"].to_list())
        new = pl.concat([empty, *added])
        rows = pl.concat([old.join(gone, on="point_id", how="anti"), new]).sort("point_id")
        if rows["point_id"].n_unique() != len(rows):
            twice = rows.filter(pl.col("point_id").is_duplicated())["point_id"].to_list()[0]
            raise in_base_already(twice)
        return rows

    def _checksums(self, folder: Path) -> dict[str, tuple[int, str]]:
        names = [f"{_SHARD}/{name}" for name in files.walk(folder / _SHARD) if f"{_SHARD}/{name}" != _CONFIG]
        paths = {name: os.path.join(folder, name) for name in sorted([*names, _POINTS])}
        return {name: (os.stat(path).st_size, files.checksum(path)) for name, path in paths.items()}


def _forbidden(error: OSError) -> StoreError:
    return StoreError(
        f"{error.filename!r} cannot be read: {error.strerror}", "Give this user read and write permission to the store."
    )


def _chunks(ids: Iterator[str], size: int) -> Iterator[list[str]]:
    some: list[str] = []
    for id in ids:
        some.append(id)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some


def _rows_json(batch: Batch) -> str:
    return (
        "[" + ",".join(f'["{p.point_id}",{text}]' for p, text in zip(batch.points, batch.payloads, strict=True)) + "]"
    )


def _index(batch: Batch) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame(
        {
            "point_id": [point.point_id for point in batch.points],
            "chunk_id": [point.chunk_id for point in batch.points],
            "document_id": [point.document_id for point in batch.points],
            "vector_key": [point.vector_key for point in batch.points],
            "uri": [str(point.payload.get("uri", "")) for point in batch.points],
        },
        schema=dict.fromkeys(PointRow._fields, pl.String),
    )


def _engine_name() -> str:
    from importlib.metadata import version

    return f"{ENGINE} {version('qdrant-edge-py')}"


def _other_engine(seal: Manifest) -> str | None:
    """The engine that sealed a release, None where it is the one at hand."""
    name = f"{seal.engine.get('name')} {seal.engine.get('version')}"
    return None if name == _engine_name() else name


def _engine(release: Release) -> dict[str, Any]:
    from ragops.stores import bm25

    return {
        "name": ENGINE,
        "version": _engine_name().removeprefix(f"{ENGINE} "),
        "index": settings(release.space.dim),
        "bm25": {"language": bm25.LANGUAGE, "k": bm25.K1, "b": bm25.B, "avg_len": release.avg_len},
    }


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """A full disk by its name, wherever it shows."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error) or "No space left" in str(error):
            raise DiskFull(f"The disk under {folder} is full: {error}.", SPACE_HINT) from error
        raise StoreError(
            f"The store in {folder} failed: {error}", "Check the folder's owner and permissions, and its disk."
        ) from error
