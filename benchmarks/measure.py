"""What the benchmarks share: a record of the machine, clocks that see children, interleaving, ratios with spread.

Standard library only, so that a peer's interpreter can import it too.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

RESULTS = Path(__file__).parent / "results"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


# ---------------------------------------------------------------- what it ran on
def environment(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Machine, date, command and versions: what a reader needs to judge or repeat a number."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_portable, sys.argv[1:])]),
        "commit": _commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_at_start": [round(load, 2) for load in os.getloadavg()],
        "threads": {name: os.environ.get(name) for name in THREADS},
        "versions": versions(packages),
    }


def _portable(argument: str) -> str:
    """Folders of this machine are nobody else's business."""
    return ".../" + "/".join(Path(argument).parts[-2:]) if argument.startswith("/") else argument


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def versions_of(python: str | os.PathLike[str], packages: Sequence[str]) -> dict[str, str | None]:
    """The versions in another environment."""
    code = "import json, measure, sys; print(json.dumps(measure.versions(sys.argv[1:])))"
    found = subprocess.run(
        [python, "-c", code, *packages], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    versions: dict[str, str | None] = json.loads(found.stdout)
    return versions


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str | None:
    """The commit, with a plus where the packages' code differs from it."""
    here = Path(__file__).parent.parent
    try:
        commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "ragops", "connectors", "pipelines"],
            cwd=here,
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "") or None


# ---------------------------------------------------------------- clocks
@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds: `own` CPU of this process with all its threads, `children` CPU of children that have ended, `wall`."""

    own: float
    children: float
    wall: float

    @property
    def cpu(self) -> float:
        return self.own + self.children

    def as_dict(self) -> dict[str, float]:
        return {"cpu": self.cpu, "own": self.own, "children": self.children, "wall": self.wall}


def spent(work: Callable[[], object]) -> Spent:
    """Run `work` and tell what it cost. Children count once they have been waited for."""
    before = now()
    work()
    after = now()
    return Spent(*(end - start for start, end in zip(before, after, strict=True)))


def now() -> tuple[float, float, float]:
    """CPU of this process, of its ended children, and the clock, in seconds."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time(), children.ru_utime + children.ru_stime, time.perf_counter()


def run(
    command: Sequence[str],
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    stdout: IO[bytes] | int = subprocess.DEVNULL,
) -> Spent:
    """A fresh process from start to end, its waited-for children counted. Raises RuntimeError when it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, env=env, stdout=stdout, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {process.returncode}: {errors.decode(errors='replace')[-2000:]}"
        )
    return Spent(usage.ru_utime + usage.ru_stime, 0.0, wall)


# ---------------------------------------------------------------- repeats
def interleave(sides: Mapping[str, Callable[[], Any]], repeats: int, tell: bool = True) -> dict[str, list[Any]]:
    """Every side once per round, each round beginning with another side, so that a noisy minute hits all alike."""
    names = list(sides)
    found: dict[str, list[Any]] = {name: [] for name in names}
    for round_ in range(repeats):
        shift = round_ % len(names)
        for name in names[shift:] + names[:shift]:
            found[name].append(sides[name]())
        if tell:
            print(f"round {round_ + 1} of {repeats}", file=sys.stderr)
    return found


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median with its spread: quartiles and extremes."""
    ordered = sorted(values)
    quartiles = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else [ordered[0]] * 3
    shown = {"median": quartiles[1], "q1": quartiles[0], "q3": quartiles[2], "min": ordered[0], "max": ordered[-1]}
    return {**{name: round(value, 6) for name, value in shown.items()}, "n": len(ordered)}


def ratio(over: Sequence[float], under: Sequence[float]) -> dict[str, Any]:
    """The ratio of the two measured in the same round, over all rounds."""
    return summary([a / b for a, b in zip(over, under, strict=True)])


def bar(name: str, value: float, limit: float) -> dict[str, Any]:
    """One bar: met when `value` is at most `limit`."""
    return {"bar": name, "value": round(value, 4), "at_most": limit, "met": value <= limit}


# ---------------------------------------------------------------- telling
def show(bars: Sequence[Mapping[str, Any]]) -> None:
    for found in bars:
        verdict = "met   " if found["met"] else "MISSED"
        print(f"{verdict}  {found['value']:8.3f}  at most {found['at_most']:.3g}  {found['bar']}")


def write(path: Path, result: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"written: {path}", file=sys.stderr)
