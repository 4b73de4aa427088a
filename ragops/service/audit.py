"""What was asked by whom, a line of JSON for each request: never a key's secret, never the text of a query."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from ragops import durable
from ragops.errors import StoreError
from ragops.service.access import Asker

FILE = "log/audit.jsonl"  # below .ragops
FEEDBACK = "feedback.jsonl"
TAIL = 4 << 20  # bytes of the end that are read to tell who uses the service


@dataclass(slots=True)
class Record:
    """A request on its way; the routes put in what they know."""

    request: str
    asker: Asker | None = None
    release: int | None = None
    hits: int | None = None
    queries: int | None = None
    reason: str | None = None
    route: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


class Log:
    """A file that only grows, by whole lines, from any number of processes. It may be moved away at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        self._inode = 0
        self._made = False

    def write(self, value: Mapping[str, Any]) -> None:
        """One line. Raises StoreError where it cannot be written."""
        line = orjson.dumps(value) + b"\n"
        try:
            try:
                moved = os.stat(self.path).st_ino != self._inode
            except FileNotFoundError:
                moved = True
            if self._fd < 0 or moved:
                self.close()
                if self._made:  # of a workspace that was moved away, nothing is made anew in its old place
                    self.path.parent.mkdir(exist_ok=True)
                else:
                    durable.make_folder(self.path.parent)
                    self._made = True
                self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._inode = os.fstat(self._fd).st_ino
            written = os.write(self._fd, line)
            if written != len(line):
                raise OSError("the disk is full")
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written: {error.strerror or error}", "Free some space.") from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def line(record: Record, status: int, seconds: float) -> dict[str, Any]:
    """A request as the audit log has it."""
    asker = record.asker
    return {
        "time": now(),
        "request": record.request,
        "key": None if asker is None else asker.key,
        "tenant": None if asker is None else asker.tenant,
        "route": record.route,
        "release": record.release,
        "status": status,
        "ms": round(seconds * 1000, 2),
        "queries": record.queries,
        "hits": record.hits,
        "reason": record.reason,
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class Usage:
    """What one key did lately: within the last megabytes of the log."""

    key: str
    requests: int
    refused: int  # with status 4xx or 5xx
    last: str


def usage(path: Path) -> dict[str, Usage]:
    """By key id. Nothing where there is no log."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - TAIL))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return {}
    found: dict[str, Usage] = {}
    for each in lines[1:] if size > TAIL else lines:
        try:
            value = orjson.loads(each)
            key, status, time = value["key"], int(value["status"]), str(value["time"])
        except (ValueError, KeyError, TypeError):
            continue  # a line that is cut, or somebody's own
        if isinstance(key, str):
            old = found.get(key)
            requests, refused = (old.requests, old.refused) if old else (0, 0)
            found[key] = Usage(key, requests + 1, refused + (status >= 400), time)
    return found
