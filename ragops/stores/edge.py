"""Releases in sealed folders of Qdrant Edge: `<root>/<collection>/releases/00000042/` and `<root>/<collection>/LIVE`.

A folder is a release if and only if it has a manifest.json, which is written last. Folders without one are what a dead
attempt left; the next write discards them. See `manifest.Manifest` for what a seal says.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ragops import durable
from ragops.errors import DiskFull, RagopsError, StoreError, UsageError
from ragops.stores import files, manifest
from ragops.stores import permissions as overlay
from ragops.stores.edge_folder import (
    CONFIG,
    LOCK,
    MANIFEST,
    Folder,
    disk_errors,
    engine_name,
    forbidden,
    is_sealed,
    other_engine,
)
from ragops.stores.manifest import MEND, SPACE_HINT, Damaged, Manifest
from ragops.types import Permission, Point, PointRow, Release

if TYPE_CHECKING:
    from ragops.stores.edge_reader import EdgeReader

RESERVE = 8 << 20  # bytes of disk that stay free
STRETCH = 1 << 16  # rows of points.parquet that are read at a time, where not all are needed at once
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


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
        self._folder = Folder(self.root / collection)
        self._reserve = reserve
        self._patience = patience

    # ------------------------------------------------------------ reading
    def releases(self) -> list[Release]:
        """Sealed releases, oldest first. One whose manifest is damaged is left out; `check` tells of it."""
        found = []
        for number in self._folder.numbers():
            try:
                found.append(self._folder.manifest(number).release)
            except Damaged:
                continue
        return found

    def numbers(self) -> list[int]:
        """Every number in use, that of a damaged release or of a folder that is none of ours too."""
        return sorted(map(int, self._folder.names()))

    def live(self) -> Release | None:
        """The release that readers get. Raises StoreError where LIVE or its release is damaged."""
        number = self._folder.live_number()
        return None if number is None else self._folder.glance(number).release

    def held(self) -> bool:
        """Whether LIVE says that its release stays until somebody publishes another."""
        pointer = self._folder.pointer()
        return pointer is not None and pointer[1]

    def open(self, number: int | None = None, *, unsound: bool = False) -> EdgeReader:
        """The live release, or the numbered one, locked against removal. Raises StoreError.

        `unsound`: also one that is not what was sealed, as far as no file is gone or cut short (the engine would drop
        a segment in silence, or die); for verification, not for answers.
        """
        while True:
            chosen = self._folder.live_number() if number is None else number
            if chosen is None:
                raise StoreError(f"Nothing is published in {self._folder.root} yet.", "Run `ragops ingest` first.")
            try:
                return self._open(chosen, unsound=unsound)
            except FileNotFoundError:
                if number is not None or self._folder.live_number() == chosen:
                    raise self._folder.missing(chosen) from None
                # Another was published and this one pruned between two lines of ours: take that one.

    def point_ids(self, number: int) -> Iterator[str]:
        """Ids of a sealed release, sorted, without opening the engine."""
        yield from self._folder.rows(number, ["point_id"])["point_id"]

    def point_rows(self, number: int) -> Iterator[PointRow]:
        """The points of a sealed release, sorted by id, without opening the engine."""
        start = 0
        while len(rows := self._folder.rows(number, list(PointRow._fields), start, STRETCH)):
            yield from map(PointRow._make, rows.iter_rows())
            start += len(rows)

    def permitted(self, number: int) -> Mapping[str, Permission]:
        """Documents whose permissions were told since they were sealed. Raises StoreError where that is damaged."""
        return overlay.applying(overlay.read(self._folder.permissions), number)

    def opens(self, number: int) -> bool:
        """Whether the engine at hand opens a sealed release. It is tried only where another one sealed it."""
        if other_engine(self._folder.manifest(number)) is None:
            return True
        try:
            self.open(number).close()
        except StoreError:
            return False
        return True

    def work(self, number: int) -> dict[str, int]:
        """What sealing a release cost: `copied_bytes` of the base, points `added` and `deleted`."""
        return dict(self._folder.manifest(number).work)

    def check(self, number: int | None = None) -> list[str]:
        """Compare a sealed release, or all of them and LIVE, with their checksums. Empty: all is well.

        Today's permissions are part of every release.
        """
        numbers = self._folder.numbers() if number is None else [number]
        found = [problem for each in numbers for problem in self._folder.check(each)]
        try:
            overlay.read(self._folder.permissions)
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
        from ragops.stores.edge_draft import Draft

        if release.number < 1:
            raise StoreError(f"{release.number} is no number for a release: they count from 1.")
        with self._writing() as lock:
            folder = self._folder.path(release.number)
            with disk_errors(self._folder.root):
                self._discard_drafts()
                if folder.exists():
                    raise StoreError(
                        f"Release {release.number} exists already in {self._folder.releases}.", "Use a new number."
                    )
                before = None if base is None else self._base(base, release)
                draft = Draft(self._folder, release, before, reserve=self._reserve)
                draft.check_space()
            try:
                return draft.write(delete, add, progress=progress, lock=lock)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise

    def tidy(self) -> None:
        """Remove what dead writers left."""
        if self._folder.releases.exists():
            with self._writing(), disk_errors(self._folder.root):
                self._discard_drafts()

    def publish(self, number: int, *, hold: bool = False) -> None:
        """Make a sealed release the live one, in one atomic step. Raises StoreError."""
        with self._writing(), disk_errors(self._folder.root):
            try:
                self._folder.sound(number)
            except FileNotFoundError:
                raise self._folder.missing(number) from None
            durable.write_atomic(self._folder.live, f"{number}{' held' if hold else ''}\n".encode())

    def permit(self, permissions: Mapping[str, Permission], *, upto: int) -> None:
        """Today's permissions of documents, by document id, in every release up to `upto`, for open readers too.

        Where the file of permissions is damaged, only those of every document of the newest release can replace it
        (StoreError otherwise); documents that are in older ones alone then have no tenant and no groups.
        """
        with self._writing(), disk_errors(self._folder.root):
            numbers = self._folder.numbers()
            try:
                before = overlay.read(self._folder.permissions)
                lost = False
            except Damaged as error:
                before = self._nobodys(permissions, numbers, error)
                lost = True
            after = overlay.trimmed(overlay.merged(before, permissions, upto), numbers)
            if lost or after != before:
                overlay.write(self._folder.permissions, after)

    def remove(self, number: int, *, timeout: float = 30.0) -> None:
        """Delete a sealed release that is not live. Waits `timeout` seconds for its readers, then raises StoreError."""
        with self._writing(), disk_errors(self._folder.root):
            folder = self._folder.path(number)
            if not is_sealed(folder):
                raise self._folder.missing(number)
            if self._folder.live_number() == number:
                raise StoreError(f"Release {number} is live and stays.", "Publish another one first.")
            try:
                with files.locked(folder / LOCK, exclusive=True, timeout=timeout):
                    self._unseal(folder)
            except FileNotFoundError:  # no LOCK, so no reader either
                self._unseal(folder)
            except TimeoutError:
                raise StoreError(
                    f"Release {number} is in use: a reader has kept it open for {timeout:g} s.",
                    "Close the processes that read it, or try again later.",
                ) from None
            try:
                before = overlay.read(self._folder.permissions)
            except Damaged:
                return  # every reader and `check` tell of it, the next ingest mends it
            after = overlay.trimmed(before, self._folder.numbers())
            if after != before:
                overlay.write(self._folder.permissions, after)

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
            documents = set(self._folder.rows(number, ["document_id"])["document_id"])
            if number == numbers[-1] and not permissions.keys() >= documents:
                raise damage
            found |= dict.fromkeys(documents, overlay.Entry("", (), numbers[-1]))
        return found

    def _open(self, number: int, *, unsound: bool) -> EdgeReader:
        folder = self._folder.path(number)
        try:
            lock = files.lock(folder / LOCK, exclusive=False, timeout=5.0)
        except TimeoutError:
            raise FileNotFoundError(folder) from None  # being removed
        except FileNotFoundError:
            if not is_sealed(folder):
                raise
            (folder / LOCK).touch()  # someone tidied it away
            lock = files.lock(folder / LOCK, exclusive=False, timeout=5.0)
        except PermissionError as error:
            raise forbidden(error) from error
        try:
            seal = self._folder.sound(number, longer=unsound)
            self._mend_config(folder, seal)
            from ragops.stores.edge_reader import EdgeReader

            try:
                return EdgeReader(folder, seal, lock, overlay.Today(self._folder.permissions, number))
            except StoreError as error:
                if other := other_engine(seal):
                    raise StoreError(
                        f"Release {number} was sealed by {other}, which {engine_name()} cannot open: {error.message}",
                        "`ragops ingest` builds the newest release again from the dataset; nothing is embedded for it.",
                    ) from error
                raise
        except BaseException:
            files.unlock(lock)
            raise

    def _mend_config(self, folder: Path, seal: Manifest) -> None:
        try:
            config = json.loads((folder / CONFIG).read_bytes())
        except (FileNotFoundError, ValueError):
            config = None
        if config != seal.engine["edge_config"]:
            with disk_errors(self._folder.root):
                durable.write_atomic(folder / CONFIG, json.dumps(seal.engine["edge_config"]).encode())

    @contextmanager
    def _writing(self) -> Iterator[int]:
        """The store's own lock. The writing process holds it too, so a draft is never swept away under one."""
        try:
            durable.make_folder(self._folder.releases)
            path = self._folder.root / "WRITER"
            path.touch(exist_ok=True)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"The disk under {self._folder.root} is full: {error.strerror}.", SPACE_HINT) from error
            raise StoreError(
                f"The store in {self._folder.root} cannot be written: {error.strerror} ({error.filename!r}).",
                "Check the folder's owner and permissions, and that its disk is not mounted read-only.",
            ) from error
        try:
            fd = files.lock(path, exclusive=True, timeout=self._patience)
        except TimeoutError:
            raise StoreError(
                f"Another process is writing to the store in {self._folder.root}.",
                f"Wait for it; `fuser {path}` names it.",
            ) from None
        try:
            yield fd
        finally:
            files.unlock(fd)

    def _discard_drafts(self) -> None:
        for name in self._folder.names():
            folder = self._folder.releases / name
            if folder.is_dir() and not is_sealed(folder):
                shutil.rmtree(folder)
        for pattern in (".LIVE.*.tmp", ".permissions.json.*.tmp"):
            for stray in self._folder.root.glob(pattern):
                stray.unlink()

    def _unseal(self, folder: Path) -> None:
        (folder / MANIFEST).unlink()  # from here on it is a draft, whatever happens
        durable.sync(folder)
        shutil.rmtree(folder)

    def _base(self, number: int, release: Release) -> Manifest:
        try:
            seal = self._folder.sound(number)
        except FileNotFoundError:
            raise self._folder.missing(number) from None
        if other := other_engine(seal):  # readers may try; what is to last is not built on it
            raise Damaged(f"Release {number} was sealed by {other}, and is no base for {engine_name()}.", MEND)
        manifest.check_base(seal.release, release)
        return seal
