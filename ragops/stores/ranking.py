"""One order for every backend: by score to four places (BM25's, a hundred times larger, to two), ties by point id.

Engines add up float32 in another order from one segment to the next, and order equals as they like: neither may decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ragops.errors import SpaceMismatch, UsageError

PLACES = 4
TEXT_PLACES = 2  # of BM25 scores
SLACK = 16  # fetched beyond what is asked for, so that ties at the cut are seen


def check_page(k: int, offset: int = 0) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise UsageError(f"k is a number of results from 1, not {k!r}")
    if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
        raise UsageError(f"offset is a number of results from 0, not {offset!r}")


def unit(vector: Sequence[float], dim: int) -> list[float]:
    """A query vector as unit-length floats. Raises SpaceMismatch, UsageError."""
    values = [float(value) for value in vector]
    if len(values) != dim:
        raise SpaceMismatch(
            f"the query vector has {len(values)} dimensions, the release has {dim}",
            "Embed the query with the release's own model (reader.release.space).",
        )
    norm = math.hypot(*values)
    if not math.isfinite(norm) or norm == 0.0:
        raise UsageError("the query vector holds NaN or infinity, or has no length")
    return [value / norm for value in values]


def ranked(
    fetch: Callable[[int], Sequence[tuple[str, float]]], k: int, offset: int = 0, places: int = PLACES
) -> list[tuple[str, float]]:
    """The results `offset` to `offset + k`. `fetch(n)` gives the engine's best n as (point id, score)."""
    wanted = offset + k
    limit = wanted + SLACK
    while True:
        found = sorted(
            ((id, round(score, places) + 0.0) for id, score in fetch(limit)), key=lambda hit: (-hit[1], hit[0])
        )
        if len(found) < limit or found[-1][1] < found[wanted - 1][1]:
            return found[offset:wanted]
        limit *= 2  # everything from the cut on is a tie: ids decide only among all of them
