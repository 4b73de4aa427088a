"""Maximal marginal relevance (Carbonell and Goldstein, "The use of MMR", SIGIR 1998)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragops.types import Vectors


def order(scores: Sequence[float], vectors: Sequence[Vectors], diversity: float) -> list[int]:
    """Places in the order in which each is the best of what is left: its relevance less its likeness to what came.

    `scores` (n,) are scaled to 0..1; `vectors` n of (dim,), unit length. `diversity` 0 keeps the order of the scores,
    1 looks at likeness alone. Ties go to the earlier one. Time and memory grow with n squared.
    """
    import numpy as np

    if not scores:
        return []
    relevance = np.asarray(scores, dtype=np.float64)
    spread = relevance.max() - relevance.min()
    relevance = (relevance - relevance.min()) / spread if spread > 0 else np.ones_like(relevance)
    matrix = np.stack(vectors).astype(np.float64)
    likeness = np.round(matrix @ matrix.T, 6)
    left = np.ones(len(scores), dtype=bool)
    nearest = np.zeros(len(scores))
    found: list[int] = []
    while left.any():
        gain = np.where(left, np.round((1 - diversity) * relevance - diversity * nearest, 9), -np.inf)
        best = int(gain.argmax())
        found.append(best)
        left[best] = False
        nearest = np.maximum(nearest, likeness[best]) if len(found) > 1 else likeness[best].copy()
    return found
