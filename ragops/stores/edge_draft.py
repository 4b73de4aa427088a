"""A new release of an embedded store: its base is copied, a child process writes, the manifest seals it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragops import durable
from ragops.errors import DiskFull, StoreError
from ragops.stores import bm25, files, manifest
from ragops.stores import permissions as overlay
from ragops.stores.batches import BATCH, REBUILD, Batch, batches, check_ids, in_base_already, not_in_base
from ragops.stores.edge_folder import (
    CONFIG,
    ENGINE,
    LOCK,
    MANIFEST,
    POINTS,
    SHARD,
    Folder,
    damaged,
    disk_errors,
    engine_name,
)
from ragops.stores.edge_process import Writer
from ragops.stores.index import INDEXED_FROM, settings
from ragops.stores.manifest import SPACE_HINT, Damaged, Manifest
from ragops.types import Point, PointRow, Release

if TYPE_CHECKING:
    import polars as pl

ROW_BYTES = 3_000  # of disk per point beside its vectors: payload, sparse vector, indexes (measured: 2,900)


class Draft:
    """A release that is being written; without its manifest it is none. The caller holds the store's lock."""

    def __init__(self, folder: Folder, release: Release, before: Manifest | None, *, reserve: int | None) -> None:
        """`before`: the seal of its base; `reserve`: bytes of disk that must stay free, None: whatever happens."""
        self._folder = folder
        self._release = release
        self._before = before
        self._reserve = reserve
        self._path = folder.path(release.number)

    def check_space(self) -> None:
        """Raises DiskFull where the disk cannot hold it."""
        if self._reserve is None:
            return
        release, before = self._release, self._before
        held = 0 if before is None else files.allocated(self._folder.path(before.release.number))
        old = 0 if before is None else before.release.points
        need = held + max(0, release.points - old) * (release.space.dim * 5 + ROW_BYTES)
        if release.points - old > release.points // 10 and release.points >= INDEXED_FROM:
            need *= 2  # an index is built beside what it replaces
        free = files.free_bytes(self._folder.root)
        if free < need + self._reserve:
            raise DiskFull(
                f"The disk under {self._folder.root} is too full for release {release.number}: "
                f"about {need + self._reserve:,} bytes are needed, {free:,} are free.",
                SPACE_HINT,
            )

    def write(
        self,
        delete: Iterable[str],
        add: Iterable[tuple[Point, Sequence[float]]],
        *,
        progress: Callable[[int], None],
        lock: int,
    ) -> Release:
        """The base less `delete` plus `add`, sealed. The writing process holds `lock` as long as it lives."""
        release, before = self._release, self._before
        entries = self._entries()
        with disk_errors(self._folder.root):
            (self._path / SHARD).mkdir(parents=True)
            copied = 0 if before is None else self._copy(before)
        config = {
            "path": str(self._path / SHARD),
            "dim": release.space.dim,
            "avg_len": release.avg_len,
            "base": before is not None,
            "reserve": self._reserve,
        }
        frames: list[pl.DataFrame] = []
        deleted: list[str] = []
        writer = Writer(self._path, config, lock)
        try:
            for some in _chunks(check_ids(delete), BATCH):
                writer.send(b"D", json.dumps(some))
                deleted.extend(some)
            for batch in batches(add, release.space.dim):
                writer.send(b"A", _rows_json(batch), batch.vectors.tobytes())
                frames.append(_index(batch))
                progress(writer.written)
            count = writer.finish()
            progress(writer.written)
        finally:
            writer.close()
        rows = self._merged(deleted, frames)  # only now: the writer's memory is given back
        if len(rows) != release.points:
            raise StoreError(
                f"release {release.number} was to have {release.points:,} points, but base, delete and add give "
                f"{len(rows):,}",
                REBUILD,
            )
        if count != release.points:
            raise StoreError(
                f"release {release.number} has {count:,} points on disk instead of {release.points:,}",
                "Nothing was published. Run it again; `ragops doctor` checks the store.",
            )
        work = {"copied_bytes": copied, "added": writer.written, "deleted": len(deleted)}
        with disk_errors(self._folder.root):
            self._carry(entries, deleted)
            return self._seal(rows, bool(deleted) or (before is not None and before.deletes), work)

    def _entries(self) -> overlay.Entries:
        try:
            return overlay.read(self._folder.permissions)
        except Damaged:
            if self._before is None:
                return {}  # a clean build needs none of them
            raise

    def _carry(self, entries: overlay.Entries, deleted: list[str]) -> None:
        """Let entries reach to the new release for documents of which points are kept from its base, for no others."""
        import polars as pl

        after = overlay.trimmed(entries, self._folder.numbers())
        if after and self._before is not None:
            base = self._before.release.number
            rows = self._folder.rows(base, ["point_id", "document_id"])
            kept = rows.filter(~pl.col("point_id").is_in(deleted))
            after = overlay.carried(after, kept["document_id"].unique(), base, self._release.number)
        if after != entries:
            overlay.write(self._folder.permissions, after)

    def _copy(self, before: Manifest) -> int:
        """The base's shard, checked against its seal on the way: damage must not be sealed anew."""
        source = self._folder.path(before.release.number)
        copied = 0
        for base, _, _ in os.walk(source / SHARD):  # empty folders too
            os.makedirs(os.path.join(self._path, os.path.relpath(base, source)), exist_ok=True)
        for name in [name for name in before.files if name.startswith(f"{SHARD}/")]:
            checksum, size = files.copy_sparse(os.path.join(source, name), os.path.join(self._path, name))
            copied += size
            if checksum != before.files[name][1]:
                raise damaged(source, f"{name} does not have its checksum")
        (self._path / CONFIG).write_text(json.dumps(before.engine["edge_config"]))
        return copied

    def _merged(self, deleted: list[str], added: list[pl.DataFrame]) -> pl.DataFrame:
        """The rows of points.parquet, sorted. Raises StoreError for what does not fit together."""
        import polars as pl

        empty = pl.DataFrame(schema=dict.fromkeys(PointRow._fields, pl.String))
        before = self._before
        old = empty if before is None else self._folder.rows(before.release.number, list(PointRow._fields))
        gone = pl.DataFrame({"point_id": deleted}, schema={"point_id": pl.String}).unique()
        unknown = gone.join(old, on="point_id", how="anti")
        if len(unknown):
            raise not_in_base(unknown["point_id"].to_list())
        new = pl.concat([empty, *added])
        rows = pl.concat([old.join(gone, on="point_id", how="anti"), new]).sort("point_id")
        if rows["point_id"].n_unique() != len(rows):
            raise in_base_already(rows.filter(pl.col("point_id").is_duplicated())["point_id"].to_list()[0])
        return rows

    def _seal(self, rows: pl.DataFrame, deletes: bool, work: dict[str, int]) -> Release:
        rows.write_parquet(self._path / POINTS, compression="zstd")
        (self._path / LOCK).touch()
        sealed = replace(self._release, collection=self._folder.root.name)
        engine = _engine(sealed) | {"edge_config": json.loads((self._path / CONFIG).read_bytes())}
        seal = Manifest(sealed, engine, _checksums(self._path), deletes, work)
        text = json.dumps(manifest.dump(seal), indent=1, ensure_ascii=False)
        durable.sync_tree(self._path)
        durable.write_atomic(self._path / MANIFEST, text.encode())
        durable.sync(self._folder.releases)
        return sealed


def _checksums(folder: Path) -> dict[str, tuple[int, str]]:
    names = [f"{SHARD}/{name}" for name in files.walk(folder / SHARD) if f"{SHARD}/{name}" != CONFIG]
    paths = {name: os.path.join(folder, name) for name in sorted([*names, POINTS])}
    return {name: (os.stat(path).st_size, files.checksum(path)) for name, path in paths.items()}


def _chunks(ids: Iterator[str], size: int) -> Iterator[list[str]]:
    some: list[str] = []
    for id in ids:
        some.append(id)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some


def _rows_json(batch: Batch) -> str:
    return (
        "[" + ",".join(f'["{p.point_id}",{text}]' for p, text in zip(batch.points, batch.payloads, strict=True)) + "]"
    )


def _index(batch: Batch) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame(
        {
            "point_id": [point.point_id for point in batch.points],
            "chunk_id": [point.chunk_id for point in batch.points],
            "document_id": [point.document_id for point in batch.points],
            "vector_key": [point.vector_key for point in batch.points],
            "uri": [str(point.payload.get("uri", "")) for point in batch.points],
        },
        schema=dict.fromkeys(PointRow._fields, pl.String),
    )


def _engine(release: Release) -> dict[str, Any]:
    return {
        "name": ENGINE,
        "version": engine_name().removeprefix(f"{ENGINE} "),
        "index": settings(release.space.dim),
        "bm25": {"language": bm25.LANGUAGE, "k": bm25.K1, "b": bm25.B, "avg_len": release.avg_len},
    }
