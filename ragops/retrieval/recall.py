"""How much of what an exact search finds the approximate index finds, on a user's own data."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ragops.errors import UsageError
from ragops.types import Filter, Reader

if TYPE_CHECKING:
    from ragops.types import Vectors

SEED = 7


@dataclass(frozen=True, slots=True)
class Recall:
    """Over all queries: mean, lowest and 5th percentile of the share; milliseconds of a search in the median."""

    release: int
    queries: int
    k: int
    points: int
    mean: float
    low: float
    lowest: float
    approximate_ms: float
    exact_ms: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    reader: Reader,
    vectors: Sequence[Vectors],
    k: int,
    filter: Filter | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Recall:
    """Recall at `k` of the release's index for these queries, float32 (dim,) each. A tie at the cut counts as found.

    Raises UsageError where there is nothing to find, as that would be all found.
    """
    if not reader.count(filter):
        passes = " that passes the filter" if filter else ""
        raise UsageError(f"release {reader.release.number} has no passage{passes}, so there is nothing to measure")
    shares: list[float] = []
    seconds: tuple[list[float], list[float]] = ([], [])
    for n, vector in enumerate(vectors):
        found = []
        for exact, spent in zip((False, True), seconds, strict=True):
            start = time.perf_counter()
            found.append(reader.rank([vector.tolist()], k, filter, exact=exact)[0])
            spent.append(time.perf_counter() - start)
        approximate, truth = found
        last = truth[-1].score if truth else 0.0
        good = sum(place.score >= last for place in approximate)
        shares.append(min(1.0, good / len(truth)) if truth else 1.0)
        tell(n + 1, len(vectors))
    shares.sort()
    fast, slow = (sorted(spent)[len(spent) // 2] * 1000 for spent in seconds)
    return Recall(
        reader.release.number,
        len(shares),
        k,
        reader.release.points,
        round(sum(shares) / len(shares), 4),
        round(shares[len(shares) // 20], 4),
        round(shares[0], 4),
        round(fast, 3),
        round(slow, 3),
    )


def sample(reader: Reader, count: int) -> list[Vectors]:
    """Vectors to ask with where no queries are at hand: of `count` passages, each turned a little towards another, as
    a passage itself is an easier query than any question. None of an empty release. Raises UsageError."""
    if count < 1:
        raise UsageError(f"count is {count}; it takes a number of queries from 1")
    import numpy as np

    chance = random.Random(SEED)  # noqa: S311
    kept: list[Vectors] = []
    for seen, (_, _, vector) in enumerate(reader.points()):  # reservoir sampling (Vitter, 1985): memory is bounded
        if len(kept) < 2 * count:
            kept.append(vector)
        elif (place := chance.randrange(seen + 1)) < 2 * count:
            kept[place] = vector
    chance.shuffle(kept)
    half = (len(kept) + 1) // 2
    mixed = [0.8 * one + 0.2 * other for one, other in zip(kept[:half], [*kept[half:], *kept[:1]], strict=False)]
    return [np.asarray(each / np.linalg.norm(each), dtype=np.float32) for each in mixed if np.linalg.norm(each) > 0]
