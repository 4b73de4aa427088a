"""Several orders of passages to one, the same on every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ragops.types import Place

#: Of reciprocal rank fusion (Cormack, Clarke, Buettcher: "Reciprocal rank fusion outperforms Condorcet and individual
#: rank learning methods", SIGIR 2009), which proposes 60.
CONSTANT = 60


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point with its place in each leg that found it; ranks count from 1."""

    place: Place
    score: float
    scores: Mapping[str, float]
    ranks: Mapping[str, int]


def fuse(legs: Mapping[str, Sequence[Place]], constant: int = CONSTANT) -> list[Candidate]:
    """By the sum of 1 / (constant + rank) over the legs, ties by point id; of a single leg as it stands."""
    found: dict[str, tuple[Place, dict[str, float], dict[str, int]]] = {}
    for name, places in legs.items():
        for rank, place in enumerate(places, 1):
            _, scores, ranks = found.setdefault(place.point_id, (place, {}, {}))
            scores[name] = place.score
            ranks[name] = rank
    if len(legs) == 1:
        return [Candidate(place, place.score, scores, ranks) for place, scores, ranks in found.values()]
    fused = [
        Candidate(place, sum(1 / (constant + rank) for rank in ranks.values()), scores, ranks)
        for place, scores, ranks in found.values()
    ]
    return sorted(fused, key=lambda each: (-each.score, each.place.point_id))
