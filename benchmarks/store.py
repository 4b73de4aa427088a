"""What the embedded store costs: `python benchmarks/store.py [--points N] [--out results/store.json]`.

Random unit vectors of 384 dimensions and texts of 120 words. CPU seconds of this process and of the writing process
apart; wall times depend on the disk, since a release is fsynced before it is sealed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import synthetic

from ragops.stores.edge import EdgeStore
from ragops.types import Point, Release, Space

DIM = 384
WORDS = synthetic.vocabulary(20_000)
SPACE = Space("ab" * 32, "random", DIM, 256, "", normalized=True)

QUERY = """
import sys, time
start = time.perf_counter(), time.process_time()
from pathlib import Path
from ragops.stores import open_store
reader = open_store(Path(sys.argv[1])).open()
opened = time.perf_counter()
query = [((i * 7919) % 101 - 50) / 50 for i in range(384)]
reader.search(query, 5); first = time.perf_counter()
for _ in range(50): reader.search(query, 5)
warm = time.perf_counter()
for _ in range(50): reader.search(query, 5, {"tenant": "t1"})
filtered = time.perf_counter()
for _ in range(50): reader.search_text("word17 word42 word99 word1234", 5)
text = time.perf_counter()
print(opened - start[0], first - opened, (warm - first) / 50, (filtered - warm) / 50, (text - filtered) / 50,
      time.process_time() - start[1])
"""


def release(number: int, points: int) -> Release:
    return Release(number, "main", "00", SPACE, "float32", points, "2026-01-01T00:00:00+00:00", 120)


def pairs(start: int, stop: int) -> list[tuple[Point, np.ndarray]]:
    """Made beforehand: what is measured is the store."""
    rng = np.random.default_rng(start)
    made = []
    for i in range(start, stop):
        one = synthetic.point(i, synthetic.text(rng, WORDS, 120))
        made.append((one, rng.standard_normal(DIM).astype(np.float32)))
    return made


def measured(call: Callable[[], object]) -> dict[str, float]:
    def cpu(who: int) -> float:
        used = resource.getrusage(who)
        return used.ru_utime + used.ru_stime

    parent, child, start = cpu(resource.RUSAGE_SELF), cpu(resource.RUSAGE_CHILDREN), time.perf_counter()
    call()
    return {
        "parent_cpu_s": round(cpu(resource.RUSAGE_SELF) - parent, 3),
        "child_cpu_s": round(cpu(resource.RUSAGE_CHILDREN) - child, 3),
        "wall_s": round(time.perf_counter() - start, 3),
    }


def written(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def fresh_process(root: Path, runs: int = 7) -> dict[str, float]:
    """Medians over fresh processes, in milliseconds; the page cache is warm."""
    rows = []
    for _ in range(runs):
        out = subprocess.run(
            [sys.executable, "-c", QUERY, str(root)], check=True, capture_output=True, text=True
        ).stdout
        rows.append([float(value) for value in out.split()])
    names = ("import_and_open", "first_search", "search", "search_filtered", "search_text", "process_cpu")
    return {f"{name}_ms": round(1000 * statistics.median(row[i] for row in rows), 3) for i, name in enumerate(names)}


def run(points: int, root: Path) -> dict[str, Any]:
    import polars  # noqa: F401  an ingest has it in memory already

    store = EdgeStore(root)
    everything = pairs(0, points + points // 1000)
    first, extra = everything[:points], everything[points:]
    result: dict[str, Any] = {"points": points, "dim": DIM}
    build = measured(lambda: store.write(release(1, points), base=None, delete=[], add=first))
    per_thousand = {f"{key}_per_1000": round(build[key] * 1000 / points, 4) for key in ("parent_cpu_s", "child_cpu_s")}
    folder = root / "main" / "releases"
    size = written(folder / "00000001")
    result["build"] = build | per_thousand | {"bytes": size, "bytes_per_point": round(size / points)}
    gone = [point.point_id for point, _ in first[: len(extra)]]

    def change() -> Iterator[tuple[Point, np.ndarray]]:
        yield from extra

    small = measured(lambda: store.write(release(2, points), base=1, delete=gone, add=change()))
    result["change_0.1_percent"] = small | {
        "changed_points": len(extra),
        "copied_bytes": store.work(2)["copied_bytes"],
        "bytes": written(folder / "00000002"),
    }
    store.publish(2)
    result["check"] = measured(lambda: store.check(2))
    result["reading"] = fresh_process(root)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[5_000, 20_000])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "store.json")
    arguments = parser.parse_args()
    results = []
    for points in arguments.points:
        with tempfile.TemporaryDirectory() as root:
            results.append(run(points, Path(root)))
    where = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
    text = json.dumps({"command": "python benchmarks/store.py", "where": where, "results": results}, indent=1)
    arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
