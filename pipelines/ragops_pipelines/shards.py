"""Hash-prefix shards: how many, and which. A function of what they hold, never of history."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ragops import durable, ids
from ragops.errors import SchemaError, StoreError

if TYPE_CHECKING:
    import polars as pl

    Compression: TypeAlias = Literal["zstd", "uncompressed"]

MEND = "Run `ragops verify --repair`: what is damaged is made again."
LEVEL = 1  # of zstd: a quarter less time than by default for one hundredth more bytes
PER_SHARD = 16
MAX_SHARDS = 1024  # a power of two, at most 4096: prefixes have 12 bits


def read_manifest(file: Path, known: int) -> dict[str, Any] | None:
    """The JSON that names the files that count, None where there is none. Raises SchemaError beyond schema `known`,
    StoreError for a damaged one."""
    try:
        found = dict(json.loads(file.read_bytes()))
        schema = int(found["schema"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file} is damaged: {error}", MEND) from error
    if schema > known:
        raise SchemaError.newer(file, schema, known)
    return found


def shard_count(items: int) -> int:
    """A power of two, so that a grown shard splits in two and nothing else moves."""
    count = 1
    while count < MAX_SHARDS and count * PER_SHARD < items:
        count *= 2
    return count


def prefix(digest: str) -> int:
    return int(digest[:3], 16)


def sources_of(shard: int, count: int, old_count: int) -> Iterator[int]:
    """The shards of an old layout that may hold what belongs to `shard` of the new one."""
    if old_count <= count:
        yield shard % old_count
    else:
        yield from range(shard, old_count, count)


def write_named(frame: pl.DataFrame, folder: Path, name: str, compression: Compression = "zstd") -> tuple[str, int]:
    """Write `<name>-<hash of its content>.parquet`, durable but for its folder. Returns its name and size in bytes."""
    buffer = io.BytesIO()
    level = LEVEL if compression == "zstd" else None
    frame.write_parquet(buffer, compression=compression, compression_level=level, statistics=False)
    data = buffer.getvalue()
    final = f"{name}-{ids.short(ids.sha256(data))}.parquet"
    draft = folder / f".{name}.tmp"
    draft.write_bytes(data)
    durable.replace(draft, folder / final)
    return final, len(data)


def is_named(name: str, digest: str) -> bool:
    """Whether the name that `write_named` gave belongs to content of this hash."""
    return name.rpartition("-")[2] == f"{ids.short(digest)}.parquet"


def sweep(folder: Path, wanted: Collection[str]) -> None:
    """Remove every file whose name is not wanted."""
    for name in os.listdir(folder):
        if name not in wanted:
            os.unlink(folder / name)


def write_parquet(frame: pl.DataFrame, file: Path) -> None:
    """The same rows give the same bytes; a crash leaves the old file or the new one."""
    draft = file.with_name(f".{file.name}.tmp")
    frame.write_parquet(draft, compression="zstd", compression_level=LEVEL, statistics=False)
    durable.replace(draft, file)
