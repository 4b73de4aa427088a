"""Peak memory of an ingest against one of a tenth of the corpus.

    python benchmarks/memory.py --corpus FOLDER [--model instant|real|hash:384] [--part N] [--repeats N] [--out FILE]

The peak is that of the whole process tree of `ragops ingest` into a new workspace: the sum of the resident sets, read
from /proc every 20 ms. Pages that processes share count in each, and so do pages of mapped files (`file`), which the
kernel takes back when it needs them; `anonymous` is what cannot be taken back. The bar holds for the sum of all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure

EVERY = 0.02  # seconds between samples
LIMIT = 1.5
PACKAGES = ("ragops", "polars", "qdrant-edge-py", "tokenizers", "torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model", default="instant", help="instant (default), real, or any name that ragops knows")
    parser.add_argument("--part", type=int, default=1, help="take every so many-th file as the whole")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    environment = measure.environment(PACKAGES)
    with tempfile.TemporaryDirectory() as temp:
        root = Path(temp)
        counts = {"whole": _stage(arguments.corpus, arguments.part, root / "whole"),
                  "tenth": _stage(arguments.corpus, 10 * arguments.part, root / "tenth")}  # fmt: skip
        sides = {name: lambda name=name: _run(root, root / name, arguments.model) for name in counts}
        found = measure.interleave(sides, arguments.repeats)
    peaks = {name: [run["peak_mb"] for run in runs] for name, runs in found.items()}
    ratio = measure.ratio(peaks["whole"], peaks["tenth"])
    bars = [measure.bar(f"peak memory of {counts['whole']} files to that of {counts['tenth']}", ratio["median"], LIMIT)]
    measure.show(bars)
    for name, runs in found.items():
        median = measure.summary(peaks[name])["median"]
        print(f"  {name}: {median:.0f} MB; at the first run's peak (MB): {runs[0]['at_peak']}")
    out = arguments.out or measure.RESULTS / f"memory-{arguments.model.partition(':')[0]}.json"
    measure.write(out, {
        "environment": environment, "model": arguments.model, "corpus": arguments.corpus.name, "files": counts,
        "bars": bars, "ratio": ratio,
        "peak_mb": {name: measure.summary(values) for name, values in peaks.items()}, "runs": found,
    })  # fmt: skip


def _stage(corpus: Path, every: int, folder: Path) -> int:
    files = sorted(path for path in corpus.rglob("*") if path.is_file())[::every]
    for file in files:
        target = folder / file.relative_to(corpus)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return len(files)


def _run(root: Path, corpus: Path, model: str) -> dict[str, Any]:
    """Ingest into a new workspace; the peak of the tree in MB, and what it was made of."""
    workspace = Path(tempfile.mkdtemp(dir=root))
    env = dict(os.environ)
    if model == "instant":
        import instant

        model = instant.register(root / "plugin")
        env["PYTHONPATH"] = os.pathsep.join([str(root / "plugin"), str(Path(__file__).parent)])
    name = "all-MiniLM-L6-v2" if model == "real" else model
    (workspace / "params.yaml").write_text(f"version: 1\nembed: {{model: '{name}'}}\n")
    command = [sys.executable, "-m", "ragops", "ingest", str(corpus), "-w", str(workspace)]
    started = time.perf_counter()
    with (workspace / "output").open("w+") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
        peak, at_peak = 0, ""
        while process.poll() is None:
            sample = {pid: usage for pid in _tree(process.pid) if (usage := _usage(pid, process.pid)) is not None}
            total = sum(anonymous + file for anonymous, file, _ in sample.values())
            if total > peak:
                peak = total
                at_peak = ", ".join(f"{who} {a // 1024} anonymous + {f // 1024} file" for a, f, who in sample.values())
            time.sleep(EVERY)
        if process.returncode:
            output.seek(0)
            sys.exit(output.read()[-3000:])
    shutil.rmtree(workspace)
    return {"peak_mb": round(peak / 1024, 1), "at_peak": at_peak, "wall": round(time.perf_counter() - started, 1)}


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _tree(int(child))
    except OSError:
        return  # it has ended


def _usage(pid: int, run: int) -> tuple[int, int, str] | None:
    """(anonymous, file-backed) resident KB and a name for the process of `run`'s tree; None once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return None
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in status.splitlines() if line.startswith("Rss")}
    who = "writer" if "edge_writer" in words else "run" if "ingest" in words else "parser"
    if who == "run" and pid != run:
        return None  # between fork and exec: still its parent's pages
    return sizes.get("RssAnon", 0), sizes.get("RssFile", 0) + sizes.get("RssShmem", 0), who


if __name__ == "__main__":
    main()
