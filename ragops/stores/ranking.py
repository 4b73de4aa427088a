"""One order for every backend: by score to four places (BM25's, a hundred times larger, to two), ties by point id.

Engines add up float32 in another order from one segment to the next, and order equals as they like: neither may decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ragops.errors import SpaceMismatch, UsageError
from ragops.types import Place, Reader, Scored

PLACES = 4
TEXT_PLACES = 2  # of BM25 scores
SLACK = 16  # fetched beyond what is asked for, so that ties at the cut are seen
TIES = 2_000  # looked through, at most: where every passage says the word that was asked for, all of them tie


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
    fetch: Callable[[int], Sequence[Place]], k: int, places: int = PLACES, first: Sequence[Place] | None = None
) -> list[Place]:
    """The best `k`. `fetch(n)` gives the engine's best n; `first` are those of `fetch(k + SLACK)`, if at hand.

    Of more than `TIES` equal ones those that the engine gives are ordered, and which it gives is its own choice.
    """
    limit = k + SLACK
    while True:
        found = sorted(
            (Place(id, round(score, places) + 0.0, key) for id, score, key in (first or fetch(limit))),
            key=lambda place: (-place.score, place.point_id),
        )
        if len(found) < limit or found[-1].score < found[k - 1].score or limit > k + TIES:
            return found[:k]
        limit *= 2  # everything from the cut on is a tie: ids decide only among all of them
        first = None


def scored(reader: Reader, places: Sequence[Place]) -> list[Scored]:
    """With their payloads."""
    found = reader.retrieve(places)
    return [Scored(place.point_id, place.score, payload) for place, (payload, _) in zip(places, found, strict=True)]
