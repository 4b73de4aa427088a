"""Documents that left one uri and came under another: what judgements and bookmarks know them by."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

SHARE = 0.5  # of the chunks of the larger one
COMMON = 8  # a chunk that more documents have says nothing about which one moved where

_TABLES = """
CREATE TEMP TABLE departed (uri TEXT, document_id TEXT PRIMARY KEY, raw_sha TEXT, chunks INTEGER) WITHOUT ROWID;
CREATE TEMP TABLE arrived (uri TEXT, document_id TEXT PRIMARY KEY, raw_sha TEXT, chunks INTEGER) WITHOUT ROWID;
"""
_ARRIVED = """
INSERT INTO arrived SELECT u.uri, u.document_id, u.doc_raw_sha, u.chunks FROM work.updated u
    LEFT JOIN main.sources s ON s.uri = u.uri AND s.document_id IS NOT NULL
    WHERE u.document_id IS NOT NULL AND s.uri IS NULL"""
_ALIKE = f"""
WITH
    d AS (SELECT DISTINCT vector_key, document_id FROM main.points
        WHERE document_id IN (SELECT document_id FROM departed)),
    a AS (SELECT DISTINCT vector_key, document_id FROM work.wanted
        WHERE document_id IN (SELECT document_id FROM arrived)),
    rare AS (SELECT vector_key FROM d GROUP BY vector_key HAVING count(*) <= {COMMON}
        INTERSECT SELECT vector_key FROM a GROUP BY vector_key HAVING count(*) <= {COMMON})
SELECT o.uri, n.uri, count(*) * 1.0 / max(o.chunks, n.chunks) AS share
    FROM rare JOIN d USING (vector_key) JOIN a USING (vector_key)
    JOIN departed o ON o.document_id = d.document_id JOIN arrived n ON n.document_id = a.document_id
    GROUP BY o.uri, n.uri HAVING share >= {SHARE} ORDER BY share DESC, o.uri, n.uri"""


def moves(db: sqlite3.Connection, removed: Iterable[str]) -> list[tuple[str, str]]:
    """(old uri, new uri) of what moved in the run in progress, of which the state does not know yet: the same bytes
    elsewhere, or at least half of the chunks. Each document at most once; equal copies in the order of their uris.
    """
    for statement in _TABLES.split(";")[:-1]:
        db.execute(statement)
    try:
        db.executemany(
            "INSERT INTO departed SELECT uri, document_id, doc_raw_sha, chunks FROM main.sources"
            " WHERE uri = ? AND document_id IS NOT NULL", ((uri,) for uri in removed),
        )  # fmt: skip
        db.execute(_ARRIVED)
        found: dict[str, str] = {}
        came: dict[str, list[str]] = {}
        for uri, sha in db.execute("SELECT uri, raw_sha FROM arrived ORDER BY uri DESC"):
            came.setdefault(sha, []).append(uri)
        for uri, sha in db.execute("SELECT uri, raw_sha FROM departed ORDER BY uri").fetchall():
            if came.get(sha):
                found[uri] = came[sha].pop()
        taken = set(found.values())
        for old, new, _ in db.execute(_ALIKE):
            if old not in found and new not in taken:
                found[old] = new
                taken.add(new)
    finally:
        db.execute("DROP TABLE departed")
        db.execute("DROP TABLE arrived")
    return sorted(found.items())
