"""The query log: what was asked and found, in parquet segments that polars reads as they are.

    polars.scan_parquet(".ragops/queries/*.parquet")

A query costs one call of `Log.record`, which never waits: a thread writes segments, and what does not fit into its
queue is counted and dropped. What was not written yet when a process dies is lost: at most `seconds` or `rows` of it.
"""

from __future__ import annotations

import atexit
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragops import durable
from ragops.errors import StoreError

if TYPE_CHECKING:
    import polars as pl

FOLDER = "queries"  # below .ragops
SUFFIX = ".parquet"
ROWS = 5_000  # of a segment
SECONDS = 60.0  # after which one is written, however small
QUEUE = 20_000  # events that may wait


@dataclass(frozen=True, slots=True)
class Found:
    """One hit as the log keeps it: no text."""

    chunk_id: str
    document_id: str
    score: float
    dense: float | None
    bm25: float | None


@dataclass(frozen=True, slots=True)
class Event:
    """One query. `vector`: float32 bytes of (dim,), None for a query by words alone. `text`: only if it is allowed."""

    id: str
    time: float  # seconds since 1970, UTC
    release: int
    space: str
    mode: str
    k: int
    ms: float
    found: tuple[Found, ...]
    tenant: str | None = None
    session: str | None = None
    vector: bytes | None = None
    text: str | None = None


def new_id() -> str:
    """Ids sort by the time at which they were made."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"


class Log:
    """Writes events of this process below `folder`. For any number of threads; a child after a fork writes its own."""

    def __init__(self, folder: Path, *, rows: int = ROWS, seconds: float = SECONDS, queue: int = QUEUE) -> None:
        self.folder = folder
        self._rows = rows
        self._seconds = seconds
        self._most = queue
        self._begin()
        os.register_at_fork(after_in_child=self._begin)
        atexit.register(self.close)

    def _begin(self) -> None:
        self._queue: deque[Event] = deque()
        self._dropped = 0
        self._wake = threading.Event()
        self._closed = False
        self._starting = threading.Lock()
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None
        self.trouble: str | None = None  # why the last segment could not be written

    def record(self, event: Event) -> None:
        """Keep an event, or count it as dropped. Never waits, never raises."""
        if self._closed or len(self._queue) >= self._most:
            self._dropped += 1
            return
        self._queue.append(event)
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="ragops-queries", daemon=True)
                    self._thread.start()
        if len(self._queue) >= self._rows:
            self._wake.set()

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._seconds)
            self._wake.clear()
            self.flush()

    def flush(self) -> None:
        """Write what waits. What cannot be written stays, as far as the queue has room; `trouble` says why."""
        with self._writing:
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(self._rows, len(self._queue)))]
                dropped, self._dropped = self._dropped, 0
                try:
                    write(self.folder, batch, dropped)
                    self.trouble = None
                except OSError as error:
                    self.trouble = f"{self.folder} cannot be written: {error.strerror or error}"
                    self._dropped += dropped
                    self._queue.extendleft(reversed(batch))
                    return

    def close(self) -> None:
        """Write what waits, and no more after it."""
        self._closed = True
        self._wake.set()
        self.flush()


def write(folder: Path, events: Sequence[Event], dropped: int) -> Path:
    """One segment. `dropped`: events that were lost before these; it stands in the first row. Raises OSError."""
    import io

    durable.make_folder(folder)
    begun = datetime.fromtimestamp(events[0].time, UTC)
    path = folder / f"{begun:%Y%m%dT%H%M%S}-{new_id()}{SUFFIX}"
    buffer = io.BytesIO()
    _frame(events, dropped).write_parquet(buffer, compression="zstd", statistics=True)
    durable.write_atomic(path, buffer.getvalue(), mode=0o600)
    return path


def _frame(events: Sequence[Event], dropped: int) -> pl.DataFrame:
    import numpy as np
    import polars as pl

    def vector(event: Event) -> list[float] | None:
        return None if event.vector is None else np.frombuffer(event.vector, dtype="<f4").tolist()

    rows: dict[str, list[Any]] = {
        "id": [event.id for event in events],
        "time": [round(event.time * 1_000_000) for event in events],
        "release": [event.release for event in events],
        "space": [event.space for event in events],
        "tenant": [event.tenant for event in events],
        "session": [event.session for event in events],
        "mode": [event.mode for event in events],
        "k": [event.k for event in events],
        "ms": [event.ms for event in events],
        "text": [event.text for event in events],
        "vector": [vector(event) for event in events],
        "chunk_ids": [[each.chunk_id for each in event.found] for event in events],
        "document_ids": [[each.document_id for each in event.found] for event in events],
        "scores": [[each.score for each in event.found] for event in events],
        "dense": [[each.dense for each in event.found] for event in events],
        "bm25": [[each.bm25 for each in event.found] for event in events],
        "dropped": [dropped] + [0] * (len(events) - 1),
    }
    return pl.DataFrame(rows, schema=schema())


def schema() -> dict[str, Any]:
    """Columns of a segment."""
    import polars as pl

    texts, numbers = pl.List(pl.String), pl.List(pl.Float32)
    return {
        "id": pl.String, "time": pl.Datetime("us", "UTC"), "release": pl.Int64, "space": pl.String,
        "tenant": pl.String, "session": pl.String, "mode": pl.String, "k": pl.Int64, "ms": pl.Float32,
        "text": pl.String, "vector": numbers, "chunk_ids": texts, "document_ids": texts, "scores": numbers,
        "dense": numbers, "bm25": numbers, "dropped": pl.Int64,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Read:
    """Events of a time, each once, by time; how many were dropped then; segments that are cut or strange."""

    events: pl.DataFrame
    dropped: int
    damaged: tuple[Path, ...]


def read(folder: Path, since: datetime | None = None, until: datetime | None = None) -> Read:
    """The events from `since` up to, and without, `until`. An event that stands twice counts once."""
    import polars as pl

    parts, damaged = [], []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            found = pl.read_parquet(path)
            if dict(found.schema) != schema():
                raise ValueError("its columns are others")
        except (OSError, ValueError, pl.exceptions.PolarsError):
            damaged.append(path)
            continue
        parts.append(found)
    events = pl.concat(parts) if parts else pl.DataFrame(schema=schema())
    if since is not None:
        events = events.filter(pl.col("time") >= since)
    if until is not None:
        events = events.filter(pl.col("time") < until)
    events = events.unique("id", keep="first", maintain_order=True).sort("time", "id", maintain_order=True)
    return Read(events, int(events["dropped"].sum()), tuple(damaged))


def prune(folder: Path, keep_days: float, keep_bytes: int, now: datetime | None = None) -> list[Path]:
    """Remove segments that are older than `keep_days`, and the oldest of what is more than `keep_bytes`."""
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    sizes = {path: path.stat().st_size for path in paths}
    total, oldest = sum(sizes.values()), (now or datetime.now(UTC)).timestamp() - keep_days * 86_400
    removed = []
    for path in paths:
        if path.stat().st_mtime >= oldest and total <= keep_bytes:
            continue
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{path} cannot be removed: {error.strerror}", "Remove it by hand.") from error
        total -= sizes[path]
        removed.append(path)
    return removed
