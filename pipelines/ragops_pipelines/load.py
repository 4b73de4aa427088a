"""From the dataset to a sealed release: what the base holds, less what left, plus what came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ragops.types import Point, Release, Space
from ragops_pipelines.chunk import DEFAULT_SIZE
from ragops_pipelines.dataset import Manifest
from ragops_pipelines.job import Job
from ragops_pipelines.ledger import Ledger
from ragops_pipelines.segments import ROWS


def load(job: Job, ledger: Ledger, number: int, dataset: Manifest, base: Release | None, *, in_step: bool) -> Release:
    """Seal release `number` of `dataset`, from `base` where its space and settings allow.

    Publishes nothing. `in_step`: `base` holds exactly what the state held before this run, so the change is known; else
    all its ids are compared. Raises StoreError, DiskFull; `manifest.Damaged` where the base is.
    """
    state, store = job.state, job.store
    space = Space(**state.get("model")["space"])
    # BM25's average length is of the recipe, not of history: scores must converge.
    avg_len = max(1, (job.settings.chunk.size or DEFAULT_SIZE) // 2)
    if base is not None and (base.space.fingerprint, base.avg_len) != (space.fingerprint, avg_len):
        base = None
    delete: list[str] = []
    add: dict[str, set[str]] | None = None  # document -> point ids; None: every point
    if base is not None:
        delete, add = _difference(job, ledger, base, in_step=in_step)
    count = state.count("points") if add is None else sum(map(len, add.values()))
    if count > ROWS:
        job.dataset.prime(dataset, job.cache)
    notes: dict[str, Any] = {"recipe": dict(dataset.recipe)}
    lacking = {source for (source,) in state.db.execute("SELECT DISTINCT source FROM rejects WHERE transient")}
    if lacking or ledger.changes.incomplete:  # what was not seen, or is to be tried again
        notes["incomplete"] = sorted({*lacking, *ledger.changes.incomplete})
    release = Release(
        number=number,
        collection=job.settings.store.collection,
        fingerprint=dataset.fingerprint,
        space=space,
        numerics=" ".join(state.get("numerics") or []),
        points=state.count("points"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        avg_len=avg_len,
        notes=notes,
    )
    ledger.progress("load", 0, count)
    return store.write(
        release,
        base=base.number if base else None,
        delete=delete,
        add=_points(job, dataset, add),
        progress=lambda done: ledger.progress("load", done, count),
    )


def _difference(job: Job, ledger: Ledger, base: Release, *, in_step: bool) -> tuple[list[str], dict[str, set[str]]]:
    db = job.state.db
    if in_step:
        have, want = "work.old", "work.wanted"
    else:
        db.execute("DELETE FROM work.base")
        db.executemany("INSERT INTO work.base VALUES (?)", ((point,) for point in job.store.point_ids(base.number)))
        have, want = "work.base", "points"
    delete = [row[0] for row in db.execute(f"SELECT point_id FROM {have} EXCEPT SELECT point_id FROM {want}")]
    add: dict[str, set[str]] = {}
    missing = f"SELECT document_id, point_id FROM {want} WHERE point_id NOT IN (SELECT point_id FROM {have})"
    for document, point in db.execute(missing):
        add.setdefault(document, set()).add(point)
    # What the base sealed with other permissions is sealed anew, so that the overlay does not grow for ever.
    untouched = "document_id NOT IN (SELECT document_id FROM work.gone) OR" if in_step else ""
    sealed = f"SELECT point_id FROM points WHERE document_id = ? AND ({untouched} point_id IN (SELECT * FROM {have}))"
    for document in {*job.store.permitted(base.number), *ledger.permits}:
        stay = [point for (point,) in db.execute(sealed, (document,))]
        delete += stay
        if stay:
            add.setdefault(document, set()).update(stay)
    return delete, add


def _points(job: Job, dataset: Manifest, add: Mapping[str, set[str]] | None) -> Iterator[tuple[Point, Sequence[float]]]:
    batch: list[Point] = []
    within = None if add is None else job.state.segments_of("documents", add)
    for point in job.dataset.points(dataset, add, within) if add is None or add else ():
        batch.append(point)
        if len(batch) == 256:
            yield from _with_vectors(job, batch)
            batch = []
    yield from _with_vectors(job, batch)


def _with_vectors(job: Job, batch: Sequence[Point]) -> Iterator[tuple[Point, Sequence[float]]]:
    found = job.dataset.vectors(job.state, job.cache, [point.vector_key for point in batch])
    for point in batch:
        yield point, found[point.vector_key]
