"""Immutable parquet files under content names, and which of them to write again.

A run appends what is new as one segment and marks the rows that no longer count in the manifest that names the
segments, so that what is written (and what DVC pushes) follows the change. As in a log-structured merge tree, small
segments are merged, but by no more bytes than a few times what the run adds, as long as they are not too many; what is
half dead is written again.
"""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ragops import durable, ids
from ragops.errors import SchemaError, StoreError

if TYPE_CHECKING:
    import polars as pl

    Compression: TypeAlias = Literal["zstd", "uncompressed"]

MEND = "Run `ragops verify --repair`: what is damaged is made again."
LEVEL = 1  # of zstd: a quarter less time than by default for one hundredth more bytes
FULL = 8 << 20  # bytes before compression; a segment of this size is not merged any more
ROWS = 8192  # at most, so that a manifest's bitmap and a batch of vectors stay small
FEW = 8  # small segments before any are merged
MANY = 32  # small segments that are merged whatever they weigh
TIMES = 3  # what a run adds: the bytes that it merges, at most
LIGHT = 8 << 10  # bytes that count as added by any run


@dataclass(slots=True)
class Segment:
    """A file, or the files of one name in several parts. Bit n of `dead` says that row n no longer counts."""

    name: str
    rows: int
    size: int  # bytes before compression
    dead: int = 0

    @property
    def live(self) -> int:
        return self.rows - self.dead.bit_count()

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"name": self.name, "rows": self.rows, "size": self.size}
        return found | {"dead": f"{self.dead:x}"} if self.dead else found

    @classmethod
    def of(cls, found: dict[str, Any]) -> Segment:
        return cls(str(found["name"]), int(found["rows"]), int(found["size"]), int(found.get("dead", "0"), 16))


def worn(segments: Iterable[Segment], added: int, *, compact: bool = False) -> list[Segment]:
    """Those to write again in a run that adds so many bytes: half dead, or small ones to be merged.

    Of a few small ones, the lightest that together weigh at most `TIMES` what is added, where half of a few are so
    light; of many, the lighter half. `compact`: all that have a dead row.
    """
    found: list[Segment] = []
    small: list[Segment] = []
    for segment in segments:
        if 2 * segment.live <= segment.rows or (compact and segment.dead):
            found.append(segment)
        elif segment.size <= FULL // 2 and segment.rows <= ROWS // 2:
            small.append(segment)
    small.sort(key=lambda segment: (segment.size, segment.name))
    weights = itertools.accumulate(segment.size for segment in small)
    light = sum(weight <= TIMES * max(added, LIGHT) for weight in weights)
    if len(small) >= FEW and light >= FEW // 2:
        found += small[:light]
    elif len(small) >= MANY:
        found += small[: len(small) // 2]
    return found


def batches(sizes: Iterable[tuple[str, int]]) -> Iterable[list[str]]:
    """Keys with the bytes that each weighs, cut into segments."""
    batch: list[str] = []
    weight = 0
    for key, size in sizes:
        if batch and (weight + size > FULL or len(batch) == ROWS):
            yield batch
            batch, weight = [], 0
        batch.append(key)
        weight += size
    if batch:
        yield batch


def living(frame: pl.DataFrame, segment: Segment) -> pl.DataFrame:
    """The rows that count."""
    if not segment.dead:
        return frame
    import polars as pl

    return frame.filter(pl.Series([not segment.dead >> row & 1 for row in range(segment.rows)], dtype=pl.Boolean))


def write(frame: pl.DataFrame, folder: Path, compression: Compression = "zstd") -> tuple[str, int]:
    """Write `<hash of its content>.parquet`, durable but for its folder. Returns its name and size in bytes."""
    buffer = io.BytesIO()
    level = LEVEL if compression == "zstd" else None
    frame.write_parquet(buffer, compression=compression, compression_level=level, statistics=False)
    data = buffer.getvalue()
    name = f"{ids.short(ids.sha256(data))}.parquet"
    draft = folder / f".{name}.tmp"
    draft.write_bytes(data)
    durable.replace(draft, folder / name)
    return name, len(data)


def read(file: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Raises StoreError for one that is missing or damaged."""
    import polars as pl

    try:
        data = file.read_bytes()
        if not is_named(file.name, ids.sha256(data)):
            raise StoreError(f"{file} is damaged: its content does not match its name", MEND)
        return pl.read_parquet(data, columns=list(columns) if columns else None)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(f"{file} cannot be read: {error}", MEND) from error


def read_manifest(file: Path, known: int) -> dict[str, Any] | None:
    """The JSON that names the files that count, None where there is none. Raises SchemaError beyond schema `known`,
    StoreError for a damaged one, and one of an older ragops."""
    try:
        found = dict(json.loads(file.read_bytes()))
        schema = int(found["schema"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file} is damaged: {error}", MEND) from error
    if schema > known:
        raise SchemaError.newer(file, schema, known)
    if schema < known:
        raise StoreError(f"{file} was written by an older ragops", "Run `ragops ingest`: it is made anew.")
    return found


def is_named(name: str, digest: str) -> bool:
    """Whether the name that `write` gave belongs to content of this hash."""
    return name == f"{ids.short(digest)}.parquet"


def sweep(folder: Path, wanted: Collection[str]) -> None:
    """Remove every file whose name is not wanted."""
    for name in os.listdir(folder):
        if name not in wanted:
            os.unlink(folder / name)
