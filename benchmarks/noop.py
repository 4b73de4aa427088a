"""A run without news: ragops beside a walk with stat, and beside CocoIndex; library call against library call.

    python benchmarks/noop.py --python PEERS/bin/python --corpus FOLDER [--files 100 5000] [--repeats 31] [--out FILE]

Every side is first brought in step with the folder in a process of its own. Then each gets one more process, which
makes one call that finds nothing to do (told apart as `first`: it imports and opens) and stays; from there on the sides
take turns, one call each per round, and the ratio is that of the two calls of a round. CPU is that of the process with
all threads and children.

- walk: `os.walk`, and `os.stat` of every file.
- ragops: `Workspace.open(root).ingest()`, so that reading params.yaml and opening and closing its databases counts.
  The model is all-MiniLM-L6-v2, whose files it looks at to see that it is still the same. For FOLDER, where embedding
  would take an hour of a benchmark that has nothing to do with it, `hash:64`, and looking at the model's files is added
  to each call.
- cocoindex: `App.update_blocking()` of its own LanceDB example over the same files, `memo=True` on the function of a
  file (`counted_cocoindex.py`), in an environment that stays open, which is its best case: only walking, comparing with
  its memo and finding no rows to change is left.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure

PACKAGES = ("ragops", "qdrant-edge-py")
PEERS = ("cocoindex", "lancedb")
QUIET = {"COCOINDEX_DISABLE_USAGE_TRACKING": "1", "HF_HUB_OFFLINE": "1"}
MODEL = "all-MiniLM-L6-v2"
SIDES = ("walk", "ragops", "cocoindex")


# ---------------------------------------------------------------- the sides, in their own processes
def _walk(folder: Path, store: Path) -> Callable[[], object]:
    def call() -> None:
        for base, _, names in os.walk(folder):
            for name in names:
                os.stat(os.path.join(base, name))

    return call


def _ragops(folder: Path, store: Path) -> Callable[[], object]:
    from ragops.workspace import Workspace

    root = store / "kb"
    hashed = "hash:" in (root / "params.yaml").read_text() if root.exists() else False
    if not root.exists():
        hashed = os.environ.get("HASHED") == "1"
        with Workspace.create(root):
            (root / "params.yaml").write_text(f"version: 1\nembed: {{model: '{'hash:64' if hashed else MODEL}'}}\n")
        with Workspace.open(root) as workspace:
            workspace.ingest(folder)

    def call() -> None:
        if hashed:
            from ragops.embedders import find_model

            find_model(MODEL).stat_token()
        with Workspace.open(root) as workspace:
            if not workspace.ingest().noop:
                raise RuntimeError("there was something to do")

    return call


def _cocoindex(folder: Path, store: Path) -> Callable[[], object]:
    os.environ.update(COCOINDEX_DB=str(store / "cocoindex.db"), LANCEDB=str(store / "lancedb"), COUNTED=str(store))
    from counted_cocoindex import app, model

    target = app(folder)

    def call() -> None:
        before = model.seen
        target.update_blocking()
        if model.seen != before and (store / "ready").exists():
            raise RuntimeError("there was something to do")

    return call


def side(name: str, folder: Path, store: Path) -> None:
    """Answer each line on stdin with the cost of one call, as JSON; the first is that of a fresh process."""
    call: list[Callable[[], object]] = []

    def first() -> None:
        call.append({"walk": _walk, "ragops": _ragops, "cocoindex": _cocoindex}[name](folder, store))
        call[0]()

    answer = measure.spent(first)
    while True:
        print(json.dumps(answer.as_dict()), flush=True)
        if not sys.stdin.readline():
            return
        answer = measure.spent(call[0])


# ---------------------------------------------------------------- in turns
class Process:
    """A side that waits for its turn."""

    def __init__(self, name: str, python: str | os.PathLike[str], folder: Path, store: Path, hashed: bool) -> None:
        self.process = subprocess.Popen(
            [python, __file__, "--side", name, "--corpus", str(folder), "--store", str(store)],
            env={**os.environ, **QUIET, "HASHED": str(int(hashed))},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.first = self._answer()

    def turn(self) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("{"):
            sys.exit(f"a side ended: {line} {self.process.wait()}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def close(self) -> None:
        self.process.communicate()


def compared(folder: Path, sides: tuple[str, ...], python: Path, repeats: int, hashed: bool) -> dict[str, Any]:
    count = sum(len(names) for _, _, names in os.walk(folder))
    with tempfile.TemporaryDirectory() as temp:
        running: dict[str, Process] = {}
        for name in sides:
            store = Path(temp) / name
            store.mkdir()
            interpreter = python if name == "cocoindex" else sys.executable
            Process(name, interpreter, folder, store, hashed).close()  # brings it in step
            (store / "ready").touch()
            running[name] = Process(name, interpreter, folder, store, hashed)
        turns = {name: process.turn for name, process in running.items()}
        measure.interleave(turns, 3, tell=False)
        found = measure.interleave(turns, repeats, tell=False)
        for process in running.values():
            process.close()
    clocks = ("cpu", "wall")
    result: dict[str, Any] = {
        "files": count,
        "seconds": {n: {c: measure.summary([one[c] for one in runs]) for c in clocks} for n, runs in found.items()},
        "first": {
            name: {clock: round(process.first[clock], 4) for clock in clocks} for name, process in running.items()
        },
        "ragops_to": {
            name: {c: measure.ratio([one[c] for one in found["ragops"]], [one[c] for one in runs]) for c in clocks}
            for name, runs in found.items()
            if name != "ragops"
        },
    }
    for name, cost in result["seconds"].items():
        cpu, wall = (1000 * cost[clock]["median"] for clock in clocks)
        first = 1000 * result["first"][name]["cpu"]
        told = f"{count:6} files  {name:10} {cpu:9.2f} ms CPU {wall:9.2f} ms   first {first:8.1f} ms CPU"
        print(told, file=sys.stderr)
    return result


def generate(folder: Path, count: int) -> None:
    """Short text files, 50 to a folder, with old dates."""
    for number in range(count):
        file = folder / f"part{number // 50:03}" / f"note-{number:05}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"Note {number}.\n\nIt says that {number} times two is {2 * number}.\n")
        os.utime(file, (1_700_000_000,) * 2)


def main() -> None:
    arguments = _arguments()
    if arguments.side:
        side(arguments.side, arguments.corpus, arguments.store)
        return
    environment = measure.environment(PACKAGES)
    results = {"corpus": compared(arguments.corpus, ("walk", "ragops"), arguments.python, arguments.repeats, True)}
    for count in arguments.files:
        with tempfile.TemporaryDirectory() as temp:
            generate(Path(temp) / "notes", count)
            results[f"{count} files"] = compared(
                Path(temp) / "notes", SIDES, arguments.python, arguments.repeats, False
            )
    bars = []
    for name, found in results.items():
        for other, ratios in found["ragops_to"].items():
            for clock, ratio in ratios.items():
                if name == "corpus" or other == "cocoindex":
                    limit = 2.0 if other == "walk" else 1.0
                    bars.append(measure.bar(f"{name}: ragops to {other}, {clock}", ratio["median"], limit))
    measure.show(bars)
    peers = measure.versions_of(arguments.python, PEERS)
    measure.write(arguments.out, {"environment": environment, "peers": peers, "bars": bars, "results": results})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="interpreter of peers-requirements.txt")
    parser.add_argument("--corpus", type=Path, required=True, help="any folder of files")
    parser.add_argument("--files", type=int, nargs="*", default=[100, 5000], help="generated, beside CocoIndex")
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "noop.json")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
