"""Crashes: what is ingested, what is done to it, what must come out, for the tests and the benchmark of that name.

A trial copies a prepared workspace, runs a command in a child that dies at one step (tests/injector.py), looks at what
readers get, runs the command again, and compares everything with a clean build. Children are forked from a process
that has imported everything and used nothing, so that a trial costs what the run costs: `python -m tests.crash` is
that process; it takes trials as JSON lines and answers in kind.
"""

from tests.crash.farm import Farm, fast_folder
from tests.crash.layout import whole
from tests.crash.readers import differences, look
from tests.crash.scenarios import INGESTS, SCENARIOS, create
from tests.crash.sources import put, text
from tests.crash.steps import every, first_and_last, random_moments, sample
from tests.crash.trials import BATCH, Outcome, Trial, small_disk

__all__ = [
    "BATCH",
    "INGESTS",
    "SCENARIOS",
    "Farm",
    "Outcome",
    "Trial",
    "create",
    "differences",
    "every",
    "fast_folder",
    "first_and_last",
    "look",
    "put",
    "random_moments",
    "sample",
    "small_disk",
    "text",
    "whole",
]
