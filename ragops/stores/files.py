"""Sealed folders: locks, sparse copies, checksums, and what makes them durable."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

BLOCK = 1 << 16
_ZERO = bytes(BLOCK)
_FICLONE = 0x40049409  # linux/fs.h: share the blocks of a file, where the file system can


@contextmanager
def locked(path: Path, *, exclusive: bool, timeout: float) -> Iterator[int]:
    """Hold a flock on `path` and give its descriptor. Raises TimeoutError, FileNotFoundError."""
    fd = lock(path, exclusive=exclusive, timeout=timeout)
    try:
        yield fd
    finally:
        unlock(fd)


def unlock(fd: int) -> None:
    """Release at once, even where a forked process still has a copy of the descriptor."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def lock(path: Path, *, exclusive: bool, timeout: float) -> int:
    """A descriptor that holds a flock until it is closed. Reading is enough for one."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    deadline = time.monotonic() + timeout
    try:
        while True:
            try:
                fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                return fd
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"{path} is locked") from None
                time.sleep(0.02)
    except BaseException:
        os.close(fd)
        raise


def walk(folder: Path) -> Iterator[str]:
    """Relative paths of the files below a folder, sorted; the engine's own temporary folders left out."""
    found: list[str] = []
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".atomicwrite") and name != "temp_segments"]
        below = os.path.relpath(base, folder)
        found.extend(name if below == "." else f"{below}/{name}" for name in names)
    yield from sorted(found)


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that hold data, as (start, end), holes left out."""
    start = 0
    while start < size:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end
        start = end


def hash_block(digest: Hash, at: int, block: bytes) -> None:
    """One block of a checksum; those that are all zeros are left out."""
    digest.update(at.to_bytes(8, "big"))
    digest.update(block)


def blocks(fd: int) -> Iterator[tuple[int, bytes]]:
    """The 64 KiB blocks of a file that are not all zeros, with their offsets: the same, sparse or not."""
    size = os.fstat(fd).st_size
    done = 0
    for start, end in _extents(fd, size):
        at = max(done, start - start % BLOCK)
        while at < end:
            block = os.pread(fd, BLOCK, at)
            if not block:
                return
            if block != _ZERO[: len(block)]:
                yield at, block
            at += BLOCK
        done = at


def checksum(path: str | Path) -> str:
    """sha256 over a file's size and its non-zero 64 KiB blocks with their offsets: cheap where a file is sparse."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        digest = hashlib.sha256(os.fstat(fd).st_size.to_bytes(8, "big"))
        for at, block in blocks(fd):
            hash_block(digest, at, block)
        return digest.hexdigest()
    finally:
        os.close(fd)


def copy_sparse(source: str | Path, target: str | Path) -> tuple[str, int]:
    """Copy a file with its holes, by reflink where possible. Gives its checksum and the bytes written."""
    src = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        dst = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            cloned = _reflink(src, dst)
            size = os.fstat(src).st_size
            digest = hashlib.sha256(size.to_bytes(8, "big"))
            copied = 0
            for at, block in blocks(src):
                hash_block(digest, at, block)
                if not cloned:
                    write_all(dst, block, at)
                    copied += len(block)
            os.ftruncate(dst, size)
            return digest.hexdigest(), copied
        finally:
            os.close(dst)
    finally:
        os.close(src)


def _reflink(src: int, dst: int) -> bool:
    try:
        fcntl.ioctl(dst, _FICLONE, src)
    except OSError:
        return False  # most file systems; the copy follows
    return True


def write_all(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written


def allocated(folder: Path) -> int:
    """Bytes on disk of a folder's files."""
    return sum(os.stat(os.path.join(folder, name)).st_blocks * 512 for name in walk(folder))


def free_bytes(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
