"""What a workspace knows between runs: stdlib sqlite3, so that a no-op costs no import.

`State` is what was seen and done (the last recorded run); `Cache` is what can be computed again (parses by content,
vectors by text). Losing the cache costs time, never correctness; losing the state costs one full comparison.
"""

from __future__ import annotations

import json
import math
import sqlite3
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ragops.errors import SchemaError, StoreError
from ragops.types import Metadata, Parsed, Reject, Span

if TYPE_CHECKING:
    from ragops.types import Vectors
    from ragops_pipelines.segments import Segment

SCHEMA = 3
NOTHING_SEEN = '[null,"",[],{}]'  # metadata of a source of which its connector says nothing
CACHE_SCHEMA = 2  # 1: without the table `numerics`; 0: the same without a version

_STATE = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sources (
    uri TEXT PRIMARY KEY, source TEXT NOT NULL, token TEXT NOT NULL, settled INTEGER NOT NULL, container TEXT NOT NULL,
    raw_sha TEXT, size INTEGER, media_type TEXT, encoding TEXT, metadata TEXT, parse_key TEXT,
    rejected INTEGER NOT NULL, kept INTEGER NOT NULL, -- kept: whether the snapshot keeps its bytes
    -- the document that it gave: after a reject, of the last content that passed
    document_id TEXT, doc_raw_sha TEXT, doc_parse_key TEXT, doc_metadata TEXT, version TEXT, digest TEXT, chunks INTEGER
) WITHOUT ROWID;
-- All that a run without news reads of them, in a fifth of the pages.
CREATE INDEX IF NOT EXISTS tokens ON sources (uri, token, settled);
CREATE INDEX IF NOT EXISTS bytes ON sources (raw_sha);
CREATE INDEX IF NOT EXISTS doc_bytes ON sources (doc_raw_sha);
CREATE TABLE IF NOT EXISTS containers (uri TEXT PRIMARY KEY, source TEXT NOT NULL, token TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS points (
    document_id TEXT NOT NULL, nth INTEGER NOT NULL, point_id TEXT NOT NULL, vector_key TEXT NOT NULL,
    PRIMARY KEY (document_id, nth)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stored (vector_key TEXT PRIMARY KEY, segment TEXT NOT NULL) WITHOUT ROWID;
-- the row of a key in the segments of a part: "documents" by document id, "sources" by uri, "objects" by hash
CREATE TABLE IF NOT EXISTS placed (
    part TEXT NOT NULL, key TEXT NOT NULL, segment TEXT NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (part, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rejects (
    uri TEXT PRIMARY KEY, source TEXT NOT NULL, stage TEXT NOT NULL, code TEXT NOT NULL, reason TEXT NOT NULL,
    hint TEXT NOT NULL, raw_sha TEXT, transient INTEGER NOT NULL, first_seen TEXT NOT NULL, attempts INTEGER NOT NULL
) WITHOUT ROWID;
-- as JSON; documents without a row have [DEFAULT]; what was deleted keeps its row, as older releases still hold it
CREATE TABLE IF NOT EXISTS permissions (document_id TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, started TEXT NOT NULL, finished TEXT, outcome TEXT, summary TEXT);
"""

_MOVES = """
CREATE TABLE IF NOT EXISTS moves (number INTEGER PRIMARY KEY AUTOINCREMENT, old TEXT NOT NULL, new TEXT NOT NULL)"""

# Tables of large values keep their rowids: rows are then appended, and only small keys are sorted in.
# The run in progress: what will be written, dropped when the next run starts.
_WORK = """
CREATE TABLE work.staged (document_id TEXT PRIMARY KEY, document BLOB NOT NULL, chunks BLOB NOT NULL);
CREATE TABLE work.objects (sha TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE work.gone (document_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE work.old (point_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE work.wanted (document_id TEXT NOT NULL, nth INTEGER NOT NULL, point_id TEXT NOT NULL UNIQUE,
    vector_key TEXT NOT NULL, PRIMARY KEY (document_id, nth)) WITHOUT ROWID;
CREATE TABLE work.permissions (document_id TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE work.old_objects (sha TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE work.old_sources (uri TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE work.base (point_id TEXT PRIMARY KEY) WITHOUT ROWID;
"""

_CACHE = """
CREATE TABLE IF NOT EXISTS parses (key TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS vectors (key TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS numerics (space TEXT, value TEXT, PRIMARY KEY (space, value)) WITHOUT ROWID;
"""


@dataclass(slots=True)
class Known:
    """One row of `sources`: what the last recorded run knew of a source."""

    uri: str
    source: str
    token: str
    settled: bool
    container: str
    raw_sha: str | None
    size: int | None
    media_type: str | None
    encoding: str | None
    metadata: str | None
    parse_key: str | None
    rejected: bool
    kept: bool = True
    document_id: str | None = None
    doc_raw_sha: str | None = None
    doc_parse_key: str | None = None
    doc_metadata: str | None = None
    version: str | None = None
    digest: str | None = None
    chunks: int | None = None

    @property
    def served(self) -> tuple[str, str, str]:
        """Hash, parse key and metadata of the content that gives its document: the one read, or after a reject the
        last that passed."""
        if self.rejected:
            return self.doc_raw_sha or "", self.doc_parse_key or "", self.doc_metadata or NOTHING_SEEN
        return self.raw_sha or "", self.parse_key or "", self.metadata or NOTHING_SEEN


_KNOWN = ", ".join(Known.__dataclass_fields__)
_KNOWN_MARKS = ", ".join("?" * len(Known.__dataclass_fields__))


class State:
    """The workspace's own memory. One writer at a time (the caller holds the workspace's lock)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.db = _connect(folder / "state.db")
        version = self.db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            self.db.close()
            raise SchemaError.newer(folder / "state.db", version, SCHEMA)
        if 0 < version < SCHEMA:  # nothing that one comparison by content does not find again
            self.db.close()
            _remove(folder / "state.db")
            self.db = _connect(folder / "state.db")
        if version < SCHEMA:
            self.db.executescript(_STATE + f"PRAGMA user_version = {SCHEMA};")

    def close(self) -> None:
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    # -- single values
    def get(self, key: str) -> Any:
        row = self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, key: str, value: Any) -> None:
        self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value, sort_keys=True)))

    def forget(self, key: str) -> None:
        self.db.execute("DELETE FROM meta WHERE key = ?", (key,))

    # -- sources
    def tokens(self) -> dict[str, str | None]:
        """uri -> change token, None for one that is not to be trusted: all that a no-op has to compare."""
        return dict(self.db.execute("SELECT uri, CASE WHEN settled THEN token END FROM sources"))

    def contained(self) -> dict[str, list[str]]:
        """Container -> the URIs of what was found in it."""
        found: dict[str, list[str]] = {}
        for box, uri in self.db.execute("SELECT container, uri FROM sources WHERE container != ''"):
            found.setdefault(box, []).append(uri)
        return found

    def known(self, uri: str, table: str = "main.sources") -> Known | None:
        row = self.db.execute(f"SELECT {_KNOWN} FROM {table} WHERE uri = ?", (uri,)).fetchone()
        return _known(row) if row else None

    def sources(self) -> Iterator[Known]:
        return map(_known, self.db.execute(f"SELECT {_KNOWN} FROM sources ORDER BY uri"))

    def save_source(self, known: Known, table: str = "main.sources") -> None:
        values = [getattr(known, name) for name in Known.__dataclass_fields__]
        self.db.execute(f"INSERT OR REPLACE INTO {table} ({_KNOWN}) VALUES ({_KNOWN_MARKS})", values)

    def stored_vectors(self, keys: Iterable[str]) -> set[str]:
        """Of `keys`, those whose vectors stand in the dataset's segments."""
        found: set[str] = set()
        for some in _batches(list(keys), 500):
            marks = ",".join("?" * len(some))
            rows = self.db.execute(f"SELECT vector_key FROM stored WHERE vector_key IN ({marks})", some)
            found.update(key for (key,) in rows)
        return found

    def segments_of_vectors(self, keys: Sequence[str]) -> list[str]:
        marks = ",".join("?" * len(keys))
        rows = self.db.execute(f"SELECT DISTINCT segment FROM stored WHERE vector_key IN ({marks})", keys)
        return [name for (name,) in rows]

    def segments_of(self, part: str, keys: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for some in _batches(list(keys), 500):
            marks = ",".join("?" * len(some))
            rows = self.db.execute(f"SELECT segment FROM placed WHERE part = ? AND key IN ({marks})", [part, *some])
            found.update(name for (name,) in rows)
        return found

    def place(self, part: str, keys: Iterable[str], segment: str) -> None:
        """Remember that row n of a segment is of the nth key."""
        rows = ((part, key, segment, row) for row, key in enumerate(keys))
        self.db.executemany("INSERT OR REPLACE INTO placed VALUES (?, ?, ?, ?)", rows)

    def strike(self, part: str, segments: Mapping[str, Segment], query: str) -> None:
        """Let the rows of the keys that `query` gives count no longer."""
        chosen = f"part = ? AND key IN ({query})"
        for name, row in self.db.execute(f"SELECT segment, row FROM placed WHERE {chosen}", (part,)):
            segments[name].dead |= 1 << row
        self.db.execute(f"DELETE FROM placed WHERE {chosen}", (part,))

    def container_token(self, uri: str) -> str | None:
        row = self.db.execute("SELECT token FROM containers WHERE uri = ?", (uri,)).fetchone()
        return row[0] if row else None

    # -- moves
    def moves(self) -> list[tuple[int, str, str]]:
        """(order, old uri, new uri) of documents that went from one uri to another, oldest first."""
        there = self.db.execute("SELECT 1 FROM sqlite_master WHERE name = 'moves'").fetchone()
        return self.db.execute("SELECT number, old, new FROM moves ORDER BY number").fetchall() if there else []

    def save_moves(self, moves: Iterable[tuple[str, str]]) -> None:
        """(old uri, new uri). The table is made when it is first needed, so that the schema stays as it is."""
        if found := list(moves):
            self.db.execute(_MOVES)
            self.db.executemany("INSERT INTO moves (old, new) VALUES (?, ?)", found)

    # -- counts
    def count(self, table: str) -> int:
        return int(self.db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def documents(self) -> int:
        return int(self.db.execute("SELECT count(*) FROM sources WHERE document_id IS NOT NULL").fetchone()[0])

    # -- rejects
    def rejects(self) -> list[dict[str, Any]]:
        names = "uri, source, stage, code, reason, hint, raw_sha, transient, first_seen, attempts"
        rows = self.db.execute(
            f"SELECT {names}, EXISTS(SELECT 1 FROM sources s WHERE s.uri = rejects.uri AND s.document_id IS NOT NULL)"
            " FROM rejects ORDER BY uri"
        )
        keys = [*names.split(", "), "serves_older"]
        return [
            {**dict(zip(keys, row, strict=True)), "transient": bool(row[7]), "serves_older": bool(row[10])}
            for row in rows
        ]

    def save_reject(self, reject: Reject, table: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.db.execute(
            f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
            (reject.uri, reject.source, reject.stage, reject.code, reject.reason, reject.hint, reject.raw_sha,
             reject.transient, now),
        )  # fmt: skip

    # -- runs
    def start_run(self, at_least: int) -> int:
        """Burn a number: it is used once, whether or not the run comes to a release."""
        started = datetime.now(UTC).isoformat(timespec="seconds")
        last = self.db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'runs'").fetchone()
        number = max(at_least, last[0] + 1 if last else 1)
        self.db.execute("INSERT INTO runs (number, started) VALUES (?, ?)", (number, started))
        return number

    def dead_runs(self) -> list[int]:
        """Numbers of the latest runs that were never recorded: what they sealed is nobody's."""
        recorded = "SELECT coalesce(max(number), 0) FROM runs WHERE outcome = 'recorded'"
        return [n for (n,) in self.db.execute(f"SELECT number FROM runs WHERE number > ({recorded})")]

    def end_run(self, number: int, outcome: str, summary: Mapping[str, Any] | None = None) -> None:
        self.db.execute(
            "UPDATE runs SET finished = ?, outcome = ?, summary = ? WHERE number = ?",
            (datetime.now(UTC).isoformat(timespec="seconds"), outcome, json.dumps(summary), number),
        )

    def made(self, number: int, fingerprint: str, created: str) -> bool:
        """Whether a run here made that release. ISO times in UTC, so that they compare as text."""
        row = self.db.execute(
            "SELECT started <= ? AND finished >= ?, summary FROM runs WHERE number = ? AND outcome = 'recorded'",
            (created, created, number),
        ).fetchone()
        summary = json.loads(row[1]) if row and row[0] else None
        return bool(summary and summary["fingerprint"] == fingerprint)

    def last_run(self) -> dict[str, Any] | None:
        row = self.db.execute(
            "SELECT number, started, finished, outcome, summary FROM runs ORDER BY number DESC LIMIT 1"
        ).fetchone()
        if not row:
            return None
        return dict(zip(("number", "started", "finished", "outcome"), row, strict=False)) | {
            "summary": json.loads(row[4]) if row[4] else None
        }

    # -- the run in progress
    def start_work(self) -> None:
        """An empty work area beside the state; it may be lost at any time."""
        _remove(self.folder / "work.db")
        self.db.execute("ATTACH DATABASE ? AS work", (str(self.folder / "work.db"),))
        self.db.execute("PRAGMA work.journal_mode = OFF")
        self.db.execute("PRAGMA work.synchronous = OFF")
        self.db.executescript(_WORK)
        for table, like in (("updated", "sources"), ("rejected", "rejects")):
            sql = self.db.execute("SELECT sql FROM main.sqlite_master WHERE name = ?", (like,)).fetchone()[0]
            self.db.execute(sql.replace(f"TABLE {like}", f"TABLE work.{table}"))

    def end_work(self) -> None:
        with suppress(
            sqlite3.OperationalError
        ):  # after an error a cursor may still hold it; it goes with the connection
            self.db.execute("DETACH DATABASE work")
        (self.folder / "work.db").unlink(missing_ok=True)


class CacheDamaged(StoreError):
    """The cache holds what cannot be; all of it can be computed again."""


class Cache:
    """Results by content: parses and vectors. Committed batch by batch, so that a killed run loses one batch.

    Each value ends with its CRC-32. Whatever reads raises CacheDamaged for what is not as it was written.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "cache.db"
        try:
            self.db = self._connected()
        except StoreError:  # damaged: it can all be computed again
            _remove(self.file)
            self.db = self._connected()
        self.db.execute("PRAGMA synchronous = NORMAL")  # whole after a power cut; the last batches may be missing

    def close(self) -> None:
        self.db.close()

    def _connected(self) -> sqlite3.Connection:
        """Raises SchemaError for one of a newer ragops, which is left as it is."""
        db = _connect(self.file, page=16384)  # its values are large: a third less time to write them than by default
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > CACHE_SCHEMA:
            db.close()
            raise SchemaError.newer(self.file, version, CACHE_SCHEMA)
        if version < CACHE_SCHEMA:
            db.executescript(_CACHE + f"PRAGMA user_version = {CACHE_SCHEMA};")
        return db

    def discard(self) -> None:
        """Begin again with nothing."""
        self.db.close()
        _remove(self.file)
        self.db = self._connected()

    def has_parse(self, key: str) -> bool:
        return bool(self._rows("SELECT 1 FROM parses WHERE key = ?", (key,)))

    def parse(self, key: str) -> Parsed | None:
        rows = self._rows("SELECT value FROM parses WHERE key = ?", (key,))
        if not rows:
            return None
        value = _sound(rows[0][0])
        if value is None:
            raise self._damaged(f"the parse {key[:12]} is not what was written")
        return parsed_from_json(zlib.decompress(value))

    def save_parses(self, parses: Iterable[tuple[str, Parsed]]) -> None:
        """Parses under their keys, in one transaction."""
        self._save("parses", ((key, zlib.compress(parsed_to_json(parsed), 1)) for key, parsed in parses))

    def missing_vectors(self, keys: Sequence[str]) -> set[str]:
        missing = set(keys)
        for some in _batches(list(missing), 500):
            marks = ",".join("?" * len(some))
            missing.difference_update(k for (k,) in self._rows(f"SELECT key FROM vectors WHERE key IN ({marks})", some))
        return missing

    def numerics(self, space: str) -> list[str]:
        """How the vectors of a space that were ever saved here were computed."""
        return [value for (value,) in self._rows("SELECT value FROM numerics WHERE space = ? ORDER BY value", (space,))]

    def save_vectors(self, keys: Sequence[str], vectors: Vectors, space: str, numerics: Iterable[str]) -> None:
        """float32 rows under their keys, in one transaction, and what computed them."""
        data = vectors.astype("<f4").tobytes()
        width = len(data) // len(keys)
        for value in numerics:
            self._rows("INSERT OR IGNORE INTO numerics VALUES (?, ?)", (space, value))
        self._save("vectors", ((key, data[i * width : (i + 1) * width]) for i, key in enumerate(keys)))

    def vectors(self, keys: Sequence[str]) -> dict[str, array[float]]:
        """key -> float32 array (dim,), for those that are there. Raises CacheDamaged."""
        found: dict[str, array[float]] = {}
        for some in _batches(keys, 500):
            marks = ",".join("?" * len(some))
            for key, blob in self._rows(f"SELECT key, value FROM vectors WHERE key IN ({marks})", some):
                value = _sound(blob)
                if value is None:
                    raise self._damaged(f"the vector {key[:12]} is not what was written")
                found[key] = array("f", value)
        return found

    def collect(self, table: str, needed: Iterable[str], *, spare: int) -> int:
        """Remove the rows of "parses" or "vectors" whose keys are not `needed`, but for the newest `spare` of them."""
        self.db.execute("CREATE TEMP TABLE IF NOT EXISTS needed (key TEXT PRIMARY KEY) WITHOUT ROWID")
        self.db.execute("BEGIN")
        self.db.execute("DELETE FROM needed")
        self.db.executemany("INSERT OR IGNORE INTO needed VALUES (?)", ((key,) for key in needed))
        idle = f"SELECT rowid FROM {table} WHERE key NOT IN (SELECT key FROM needed) ORDER BY rowid DESC"
        doomed = f"DELETE FROM {table} WHERE rowid IN ({idle} LIMIT -1 OFFSET ?)"
        removed = self.db.execute(doomed, (spare,)).rowcount
        self.db.execute("COMMIT")
        return removed

    def count(self, table: str) -> int:
        return int(self._rows(f"SELECT count(*) FROM {table}", ())[0][0])

    def shrink(self) -> None:
        """Give what was removed back to the disk."""
        self.db.execute("VACUUM")
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _rows(self, query: str, values: Sequence[str]) -> list[Any]:
        try:
            return self.db.execute(query, values).fetchall()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error

    def _save(self, table: str, rows: Iterable[tuple[str, bytes]]) -> None:
        self.db.execute("BEGIN")
        try:
            self.db.executemany(
                f"INSERT OR REPLACE INTO {table} VALUES (?, ?)",
                ((key, value + zlib.crc32(value).to_bytes(4, "big")) for key, value in rows),
            )
            self.db.execute("COMMIT")
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, what: str) -> CacheDamaged:
        return CacheDamaged(
            f"{self.file} is damaged: {what}", f"Remove {self.file.name} and run `ragops ingest`: it is made again."
        )


def _sound(value: bytes) -> bytes | None:
    """A value without its checksum, None where it does not fit."""
    data, checksum = value[:-4], value[-4:]
    return data if zlib.crc32(data).to_bytes(4, "big") == checksum else None


def _remove(file: Path) -> None:
    """A database with its journals."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def parsed_to_json(parsed: Parsed) -> bytes:
    spans = [[s.kind, s.start, s.end, s.level, s.page] for s in parsed.spans]
    return orjson.dumps([parsed.title, parsed.text, spans, storable(parsed.fields), parsed.parser])


def parsed_from_json(data: bytes) -> Parsed:
    title, body, spans, fields, parser = orjson.loads(data)
    return Parsed(title, body, tuple(Span(*s) for s in spans), fields, parser)


def metadata_to_json(metadata: Metadata) -> str:
    """Canonical: its hash is part of a document's version."""
    value = [metadata.title, metadata.tenant, list(metadata.groups), storable(metadata.fields)]
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def metadata_from_json(text: str) -> Metadata:
    title, tenant, groups, fields = orjson.loads(text)
    return Metadata(title, tenant, tuple(groups), fields)


def storable(value: Any) -> Any:
    """Metadata as every store keeps it: integers beyond 64 bits as text, no NaN, no infinity, no lone surrogate."""
    if isinstance(value, Mapping):
        return {storable(str(key)): storable(item) for key, item in value.items() if not _endless(item)}
    if isinstance(value, (list, tuple)):
        return [storable(item) for item in value if not _endless(item)]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _endless(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _known(row: tuple[Any, ...]) -> Known:
    known = Known(*row)
    known.settled, known.rejected, known.kept = bool(known.settled), bool(known.rejected), bool(known.kept)
    return known


def _connect(file: Path, *, page: int = 4096) -> sqlite3.Connection:
    """An open database. Raises StoreError for a file that is damaged or no database."""
    file.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(file, isolation_level=None, timeout=30)
    try:
        db.execute(f"PRAGMA page_size = {page}")  # of a new file
        db.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError:  # a full disk, a lock: the file itself may be sound
        db.close()
        raise
    except sqlite3.DatabaseError as error:
        db.close()
        raise StoreError(
            f"{file} cannot be read: {error}",
            f"Move it away and run `ragops ingest`: {file.name} is local state, found again by comparing contents.",
        ) from error
    return db


def _batches(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (items[i : i + size] for i in range(0, len(items), size))
