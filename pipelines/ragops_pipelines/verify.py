"""Dataset against collection, both ways: what is missing, extra, differing, or of another vector space."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ragops import ids
from ragops.errors import RagopsError, StoreError
from ragops.stores.releases import is_held, live_release
from ragops.types import Reader, Release
from ragops_pipelines.dataset import Manifest
from ragops_pipelines.gate import held_back
from ragops_pipelines.job import Event, Job
from ragops_pipelines.run import ingest, seal_from

if TYPE_CHECKING:
    from ragops.types import Vectors

SAME = 0.9995  # cosine from which two vectors of one text are of one space, whatever the device
EXAMPLES = 20
BATCH = 500
KINDS = ("missing", "extra", "differing", "wrong_model")

_EXPECTED = """
CREATE TABLE expected (point_id TEXT PRIMARY KEY, payload TEXT NOT NULL, vector_key TEXT NOT NULL, seen INTEGER)
WITHOUT ROWID;
CREATE TABLE vectors (vector_key TEXT PRIMARY KEY, row INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was compared and what was found: numbers of points, damage in words, and some of the point ids."""

    release: int | None
    points: int  # that the dataset has
    missing: int = 0  # in the dataset, not in the release
    extra: int = 0  # in the release, not in the dataset
    differing: int = 0  # another payload
    wrong_model: int = 0  # another vector, or another vector space
    findings: Sequence[str] = ()
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    repaired: bool = False
    dataset_sound: bool = True

    @property
    def ok(self) -> bool:
        return not (self.missing or self.extra or self.differing or self.wrong_model or self.findings)

    def as_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


def verify(job: Job) -> Verification:
    """Compare the dataset with the release that was made of it, every point and vector. Changes nothing."""
    findings: list[str] = []
    recorded = job.state.get("dataset_sha")
    if job.state.get("due") is not None:
        findings.append("the last run did not end: the next `ragops ingest` finishes it")
    findings += job.snapshot.check(job.state)
    try:
        manifest = job.dataset.manifest()
        if manifest is not None:
            job.dataset.rejects()
    except StoreError as error:
        return Verification(None, 0, findings=[*findings, error.message], dataset_sound=False)
    if manifest is None:
        what = f"the dataset is missing: {job.dataset.file} is not there" if recorded else "nothing was ingested yet"
        return Verification(None, 0, findings=[*findings, what], dataset_sound=False)
    if job.dataset.digest() != recorded:
        findings.append("the dataset is not the one that the last ingest here recorded")
    release = _release(job, manifest.fingerprint, findings)
    with tempfile.TemporaryDirectory() as folder:
        db = sqlite3.connect(Path(folder) / "expected.db", isolation_level=None)
        try:
            db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _EXPECTED)
            try:
                vectors = _expect(job, manifest, db, Path(folder) / "vectors.f32")
            except StoreError as error:
                number = release.number if release else None
                return Verification(number, 0, findings=[*findings, error.message], dataset_sound=False)
            total = int(db.execute("SELECT count(*) FROM expected").fetchone()[0])
            if total != manifest.counts["chunks"]:
                findings.append(f"the dataset has {total} chunks, its manifest says {manifest.counts['chunks']}")
            counts: Counter[str] = Counter()
            examples: dict[str, list[str]] = {kind: [] for kind in KINDS}
            for kind, point in _compare(job, manifest, release, db, vectors, findings):
                counts[kind] += 1
                if len(examples[kind]) < EXAMPLES:
                    examples[kind].append(point)
        finally:
            db.close()
    return Verification(
        release.number if release else None,
        total,
        findings=findings,
        examples={kind: found for kind, found in examples.items() if found},
        missing=counts["missing"],
        extra=counts["extra"],
        differing=counts["differing"],
        wrong_model=counts["wrong_model"],
    )


def repair(job: Job, found: Verification) -> Verification:
    """Mend what `verify` found, and verify again. Raises RagopsError.

    A sound dataset is loaded into a new release; a damaged one is made again from the sources, with what is remembered.
    Like any ingest, that may be held back for consent to deletes.
    """
    if found.ok:
        return found
    if not found.dataset_sound or job.snapshot.check(job.state):
        ingest(replace(job, options=replace(job.options, rebuild=True)))
    else:  # a dataset or a store of another day is brought up to date by any run
        ingest(job)
    again = verify(job)
    if not again.ok and again.dataset_sound:
        _reload(job)
        again = verify(job)
    return replace(again, repaired=True)


def _reload(job: Job) -> None:
    """A release of the dataset as it is, from nothing; the damaged ones leave."""
    store = job.store
    damaged = [number for number in store.numbers() if store.check(number)]
    seal_from(job, None)
    for each in damaged:
        with contextlib.suppress(RagopsError):  # live and held: it is not ours to replace
            store.remove(each, timeout=0)


def _release(job: Job, fingerprint: str, findings: list[str]) -> Release | None:
    """The newest release that says it was made of this dataset, or else the newest of all."""
    store = job.store
    releases = store.releases()
    for number in sorted({*store.numbers()} - {release.number for release in releases}):
        findings += store.check(number)
    if not releases:
        findings.append("there is no release")
        return None
    made = [release for release in releases if release.fingerprint == fingerprint]
    if not made:
        findings.append(f"no release was made of this dataset ({ids.short(fingerprint)})")
    release = made[-1] if made else releases[-1]
    live = live_release(store)
    if live is None:
        findings.append("the pointer to the live release is missing or damaged")
    elif live.number != release.number and not is_held(store) and held_back(job, release.number) is None:
        findings.append(f"release {live.number} is live, and not {release.number}, which was made of this dataset")
    return release


def _expect(job: Job, manifest: Manifest, db: sqlite3.Connection, file: Path) -> Vectors:
    """Fill the tables with what the dataset says; its vectors as float32 (rows, dim), mapped from a file."""
    import numpy as np

    rows = 0
    dim = 1
    db.execute("BEGIN")
    with file.open("wb") as out:
        for keys, vectors in job.dataset.segments(manifest):
            out.write(np.ascontiguousarray(vectors, dtype=np.float32).tobytes())
            dim = vectors.shape[1]
            db.executemany(
                "INSERT OR IGNORE INTO vectors VALUES (?, ?)", zip(keys, range(rows, rows + len(keys)), strict=True)
            )
            rows += len(keys)
    for done, point in enumerate(job.dataset.points(manifest)):
        values = (point.point_id, _digest(point.payload), point.vector_key)
        db.execute("INSERT INTO expected VALUES (?, ?, ?, NULL)", values)
        if done % 1000 == 0:
            job.tell(Event("verify", done, manifest.counts["chunks"]))
    db.execute("COMMIT")
    lost = db.execute(
        "SELECT vector_key FROM expected WHERE vector_key NOT IN (SELECT vector_key FROM vectors) LIMIT 1"
    ).fetchone()
    if lost:
        raise StoreError(f"the dataset has no vector {ids.short(lost[0])}", "Run `ragops verify --repair`.")
    if not rows:
        return np.zeros((0, dim), np.float32)
    mapped: Vectors = np.memmap(file, dtype=np.float32, mode="r", shape=(rows, dim))
    return mapped


def _compare(
    job: Job, manifest: Manifest, release: Release | None, db: sqlite3.Connection, vectors: Vectors,
    findings: list[str],
) -> Iterator[tuple[str, str]]:  # fmt: skip
    """(kind, point id) of every point that is not as the dataset says."""
    if release is not None:
        findings += job.store.check(release.number)
        other = release.space.fingerprint != manifest.recipe["space"]
        if other:
            findings.append(f"release {release.number} is of another vector space than the dataset")
        try:
            with contextlib.closing(job.store.open(release.number, unsound=True)) as reader:
                yield from _differences(reader, db, vectors, other=other)
        except StoreError as error:
            if error.message not in findings:
                findings.append(error.message)
    for (point,) in db.execute("SELECT point_id FROM expected WHERE seen IS NULL ORDER BY point_id"):
        yield "missing", point


def _differences(reader: Reader, db: sqlite3.Connection, vectors: Vectors, *, other: bool) -> Iterator[tuple[str, str]]:
    import numpy as np

    known: list[tuple[str, Any, int]] = []

    def strangers() -> Iterator[tuple[str, str]]:
        if other or not known:
            yield from (("wrong_model", point) for point, _, _ in known)
            return
        found = np.stack([vector for _, vector, _ in known])
        wanted = np.asarray(vectors[[row for _, _, row in known]])
        if found.shape != wanted.shape:
            yield from (("wrong_model", point) for point, _, _ in known)
            return
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
        cosines = np.einsum("ij,ij->i", found, wanted) / np.where(norms > 0, norms, 1)
        yield from (("wrong_model", known[i][0]) for i in np.flatnonzero(~(cosines >= SAME)))

    for point, payload, vector in reader.points():
        row = db.execute(
            "SELECT e.payload, v.row FROM expected e JOIN vectors v USING (vector_key) WHERE point_id = ?", (point,)
        ).fetchone()
        if row is None:
            yield "extra", point
            continue
        db.execute("UPDATE expected SET seen = 1 WHERE point_id = ?", (point,))
        if row[0] != _digest(payload):
            yield "differing", point
        known.append((point, vector, row[1]))
        if len(known) == BATCH:
            yield from strangers()
            known.clear()
    yield from strangers()


def _digest(payload: Mapping[str, Any]) -> str:
    return ids.sha256(orjson.dumps(payload, option=orjson.OPT_SORT_KEYS))
