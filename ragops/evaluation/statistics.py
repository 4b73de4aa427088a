"""Whether two results over the same questions differ: paired tests over their differences. Numbers in, numbers out.

All functions take `differences`: one number per question, of B less A.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

EXACT = 14  # up to so many differences that are not 0 all 2^n sign flips are looked at
ROUNDS = 20_000
SEED = 20_260_101
CELLS = 1 << 20  # of a block of random numbers, which bounds memory
ALPHA = 0.05
POWER = 0.8


@dataclass(frozen=True, slots=True)
class Significance:
    """How often chance alone would give such a difference of means: `p` in either direction, `p_worse` downwards."""

    p: float
    p_worse: float
    exact: bool  # every flip was looked at, else ROUNDS random ones

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def randomisation(differences: Sequence[float], *, seed: int = SEED, rounds: int = ROUNDS) -> Significance:
    """Fisher's paired randomisation test: without a difference between A and B each sign could be the other.

    The recommended test for measures of retrieval: Smucker, Allan and Carterette, "A comparison of statistical
    significance tests for information retrieval evaluation", CIKM 2007. Random flips count the observed one among them,
    so that p is never 0: Phipson and Smyth, "Permutation p-values should never be zero", SAGMB 9(1), 2010.
    """
    import numpy as np

    values = np.asarray([each for each in differences if each != 0.0], dtype=np.float64)
    if not len(values):
        return Significance(1.0, 1.0, True)
    observed = math.fsum(values)
    slack = 1e-9 * float(np.abs(values).sum())  # sums in another order differ in their last bits
    if len(values) <= EXACT:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
        count = len(sums)
        return Significance(
            float(np.count_nonzero(np.abs(sums) >= abs(observed) - slack) / count),
            float(np.count_nonzero(sums <= observed + slack) / count),
            True,
        )
    random = np.random.default_rng(seed)
    both = worse = 0
    for size in _blocks(rounds, len(values)):
        sums = (random.integers(0, 2, (size, len(values)), dtype=np.int8) * 2.0 - 1.0) @ values
        both += int(np.count_nonzero(np.abs(sums) >= abs(observed) - slack))
        worse += int(np.count_nonzero(sums <= observed + slack))
    return Significance((both + 1) / (rounds + 1), (worse + 1) / (rounds + 1), False)


def interval(
    differences: Sequence[float], *, level: float = 1 - ALPHA, seed: int = SEED, rounds: int = ROUNDS
) -> tuple[float, float]:
    """The mean difference's bootstrap interval (BCa: corrected for bias and skew).

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 14.3, equations 14.9 to 14.15. Questions are
    drawn with replacement, so it says what other questions of the same kind might give. One question, or equal
    differences, give an interval without width.
    """
    import numpy as np

    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    mean = float(values.mean())
    if n < 2 or float(values.max() - values.min()) < 1e-15:
        return mean, mean
    random = np.random.default_rng(seed)
    means = np.concatenate([values[random.integers(0, n, (size, n))].mean(axis=1) for size in _blocks(rounds, n)])
    means.sort()
    normal = NormalDist()
    slack = 1e-12 * max(1.0, abs(mean))
    below = np.count_nonzero(means < mean - slack) + 0.5 * np.count_nonzero(np.abs(means - mean) <= slack)
    bias = normal.inv_cdf(min(max(float(below) / rounds, 0.5 / rounds), 1 - 0.5 / rounds))
    left_out = (values.sum() - values) / (n - 1)  # the jackknife's means
    spread = left_out.mean() - left_out
    skew = float((spread**3).sum() / (6.0 * (spread**2).sum() ** 1.5))
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + normal.inv_cdf(tail)
        share = normal.cdf(bias + z / (1 - skew * z)) if skew * z < 1 else tail
        ends.append(float(np.quantile(means, share)))
    return min(ends), max(ends)


def detectable(differences: Sequence[float], *, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """The smallest true loss that so many questions of this variance would show, in `power` of all cases.

    By the normal approximation for paired samples, one-sided as the verdict is: (z(1 - alpha) + z(power)) s / sqrt(n).
    None where the variance is not known: fewer than two questions, or no difference at all.
    """
    n = len(differences)
    if n < 2:
        return None
    mean = math.fsum(differences) / n
    variance = math.fsum((each - mean) ** 2 for each in differences) / (n - 1)
    if variance <= 0:
        return None
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha) + normal.inv_cdf(power)) * math.sqrt(variance / n)


def _blocks(rounds: int, width: int) -> list[int]:
    size = max(1, min(rounds, CELLS // max(1, width)))
    whole, rest = divmod(rounds, size)
    return [size] * whole + ([rest] if rest else [])
