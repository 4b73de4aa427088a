"""What a workspace knows, found again in a dataset and a snapshot that it did not record: in a clone, after a checkout
of another revision or a `dvc repro`, or when the state is lost. Nothing is parsed or embedded for it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ragops import ids
from ragops.errors import StoreError
from ragops.types import Permission
from ragops_pipelines import rows, segments
from ragops_pipelines.dataset import Dataset, Manifest
from ragops_pipelines.job import Job
from ragops_pipelines.ledger import NOBODYS, permission
from ragops_pipelines.snapshot import Manifest as SnapshotManifest
from ragops_pipelines.snapshot import Snapshot
from ragops_pipelines.state import Cache, State

if TYPE_CHECKING:
    import polars as pl

_FOUND = """
CREATE TEMP TABLE made (document_id TEXT PRIMARY KEY, raw_sha TEXT, parse_key TEXT, version TEXT, source TEXT,
    digest TEXT, chunks INTEGER, permissions TEXT) WITHOUT ROWID;
CREATE TEMP TABLE seen (uri TEXT PRIMARY KEY, source TEXT, raw_sha TEXT, size INTEGER, media_type TEXT, encoding TEXT,
    metadata TEXT, kept INTEGER, doc_raw_sha TEXT, doc_metadata TEXT, document_id TEXT) WITHOUT ROWID;
"""
# A source whose content is as it was known here keeps its change token; the others are read at the next scan.
_SOURCES = """
CREATE TEMP TABLE known AS SELECT uri, token, settled, container, raw_sha, parse_key, metadata FROM main.sources;
DELETE FROM main.sources;
INSERT INTO main.sources
    (uri, source, token, settled, container, raw_sha, size, media_type, encoding, metadata, parse_key, rejected, kept,
     document_id, doc_raw_sha, doc_parse_key, doc_metadata, version, digest, chunks)
    SELECT s.uri, s.source, coalesce(k.token, ''), coalesce(k.settled, 0), coalesce(k.container, ''), s.raw_sha, s.size,
        s.media_type, s.encoding, s.metadata, CASE WHEN r.uri IS NULL THEN m.parse_key END, r.uri IS NOT NULL, s.kept,
        m.document_id, m.raw_sha, m.parse_key, CASE WHEN m.document_id IS NOT NULL THEN s.doc_metadata END, m.version,
        m.digest, m.chunks
    FROM seen s LEFT JOIN made m USING (document_id) LEFT JOIN main.rejects r ON r.uri = s.uri
    LEFT JOIN known k ON k.uri = s.uri AND r.uri IS NULL
        AND (k.raw_sha, k.parse_key, k.metadata) IS (s.raw_sha, m.parse_key, s.metadata);
DELETE FROM main.containers;
"""


def recover(job: Job) -> Mapping[str, Permission] | None:
    """Bring the state to what dataset and snapshot on disk say, or leave it as it is and return None where they are
    damaged, missing or of different days.

    Returns the permissions of documents that the dataset has otherwise than this workspace knew: those stay today's.
    """
    state = job.state
    with contextlib.suppress(StoreError):
        dataset, snapshot = job.dataset.manifest(), job.snapshot.manifest()
        if dataset is None or snapshot is None:
            return None
        with state.transaction():
            _take_sound_documents(state, job.cache, job.dataset, dataset)
            _take_rejects(state, job.dataset)
            _take_sources(state, job.snapshot, snapshot)
            _record(job, dataset)
            return _permits(state)
    return None


def recover_dataset(state: State, cache: Cache, dataset: Dataset, manifest: Manifest) -> None:
    """An empty state brought to what a dataset says, without its sources: enough to load it. Raises StoreError."""
    with state.transaction():
        _take_sound_documents(state, cache, dataset, manifest)
        _describe(state, manifest)


def take_documents(state: State, dataset: Dataset, manifest: Manifest) -> None:
    """Documents (as the table `made`), points and the places of vectors. Raises StoreError where some are damaged."""
    db = state.db
    for table in ("made", "seen", "known"):
        db.execute(f"DROP TABLE IF EXISTS temp.{table}")
    for statement in _FOUND.split(";")[:-1]:
        db.execute(statement)
    for table in ("points", "stored", "placed"):
        db.execute(f"DELETE FROM {table}")
    columns = ["document_id", "raw_sha", "parse_key", "version", "source", "tenant", "groups"]
    for name, frame in dataset.documents(manifest, columns):
        _place(state, "documents", "document_id", name, frame)
        chunks = dataset.chunks(
            manifest, name, ["document_id", "nth", "chunk_id", "point_id", "embed_sha", "payload_sha"]
        )
        of: dict[str, list[dict[str, str]]] = {}
        for row in chunks.join(frame, on="document_id", how="semi", maintain_order="left").iter_rows(named=True):
            of.setdefault(row["document_id"], []).append(row)
        made = []
        for row in frame.iter_rows(named=True):
            some = of.get(row["document_id"], [])
            digest = rows.document_digest(row["document_id"], row["version"], some)
            who = json.dumps([row["tenant"], *row["groups"]])
            made.append((*(row[name] for name in columns[:5]), digest, len(some), who))
            points = (
                (row["document_id"], each["nth"], each["point_id"],
                 ids.vector_key(each["embed_sha"], manifest.recipe["space"]))
                for each in some
            )  # fmt: skip
            db.executemany("INSERT INTO points VALUES (?, ?, ?, ?)", points)
        db.executemany("INSERT INTO made VALUES (?, ?, ?, ?, ?, ?, ?, ?)", made)
    db.executemany("INSERT OR REPLACE INTO stored VALUES (?, ?)", dataset.stored(manifest))


def _take_sound_documents(state: State, cache: Cache, dataset: Dataset, manifest: Manifest) -> None:
    """Raises StoreError where they are not what the manifest says."""
    take_documents(state, dataset, manifest)
    db = state.db
    digests = (digest for (digest,) in db.execute("SELECT digest FROM made ORDER BY document_id"))
    if rows.fingerprint(manifest.recipe, digests) != manifest.fingerprint:
        raise StoreError("the dataset is not what its fingerprint says", segments.MEND)
    lost = "SELECT DISTINCT vector_key FROM points WHERE vector_key NOT IN (SELECT vector_key FROM stored)"
    if cache.missing_vectors([key for (key,) in db.execute(lost)]):
        raise StoreError("vectors of the dataset are missing", segments.MEND)


def _take_rejects(state: State, dataset: Dataset) -> None:
    """Those that were known keep the day on which they were first seen."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    known = {reject["uri"]: (reject["code"], reject["first_seen"], reject["attempts"]) for reject in state.rejects()}
    state.db.execute("DELETE FROM rejects")
    for row in dataset.rejects():
        code, first, attempts = known.get(row["uri"], ("", now, 1))
        values = [row[name] for name in ("uri", "source", "stage", "code", "reason", "hint", "raw_sha", "transient")]
        values += [first, attempts] if code == row["code"] else [now, 1]
        state.db.execute("INSERT INTO rejects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def _take_sources(state: State, snapshot: Snapshot, manifest: SnapshotManifest) -> None:
    """Raises StoreError where the snapshot is not the one that the documents were made of."""
    db = state.db
    for name, frame in snapshot.sources(manifest):
        _place(state, "sources", "uri", name, frame)
        found = (
            (*row[:-1], ids.document_id(row[1], row[0]))
            for row in frame.select(
                "uri", "source", "raw_sha", "size", "media_type", "encoding", "metadata", "kept", "doc_raw_sha",
                "doc_metadata", "row",
            ).iter_rows()
        )  # fmt: skip
        db.executemany("INSERT INTO seen VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", found)
    for name, frame in snapshot.shas(manifest):
        _place(state, "objects", "sha", name, frame)
    fits = "SELECT count(*) FROM seen s JOIN made m USING (document_id) WHERE m.raw_sha = s.doc_raw_sha"
    if not (_count(state, fits) == _count(state, "SELECT count(*) FROM made")
            == _count(state, "SELECT count(*) FROM seen WHERE doc_raw_sha IS NOT NULL")):  # fmt: skip
        raise StoreError("the dataset was not made of this snapshot", segments.MEND)
    for statement in _SOURCES.split(";")[:-1]:
        db.execute(statement)


def _describe(state: State, manifest: Manifest) -> None:
    state.put("recipe", dict(manifest.recipe))
    state.put("model", {"token": "", "space": dict(manifest.space)})
    state.put("numerics", list(manifest.numerics))
    state.put("fingerprint", manifest.fingerprint)
    state.put("dead_vectors", 0)
    state.forget("recipe_token")


def _record(job: Job, manifest: Manifest) -> None:
    state = job.state
    model = state.get("model")
    _describe(state, manifest)
    if model is not None and model["space"] == dict(manifest.space):
        state.put("model", model)  # with what tells the files of the model again
    settings = state.get("source_settings") or {}
    names = [name for (name,) in state.db.execute("SELECT DISTINCT source FROM sources")]
    state.put("source_settings", {name: settings.get(name, "") for name in names})
    state.put("dataset_sha", job.dataset.digest())
    state.put("snapshot_sha", job.snapshot.digest())


def _permits(state: State) -> dict[str, Permission]:
    db = state.db
    db.execute(
        "INSERT INTO permissions SELECT document_id, permissions FROM made"
        " WHERE permissions != ? AND document_id NOT IN (SELECT document_id FROM permissions)",
        (NOBODYS,),
    )
    other = "SELECT document_id, value FROM permissions JOIN made USING (document_id) WHERE value != made.permissions"
    return {document: permission(value) for document, value in db.execute(other)}


def _place(state: State, part: str, key: str, segment: str, frame: pl.DataFrame) -> None:
    found = ((part, each, segment, row) for each, row in frame.select(key, "row").iter_rows())
    state.db.executemany("INSERT INTO placed VALUES (?, ?, ?, ?)", found)


def _count(state: State, query: str) -> int:
    return int(state.db.execute(query).fetchone()[0])
