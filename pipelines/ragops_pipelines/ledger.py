"""What a run has found so far, kept in the work area, and how it becomes the recorded state."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping

from ragops.types import Entry, Metadata, Permission, Reject
from ragops_pipelines.job import Event, Progress
from ragops_pipelines.moves import moves
from ragops_pipelines.scan import Changes
from ragops_pipelines.snapshot import SEEN
from ragops_pipelines.state import Known, State

NOBODYS = '[""]'  # the permissions of a document of which nothing else is known
STAGES = ("scan", "fetch", "parse", "chunk", "embed", "dataset", "load", "publish")


class Ledger:
    """Counts, times and rows of the run in progress."""

    def __init__(self, state: State, tell: Progress) -> None:
        self.state = state
        self.tell = tell
        self.changes = Changes()
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.started = time.perf_counter()
        self.added = self.changed = 0  # sources
        self.computed = self.reused = 0  # vectors
        self.bytes_read = 0
        self.recovered: Mapping[str, Permission] = {}  # what a recovered dataset has otherwise than today's
        self.permits: dict[str, Permission] = {}  # document id -> what changed for releases that hold it, once recorded

    # -- rows
    def read(self, known: Known) -> None:
        """A source as it was read in this run."""
        self.state.save_source(known, "work.updated")

    def reject(self, reject: Reject, known: Known | None = None, entry: Entry | None = None) -> None:
        """A source that did not pass; it keeps its last content that did. Transient ones are tried again."""
        row = known or self.state.known(reject.uri)
        if row is None:
            row = Known(reject.uri, reject.source, "", False, "", None, None, None, None, None, None, True)
        row.rejected = True
        row.raw_sha = reject.raw_sha or row.raw_sha
        if entry is not None:
            row.token, row.settled, row.container = entry.token, entry.settled, entry.container
        if reject.transient:
            row.settled = False
        self.read(row)
        self.state.save_reject(reject, "work.rejected")

    def updated(self, uri: str) -> Known | None:
        return self.state.known(uri, "work.updated")

    # -- progress
    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start

    def progress(self, stage: str, done: int, total: int | None = None) -> None:
        share = min(1.0, self.bytes_read / self.changes.bytes) if self.changes.bytes else None
        self.tell(Event(stage, done, total, share))

    def elapsed(self) -> dict[str, float]:
        total = time.perf_counter() - self.started
        return {"total": round(total, 3)} | {stage: round(value, 3) for stage, value in self.seconds.items()}

    # -- recording
    def visible(self) -> bool:
        """Whether snapshot or dataset will look different: more than change tokens is new."""
        row = self.state.db.execute(
            "SELECT count(*) FROM work.updated u LEFT JOIN sources s USING (uri) WHERE s.uri IS NULL"
            " OR (s.raw_sha, s.rejected, s.metadata, s.kept) IS NOT (u.raw_sha, u.rejected, u.metadata, u.kept)"
        ).fetchone()
        return bool(row[0] or self.changes.removed)

    def record(self) -> tuple[int, int]:
        """Bring the state to what this run found, within the caller's transaction.

        Returns the numbers of points removed and added. `work.old` and `work.wanted` keep their ids.
        """
        db = self.state.db
        self._record_permissions()
        if self.changes.removed:  # before sources and points are
            self.state.save_moves(moves(db, self.changes.removed))
        for column in ("raw_sha", "doc_raw_sha"):  # bytes that perhaps nothing names any more
            old = f"INSERT OR IGNORE INTO work.old_objects SELECT {column} FROM sources WHERE {column} IS NOT NULL"
            db.execute(f"{old} AND uri IN (SELECT uri FROM work.updated)")
            db.executemany(f"{old} AND uri = ?", ((uri,) for uri in self.changes.removed))
        seen = ", ".join(f"s.{name}" for name in SEEN), ", ".join(f"u.{name}" for name in SEEN)
        db.execute(
            "INSERT OR IGNORE INTO work.old_sources SELECT uri FROM work.updated u LEFT JOIN sources s USING (uri)"
            f" WHERE ({seen[0]}) IS NOT ({seen[1]})"
        )
        db.executemany("INSERT OR IGNORE INTO work.old_sources VALUES (?)", ((uri,) for uri in self.changes.removed))
        for uri in self.changes.removed:
            db.execute("INSERT OR IGNORE INTO work.gone SELECT document_id FROM sources WHERE uri = ?"
                       " AND document_id IS NOT NULL", (uri,))  # fmt: skip
            db.execute("DELETE FROM sources WHERE uri = ?", (uri,))
            db.execute("DELETE FROM rejects WHERE uri = ?", (uri,))
        db.execute("DELETE FROM rejects WHERE uri IN (SELECT uri FROM work.updated WHERE NOT rejected)")
        db.execute("INSERT OR REPLACE INTO sources SELECT * FROM work.updated")
        db.execute(
            "INSERT INTO rejects SELECT * FROM work.rejected WHERE true ON CONFLICT (uri) DO UPDATE SET"
            " source=excluded.source, stage=excluded.stage, code=excluded.code, reason=excluded.reason,"
            " hint=excluded.hint, raw_sha=excluded.raw_sha, transient=excluded.transient, attempts=rejects.attempts + 1"
        )
        db.executemany(
            "INSERT OR REPLACE INTO containers VALUES (?, ?, ?)",
            ((uri, source, token) for uri, (source, token) in self.changes.containers.items()),
        )
        db.execute("INSERT INTO work.old SELECT point_id FROM points WHERE document_id IN (SELECT * FROM work.gone)")
        db.execute("DELETE FROM points WHERE document_id IN (SELECT * FROM work.gone)")
        db.execute("INSERT INTO points SELECT * FROM work.wanted")
        removed = "SELECT count(*) FROM work.old WHERE point_id NOT IN (SELECT point_id FROM work.wanted)"
        added = "SELECT count(*) FROM work.wanted WHERE point_id NOT IN (SELECT point_id FROM work.old)"
        return db.execute(removed).fetchone()[0], db.execute(added).fetchone()[0]

    def _record_permissions(self) -> None:
        """Before the sources are: only what was there before, perhaps in an older release, can have changed."""
        db = self.state.db
        old = "SELECT document_id FROM sources WHERE document_id IS NOT NULL"
        kept = f"SELECT document_id, '{NOBODYS}' FROM sources WHERE document_id IS NOT NULL"
        for uri in self.changes.removed:
            db.execute(f"INSERT OR IGNORE INTO permissions {kept} AND uri = ?", (uri,))
        self.permits = {
            document: permission(value)
            for document, value in db.execute(
                "SELECT w.document_id, w.value FROM work.permissions w LEFT JOIN permissions p USING (document_id)"
                f" WHERE w.value != coalesce(p.value, '{NOBODYS}')"
                f" AND (p.value IS NOT NULL OR w.document_id IN ({old}))"
            )
        }
        db.execute(
            "INSERT OR REPLACE INTO permissions SELECT w.document_id, w.value FROM work.permissions w"
            f" LEFT JOIN permissions p USING (document_id) WHERE w.value != coalesce(p.value, '{NOBODYS}')"
        )


def permission_to_json(metadata: Metadata) -> str:
    return json.dumps([metadata.tenant, *metadata.groups])


def all_permissions(state: State) -> dict[str, Permission]:
    """Of every document that is or was, by document id."""
    rows = state.db.execute(
        "SELECT s.document_id, coalesce(p.value, ?) FROM sources s LEFT JOIN permissions p USING (document_id)"
        " WHERE s.document_id IS NOT NULL UNION SELECT document_id, value FROM permissions",
        (NOBODYS,),
    )
    return {document: permission(value) for document, value in rows}


def permission(value: str) -> Permission:
    tenant, *groups = json.loads(value)
    return tenant, tuple(groups)
