"""What the connectors saw: `manifest.parquet`, and the bytes by hash in a few hundred packs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ragops import durable, ids
from ragops.errors import StoreError
from ragops_pipelines import shards
from ragops_pipelines.state import State

if TYPE_CHECKING:
    pass

SCHEMA = 1
LARGE = 1 << 20  # bytes; larger objects have a file each


class Snapshot:
    """`data/snapshot` of a workspace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = folder / "objects"

    def stage(self, state: State, sha: str, data: bytes) -> None:
        """Keep bytes for the run in progress. Large ones are written at once, others at `write`."""
        if len(data) > LARGE:
            file = self.objects / sha
            if not file.exists():
                self.objects.mkdir(parents=True, exist_ok=True)
                draft = self.objects / f".{sha}.tmp"
                draft.write_bytes(data)
                durable.replace(draft, file)
        else:
            state.db.execute("INSERT OR IGNORE INTO work.objects VALUES (?, ?)", (sha, data))

    def write(self, state: State) -> int:
        """Bring manifest and packs to what `state.sources` says. Returns the bytes written."""
        import polars as pl

        self.objects.mkdir(parents=True, exist_ok=True)
        rows = [
            (k.uri, k.source, k.raw_sha, k.size, k.media_type, k.encoding, k.metadata, k.doc_raw_sha, k.doc_metadata)
            for k in state.sources()
        ]
        names = [
            "uri",
            "source",
            "raw_sha",
            "size",
            "media_type",
            "encoding",
            "metadata",
            "doc_raw_sha",
            "doc_metadata",
        ]
        schema = {name: pl.Int64 if name == "size" else pl.String for name in names}
        written = self._write_packs(state)
        shards.write_parquet(pl.DataFrame(rows, schema=schema, orient="row"), self.folder / "manifest.parquet")
        (self.folder / "snapshot.json").write_text(json.dumps({"schema": SCHEMA, "sources": len(rows)}) + "\n")
        return written + (self.folder / "manifest.parquet").stat().st_size

    def read(self, sha: str) -> bytes:
        """The bytes of one object. Raises StoreError when they are missing or damaged."""
        import polars as pl

        large = self.objects / sha
        if large.exists():
            data = large.read_bytes()
        else:
            count = self._count()
            pack = self.objects / _pack(shards.prefix(sha) % count, count)
            found = pl.read_parquet(pack).filter(pl.col("sha") == sha) if pack.exists() else None
            if found is None or found.is_empty():
                raise StoreError(
                    f"the snapshot has no object {ids.short(sha)}", "Run `ragops ingest` to read it again."
                )
            data = found["data"][0]
        if ids.sha256(data) != sha:
            raise StoreError(f"the snapshot's object {ids.short(sha)} is damaged", "Run `ragops ingest --rebuild`.")
        return data

    def _write_packs(self, state: State) -> int:
        import polars as pl

        live = {
            sha
            for (sha,) in state.db.execute(
                "SELECT raw_sha FROM sources WHERE raw_sha IS NOT NULL UNION SELECT doc_raw_sha FROM sources"
                " WHERE doc_raw_sha IS NOT NULL"
            )
        }
        old_count, count = self._count(), shards.shard_count(len(live))
        staged: dict[int, list[str]] = {}
        for (sha,) in state.db.execute("SELECT sha FROM work.objects ORDER BY sha"):
            if sha in live:
                staged.setdefault(shards.prefix(sha) % count, []).append(sha)
        gone = [row[0] for row in state.db.execute("SELECT sha FROM work.old_objects")]
        touched = (
            set(range(count))
            if count != old_count
            else set(staged) | {shards.prefix(sha) % count for sha in gone if sha not in live}
        )
        written = 0
        for shard in sorted(touched):
            rows = dict(self._old_rows(shard, count, old_count, live))
            for sha in staged.get(shard, ()):
                rows[sha] = state.db.execute("SELECT data FROM work.objects WHERE sha = ?", (sha,)).fetchone()[0]
            frame = pl.DataFrame(sorted(rows.items()), schema={"sha": pl.String, "data": pl.Binary}, orient="row")
            file = self.objects / _pack(shard, count)
            if frame.is_empty():
                file.unlink(missing_ok=True)
                continue
            shards.write_parquet(frame, file)
            written += file.stat().st_size
        for file in self.objects.iterdir():  # packs of another layout, large objects that nothing names, dead drafts
            kept = file.name.endswith(f"-{count:04d}.parquet") or file.name in live
            if not kept or file.name.startswith("."):
                file.unlink()
        durable.sync(self.objects)
        return written

    def _old_rows(self, shard: int, count: int, old_count: int, live: set[str]) -> Iterator[tuple[str, bytes]]:
        import polars as pl

        for old in shards.sources_of(shard, count, old_count):
            file = self.objects / _pack(old, old_count)
            for sha, data in pl.read_parquet(file).rows() if file.exists() else ():
                if sha in live and shards.prefix(sha) % count == shard:
                    yield sha, data

    def _count(self) -> int:
        """The number of packs of the layout on disk: it stands in their names."""
        for file in self._packs():
            return int(file.name[4:8])
        return 1

    def _packs(self) -> Iterator[Path]:
        return self.objects.glob("*-[0-9][0-9][0-9][0-9].parquet")


def _pack(shard: int, count: int) -> str:
    return f"{shard:03x}-{count:04d}.parquet"
