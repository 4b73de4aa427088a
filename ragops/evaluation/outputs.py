"""What DVC keeps of an evaluation: metrics and plots without days, release numbers and times."""

from __future__ import annotations

import csv
import io
import json

from ragops.evaluation import measures
from ragops.evaluation.results import Evaluation

METRICS = "data/evaluation/metrics.json"
PLOTS = "data/evaluation/questions.csv"
DIGITS = 6


def texts(found: Evaluation | None) -> dict[str, str]:
    """The files below the workspace. None: no query set is configured, which is told as 0 questions."""
    names = list(found.metrics) if found is not None else measures.names()
    value: dict[str, object] = {"queries": 0}
    if found is not None:
        value = {"queries": found.queries, "mode": found.mode, "synthetic": found.synthetic}
        value |= {name: round(mean, DIGITS) for name, mean in found.metrics.items()}
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["question", *names])
    for answer in found.answers if found is not None else ():
        writer.writerow([answer.id, *(round(answer.metrics[name], DIGITS) for name in names)])
    return {METRICS: json.dumps(value, indent=1, ensure_ascii=False) + "\n", PLOTS: table.getvalue()}
