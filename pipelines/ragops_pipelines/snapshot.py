"""What the connectors saw: `manifest.parquet`, and the bytes by hash in a few hundred packs.

Packs carry their content's hash in their names; `snapshot.json` names those that count and is replaced last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ragops import durable, ids
from ragops.errors import StoreError
from ragops_pipelines import shards
from ragops_pipelines.state import State

SCHEMA = 1
LARGE = 1 << 20  # bytes; larger objects have a file each


class Snapshot:
    """`data/snapshot` of a workspace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "snapshot.json"
        self.objects = folder / "objects"

    def manifest(self) -> dict[str, Any] | None:
        """What `snapshot.json` says, or None where there is no snapshot. Raises SchemaError, StoreError."""
        return shards.read_manifest(self.file, SCHEMA)

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

    def digest(self) -> str | None:
        """Of what `snapshot.json` says, or None where there is none: tells whether it is still the recorded one."""
        return durable.digest(self.file)

    def write(self, state: State, *, anew: bool = False) -> tuple[str, int]:
        """Write the packs that `state.sources` asks for, beside those that count now.

        `anew`: what can be read was read; of the packs that count now, damaged ones are passed over.
        Returns what `adopt` puts into snapshot.json to make them count, and the bytes written.
        """
        durable.make_folder(self.objects)
        packs, count, written = self._write_packs(state, anew=anew)
        durable.sync(self.objects)
        value = {"schema": SCHEMA, "sources": state.count("sources"), "count": count, "packs": packs}
        return json.dumps(value, indent=1, sort_keys=True) + "\n", written

    def adopt(self, state: State, text: str) -> None:
        """Make what `write` wrote count, and remove what no longer does. May be repeated."""
        import polars as pl

        rows = [
            (k.uri, k.source, k.raw_sha, k.size, k.media_type, k.encoding, k.metadata, k.doc_raw_sha, k.doc_metadata)
            for k in state.sources()
        ]
        names = (
            "uri",
            "source",
            "raw_sha",
            "size",
            "media_type",
            "encoding",
            "metadata",
            "doc_raw_sha",
            "doc_metadata",
        )
        schema = {name: pl.Int64 if name == "size" else pl.String for name in names}
        shards.write_parquet(pl.DataFrame(rows, schema=schema, orient="row"), self.folder / "manifest.parquet")
        durable.write_atomic(self.file, text.encode())
        shards.sweep(self.objects, {*json.loads(text)["packs"].values(), *_named(state)})

    def read(self, sha: str) -> bytes:
        """The bytes of one object. Raises StoreError when they are missing or damaged."""
        import polars as pl

        large = self.objects / sha
        if large.exists():
            data = large.read_bytes()
        else:
            packs, count = self._layout()
            pack = self.objects / packs.get(f"{shards.prefix(sha) % count:03x}", "none")
            found = pl.read_parquet(pack).filter(pl.col("sha") == sha) if pack.exists() else None
            if found is None or found.is_empty():
                raise StoreError(
                    f"the snapshot has no object {ids.short(sha)}", "Run `ragops ingest` to read it again."
                )
            data = found["data"][0]
        if ids.sha256(data) != sha:
            raise StoreError(f"the snapshot's object {ids.short(sha)} is damaged", shards.MEND)
        return data

    def check(self, state: State) -> list[str]:
        """What is wrong with the bytes that are kept, by their hashes; empty when nothing is."""
        import polars as pl

        try:
            packs, _ = self._layout()
        except StoreError as error:
            return [error.message]
        found: list[str] = []
        lost = _named(state)
        for name in packs.values():
            digest = durable.digest(self.objects / name)
            if digest is None or not shards.is_named(name, digest):
                found.append(f"{self.objects / name} is {'missing' if digest is None else 'damaged'}")
            else:
                lost.difference_update(pl.read_parquet(self.objects / name, columns=["sha"])["sha"])
        for sha in sorted(lost):
            if (digest := durable.digest(self.objects / sha)) is not None and digest != sha:
                found.append(f"{self.objects / sha} is damaged")
            lost -= {sha} if digest is not None else set()
        if lost and not found:  # else they may have stood in what is damaged
            found.append(f"the snapshot has no bytes for {len(lost)} sources, such as {ids.short(min(lost))}")
        return found

    def _write_packs(self, state: State, *, anew: bool) -> tuple[dict[str, str], int, int]:
        import polars as pl

        live = _named(state)
        try:
            old, old_count = self._layout()
        except StoreError:
            if not anew:
                raise
            old, old_count = {}, 1
        count = shards.shard_count(len(live))
        staged: dict[int, list[str]] = {}
        for (sha,) in state.db.execute("SELECT sha FROM work.objects ORDER BY sha"):
            if sha in live:
                staged.setdefault(shards.prefix(sha) % count, []).append(sha)
        gone = [row[0] for row in state.db.execute("SELECT sha FROM work.old_objects")]
        everything = anew or count != old_count
        touched = (
            set(range(count))
            if everything
            else set(staged) | {shards.prefix(sha) % count for sha in gone if sha not in live}
        )
        packs = {} if everything else dict(old)
        written = 0
        for shard in sorted(touched):
            rows = dict(self._old_rows(shard, count, old, old_count, live, anew=anew))
            for sha in staged.get(shard, ()):
                rows[sha] = state.db.execute("SELECT data FROM work.objects WHERE sha = ?", (sha,)).fetchone()[0]
            packs.pop(f"{shard:03x}", None)
            if rows:
                frame = pl.DataFrame(sorted(rows.items()), schema={"sha": pl.String, "data": pl.Binary}, orient="row")
                packs[f"{shard:03x}"], size = shards.write_named(frame, self.objects, f"{shard:03x}-{count:04d}")
                written += size
        return packs, count, written

    def _old_rows(
        self, shard: int, count: int, old: Mapping[str, str], old_count: int, live: set[str], *, anew: bool
    ) -> Iterator[tuple[str, bytes]]:
        import polars as pl

        for source in shards.sources_of(shard, count, old_count):
            if (name := old.get(f"{source:03x}")) is None:
                continue
            try:
                rows = pl.read_parquet(self.objects / name).rows()
            except (OSError, pl.exceptions.PolarsError) as error:
                if anew:
                    continue
                raise StoreError(f"{self.objects / name} cannot be read: {error}", shards.MEND) from error
            for sha, data in rows:
                if sha in live and shards.prefix(sha) % count == shard:
                    yield sha, data

    def _layout(self) -> tuple[dict[str, str], int]:
        """The packs that count now, by shard, and how many shards there are."""
        value = self.manifest()
        try:
            return ({}, 1) if value is None else (dict(value["packs"]), int(value["count"]))
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self.file} is damaged: {error}", shards.MEND) from error


def _named(state: State) -> set[str]:
    """Hashes of the bytes that a source has, or that the document which it serves was made of."""
    rows = state.db.execute(
        "SELECT raw_sha FROM sources WHERE raw_sha IS NOT NULL"
        " UNION SELECT doc_raw_sha FROM sources WHERE doc_raw_sha IS NOT NULL"
    )
    return {sha for (sha,) in rows}
