"""Do two windows of vectors come from one distribution? Three statistics over one permutation of sessions.

Energy distance (Szekely and Rizzo, "Energy statistics", JSPI 2013), maximum mean discrepancy over five bandwidths
(Gretton et al., "A kernel two-sample test", JMLR 2012), and a classifier two-sample test (Lopez-Paz and Oquab,
"Revisiting classifier two-sample tests", ICLR 2017) by ridge regression out of fold: it is linear in the labels, so all
permuted labels are answered by one product. They are combined by the smallest p over the shared permutations (Westfall
and Young, "Resampling-based multiple testing", 1993).

Sessions are permuted, not rows: queries of one session resemble each other, and permuting rows alarms on that.
Everything that is fitted is fitted on the pooled data, where no label plays a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]
    Indices: TypeAlias = NDArray[np.int64]

STATISTICS = ("energy", "mmd", "classifier")
PERMUTATIONS = 999
CAP = 4_000  # points a side
SESSIONS = 20  # a side; with fewer there is no verdict
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # times the median distance of the pooled data
RIDGE = 1.0  # times the mean variance and the square root of the rows
FOLDS = 5
SOME = 1_000  # points whose distances tell the median
BATCH = 250  # permutations at once: bounds memory

Why: TypeAlias = Literal["ok", "few sessions", "few points", "constant"]


@dataclass(frozen=True, slots=True)
class TwoSample:
    """`p` is that of all three statistics together; `each` their own. `effect`: the energy distance as a share of the
    mean distance between the windows, 0 (one distribution) to 1. `why` other than "ok": nothing can be said, p is 1."""

    p: float
    each: dict[str, float]
    effect: float
    points: tuple[int, int]
    sessions: tuple[int, int]
    permutations: int
    seed: int
    why: Why = "ok"

    @property
    def sufficient(self) -> bool:
        return self.why == "ok"


def two_sample(
    reference: Floats,
    current: Floats,
    reference_sessions: Sequence[Any] | None = None,
    current_sessions: Sequence[Any] | None = None,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    cap: int = CAP,
    least: int = SESSIONS,
    device: str = "cpu",
) -> TwoSample:
    """Test (n, d) against (m, d), float32. Sessions name the row's session, unique within its window; None: each row is
    one of its own. p = (1 + k) / (1 + permutations), never 0. Above `cap` points a side whole sessions are sampled.
    `device`: where the products run, "cpu" or one of torch's, such as "cuda".

    Raises ValueError for NaN, infinity, or shapes that do not fit.
    """
    import numpy as np

    chance = np.random.default_rng(seed)
    sides = []
    for vectors, sessions in ((reference, reference_sessions), (current, current_sessions)):
        vectors = np.asarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != np.asarray(reference).shape[1]:
            raise ValueError(f"windows are (n, d) and (m, d), not {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise ValueError("a window holds NaN or infinity")
        if sessions is not None and len(sessions) != len(vectors):
            raise ValueError(f"{len(sessions)} sessions for {len(vectors)} rows")
        sides.append(_sampled(vectors, _numbered(sessions, len(vectors)), cap, chance))
    (x, of_x), (y, of_y) = sides
    counts = int(of_x.max(initial=-1)) + 1, int(of_y.max(initial=-1)) + 1
    points = len(x), len(y)

    def nothing(why: Why) -> TwoSample:
        return TwoSample(1.0, dict.fromkeys(STATISTICS, 1.0), 0.0, points, counts, permutations, seed, why)

    if min(points) < 2:
        return nothing("few points")
    if min(counts) < least:
        return nothing("few sessions")
    pooled = np.concatenate([x, y])
    pooled -= pooled.mean(axis=0)  # of large means, squares lose digits
    session = np.concatenate([of_x, of_y + counts[0]])
    distance = _distances(pooled)
    some = chance.permutation(len(pooled))[:SOME]
    middle = float(np.median(distance[np.ix_(some, some)][np.triu_indices(len(some), 1)]))
    if middle <= 1e-6:
        return nothing("constant")
    labels = _labels(session, counts, permutations, chance)
    values = np.stack(
        [
            -_quadratic(distance, labels, device),
            _quadratic(_kernel(distance, middle), labels, device),
            _classifier(pooled, session, labels, chance),
        ]
    )
    p, each = combined(values)
    between = float(distance[: points[0], points[0] :].mean())
    effect = max(0.0, float(values[0, 0]) / (2 * between))
    return TwoSample(p, dict(zip(STATISTICS, each, strict=True)), effect, points, counts, permutations, seed)


def combined(values: NDArray[np.float64]) -> tuple[float, list[float]]:
    """Min-p over statistics (s, 1 + permutations), the observed ones first: the p of all, and of each.

    A statistic's p under permutation b is its rank among all permutations, b and the observed one included, so the
    smallest p is exchangeable, too, and its own rank is a valid p whatever the dependence.
    """
    import numpy as np

    scale = np.abs(values).max(axis=1, keepdims=True)
    rounded = np.round(values / np.where(scale > 0, scale, 1.0), 6)  # a tie but for arithmetic is a tie
    ranks = np.stack([len(row) - np.searchsorted(np.sort(row), row, side="left") for row in rounded])
    shares = ranks / values.shape[1]  # at least as large, itself included
    least = shares.min(axis=0)
    return float((least <= least[0]).mean()), [float(share) for share in shares[:, 0]]


def _numbered(sessions: Sequence[Any] | None, rows: int) -> Indices:
    import numpy as np

    if sessions is None:
        return np.arange(rows)
    known: dict[Any, int] = {}
    return np.array([known.setdefault(each, len(known)) for each in sessions], dtype=np.int64)


def _sampled(vectors: Floats, session: Indices, cap: int, chance: np.random.Generator) -> tuple[Floats, Indices]:
    """Whole sessions by chance until the next would go above `cap`."""
    import numpy as np

    if len(vectors) <= cap:
        return vectors, session
    order = chance.permutation(int(session.max()) + 1)
    sizes = np.bincount(session)[order]
    kept = order[: max(1, int(np.searchsorted(np.cumsum(sizes), cap, side="right")))]
    place = np.full(len(order), -1)
    place[np.sort(kept)] = np.arange(len(kept))
    rows = place[session] >= 0
    return vectors[rows][:cap], place[session[rows]][:cap]


def _distances(points: Floats) -> Floats:
    """Euclidean, float32 (n, n), of centred points."""
    import numpy as np

    squares = (points**2).sum(axis=1)
    found: Floats = points @ points.T
    found *= -2
    found += squares[:, None]
    found += squares[None, :]
    np.fill_diagonal(found, 0.0)
    return np.sqrt(np.maximum(found, 0.0, out=found), out=found)


def _kernel(distance: Floats, middle: float) -> Floats:
    import numpy as np

    total = np.zeros_like(distance)
    for times in BANDWIDTHS:
        part = distance / np.float32(times * middle)
        np.square(part, out=part)
        part *= np.float32(-0.5)
        total += np.exp(part, out=part)
    total /= np.float32(len(BANDWIDTHS))
    return total


def _labels(session: Indices, counts: tuple[int, int], permutations: int, chance: np.random.Generator) -> Floats:
    """(1 + permutations, n): 1 where a row is of the reference, the first as it was observed."""
    import numpy as np

    total = sum(counts)
    chosen = np.zeros((1 + permutations, total), dtype=bool)
    chosen[0, : counts[0]] = True
    order = chance.permuted(np.tile(np.arange(total), (permutations, 1)), axis=1)
    np.put_along_axis(chosen[1:], order[:, : counts[0]], values=True, axis=1)
    found: Floats = chosen[:, session].astype(np.float32)
    return found


def _weights(labels: Floats) -> Floats:
    """1 / n on the rows of one window, -1 / m on those of the other."""
    ours = labels.sum(axis=1, keepdims=True)
    theirs = labels.shape[1] - ours
    found: Floats = labels / ours - (1 - labels) / theirs
    return found


def _quadratic(kernel: Floats, labels: Floats, device: str) -> NDArray[np.float64]:
    """w' K w for each permutation: the means within the windows less twice the mean between."""
    import numpy as np

    found = []
    if device != "cpu":
        import torch

        matrix = torch.as_tensor(kernel, device=device)
        for start in range(0, len(labels), BATCH):
            weights = torch.as_tensor(_weights(labels[start : start + BATCH]), device=device)
            found.append(((weights @ matrix) * weights).sum(1).cpu().numpy())
    else:
        for start in range(0, len(labels), BATCH):
            part = _weights(labels[start : start + BATCH])
            found.append(((part @ kernel) * part).sum(axis=1))
    return np.concatenate(found).astype(np.float64)


def _classifier(points: Floats, session: Indices, labels: Floats, chance: np.random.Generator) -> NDArray[np.float64]:
    """For each permutation, the mean score of one window less that of the other, by a ridge classifier that was fitted
    on the other folds. A session lies in one fold whole; folds and penalty are the same for all permutations."""
    import numpy as np

    fold = (chance.permutation(int(session.max()) + 1) % FOLDS)[session]
    penalty = RIDGE * float((points**2).sum(axis=1).mean()) / points.shape[1] * float(np.sqrt(len(points)))
    signs = labels - labels.mean(axis=1, keepdims=True)
    scores = np.zeros_like(labels)
    for number in range(FOLDS):
        out, rest = fold == number, fold != number
        ours = points[rest]
        moments = (ours.T @ ours).astype(np.float64) + penalty * np.eye(points.shape[1])
        slopes = np.linalg.solve(moments, (ours.T @ signs[:, rest].T).astype(np.float64))
        scores[:, out] = (points[out] @ slopes.astype(np.float32)).T
    found: NDArray[np.float64] = (_weights(labels) * scores).sum(axis=1).astype(np.float64)
    return found
