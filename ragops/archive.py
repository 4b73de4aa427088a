"""A tar file of a workspace: holes left out, every member with a checksum; read back with distrust.

Plain tar (pax, with GNU's sparse files, which `tar -xf` knows too). The first member, `backup.json`, says what it is;
the last, `checksums.json`, lists all others: an archive that was cut short has none.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ragops.errors import SchemaError, StoreError, UsageError
from ragops.stores import files

SCHEMA = 1
KIND = "ragops backup"
HEAD, TAIL = "backup.json", "checksums.json"
MAX_LIST = 1 << 28  # bytes of a backup's own lists
FOLDERS = ("data", ".ragops")
FILES = ("params.yaml", "dvc.yaml", "dvc.lock", ".gitignore", ".dvcignore")


@dataclass(slots=True)
class Writer:
    """Members of an archive, one after the other."""

    tar: tarfile.TarFile
    told: Callable[[int], None]  # bytes written so far
    checksums: dict[str, str]
    size: int = 0

    def add(self, name: str, file: Path) -> None:
        """A file under a name in the archive; through a link, its content."""
        with file.open("rb") as source:
            status = os.fstat(source.fileno())
            if status.st_size <= files.BLOCK:
                self.add_bytes(name, source.read(), int(status.st_mtime))
                return
            parts = _parts(source.fileno(), status.st_size)
            info = _info(name, int(status.st_mtime))
            start = b""
            if sum(length for _, length in parts) < status.st_size:
                info.name = f"GNUSparseFile.0/{len(self.checksums)}"  # short: a long one would hide the real one
                info.pax_headers = {
                    "GNU.sparse.major": "1",
                    "GNU.sparse.minor": "0",
                    "GNU.sparse.name": name,
                    "GNU.sparse.realsize": str(status.st_size),
                }
                listed = [*parts, (status.st_size, 0)]
                start = f"{len(listed)}\n{''.join(f'{at}{chr(10)}{length}{chr(10)}' for at, length in listed)}".encode()
                start += bytes(-len(start) % tarfile.BLOCKSIZE)
            info.size = len(start) + sum(length for _, length in parts)
            reading = _Reading(source, status.st_size, parts, start)
            self.tar.addfile(info, reading)
            self.checksums[name] = reading.digest.hexdigest()
            self.size += info.size
            self.told(self.size)

    def add_bytes(self, name: str, data: bytes, mtime: int = 0) -> None:
        info = _info(name, mtime)
        info.size = len(data)
        self.tar.addfile(info, io.BytesIO(data))
        self.checksums[name] = checksum(data)
        self.size += len(data)
        self.told(self.size)

    def add_folder(self, name: str) -> None:
        """One that is empty: others come with what they hold."""
        info = _info(name, 0)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        self.tar.addfile(info)
        self.checksums[name] = ""


class _Reading(io.RawIOBase):
    """What is written of a file, hashed on the way: the list of its parts, then these."""

    def __init__(self, source: IO[bytes], size: int, parts: list[tuple[int, int]], start: bytes) -> None:
        self._source = source
        self._places = (at for start, length in parts for at in range(start, start + length, files.BLOCK))
        self._size = size
        self._pending = start
        self.digest = hashlib.sha256(size.to_bytes(8, "big"))

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, fewer only at the end."""
        found = [self._pending]
        count = len(self._pending)
        while count < size and (at := next(self._places, None)) is not None:
            block = os.pread(self._source.fileno(), files.BLOCK, at)
            if len(block) < min(files.BLOCK, self._size - at):
                raise StoreError(f"{self._source.name} became shorter while it was read", "Run it again.")
            files.hash_block(self.digest, at, block)
            found.append(block)
            count += len(block)
        data = b"".join(found)
        self._pending = data[size:]
        return data[:size]


def _parts(fd: int, size: int) -> list[tuple[int, int]]:
    """The stretches of a file that are not all zeros, as (offset, length)."""
    found: list[tuple[int, int]] = []
    for at, block in files.blocks(fd):
        if found and sum(found[-1]) == at:
            found[-1] = found[-1][0], found[-1][1] + len(block)
        else:
            found.append((at, len(block)))
    return found


def _info(name: str, mtime: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mtime, info.mode = mtime, 0o644
    return info


def checksum(data: bytes) -> str:
    """Of bytes as `stores.files.checksum` has it of a file."""
    digest = hashlib.sha256(len(data).to_bytes(8, "big"))
    for at in range(0, len(data), files.BLOCK):
        block = data[at : at + files.BLOCK]
        if block.count(0) != len(block):
            files.hash_block(digest, at, block)
    return digest.hexdigest()


# ---------------------------------------------------------------- reading
def open_archive(file: Path) -> tuple[tarfile.TarFile, dict[str, Any], list[tarfile.TarInfo]]:
    """An archive, what it says of itself, and its members without its own lists. Raises UsageError, SchemaError."""
    try:
        tar = tarfile.open(file, "r:")  # noqa: SIM115
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file", "Give the file that `ragops backup` wrote.") from None
    except (tarfile.TarError, EOFError, IsADirectoryError) as error:
        raise _foreign(file, str(error)) from error
    try:
        head, members = _contents(file, tar)
    except BaseException:
        tar.close()
        raise
    return tar, head, members


def _contents(file: Path, tar: tarfile.TarFile) -> tuple[dict[str, Any], list[tarfile.TarInfo]]:
    try:
        first = tar.next()
        if first is None or first.name != HEAD:
            raise _foreign(file, f"its first member is not {HEAD}")
        head = _json(tar, first)
        if head.get("kind") != KIND:
            raise _foreign(file, f"{HEAD} is of another kind")
        if head["schema"] > SCHEMA:
            raise SchemaError.newer(file, head["schema"], SCHEMA)
        members = tar.getmembers()
        if members[-1].name != TAIL:
            raise _cut(file)
        checksums = _json(tar, members[-1])
    except (tarfile.TarError, EOFError) as error:
        raise _cut(file) from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _foreign(file, str(error)) from error
    listed = members[1:-1]
    names = [member.name for member in listed]
    for member in listed:
        if not _harmless(member):
            raise UsageError(
                f"{file} holds {member.name!r}, which no backup of a workspace has",
                "Nothing was unpacked. Do not trust this file.",
            )
    if len(set(names)) != len(names) or set(names) != checksums.keys():
        raise _damaged(file, "its members are not those that it lists")
    return head | {"checksums": checksums}, listed


def _json(tar: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    if not member.isreg() or member.size > MAX_LIST:
        raise ValueError(f"{member.name} is no list")
    source = tar.extractfile(member)
    assert source is not None
    data = source.read()
    if len(data) != member.size:
        raise EOFError
    return dict(json.loads(data))


def _harmless(member: tarfile.TarInfo) -> bool:
    """A plain file or folder, at a place that a workspace has."""
    path = PurePosixPath(member.name)
    inside = len(path.parts) > 1 and path.parts[0] in FOLDERS
    known = inside or (len(path.parts) == 1 and (path.name in FILES or path.suffix == ".dvc"))
    plain = member.isreg() or member.isdir()
    return plain and known and str(path) == member.name and ".." not in path.parts and "\0" not in member.name


def unpack(
    file: Path, tar: tarfile.TarFile, members: list[tarfile.TarInfo], checksums: Mapping[str, str], folder: Path,
    told: Callable[[int], None],
) -> None:  # fmt: skip
    """Write the members below an empty folder, with their holes, and compare each with its checksum.

    Raises UsageError for a damaged archive.
    """
    done = 0
    for member in members:
        target = folder / member.name
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            found = _unpack(tar, member, target)
        except (tarfile.TarError, EOFError) as error:
            raise _cut(file) from error
        if found != checksums[member.name]:
            raise _damaged(file, f"{member.name} does not have its checksum")
        done += stored_size(member)
        told(done)


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> str:
    source = tar.extractfile(member)
    assert source is not None
    digest = hashlib.sha256(member.size.to_bytes(8, "big"))
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        for at in _places(member):
            source.seek(at)
            block = source.read(min(files.BLOCK, member.size - at))
            if block.count(0) != len(block):
                files.hash_block(digest, at, block)
                files.write_all(fd, block, at)
        os.ftruncate(fd, member.size)
    finally:
        os.close(fd)
    return digest.hexdigest()


def _places(member: tarfile.TarInfo) -> Iterator[int]:
    """Offsets of the blocks that may hold something."""
    done = 0
    for start, length in _stretches(member):
        for at in range(max(done, start - start % files.BLOCK), min(start + length, member.size), files.BLOCK):
            yield at
            done = at + files.BLOCK


def stored_size(member: tarfile.TarInfo) -> int:
    """Bytes that the archive holds of a member."""
    return sum(length for _, length in _stretches(member))


def _stretches(member: tarfile.TarInfo) -> list[tuple[int, int]]:
    sparse: Any = member.sparse  # the type stubs say bytes
    return [(0, member.size)] if sparse is None else sparse


def _foreign(file: Path, why: str) -> UsageError:
    return UsageError(f"{file} is no backup of ragops: {why}", "Give the file that `ragops backup` wrote, not packed.")


def _cut(file: Path) -> UsageError:
    return UsageError(f"{file} was cut short", "Copy it again, or take another backup. Nothing was changed.")


def _damaged(file: Path, what: str) -> UsageError:
    return UsageError(f"{file} is damaged: {what}", "Copy it again, or take another backup. Nothing was changed.")
