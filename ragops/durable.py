"""What makes writing durable: fsync of files and folders, and replacing a file in one step."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def sync(path: str | Path) -> None:
    """fsync a file or a folder."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below, and the folder itself."""
    for base, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(os.path.join(base, name))
        sync(base)


def make_folder(folder: Path) -> None:
    """The folder with all its parents, their names on disk on return."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        sync(each.parent)


def write_atomic(path: Path, data: bytes, mode: int = 0o666) -> None:
    """All of the data under that name, or what was there before; durable on return. `mode` is subject to the umask."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def replace(draft: Path, file: Path) -> None:
    """Put a finished draft in the place of `file`, its bytes on disk first. The folder is the caller's to sync."""
    sync(draft)
    os.replace(draft, file)


def digest(file: Path) -> str | None:
    """Sha256 of a file's bytes, None where there is no such file."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
