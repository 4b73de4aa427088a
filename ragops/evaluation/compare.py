"""Two evaluations side by side: is B worse than A, beyond chance and beyond a margin?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from ragops.errors import UsageError
from ragops.evaluation import measures, statistics
from ragops.evaluation.results import SYNTHETIC, Answer, Evaluation

Verdict: TypeAlias = Literal["pass", "fail", "inconclusive"]
MARGIN = 0.01
FEWEST = 5  # questions: with fewer no loss can come out at 5%, however clear
LISTED = 10
NOISE = 1e-9  # between equal results of two machines


@dataclass(frozen=True, slots=True)
class Changed:
    """A question whose result changed."""

    id: str
    text: str
    a: float
    b: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A over the questions that both have, with the same judgements.

    `interval`: 95%, of the mean difference. `detectable`: the smallest loss that so many questions would have shown in
    four of five cases; None where nothing varies. `slices`: field -> value -> queries, a, b, difference.
    """

    verdict: Verdict
    reason: str
    metric: str
    margin: float
    a: float
    b: float
    difference: float
    interval: tuple[float, float]
    p: float
    p_worse: float
    exact: bool
    detectable: float | None
    queries: int
    better: int
    worse: int
    same: int
    changed: Sequence[Changed]
    slices: Mapping[str, Mapping[str, Mapping[str, float]]]
    warnings: Sequence[str]
    of: Mapping[str, Mapping[str, Any]]  # "a", "b": id, release, mode, model

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    a: Evaluation, b: Evaluation, *, metric: str = measures.DEFAULT, margin: float = MARGIN,
    seed: int = statistics.SEED,
) -> Comparison:  # fmt: skip
    """The verdict on B: "fail" where it loses more than `margin` and chance alone would give such a loss in at most 5%
    of cases (paired randomisation test, downwards); "pass" where nothing differs, or the 95% interval of the difference
    (paired bootstrap) lies above -margin; else "inconclusive". Raises UsageError where there is nothing to compare.
    """
    if not measures.is_metric(metric):
        raise UsageError(f"there is no measure {metric!r} to compare", "There are nDCG@k, Recall@k, MRR@k and MAP.")
    if not 0 <= margin <= 1:
        raise UsageError(f"the margin is {margin:g}; it takes 0 to 1")
    for one in (a, b):
        if metric not in one.metrics:
            raise UsageError(
                f"the evaluation {one.id} has no {metric}; it has {', '.join(one.metrics)}",
                "Ask again with the cut-off: ragops eval run -k N",
            )
    pairs, warnings = _paired(a, b)
    values = [(one.metrics[metric], other.metrics[metric]) for one, other in pairs]
    differences = [after - before if abs(after - before) > NOISE else 0.0 for before, after in values]
    mean = measures.mean(differences)
    test = statistics.randomisation(differences, seed=seed)
    low, high = statistics.interval(differences, seed=seed)
    detectable = statistics.detectable(differences)
    verdict, reason = _verdict(metric, margin, differences, mean, test, low, detectable)
    changed = [
        Changed(one.id, one.text, before, after)
        for (one, _), (before, after) in zip(pairs, values, strict=True)
        if abs(after - before) > NOISE
    ]
    changed.sort(key=lambda each: (-abs(each.b - each.a), each.id))
    return Comparison(
        verdict=verdict, reason=reason, metric=metric, margin=margin,
        a=measures.mean([before for before, _ in values]), b=measures.mean([after for _, after in values]),
        difference=mean, interval=(low, high), p=test.p, p_worse=test.p_worse, exact=test.exact, detectable=detectable,
        queries=len(pairs), better=sum(each > 0 for each in differences), worse=sum(each < 0 for each in differences),
        same=sum(each == 0 for each in differences), changed=tuple(changed[:LISTED]),
        slices=_slices(pairs, metric), warnings=tuple(warnings),
        of={"a": _named(a), "b": _named(b)},
    )  # fmt: skip


def _verdict(
    metric: str, margin: float, differences: Sequence[float], mean: float, test: statistics.Significance, low: float,
    detectable: float | None,
) -> tuple[Verdict, str]:  # fmt: skip
    n = len(differences)
    if not any(differences):
        return "pass", f"no question's {metric} differs"
    if n < FEWEST:
        return "inconclusive", f"{n} question{'s' if n > 1 else ''} show nothing: take {FEWEST} at least, better 50"
    if mean < -margin and test.p_worse <= statistics.ALPHA:
        return "fail", (
            f"{metric} lost {-mean:.4f}, more than the margin of {margin:g}; chance alone does that in"
            f" {100 * test.p_worse:.2g}% of cases"
        )
    if low > -margin:
        return "pass", f"a loss of more than {margin:g} in {metric} is ruled out (95% interval from {low:+.4f})"
    seen = "" if detectable is None else f"; these {n} questions show losses from {detectable:.4f} on"
    return "inconclusive", f"a loss of more than {margin:g} in {metric} is neither shown nor ruled out{seen}"


def _paired(a: Evaluation, b: Evaluation) -> tuple[list[tuple[Answer, Answer]], list[str]]:
    """Answers to the same questions with the same judgements."""
    others = {answer.digest: answer for answer in b.answers}
    pairs = [(answer, others[answer.digest]) for answer in a.answers if answer.digest in others]
    if not pairs:
        raise UsageError(
            f"the evaluations {a.id} and {b.id} have no question in common with the same judgements",
            "Ask both releases the same: ragops eval run --queries FILE --qrels FILE --release N",
        )
    warnings = [SYNTHETIC] if a.synthetic or b.synthetic else []
    if (left := len(a.answers) + len(b.answers) - 2 * len(pairs)) > 0:
        warnings.append(f"{left} answers are to questions that the other was not asked, or judged otherwise: left out")
    for name, one, other in (("mode", a.mode, b.mode), ("rerank", a.rerank, b.rerank), ("exact", a.exact, b.exact)):
        if one != other:
            warnings.append(f"{name} differs: {one} and {other}")
    return pairs, warnings


def _slices(pairs: Sequence[tuple[Answer, Answer]], metric: str) -> dict[str, dict[str, dict[str, float]]]:
    """By the values that B's questions have."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in sorted({name for _, after in pairs for name in after.slices}):
        for value in sorted({value for _, after in pairs for value in after.slices.get(name, ())}):
            some = [(one, other) for one, other in pairs if value in other.slices.get(name, ())]
            before = measures.mean([one.metrics[metric] for one, _ in some])
            after = measures.mean([other.metrics[metric] for _, other in some])
            found.setdefault(name, {})[value] = {
                "queries": len(some), "a": before, "b": after, "difference": math.fsum((after, -before)),
            }  # fmt: skip
    return found


def _named(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "id": evaluation.id,
        "release": evaluation.release,
        "mode": evaluation.mode,
        "model": evaluation.model,
        "queries": evaluation.queries,
    }
