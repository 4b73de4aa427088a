"""Connectors over a folder, and what they list."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ragops_connectors.files import Files, FilesSettings
from ragops_connectors.records import Records, RecordsSettings
from tests.connector_contract import Listing, listing


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def bury(folder: Path) -> None:
    """Folders deeper than a path can be long: their contents cannot be listed, not even by root."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=fd)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


def files(root: Path, subtree: str = "", /, **options: Any) -> Files:
    return Files("docs", root, FilesSettings(**options), subtree)


def names(found: Listing) -> list[str]:
    """Paths of the listed entries."""
    return [entry.uri.removeprefix("docs:/") for entry in found.entries]


def records(root: Path, data: str | bytes | None = None, /, path: str = "rows.jsonl", **options: Any) -> Records:
    if data is not None:
        write(root / path, data)
    return Records("docs", root, RecordsSettings(path=path, **options))


def texts(connector: Records) -> dict[str, str]:
    return {e.uri.removeprefix("docs:/"): connector.fetch(e).data.decode() for e in listing(connector).entries}
