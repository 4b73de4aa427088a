"""What a release must show before it is published: the query set is asked of it, and of the live one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ragops import ids
from ragops.errors import RagopsError, StoreError, UsageError
from ragops.evaluation.compare import compare
from ragops.evaluation.measures import require
from ragops.evaluation.queries import QuerySet
from ragops.evaluation.results import Evaluation
from ragops.types import Mode, Release

Moves = Sequence[tuple[int, str, str]]


class GateRefused(RagopsError):
    """The gate holds a release back: it is sealed and not live."""


@dataclass(frozen=True, slots=True)
class Gate:
    """The gate of params.yaml. `read` gives its query set, `ask` a release's evaluation; both may raise RagopsError."""

    metric: str
    margin: float
    least: float | None
    mode: Mode
    rerank: str | None
    read: Callable[[], QuerySet]
    ask: Callable[[Release, QuerySet, Gate], Evaluation]

    @property
    def cutoffs(self) -> tuple[int, ...]:
        cutoff = self.metric.partition("@")[2]
        return tuple(sorted({10, int(cutoff)})) if cutoff else (10,)

    def check(self) -> None:
        """Whether it could be asked at all, before anything is done. Raises UsageError, MissingExtra."""
        require()
        self.read()

    def key(self, candidate: Release, live: Release | None) -> str:
        """Equal while the same gate is asked of the same releases."""
        try:
            questions = self.read().digest
        except UsageError as error:
            questions = str(error)
        asked = [self.metric, repr(self.margin), repr(self.least), self.mode, self.rerank, questions]
        releases = [[each.number, each.fingerprint] if each else None for each in (candidate, live)]
        return ids.composite("gate", [asked, releases])

    def judge(self, candidate: Release, live: Release | None) -> dict[str, Any]:
        """What it says, as JSON. `verdict`: pass and inconclusive publish, fail and error do not; error where the
        candidate could not be asked. A live release that cannot be asked stands in nobody's way."""
        said: dict[str, Any] = {
            "release": candidate.number,
            "against": None if live is None else live.number,
            "metric": self.metric,
            "margin": self.margin,
            "min": self.least,
            "value": None,
            "warnings": [],
        }
        try:
            queries = self.read()
            now = self.ask(candidate, queries, self)
        except RagopsError as error:
            return said | _verdict("error", f"it could not be asked: {error.message}", error.hint)
        said |= {"value": now.metrics[self.metric], "queries": now.queries, "evaluation": now.id}
        said["warnings"] = list(now.warnings)
        if self.least is not None and now.metrics[self.metric] < self.least:
            reason = f"{self.metric} is {now.metrics[self.metric]:.4f}, below release.gate.min ({self.least:g})"
            return said | _verdict("fail", reason, _hint(candidate))
        if live is None:
            return said | _verdict("pass", "there is no live release to compare it with", "")
        try:
            before = self.ask(live, queries, self)
        except (StoreError, UsageError) as error:
            return said | _verdict("inconclusive", f"the live release could not be asked: {error.message}", "")
        found = compare(before, now, metric=self.metric, margin=self.margin)
        said |= {
            "live_value": found.a,
            "live_evaluation": before.id,
            "difference": found.difference,
            "interval": list(found.interval),
            "p": found.p,
            "p_worse": found.p_worse,
            "detectable": found.detectable,
            "changed": [[each.id, each.a, each.b] for each in found.changed[:5]],
        }
        return said | _verdict(found.verdict, found.reason, _hint(candidate, live) if found.verdict == "fail" else "")


def _verdict(verdict: str, reason: str, hint: str) -> dict[str, Any]:
    return {"verdict": verdict, "reason": reason, "hint": hint}


def _hint(candidate: Release, live: Release | None = None) -> str:
    look = "" if live is None else f"See what changed: ragops eval compare {live.number} {candidate.number}\n"
    return f'{look}Publish it all the same: ragops releases publish {candidate.number} --override-gate "why"'


def refused(said: Mapping[str, Any]) -> GateRefused:
    """What the gate said, as an error."""
    return GateRefused(
        f"the gate holds release {said['release']} back, it is sealed and not published: {said['reason']}", said["hint"]
    )
