"""What is remembered and nobody needs: parses, vectors and models of old contents and recipes, permissions of what is
gone."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ragops import ids
from ragops.errors import StoreError
from ragops_pipelines.job import Job

SLACK = 10_000  # rows of a table that are not worth looking at
RUNS = 1000  # whose summaries are kept

_NEEDED: Mapping[str, str] = {
    "parses": "SELECT parse_key FROM sources WHERE parse_key IS NOT NULL"
    " UNION SELECT doc_parse_key FROM sources WHERE doc_parse_key IS NOT NULL",
    "vectors": "SELECT DISTINCT vector_key FROM points",
}


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed: rows of cache and state, exported query encoders by space, bytes of disk given back."""

    rows: int = 0
    models: tuple[str, ...] = ()
    bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def collect(job: Job, *, spare: bool = False) -> Collected:
    """Remove what no document of the dataset and no kept release needs.

    `spare`: only once the cache holds twice what is needed, and then the newest half of the rest stays: what leaves
    and comes back is not computed again, and what is remembered stays bounded.
    """
    db = job.state.db
    # Nearly what is needed, told without a look at every point: each document has a parse, and of the vectors in the
    # dataset at most a quarter is dead.
    counts = {"parses": job.state.documents(), "vectors": job.state.count("stored")}
    if spare and all(job.cache.count(table) <= 2 * count + SLACK for table, count in counts.items()):
        return Collected()

    def keys(query: str) -> Iterable[str]:
        return (key for (key,) in db.execute(query))

    before = _size(job)
    rows = sum(
        job.cache.collect(table, keys(query), spare=(counts[table] + SLACK) // 2 if spare else 0)
        for table, query in _NEEDED.items()
    )
    if spare:
        return Collected(rows)
    db.execute("DELETE FROM runs WHERE number <= (SELECT max(number) FROM runs) - ?", (RUNS,))
    rows += _forget_permissions(job)
    job.cache.shrink()
    return Collected(rows, tuple(_remove_models(job)), max(0, before - _size(job)))


def _forget_permissions(job: Job) -> int:
    """Permissions of documents that are gone and that no kept release holds any more."""
    db = job.state.db
    gone = "document_id NOT IN (SELECT document_id FROM sources WHERE document_id IS NOT NULL)"
    doomed = {document for (document,) in db.execute(f"SELECT document_id FROM permissions WHERE {gone}")}
    try:
        for number in job.store.numbers() if doomed else ():
            doomed.difference_update(row.document_id for row in job.store.point_rows(number))
    except StoreError:  # a damaged release may hold any of them
        return 0
    db.executemany("DELETE FROM permissions WHERE document_id = ?", ((document,) for document in doomed))
    return len(doomed)


def _remove_models(job: Job) -> Iterable[str]:
    """Query encoders of spaces that neither the recipe nor a kept release has."""
    model = job.state.get("model")
    spaces = {release.space.fingerprint for release in job.store.releases()}
    wanted = {ids.short(space) for space in (*spaces, *([model["space"]["fingerprint"]] if model else ()))}
    folders = sorted(job.models.iterdir()) if job.models.is_dir() else []
    for folder in folders:
        if folder.is_dir() and folder.name not in wanted:
            shutil.rmtree(folder)
            yield folder.name


def _size(job: Job) -> int:
    files = [job.cache.file, *(file for file in job.models.rglob("*") if file.is_file())]
    return sum(file.stat().st_blocks * 512 for file in files)
