"""What the connectors saw: one row per source, and the bytes by hash, both in immutable segments (see `segments`).

`snapshot.json` names the segments that count and is replaced last. Bytes of more than 1 MiB have a file each.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragops import durable, ids
from ragops.errors import StoreError
from ragops_pipelines import segments
from ragops_pipelines.segments import Segment
from ragops_pipelines.state import State

if TYPE_CHECKING:
    import polars as pl

SCHEMA = 2
LARGE = 1 << 20  # bytes; larger objects have a file each
ROW = 256  # bytes that a row of the sources weighs, about
SEEN = (
    "uri", "source", "raw_sha", "size", "media_type", "encoding", "metadata", "kept", "doc_raw_sha", "doc_metadata",
)  # fmt: skip


@dataclass(slots=True)
class Manifest:
    """The segments that count, by name."""

    sources: dict[str, Segment] = field(default_factory=dict)
    objects: dict[str, Segment] = field(default_factory=dict)

    def text(self) -> str:
        listed = {
            part: [segment.as_dict() for _, segment in sorted(found.items())]
            for part, found in (("sources", self.sources), ("objects", self.objects))
        }
        return json.dumps({"schema": SCHEMA, **listed}, indent=1, sort_keys=True) + "\n"


class Snapshot:
    """`data/snapshot` of a workspace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "snapshot.json"
        self.objects = folder / "objects"
        self._pack: tuple[str, dict[str, bytes]] = "", {}  # the segment of objects that was read last

    def manifest(self) -> Manifest | None:
        """What `snapshot.json` says, or None where there is no snapshot. Raises SchemaError, StoreError."""
        found = segments.read_manifest(self.file, SCHEMA)
        try:
            return None if found is None else Manifest(*(_named(found[part]) for part in ("sources", "objects")))
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self.file} is damaged: {error!r}", segments.MEND) from error

    def digest(self) -> str | None:
        """Of what `snapshot.json` says, or None where there is none: tells whether it is still the recorded one."""
        return durable.digest(self.file)

    # ------------------------------------------------------------------ writing
    def stage(self, state: State, sha: str, data: bytes) -> None:
        """Keep bytes for the run in progress. Large ones are written at once, others at `write`."""
        if len(data) > LARGE:
            file = self.objects / sha
            if not file.exists():
                durable.make_folder(self.objects)
                draft = self.objects / f".{sha}.tmp"
                draft.write_bytes(data)
                durable.replace(draft, file)
        else:
            state.db.execute("INSERT OR IGNORE INTO work.objects VALUES (?, ?)", (sha, data))

    def write(self, state: State, *, anew: bool = False, compact: bool = False) -> tuple[str, int]:
        """Write what `state.sources` asks for and is not there, beside what counts now.

        `anew`: what can be read was read; of the objects that count now, damaged ones are passed over.
        `compact`: what no longer counts leaves the disk.
        Returns what `adopt` puts into snapshot.json to make the segments count, and the bytes written.
        """
        for part in ("sources", "objects"):
            durable.make_folder(self.folder / part)
        manifest = Manifest()
        if anew:
            self._stage_old(state)
            state.db.execute("DELETE FROM placed WHERE part IN ('sources', 'objects')")
        else:
            manifest = self.manifest() or manifest
        written = self._write_sources(state, manifest, anew=anew, compact=compact)
        written += self._write_objects(state, manifest, compact=compact)
        durable.sync(self.folder / "sources")
        durable.sync(self.objects)
        return manifest.text(), written

    def adopt(self, state: State, text: str) -> None:
        """Make what `write` wrote count, and remove what no longer does. May be repeated."""
        durable.write_atomic(self.file, text.encode())
        found = json.loads(text)
        segments.sweep(self.folder / "sources", {*_named(found["sources"])})
        packs = {*_named(found["objects"])}
        for name in os.listdir(self.objects):
            if name not in packs and not _is_named(state, name):
                os.unlink(self.objects / name)

    def _write_sources(self, state: State, manifest: Manifest, *, anew: bool, compact: bool) -> int:
        import polars as pl

        if not anew:
            state.strike("sources", manifest.sources, "SELECT uri FROM work.old_sources")
        added = state.count("work.old_sources") * ROW
        worn = segments.worn(manifest.sources.values(), added, compact=compact)
        for segment in worn:
            del manifest.sources[segment.name]
        kinds = {"size": pl.Int64, "kept": pl.Boolean}
        schema = {name: kinds.get(name, pl.String) for name in SEEN}
        names = [segment.name for segment in worn]
        marks = ",".join("?" * len(names))
        chosen = (
            "true" if anew else "uri IN (SELECT uri FROM work.old_sources UNION ALL"
            f" SELECT key FROM placed WHERE part = 'sources' AND segment IN ({marks}))"
        )  # fmt: skip
        cursor = state.db.execute(f"SELECT {', '.join(SEEN)} FROM sources WHERE {chosen} ORDER BY uri", names)
        written = 0
        while found := cursor.fetchmany(segments.ROWS):
            kept = SEEN.index("kept")
            rows = [(*row[:kept], bool(row[kept]), *row[kept + 1 :]) for row in found]
            frame = pl.DataFrame(rows, schema=schema, orient="row")
            name, size = segments.write(frame, self.folder / "sources")
            manifest.sources[name] = Segment(name, len(rows), len(rows) * ROW)
            state.place("sources", (row[0] for row in rows), name)
            written += size
        return written

    def _write_objects(self, state: State, manifest: Manifest, *, compact: bool) -> int:
        gone = f"SELECT sha FROM work.old_objects WHERE NOT {_NAMED}"
        state.strike("objects", manifest.objects, gone)
        fresh = (
            f"SELECT sha, length(data) FROM work.objects WHERE {_NAMED}"
            " AND NOT EXISTS (SELECT 1 FROM placed WHERE part = 'objects' AND key = sha) ORDER BY sha"
        )
        worn = segments.worn(
            manifest.objects.values(), sum(size for _, size in state.db.execute(fresh)), compact=compact
        )
        for segment in worn:
            del manifest.objects[segment.name]
            self._stage_pack(state, segment)
        written = 0
        for batch in segments.batches(state.db.execute(fresh).fetchall()):
            written += self._write_pack(state, manifest, batch)
        return written

    def _write_pack(self, state: State, manifest: Manifest, shas: list[str]) -> int:
        import polars as pl

        query = "SELECT sha, data FROM work.objects WHERE sha = ?"
        rows = [state.db.execute(query, (sha,)).fetchone() for sha in shas]
        frame = pl.DataFrame(rows, schema={"sha": pl.String, "data": pl.Binary}, orient="row")
        name, size = segments.write(frame, self.objects)
        manifest.objects[name] = Segment(name, len(rows), sum(len(data) for _, data in rows))
        state.place("objects", shas, name)
        return size

    def _stage_pack(self, state: State, segment: Segment) -> None:
        """The objects of a worn segment that still count, to be written again."""
        rows = segments.living(segments.read(self.objects / segment.name), segment).rows()
        state.db.executemany("INSERT OR IGNORE INTO work.objects VALUES (?, ?)", rows)
        state.db.execute("DELETE FROM placed WHERE part = 'objects' AND segment = ?", (segment.name,))

    def _stage_old(self, state: State) -> None:
        """The objects on disk that can be read: what was not read again may still be named."""
        try:
            manifest = self.manifest()
        except StoreError:
            return
        for segment in manifest.objects.values() if manifest else ():
            try:
                rows = segments.read(self.objects / segment.name).rows()
            except StoreError:
                continue
            named = [row for row in rows if _is_named(state, row[0])]
            state.db.executemany("INSERT OR IGNORE INTO work.objects VALUES (?, ?)", named)

    # ------------------------------------------------------------------ reading
    def sources(self, manifest: Manifest) -> Iterator[tuple[str, pl.DataFrame]]:
        """The rows that count with their `row` in the segment, by segment."""
        for name, segment in sorted(manifest.sources.items()):
            yield name, segments.living(segments.read(self.folder / "sources" / name).with_row_index("row"), segment)

    def shas(self, manifest: Manifest) -> Iterator[tuple[str, pl.DataFrame]]:
        """Hash and `row` of the objects that count, by segment."""
        for name, segment in sorted(manifest.objects.items()):
            yield name, segments.living(segments.read(self.objects / name, ["sha"]).with_row_index("row"), segment)

    def read(self, state: State, sha: str) -> bytes:
        """The bytes of one object; cheap for many of one segment in turn. Raises StoreError when they are missing or
        damaged."""
        large = self.objects / sha
        if large.exists():
            data = large.read_bytes()
        else:
            found = [self._objects_of(name).get(sha) for name in state.segments_of("objects", [sha])]
            if not found or found[0] is None:
                raise StoreError(
                    f"the snapshot has no bytes {ids.short(sha)} (it keeps none of a source with `snapshot: manifest`)",
                    "Where the sources are, run `ragops ingest`: it reads them again.",
                )
            data = found[0]
        if ids.sha256(data) != sha:
            raise StoreError(f"the snapshot's object {ids.short(sha)} is damaged", segments.MEND)
        return data

    def _objects_of(self, name: str) -> dict[str, bytes]:
        if self._pack[0] != name:
            self._pack = name, dict(segments.read(self.objects / name, ["sha", "data"]).rows())
        return self._pack[1]

    def check(self, state: State) -> list[str]:
        """What is wrong with what is kept, in words; empty when nothing is."""
        try:
            manifest = self.manifest() or Manifest()
        except StoreError as error:
            return [error.message]
        found = [
            f"{folder / name} is {'missing' if digest is None else 'damaged'}"
            for folder, part in ((self.folder / "sources", manifest.sources), (self.objects, manifest.objects))
            for name in part
            if (digest := durable.digest(folder / name)) is None or not segments.is_named(name, digest)
        ]
        if found:
            return found
        lost = {
            sha
            for column in ("raw_sha", "doc_raw_sha")
            for (sha,) in state.db.execute(f"SELECT {column} FROM sources WHERE kept AND {column} IS NOT NULL")
        }
        for _, frame in self.shas(manifest):
            lost.difference_update(frame["sha"])
        for sha in sorted(lost):
            digest = durable.digest(self.objects / sha)
            if digest is not None:
                lost.discard(sha)
                if digest != sha:
                    found.append(f"{self.objects / sha} is damaged")
        if lost:
            found.append(f"the snapshot has no bytes for {len(lost)} sources, such as {ids.short(min(lost))}")
        return found


# Whether a source has these bytes, or the document that it serves was made of them, and they are kept.
_NAMED = (
    "(EXISTS (SELECT 1 FROM sources WHERE kept AND raw_sha = sha)"
    " OR EXISTS (SELECT 1 FROM sources WHERE kept AND doc_raw_sha = sha))"
)


def _is_named(state: State, sha: str) -> bool:
    return bool(state.db.execute(f"SELECT {_NAMED} FROM (SELECT ? AS sha)", (sha,)).fetchone()[0])


def _named(found: list[dict[str, Any]]) -> dict[str, Segment]:
    return {segment.name: segment for segment in map(Segment.of, found)}
