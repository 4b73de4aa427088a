"""Watching window after window without end, with a false-alarm rate that holds over all looks together.

Each window is tested against everything that was seen before it, as one bag of sessions. While sessions are
exchangeable such p-values are independent and uniform (online conformal p-values: Vovk, Gammerman and Shafer,
"Algorithmic learning in a random world", 2005), so a bet against each is a test martingale: its product ever exceeds
1 / alpha with a probability of at most alpha, however often one looks (Ville's inequality; Ramdas et al.,
"Game-theoretic statistics and safe anytime-valid inference", 2023). The bet is a mixture of the power calibrators
k p^(k-1) (Shafer, "Testing by betting", 2021), and a part of the capital moves between betting and waiting, so that a
stream which was quiet for long can still alarm (the simple jumper of Vovk et al., "Retrain or not retrain", 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

JUMP = 0.02  # of the capital changes sides at each window
EXPONENTS = (0.05, 0.1, 0.2, 0.4, 0.7)


@dataclass(frozen=True, slots=True)
class Watch:
    """A wager against "nothing has changed". Start with `Watch()`, and bet on each window's p once, in their order."""

    betting: float = 0.5
    waiting: float = 0.5
    looks: int = 0
    highest: float = 1.0

    @property
    def capital(self) -> float:
        """What one unit has become; an e-value."""
        return self.betting + self.waiting

    def after(self, p: float) -> Watch:
        """The wager once a window's p (0 < p <= 1) is known. Raises ValueError."""
        if not 0.0 < p <= 1.0:
            raise ValueError(f"p is {p}; it lies above 0, and at most at 1")
        moved = JUMP * (self.betting - self.waiting)
        betting = (self.betting - moved) * payoff(p)
        waiting = self.waiting + moved
        return Watch(betting, waiting, self.looks + 1, max(self.highest, betting + waiting))

    def alarms(self, alpha: float) -> bool:
        """Whether the capital ever reached 1 / alpha."""
        return self.highest >= 1 / alpha

    def restarted(self) -> Watch:
        """After an alarm was dealt with: another wager, with a promise of its own."""
        return replace(Watch(), looks=self.looks)


def payoff(p: float) -> float:
    """What a unit that was bet becomes; its mean is 1 at most where p is uniform or larger."""
    return math.fsum(k * p ** (k - 1) for k in EXPONENTS) / len(EXPONENTS)


def alarm_at(ps: Sequence[float], alpha: float) -> int | None:
    """The first window (from 0) at which a wager on these p-values alarms."""
    watch = Watch()
    for number, p in enumerate(ps):
        watch = watch.after(p)
        if watch.alarms(alpha):
            return number
    return None
