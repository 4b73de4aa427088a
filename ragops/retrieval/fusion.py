"""Several orders of passages to one, the same on every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ragops.types import Place

#: Of reciprocal rank fusion (Cormack, Clarke, Buettcher: "Reciprocal rank fusion outperforms Condorcet and individual
#: rank learning methods", SIGIR 2009), which proposes 60.
CONSTANT = 60
DEPTH = 100  # candidates of each leg that are fused first


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


def paged(legs: Mapping[str, Sequence[Place]]) -> list[Candidate]:
    """By `fuse` of the best 100 of each leg, then what the best 400 add, and so on: an order that does not depend on
    how deep the legs were read, so that pages are parts of one list.

    What a window adds has half the score of the window before, and so never more than what stands before it.
    """
    if len(legs) == 1:
        return fuse(legs)
    found: dict[str, Candidate] = {}
    end, share = DEPTH, 1.0
    while True:
        for each in fuse({name: places[:end] for name, places in legs.items()}):
            found.setdefault(each.place.point_id, replace(each, score=each.score * share))
        if all(len(places) <= end for places in legs.values()):
            return list(found.values())
        end, share = end * 4, share / 2


def depth(wanted: int, legs: int) -> int:
    """How many candidates of each of so many legs `paged` needs for an order of `wanted`, at least."""
    found = DEPTH
    while found < wanted:
        found = found * 4 if legs > 1 else wanted
    return found
