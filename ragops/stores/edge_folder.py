"""The sealed folders of an embedded store as they stand on disk: which there are, which is live, what is wrong.

A folder is a release if and only if it has a manifest.json, which is written last. Nothing here writes.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.errors import DiskFull, RagopsError, StoreError
from ragops.stores import files, manifest
from ragops.stores.manifest import MEND, SPACE_HINT, Absent, Damaged, Manifest

if TYPE_CHECKING:
    import polars as pl

ENGINE = "qdrant-edge"
RELEASE = re.compile(r"[0-9]{8,18}")
SHARD, POINTS, MANIFEST, LOCK = "shard", "points.parquet", "manifest.json", "LOCK"
CONFIG = f"{SHARD}/edge_config.json"  # rewritten by every load, so not sealed but kept in the manifest


class Folder:
    """`<store>/<collection>`: the folder of one collection."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.releases = root / "releases"
        self.live = root / "LIVE"
        self.permissions = root / "permissions.json"
        self._glanced: tuple[tuple[int, ...], Manifest] | None = None

    def path(self, number: int) -> Path:
        return self.releases / f"{number:08d}"

    def names(self) -> list[str]:
        """The folders that are named as releases are, sealed or not."""
        try:
            return sorted(name for name in os.listdir(self.releases) if RELEASE.fullmatch(name))
        except FileNotFoundError:
            return []
        except PermissionError as error:
            raise forbidden(error) from error

    def numbers(self) -> list[int]:
        """Sealed releases, sound or damaged."""
        try:
            return sorted(int(name) for name in self.names() if is_sealed(self.releases / name))
        except PermissionError as error:
            raise forbidden(error) from error

    def pointer(self) -> tuple[int, bool] | None:
        """What LIVE says: the number, and whether it is held."""
        try:
            text = self.live.read_text("ascii")
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise forbidden(error) from error
        except UnicodeDecodeError:
            text = "?"
        number, _, rest = text.strip().partition(" ")
        if not number.isdigit() or rest not in ("", "held"):
            raise Damaged(f"{self.live} is damaged: it names no release.", MEND)
        return int(number), rest == "held"

    def live_number(self) -> int | None:
        pointer = self.pointer()
        return None if pointer is None else pointer[0]

    def missing(self, number: int) -> Absent:
        there = ", ".join(str(each) for each in self.numbers()) or "none"
        return Absent(f"There is no release {number} in {self.releases} (there: {there}).", MEND)

    def manifest(self, number: int) -> Manifest:
        """The seal of a release. Raises StoreError, Damaged, SchemaError."""
        path = self.path(number) / MANIFEST
        try:
            value = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise self.missing(number) from None
        except PermissionError as error:
            raise forbidden(error) from error
        except ValueError as error:
            raise Damaged(f"{path} is damaged: {error}", MEND) from error
        found = manifest.load(value, str(path))
        if found.release.number != number:
            raise Damaged(f"{path} is that of release {found.release.number}: its folder was renamed.", MEND)
        return found

    def glance(self, number: int) -> Manifest:
        """As `manifest`, read again only where its file was touched: readers ask before every query."""
        path = self.path(number) / MANIFEST
        try:
            status = os.stat(path)
        except OSError:
            return self.manifest(number)
        stamp = number, status.st_mtime_ns, status.st_ino, status.st_size
        known = self._glanced
        if known is None or known[0] != stamp:
            known = self._glanced = stamp, self.manifest(number)
        return known[1]

    def sound(self, number: int, *, longer: bool = False) -> Manifest:
        """The manifest, after a quick look: every file is there in its size (or `longer`, if that is allowed).

        Raises FileNotFoundError if unsealed, Damaged.
        """
        folder = self.path(number)
        if not is_sealed(folder):
            raise FileNotFoundError(folder)
        seal = self.manifest(number)
        for name, (size, _) in seal.files.items():
            try:
                actual = os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                # The engine drops a segment in silence when one of its files is gone: never let it see this.
                raise damaged(folder, f"{name} is missing") from None
            except PermissionError as error:
                raise forbidden(error) from error
            if actual < size or (actual > size and not longer):
                raise damaged(folder, f"{name} has {actual:,} bytes instead of {size:,}")
        return seal

    def check(self, number: int) -> list[str]:
        """What is wrong with a release, by the checksums of all its files."""
        folder = self.path(number)
        try:
            seal = self.sound(number)
        except FileNotFoundError:
            return [self.missing(number).message]
        except RagopsError as error:
            return [error.message]
        found = [
            damaged(folder, f"{name} does not have its checksum").message
            for name, (_, expected) in seal.files.items()
            if files.checksum(folder / name) != expected
        ]
        known = {*seal.files, CONFIG}
        found.extend(
            damaged(folder, f"{SHARD}/{name} does not belong to it").message
            for name in files.walk(folder / SHARD)
            if f"{SHARD}/{name}" not in known
        )
        return found

    def rows(self, number: int, columns: list[str], start: int = 0, count: int | None = None) -> pl.DataFrame:
        """Columns of points.parquet, sorted by point id; `count` rows from `start` where not all."""
        import polars as pl

        path = self.path(number) / POINTS
        if not is_sealed(self.path(number)):
            raise self.missing(number)
        try:
            if count is not None:
                return pl.scan_parquet(path).select(columns).slice(start, count).collect()
            return pl.read_parquet(path, columns=columns)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise Damaged(f"{path} cannot be read: {error}", MEND) from error


def is_sealed(folder: Path) -> bool:
    return (folder / MANIFEST).exists()  # raises PermissionError: a folder we cannot see into is no draft


def damaged(folder: Path, what: str) -> Damaged:
    return Damaged(f"Release {int(folder.name)} is damaged: {what} (in {folder}).", MEND)


def forbidden(error: OSError) -> StoreError:
    return StoreError(
        f"{error.filename!r} cannot be read: {error.strerror}", "Give this user read and write permission to the store."
    )


def engine_name() -> str:
    from importlib.metadata import version

    return f"{ENGINE} {version('qdrant-edge-py')}"


def other_engine(seal: Manifest) -> str | None:
    """The engine that sealed a release, None where it is the one at hand."""
    name = f"{seal.engine.get('name')} {seal.engine.get('version')}"
    return None if name == engine_name() else name


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """A full disk by its name, wherever it shows."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error) or "No space left" in str(error):
            raise DiskFull(f"The disk under {folder} is full: {error}.", SPACE_HINT) from error
        raise StoreError(
            f"The store in {folder} failed: {error}", "Check the folder's owner and permissions, and its disk."
        ) from error
