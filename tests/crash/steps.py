"""Which steps of a run to die at."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from tests.crash.trials import Trial

T = TypeVar("T")


def first_and_last(scenario: str, steps: Sequence[tuple[str, int]]) -> list[Trial]:
    """Before the first and the last of every kind of step that a SIGKILL can tell from the next one: syncing, locking
    and beginning change nothing that outlives the process. After those that leave something half-made, too.
    """
    last = dict(steps)  # the last number of each label
    found = []
    for label in last:
        verb = label.split()[0]
        if verb in ("fsync", "lock", "unlock", "BEGIN"):
            continue
        found += [Trial(scenario, label=label, nth=nth) for nth in sorted({0, last[label]})]
        if verb in ("create", "spawn", "send"):
            found.append(Trial(scenario, label=label, nth=0, done=True))
    return found


def every(scenario: str, steps: Sequence[tuple[str, int]]) -> list[Trial]:
    """Before and after every step."""
    return [Trial(scenario, label=label, nth=nth, done=done) for label, nth in steps for done in (False, True)]


def random_moments(scenario: str, seconds: float, count: int, seed: int = 0) -> list[Trial]:
    """Moments spread over a run: one in each of `count` equal parts of it."""
    random_ = random.Random(f"{scenario} {seed}")
    return [Trial(scenario, "RANDOM", delay=round((n + random_.random()) * seconds / count, 4)) for n in range(count)]


def sample(trials: Sequence[T], most: int) -> list[T]:
    """At most that many, evenly."""
    step = max(1.0, len(trials) / most)
    return [trials[int(i * step)] for i in range(min(most, len(trials)))]
