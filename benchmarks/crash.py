"""The crash matrix: a run killed at every kind of step, what readers got after it, and what the next run made of it.

    python benchmarks/crash.py [--all] [--most N] [--random N] [--processes N] [--out FILE]

Steps, scenarios and what must come out are those of tests/test_crash.py (see tests/crash/): `first` is a first
ingest of 59 files, `change` one that edits, shortens, deletes, adds, moves, copies, mends and breaks files at once,
`rechunk` a changed chunk size; the others are what is done to releases. By default the first and the last of every kind
of step, N random moments of each ingest, and deaths of the store's writing process alone: about 600 kills. `--all`
kills before and after every single step: more than 4,000.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import crash
from tests.crash import Outcome, Trial

PACKAGES = ("ragops", "polars", "qdrant-edge-py", "numpy")
SERVED = ("none", "old", "new", "same")


def chosen(farm: crash.Farm, name: str, *, everything: bool, most: int, moments: int) -> list[Trial]:
    steps = farm.prepared[name]["steps"]
    trials = crash.sample(crash.every(name, steps) if everything else crash.first_and_last(name, steps), most)
    if name not in crash.INGESTS:
        return trials
    trials += crash.random_moments(name, farm.prepared[name]["seconds"], moments)
    frames = dict.fromkeys(label for label, _ in steps if label.startswith("send frame"))
    trials += [Trial(name, "WRITER", label) for label in frames]
    return trials + [Trial(name, "WRITER", "send frame E", done=True, delay=n / 50) for n in range(4)]


def row(name: str, step: str, found: Sequence[tuple[Trial, Outcome]]) -> dict[str, Any]:
    outcomes = [outcome for _, outcome in found]
    served = Counter(outcome.served for outcome in outcomes)
    return {
        "scenario": name,
        "step": step,
        "kills": len(outcomes),
        "served": {each: served[each] for each in SERVED if served[each]},
        "vectors_repeated": max(0, *(outcome.computed - outcome.needed for outcome in outcomes)),
        "converged": sum(not outcome.wrong for outcome in outcomes),
        "left_over": sum(bool(outcome.left) for outcome in outcomes),
        "wrong": sorted({what for outcome in outcomes for what in outcome.wrong}),
    }


def kind(trial: Trial) -> str:
    if trial.how == "RANDOM":
        return "(any moment)"
    return trial.label if trial.how == "KILL" else f"(only the writer) {trial.label}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="before and after every single step")
    parser.add_argument("--most", type=int, default=10_000, help="steps per scenario, evenly chosen")
    parser.add_argument("--random", type=int, default=30, help="random moments per scenario")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "crash.json")
    options = parser.parse_args()
    environment = measure.environment(PACKAGES)
    folder = Path(tempfile.mkdtemp(prefix="ragops-crash-", dir=crash.fast_folder()))
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []
    scenarios: dict[str, Any] = {}
    try:
        with crash.Farm(folder, options.processes) as farm:
            farm.prepare(*crash.SCENARIOS)
            for name, known in farm.prepared.items():
                trials = chosen(farm, name, everything=options.all, most=options.most, moments=options.random)
                pairs = list(zip(trials, farm.run(trials), strict=True))
                for step in dict.fromkeys(kind(trial) for trial in trials):
                    rows.append(row(name, step, [pair for pair in pairs if kind(pair[0]) == step]))
                    show(rows[-1])
                scenarios[name] = {
                    "steps": len(known["steps"]),
                    "kinds_of_steps": len({label for label, _ in known["steps"]}),
                    "new_texts": known["texts"],
                    "without_a_crash": known["wrong"] or "equals a clean build",
                    "loss_of_power_could_tear": known["unsafe"],
                    "kills": len(trials),
                    "left_over": sum(bool(outcome.left) for _, outcome in pairs),
                    "converged": sum(not outcome.wrong for _, outcome in pairs),
                    "vectors_repeated_at_most": max(0, *(o.computed - o.needed for _, o in pairs)),
                    "cpu_seconds_per_kill": round(sum(o.cpu for _, o in pairs) / len(pairs), 2),
                }
    finally:
        shutil.rmtree(folder)
    for name, found in scenarios.items():
        print(f"{name}: {found['converged']} of {found['kills']} converged to a clean build,"
              f" at most {found['vectors_repeated_at_most']} vectors computed twice")  # fmt: skip
    result = {
        "environment": environment,
        "seconds": round(time.perf_counter() - start),
        "batch": crash.BATCH,
        "scenarios": scenarios,
        "matrix": rows,
    }
    measure.write(options.out, result)
    if any(each["converged"] < each["kills"] or each["loss_of_power_could_tear"] for each in scenarios.values()):
        sys.exit(1)


def show(found: dict[str, Any]) -> None:
    served = ", ".join(f"{name} {count}" for name, count in found["served"].items())
    print(
        f"{found['scenario']:11} {found['step']:44} {found['kills']:4} kills   served after: {served:22}"
        f" repeated: {found['vectors_repeated']:3}   converged: {found['converged']}/{found['kills']}"
        + (f"   left over: {found['left_over']}" if found["left_over"] else ""),
        flush=True,
    )


if __name__ == "__main__":
    main()
