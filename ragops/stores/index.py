"""How a release is indexed, on every backend (measured: see docs and benchmarks/store.py)."""

from __future__ import annotations

from typing import Any

DENSE = "dense"
SPARSE = "bm25"
INDEXED_FROM = 10_000  # points; below it an exact scan is fast enough, and exact
SEGMENT = (
    20_000  # points; the engine maps a segment and its successor whole while it builds, so their size bounds memory
)
INDEXED_FIELDS = ("tenant", "groups", "document_id", "source", "uri")
HNSW_M = 16
HNSW_EF = 100
FULL_SCAN_KB = 1000  # a filter that leaves less than this is scanned
QUANTILE = 0.99  # of int8
EF = 64
OVERSAMPLING = 2.0  # without it int8 stays at a recall of .953, whatever EF is


def settings(dim: int) -> dict[str, Any]:
    """What a manifest says about the index."""
    return {
        "dim": dim,
        "indexed_from": INDEXED_FROM,
        "hnsw": {"m": HNSW_M, "ef_construct": HNSW_EF, "full_scan_kb": FULL_SCAN_KB},
        "int8": {"quantile": QUANTILE},
        "fields": list(INDEXED_FIELDS),
    }


def kilobytes(points: int, dim: int) -> int:
    """The engine counts its thresholds in KB of vectors."""
    return max(1, points * dim * 4 // 1024)
