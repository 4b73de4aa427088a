"""Releases from one store to another, with their vectors: to a server, back from it, into a backup and out of one.

The source stays as it is. What is there already and matches is passed over: a transfer that broke off goes on. Nothing
is published on the target before all of it was compared with the source.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ragops.errors import StoreError, UsageError
from ragops.stores import ranking
from ragops.stores.releases import is_held, live_release
from ragops.types import Permission, Point, Reader, Release, Scored, Store

TOP = 10
SAMPLES = 20  # points of each release whose own vectors and words are the queries
FEW = 500  # documents; what came with more of them is read in one pass over the release
WORDS = 12  # of a sampled point's text, as a query

_IDS = """
CREATE TABLE old (point_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE new (point_id TEXT PRIMARY KEY, chunk_id TEXT NOT NULL, document_id TEXT NOT NULL,
    vector_key TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Transferred:
    """What was done. `points`: written to the target; `queries`: asked on both sides, with the same answers."""

    releases: Sequence[int]  # all that the target has now
    copied: Sequence[int]
    skipped: Sequence[int]  # were there already, and match
    removed: Sequence[int]  # of this knowledge base, and no longer kept by the source
    points: int
    queries: int
    live: int | None
    held: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


#: Told (what, done, total): "copy" in points, "compare" in releases.
Tell = Callable[[str, int, int], None]


def transfer(
    source: Store,
    target: Store,
    *,
    name: str,
    ours: Callable[[Release], bool] = lambda release: False,
    replace: bool = False,
    tell: Tell = lambda what, done, total: None,
) -> Transferred:
    """Bring `target` to the releases that `source` keeps, with today's permissions, the live one and its hold.

    `name` says where the target is, for messages; `ours(release)`: whether a release that only the target has was made
    by this knowledge base. `replace`: newer ones of ours there may go, too. Raises UsageError for a target that is
    somebody else's, StoreError where the source is damaged or the target answers otherwise; nothing is published then.
    """
    releases = source.releases()
    _check_source(source, releases)
    extra = _check_target(releases, target, name, ours, replace=replace)
    there = {release.number for release in target.releases()} - set(extra)
    copied: list[int] = []
    points = 0
    total = _work(source, releases, there)
    previous: Release | None = None
    for release in releases:
        if release.number not in there:
            points += _copy(source, target, release, previous, functools.partial(_tell, tell, points, total))
            copied.append(release.number)
            tell("copy", points, total)
        previous = release
    if there:
        _permit(source, target, releases)
    queries = 0
    for done, release in enumerate(releases):
        tell("compare", done, len(releases))
        queries += compare(source, target, release, name)
    live, held = live_release(source), is_held(source)
    if live is not None:
        now = live_release(target)
        if now is None or now.number != live.number or is_held(target) != held:
            target.publish(live.number, hold=held)
    for number in extra:
        target.remove(number)
    return Transferred(
        releases=[release.number for release in releases],
        copied=copied,
        skipped=sorted(there),
        removed=extra,
        points=points,
        queries=queries,
        live=None if live is None else live.number,
        held=held,
    )


def _tell(tell: Tell, before: int, total: int, done: int) -> None:
    tell("copy", before + done, total)


# ---------------------------------------------------------------- before
def _check_source(source: Store, releases: Sequence[Release]) -> None:
    if not releases:
        raise UsageError("there is no release to copy", "Make one: ragops ingest")
    source.tidy()  # else a draft of a dead attempt passes for a damaged release
    for number in source.numbers():
        for problem in source.check(number):
            raise StoreError(
                f"not copied, as it cannot be vouched for: {problem}",
                "Mend it with `ragops verify --repair`, or let `ragops releases prune` remove it if it is an old one.",
            )


def same(a: Release, b: Release) -> bool:
    """Whether two stores mean the same release by a number."""
    return (a.number, a.fingerprint, a.created, a.points, a.avg_len, a.space.fingerprint) == (
        b.number, b.fingerprint, b.created, b.points, b.avg_len, b.space.fingerprint,
    )  # fmt: skip


def _check_target(
    releases: Sequence[Release], target: Store, name: str, ours: Callable[[Release], bool], *, replace: bool
) -> list[int]:
    """Numbers of releases on the target that the source no longer keeps. Raises UsageError, StoreError."""
    target.tidy()  # of a transfer that was killed
    mine = {release.number: release for release in releases}
    theirs = {release.number: release for release in target.releases()}
    damaged = sorted({*target.numbers()} - {*theirs})
    if damaged:
        raise StoreError(
            f"{name} has releases that cannot be read: {', '.join(map(str, damaged))}",
            "Remove them there, or choose another store.collection.",
        )
    shared = [number for number in theirs if number in mine]
    extra = sorted(number for number in theirs if number not in mine)
    for number in shared:
        if not same(mine[number], theirs[number]):
            raise _foreign(name, theirs[number])
        for problem in target.check(number):
            raise StoreError(f"on {name}: {problem}", "Remove it there, and run this again: it is copied anew.")
    for number in extra:
        if not shared and not ours(theirs[number]):
            raise _foreign(name, theirs[number])
    newest = releases[-1].number
    if extra and extra[-1] > newest and not replace:
        raise UsageError(
            f"{name} is ahead: it has release {extra[-1]} of this knowledge base, here the newest is {newest}",
            "If that is the one to keep, set store.url in params.yaml to it; nothing was changed.",
        )
    return extra


def _foreign(name: str, release: Release) -> UsageError:
    return UsageError(
        f"{name} holds another knowledge base: its release {release.number} of {release.created}"
        f" (dataset {release.fingerprint[:12]}) was not made here",
        "Choose another `store.collection` in params.yaml, or remove that one there. Nothing was changed.",
    )


# ---------------------------------------------------------------- copying
@contextlib.contextmanager
def _ids() -> Iterator[sqlite3.Connection]:
    """A table of ids on disk: a release may have more of them than fit into memory."""
    with tempfile.TemporaryDirectory(prefix="ragops-") as folder:
        db = sqlite3.connect(Path(folder) / "ids.db", isolation_level=None)
        try:
            db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _IDS)
            yield db
        finally:
            db.close()


def _base(release: Release, previous: Release | None) -> Release | None:
    if previous is None:
        return None
    fits = (previous.space.fingerprint, previous.avg_len) == (release.space.fingerprint, release.avg_len)
    return previous if fits else None


def _load(db: sqlite3.Connection, source: Store, release: Release, previous: Release | None) -> None:
    db.execute("BEGIN")
    db.executemany(
        "INSERT INTO new VALUES (?, ?, ?, ?)",
        ((row.point_id, row.chunk_id, row.document_id, row.vector_key) for row in source.point_rows(release.number)),
    )
    if previous is not None:
        db.executemany("INSERT INTO old VALUES (?)", ((id,) for id in source.point_ids(previous.number)))
    db.execute("COMMIT")


_ADDED = "FROM new WHERE point_id NOT IN (SELECT point_id FROM old)"


def _work(source: Store, releases: Sequence[Release], there: set[int]) -> int:
    """Points that will be written: an estimate by what sealing the releases added."""
    total = 0
    previous: Release | None = None
    for release in releases:
        if release.number not in there:
            if _base(release, previous) is None:
                total += release.points
            else:
                total += min(release.points, source.work(release.number).get("added", 0))
        previous = release
    return total


def _copy(
    source: Store, target: Store, release: Release, previous: Release | None, progress: Callable[[int], None]
) -> int:
    base = _base(release, previous)
    with _ids() as db, contextlib.closing(source.open(release.number)) as reader:
        _load(db, source, release, base)
        count = int(db.execute(f"SELECT count(*) {_ADDED}").fetchone()[0])
        gone = "SELECT point_id FROM old WHERE point_id NOT IN (SELECT point_id FROM new) ORDER BY point_id"
        target.write(
            release,
            base=None if base is None else base.number,
            delete=(id for (id,) in db.execute(gone)),
            add=_added(db, reader),
            progress=progress,
        )
    return count


def _added(db: sqlite3.Connection, reader: Reader) -> Iterator[tuple[Point, Sequence[float]]]:
    """The points that the base lacks. Few documents are asked for, many read in one pass."""
    documents = [id for (id,) in db.execute(f"SELECT DISTINCT document_id {_ADDED} LIMIT {FEW + 1}")]
    condition = {"document_id": {"in": documents}} if len(documents) <= FEW else None
    if not documents:
        return
    wanted = f"SELECT chunk_id, document_id, vector_key {_ADDED} AND point_id = ?"
    for id, payload, vector in reader.points(filter=condition):
        row = db.execute(wanted, (id,)).fetchone()
        if row is not None:
            yield Point(id, row[0], row[1], row[2], payload), vector.tolist()


# ---------------------------------------------------------------- permissions
def _permit(source: Store, target: Store, releases: Sequence[Release]) -> None:
    """Today's permissions over what the target had before; what is copied now is sealed with them."""
    changed: dict[str, Permission] = {}
    for release in releases:
        today = _permissions(source, release)
        changed |= {
            id: today[id] for id, found in _permissions(target, release).items() if today.get(id, found) != found
        }
    if changed:
        target.permit(changed, upto=releases[-1].number)


def _permissions(store: Store, release: Release) -> dict[str, Permission]:
    with contextlib.closing(store.open(release.number)) as reader:
        return {
            payload["document_id"]: (payload.get("tenant") or "", tuple(payload.get("groups") or ()))
            for _, payload, _ in reader.points()
        }


# ---------------------------------------------------------------- comparing
def compare(source: Store, target: Store, release: Release, name: str) -> int:
    """Counts, and the answers to sampled queries, of one release on both. Returns the number of queries.

    Raises StoreError where they differ.
    """
    for problem in target.check(release.number):
        raise StoreError(f"on {name}: {problem}", "Nothing was switched. Run it again.")
    with (
        contextlib.closing(source.open(release.number)) as left,
        contextlib.closing(target.open(release.number)) as right,
    ):
        counts = left.count(), right.count()
        if counts != (release.points, release.points):
            raise _differs(name, release, f"{counts[1]:,} points instead of {counts[0]:,} (sealed: {release.points:,})")
        queries = 0
        for id, payload, vector in _sampled(source, left, release):
            hits = [reader.search(vector, TOP, exact=True) for reader in (left, right)]
            if not _alike(hits[0], hits[1], ranking.PLACES):
                raise _differs(name, release, f"other answers to the vector of point {id}")
            words = " ".join(str(payload.get("text", "")).split()[:WORDS])
            hits = [reader.search_text(words, TOP) for reader in (left, right)]
            if not _alike(hits[0], hits[1], ranking.TEXT_PLACES):
                raise _differs(name, release, f"other answers to the words of point {id}")
            queries += 2
        return queries


def _differs(name: str, release: Release, what: str) -> StoreError:
    return StoreError(
        f"release {release.number} on {name} has {what}",
        "Nothing was switched. Remove that release there and run it again; `ragops doctor` checks the store.",
    )


def _sampled(source: Store, reader: Reader, release: Release) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Points evenly spread over the release by id; ids are hashes, so that is at random, and the same every time."""
    step = max(1, release.points // SAMPLES)
    chunks = [row.chunk_id for i, row in enumerate(source.point_rows(release.number)) if i % step == 0][:SAMPLES]
    if chunks:
        yield from reader.points(filter={"chunk_id": {"in": chunks}})


def _alike(left: Sequence[Scored], right: Sequence[Scored], places: int) -> bool:
    """The same points with the same scores, as far as stores give them: to `places`.

    What rounding sets apart may change its rank, and its side of the cut.
    """
    step = 10**-places * 1.01
    if len(left) != len(right):
        return False
    if not left:
        return True
    a, b = ({hit.point_id: hit.score for hit in hits} for hits in (left, right))
    return all(abs(x.score - y.score) <= step for x, y in zip(left, right, strict=True)) and all(
        abs(a.get(id, left[-1].score) - b.get(id, right[-1].score)) <= step for id in {*a, *b}
    )
