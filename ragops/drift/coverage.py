"""Which questions lie too far from everything that the corpus says.

A query's distance is one less the cosine of its nearest passage. Its conformal p-value is the share of queries known to
be answered that are at least as far (Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005): among
answered queries it is uniform, whatever the model, so a bound of 0.01 marks one of a hundred falsely, where a fixed
cosine marks any number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]

ALIKE = 0.6  # cosine within one group of questions


def p_values(answered: Floats, asked: Floats) -> NDArray[np.float64]:
    """(n,) distances of answered queries and (m,) of those that are asked about -> (m,) p-values, never 0.

    Raises ValueError for NaN, infinity, or no answered query.
    """
    import numpy as np

    if not len(answered):
        raise ValueError("no answered query to compare with")
    if not (np.isfinite(answered).all() and np.isfinite(asked).all()):
        raise ValueError("a distance is NaN or infinite")
    known = np.sort(np.asarray(answered, dtype=np.float64))
    above = len(known) - np.searchsorted(known, np.asarray(asked, dtype=np.float64), side="left")
    found: NDArray[np.float64] = (1 + above) / (1 + len(known))
    return found


@dataclass(frozen=True, slots=True)
class Group:
    """Questions that resemble each other, by row; `middle` is the one that is most like the others."""

    rows: tuple[int, ...]
    middle: int


def groups(vectors: Floats, alike: float = ALIKE) -> list[Group]:
    """Unit vectors (n, d) to groups of average cosine `alike` at least, the largest first (average linkage)."""
    import numpy as np
    from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]

    if len(vectors) < 2:
        return [Group((row,), row) for row in range(len(vectors))]
    cosine = np.clip(vectors @ vectors.T, -1.0, 1.0).astype(np.float64)
    above = np.triu_indices(len(vectors), 1)
    labels = fcluster(linkage(1.0 - cosine[above], "average"), 1.0 - alike, "distance")
    found = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        middle = rows[int(cosine[np.ix_(rows, rows)].sum(axis=1).argmax())]
        found.append(Group(tuple(int(row) for row in rows), int(middle)))
    return sorted(found, key=lambda group: (-len(group.rows), group.middle))
