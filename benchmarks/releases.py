"""What a release costs at 100,000 chunks when little changes: `python benchmarks/releases.py --corpus FOLDER ...`.

    python benchmarks/releases.py --corpus FOLDER [FOLDER ...] [--out FILE]

The folders are ingested as sources of one workspace with a model that costs nothing (hash:384). Then so many files are
edited, one paragraph each, that about 0.01%, 0.1% and 1% of the chunks change, an ingest after each. Told are seconds,
CPU and bytes written by part, beside the bytes of the chunks that changed; whether the index was rebuilt (the engine's
CPU against that of the first build, and against what building from nothing costs); recall of the approximate search
against the exact one, and its latency, before and after.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import measure

from ragops.workspace import Workspace

PACKAGES = ("ragops", "qdrant-edge-py", "polars")
SHARES = (0.0001, 0.001, 0.01)
QUERIES = 100
REBUILT = 0.1  # of the first build's CPU: an index of as many points is not built for less


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "releases.json")
    arguments = parser.parse_args()
    environment = measure.environment(PACKAGES)
    with tempfile.TemporaryDirectory() as temp:
        root = Path(temp)
        trees = [root / f"tree{i}" for i in range(len(arguments.corpus))]
        for folder, tree in zip(arguments.corpus, trees, strict=True):
            shutil.copytree(folder, tree)
        (root / "kb").mkdir()
        sources = "".join(f"  - {{name: {tree.name}, connector: files, path: {tree}}}\n" for tree in trees)
        (root / "kb" / "params.yaml").write_text(f"version: 1\nembed: {{model: 'hash:384'}}\nsources:\n{sources}")
        runs = []
        with Workspace.open(root / "kb") as workspace:
            runs.append({"share": 1.0, **_ingest(workspace), **_answers(workspace)})
            chunks = runs[0]["chunks"]["total"]
            print(f"first build: {chunks} chunks, {runs[0]['cpu']:.1f} CPU s")
            files = sorted(file for tree in trees for file in tree.rglob("*.md"))
            for number, share in enumerate(SHARES):
                wanted = max(1, round(share * chunks))
                edited = files[number :: max(1, len(files) // wanted)][:wanted]
                for file in edited:
                    with file.open("a", encoding="utf-8") as handle:
                        handle.write(f"\nEdit {number} of {file.stem}: one more sentence about it.\n")
                run = {"share": share, "files": len(edited), **_ingest(workspace), **_answers(workspace)}
                runs.append(run)
                print(f"{share:.2%}: {run['chunks']['added']} chunks added, {run['cpu']:.2f} CPU s"
                      f" (engine {run['engine_cpu']:.2f}), {run['wall']:.1f} s, release"
                      f" {run['written']['release'] / 1e6:.0f} MB, dataset {run['written']['dataset'] / 1e6:.2f} MB,"
                      f" recall {run['recall']:.3f}, {run['ms_per_query']:.2f} ms/query")  # fmt: skip
    first, small = runs[0], next(run for run in runs if run["share"] == 0.001)
    bars = [
        measure.bar("engine CPU of a 0.1% change to that of the first build", small["engine_cpu"] / first["engine_cpu"],
                    REBUILT),
        measure.bar("recall@10 lost after all changes", first["recall"] - runs[-1]["recall"], 0.01),
    ]  # fmt: skip
    measure.show(bars)
    measure.write(arguments.out, {"environment": environment, "bars": bars, "runs": runs})


def _ingest(workspace: Workspace) -> dict[str, Any]:
    found: list[Any] = []
    marks: dict[str, Any] = {}

    def progress(event: Any) -> None:
        marks.setdefault(event.stage, measure.now())

    cost = measure.spent(lambda: found.append(workspace.ingest(progress=progress)))
    end = measure.now()
    summary = found[0]
    store = workspace.store
    folder = workspace.local / "store" / "main" / "releases" / f"{summary.release:08d}"
    engine = measure.Spent(*(b - a for a, b in zip(marks["load"], end, strict=True)))
    return {
        **cost.as_dict(), "release": summary.release, "chunks": dict(summary.chunks), "seconds": dict(summary.seconds),
        "engine_cpu": engine.cpu, "work": dict(store.work(summary.release)),
        "written": {"release": sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file()),
                    **dict(summary.bytes_written)},
    }  # fmt: skip


def _answers(workspace: Workspace) -> dict[str, float]:
    """Recall@10 of the approximate search against the exact one over points of the release, and its latency."""
    with workspace.store.open() as reader:
        queries = []
        for n, (_, _, vector) in enumerate(reader.points()):
            if n % max(1, reader.release.points // QUERIES) == 0:
                queries.append([value + 0.02 * ((i * 7919 + n) % 11 - 5) for i, value in enumerate(vector.tolist())])
        shares, times = [], []
        for query in queries:
            exact = {hit.point_id for hit in reader.search(query, 10, exact=True)}
            start = time.perf_counter()
            found = {hit.point_id for hit in reader.search(query, 10)}
            times.append(time.perf_counter() - start)
            shares.append(len(exact & found) / len(exact))
    return {"recall": statistics.mean(shares), "ms_per_query": 1000 * statistics.median(times)}


if __name__ == "__main__":
    main()
