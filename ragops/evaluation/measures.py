"""The measures, by `ir-measures`: the border around it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from ragops.config import METRIC
from ragops.errors import MissingExtra, UsageError

DEPTH = 100  # documents looked at for Recall@100 and MAP
DEFAULT = "nDCG@10"

Qrels = Mapping[str, Mapping[str, int]]  # question -> document -> relevance
Run = Mapping[str, Sequence[str]]  # question -> documents, best first


def is_metric(name: str) -> bool:
    """Whether it is one that says how good a result is: `unjudged@10` does not."""
    return METRIC.fullmatch(name) is not None


def names(cutoffs: Sequence[int] = (10,)) -> list[str]:
    """The measures of an evaluation with these cut-offs, in the order in which they are told."""
    found = []
    for cutoff in cutoffs:
        found += [f"nDCG@{cutoff}", f"Recall@{cutoff}"]
    if DEPTH not in cutoffs:
        found.append(f"Recall@{DEPTH}")
    found += [f"MRR@{cutoff}" for cutoff in cutoffs]
    return [*found, "MAP", *(f"unjudged@{cutoff}" for cutoff in cutoffs)]


def require() -> None:
    """Raises MissingExtra where ir-measures is not installed."""
    from importlib.util import find_spec

    try:
        there = find_spec("ir_measures") is not None
    except ValueError:  # it was blocked
        there = False
    if not there:
        raise MissingExtra("evaluation needs the package ir-measures", "pip install 'ragops[eval]'")


def per_question(measures: Sequence[str], qrels: Qrels, run: Run) -> dict[str, dict[str, float]]:
    """Question -> measure -> value, for every question of `qrels`. `run` may lack some: nothing was found then.

    A relevance below 0 counts as 0. Raises MissingExtra, UsageError for a name that is none.
    """
    require()
    import ir_measures

    # Numbers instead of names: what reads them is written in C and takes no zero byte. The order is ours, and ties were
    # broken: scores that fall by one keep it.
    known = {name: _measure(name) for name in measures}
    queries = list(qrels)
    numbers: dict[str, str] = {}
    judged, scored = {}, {}
    for number, query in enumerate(queries):
        judged[str(number)] = {
            numbers.setdefault(document, str(len(numbers))): max(0, relevance)
            for document, relevance in qrels[query].items()
        }
        if found := run.get(query):
            scored[str(number)] = {
                numbers.setdefault(document, str(len(numbers))): float(len(found) - rank)
                for rank, document in enumerate(found)
            }
    values: dict[str, dict[str, float]] = {query: dict.fromkeys(known, 0.0) for query in queries}
    names = {measure: name for name, measure in known.items()}
    if scored:
        for each in ir_measures.iter_calc(list(names), judged, scored):
            name, value = names[each.measure], float(each.value)
            if name.startswith("unjudged"):
                value = 1.0 - value if each.query_id in scored else 0.0
            values[queries[int(each.query_id)]][name] = value
    return values


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _measure(name: str):  # type: ignore[no-untyped-def]
    import ir_measures

    kind, _, cutoff = name.partition("@")
    if name == "MAP":
        return ir_measures.AP
    kinds = {"nDCG": ir_measures.nDCG, "Recall": ir_measures.R, "MRR": ir_measures.RR, "unjudged": ir_measures.Judged}
    if kind not in kinds or not re.fullmatch(r"[1-9][0-9]{0,3}", cutoff):
        raise UsageError(
            f"there is no measure {name!r}",
            f"There are {', '.join(f'{each}@k' for each in kinds)} and MAP; k is a number.",
        )
    return kinds[kind] @ int(cutoff)
