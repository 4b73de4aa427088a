"""Several orders of passages to one, the same on every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ragops.types import Place

DEPTH = 100  # candidates of each leg that are fused first


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point with its place in each leg that found it; ranks count from 1."""

    place: Place
    score: float
    scores: Mapping[str, float]
    ranks: Mapping[str, int]


def fuse(legs: Mapping[str, Sequence[Place]], depth: int = DEPTH) -> list[Candidate]:
    """By the mean of the legs' scores, each scaled from 0 (its lowest, and what it did not find) to 1 (its best); ties
    by point id. Of a single leg as it stands. `depth`: as far as the legs were asked; what BM25 does not find although
    it could go on scores 0.

    A convex combination (Bruch, Gai and Ingber, "An analysis of fusion functions for hybrid retrieval", TOIS 2023). It
    was chosen over reciprocal rank fusion on SciFact's training questions: see benchmarks/retrieval.py.
    """
    found: dict[str, tuple[Place, dict[str, float], dict[str, int], list[float]]] = {}
    for name, places in legs.items():
        low, high = (places[-1].score, places[0].score) if places else (0.0, 0.0)
        if name == "bm25" and len(places) < depth:
            low = 0.0
        for rank, place in enumerate(places, 1):
            _, scores, ranks, parts = found.setdefault(place.point_id, (place, {}, {}, []))
            scores[name] = place.score
            ranks[name] = rank
            parts.append((place.score - low) / (high - low) if high > low else 1.0)
    if len(legs) == 1:
        return [Candidate(place, place.score, scores, ranks) for place, scores, ranks, _ in found.values()]
    fused = [
        Candidate(place, round(sum(parts) / len(legs), 6), scores, ranks)
        for place, scores, ranks, parts in found.values()
    ]
    return sorted(fused, key=lambda each: (-each.score, each.place.point_id))


def paged(legs: Mapping[str, Sequence[Place]]) -> list[Candidate]:
    """By `fuse` of the best 100 of each leg, then what the best 400 add, and so on: an order that does not depend on
    how deep the legs were read, so that pages are parts of one list.

    What a window adds scores one less than in the window before, and so never more than what stands before it.
    """
    if len(legs) == 1:
        return fuse(legs)
    found: dict[str, Candidate] = {}
    end, less = DEPTH, 0
    while True:
        for each in fuse({name: places[:end] for name, places in legs.items()}, end):
            found.setdefault(each.place.point_id, replace(each, score=each.score - less))
        if all(len(places) <= end for places in legs.values()):
            return list(found.values())
        end, less = end * 4, less + 1


def depth(wanted: int, legs: int) -> int:
    """How many candidates of each of so many legs `paged` needs for an order of `wanted`, at least."""
    found = DEPTH
    while found < wanted:
        found = found * 4 if legs > 1 else wanted
    return found
