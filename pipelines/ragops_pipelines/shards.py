"""Hash-prefix shards: how many, and which. A function of what they hold, never of history."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ragops import durable

if TYPE_CHECKING:
    import polars as pl

PER_SHARD = 16
MAX_SHARDS = 1024  # a power of two, at most 4096: prefixes have 12 bits


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


def write_parquet(frame: pl.DataFrame, file: Path) -> None:
    """The same rows give the same bytes; a crash leaves the old file or the new one."""
    draft = file.with_name(f".{file.name}.tmp")
    frame.write_parquet(draft, compression="zstd", compression_level=1, statistics=False)
    durable.replace(draft, file)
