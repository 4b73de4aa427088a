"""Real edits: a documentation tree from one revision to another, incrementally and from nothing.

    python benchmarks/edits.py --before FOLDER --after FOLDER [--model NAME] [--out FILE]

One workspace ingests the tree at the first revision, then (the same folder, changed file by file) at the second.
Another ingests the second from nothing. Compared: ids, payloads, vectors (1e-5), exact-search and BM25 scores (within
the last place that they are rounded to, as segments add up float32 in another order) and dataset fingerprints. The
vectors that the incremental run computed must be as many as there are distinct texts that the first revision did not
have. Costs are CPU seconds of this process and its children.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import numpy as np

from ragops.types import Scored
from ragops.workspace import Workspace

PACKAGES = ("ragops", "qdrant-edge-py", "polars", "tokenizers")
QUERIES = 50
K = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--after", type=Path, required=True)
    parser.add_argument("--model", default="hash:384", help="hash:384 (default) or the name of a real one")
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "edits.json")
    arguments = parser.parse_args()
    environment = measure.environment(PACKAGES)
    with tempfile.TemporaryDirectory() as temp:
        root = Path(temp)
        runs: dict[str, Any] = {}
        shutil.copytree(arguments.before, root / "tree")
        with _workspace(root / "kb", root / "tree", arguments.model) as grown:
            runs["first revision"], _ = _ingest(grown)
            known = _vector_keys(grown)
            changes = _change(root / "tree", arguments.after)
            runs["to the second"], computed = _ingest(grown)
            wanted = len(_vector_keys(grown) - known)
            with _workspace(root / "clean", root / "tree", arguments.model) as clean:
                runs["second from nothing"], _ = _ingest(clean)
                same = _compare(grown, clean)
            verified = grown.verify().ok
    bars = [
        measure.bar("vectors computed beyond the distinct new texts", abs(computed - wanted), 0),
        measure.bar("points, payloads, scores or fingerprints that differ from a clean build's", sum(same.values()), 0),
        measure.bar("findings of `ragops verify`", int(not verified), 0),
    ]
    measure.show(bars)
    for name, run in runs.items():
        print(f"  {name}: {run['cpu']:.1f} CPU s, {run['wall']:.1f} s; {run['vectors']}, {run['sources']}")
    measure.write(arguments.out, {
        "environment": environment, "model": arguments.model, "changes": changes, "bars": bars,
        "vectors": {"computed": computed, "distinct new texts": wanted}, "differences": same, "runs": runs,
    })  # fmt: skip


def _workspace(root: Path, tree: Path, model: str) -> Workspace:
    root.mkdir()
    (root / "params.yaml").write_text(
        f"version: 1\nembed: {{model: '{model}'}}\nsources: [{{name: tree, connector: files, path: {tree}}}]\n"
    )
    return Workspace.open(root)


def _ingest(workspace: Workspace) -> tuple[dict[str, Any], int]:
    found: list[Any] = []
    cost = measure.spent(lambda: found.append(workspace.ingest(allow_deletes=True)))
    summary = found[0]
    run = {**cost.as_dict(), "sources": dict(summary.sources), "chunks": dict(summary.chunks),
           "vectors": dict(summary.vectors), "seconds": dict(summary.seconds),
           "bytes_written": dict(summary.bytes_written)}  # fmt: skip
    return run, summary.vectors["computed"]


def _vector_keys(workspace: Workspace) -> set[str]:
    """Of every text that was ever embedded here."""
    db = sqlite3.connect(workspace.local / "cache.db")
    keys = {key for (key,) in db.execute("SELECT key FROM vectors")}
    db.close()
    return keys


def _change(tree: Path, after: Path) -> dict[str, int]:
    """Bring the tree to the second revision; what did not change is not touched."""
    old = {file.relative_to(tree): file for file in tree.rglob("*") if file.is_file()}
    new = {file.relative_to(after): file for file in after.rglob("*") if file.is_file()}
    counts = {"removed": 0, "added": 0, "modified": 0, "same": 0}
    for name in old.keys() - new.keys():
        old[name].unlink()
        counts["removed"] += 1
    for name, file in new.items():
        data = file.read_bytes()
        if name in old and old[name].read_bytes() == data:
            counts["same"] += 1
            continue
        counts["modified" if name in old else "added"] += 1
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    return counts


def _compare(grown: Workspace, clean: Workspace) -> dict[str, int]:
    """How many things differ between two workspaces' live releases, by kind."""
    counts = {"ids": 0, "payloads": 0, "vectors": 0, "dense scores": 0, "bm25 scores": 0, "fingerprints": 0}
    with grown.store.open() as a, clean.store.open() as b:
        counts["fingerprints"] += a.release.fingerprint != b.release.fingerprint
        left, right = a.points(), b.points()
        queries = []
        for n, (one, other) in enumerate(zip(left, right, strict=False)):
            counts["ids"] += one[0] != other[0]
            counts["payloads"] += one[1] != other[1]
            counts["vectors"] += not np.allclose(one[2], other[2], atol=1e-5)
            if n % max(1, a.release.points // QUERIES) == 0:
                queries.append((one[2].tolist(), one[1]["text"][:200]))
        counts["ids"] += sum(1 for _ in left) + sum(1 for _ in right)
        for vector, text in queries:
            counts["dense scores"] += not _same(*(r.search(vector, K, exact=True) for r in (a, b)), place=1e-4)
            counts["bm25 scores"] += not _same(*(r.search_text(text, K) for r in (a, b)), place=1e-2)
    return counts


def _same(one: Sequence[Scored], other: Sequence[Scored], place: float) -> bool:
    """The same scores by rank, and the same points but for those that share the last score."""
    if len(one) != len(other) or not np.allclose(
        [h.score for h in one], [h.score for h in other], rtol=0, atol=1.1 * place
    ):
        return False
    cut = one[-1].score + 2 * place if one else 0.0
    return {h.point_id for h in one if h.score > cut} <= {h.point_id for h in other} and {
        h.point_id for h in other if h.score > cut
    } <= {h.point_id for h in one}


if __name__ == "__main__":
    main()
