"""What a workspace holds on the disk: what must not depend on its past, what is missing, damaged or left over."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from tests.crash.scenarios import KEEP


def keep(kb: Path) -> dict[str, Any]:
    """What the workspace remembers that must not depend on its past: dataset, snapshot, state; rows, not segments."""
    from ragops_pipelines.dataset import Dataset
    from ragops_pipelines.snapshot import Snapshot

    dataset, snapshot = Dataset(kb / "data/dataset"), Snapshot(kb / "data/snapshot")
    manifest, seen = dataset.manifest(), snapshot.manifest()
    assert manifest is not None
    assert seen is not None
    documents = [frame.drop("row") for _, frame in dataset.documents(manifest)]
    chunks = [
        dataset.chunks(manifest, name).join(frame, on="document_id", how="semi")
        for name, frame in dataset.documents(manifest)
    ]
    return {
        "fingerprint": manifest.fingerprint,
        "recipe": dict(manifest.recipe),
        "space": dict(manifest.space),
        "counts": {name: manifest.counts[name] for name in ("documents", "chunks")},
        "documents": sorted(row for frame in documents for row in map(repr, frame.rows())),
        "chunks": sorted(row for frame in chunks for row in map(repr, frame.rows())),
        "snapshot": sorted(row for _, frame in snapshot.sources(seen) for row in map(repr, frame.drop("row").rows())),
        "rejected": [tuple(row.values()) for row in dataset.rejects()],
        **remembered(kb),
    }


def remembered(kb: Path) -> dict[str, Any]:
    """What the state says."""
    from ragops_pipelines.state import State

    state = State(kb / ".ragops")
    try:
        return {
            "points": state.db.execute("SELECT * FROM points ORDER BY 1, 2").fetchall(),
            "sources": [known.__repr__() for known in state.sources()],
            "rejects": [
                {name: value for name, value in reject.items() if name not in ("attempts", "first_seen")}
                for reject in state.rejects()
            ],
        }
    finally:
        state.db.close()


def whole(kb: Path, *, newest: bool = True) -> list[str]:
    """What is wrong with the files of a workspace at rest: missing or damaged.

    `newest`: the live release must be that of the dataset.
    """
    from ragops.workspace import Workspace
    from ragops_pipelines.dataset import Dataset
    from ragops_pipelines.snapshot import Snapshot
    from ragops_pipelines.state import State

    wrong = []
    data, local = kb / "data", kb / ".ragops"
    manifest = Dataset(data / "dataset").manifest()
    assert manifest is not None
    for part, named in _parts(manifest).items():
        there = {file.name for file in (data / "dataset" / part).iterdir()}
        wrong += [f"dataset/{part}/{name} is missing" for name in sorted(named - there)]
        for name in named & there:
            if name.removesuffix(".parquet") != _sha256(data / "dataset" / part / name)[:12]:
                wrong.append(f"dataset/{part}/{name} does not have its hash")
    with Workspace.open(kb) as workspace:
        store: Any = workspace.store
        wrong += store.check()
        live = store.live()
        if newest and (live is None or live.fingerprint != manifest.fingerprint):
            wrong.append("the live release is not that of the dataset")
    state = State(local)
    try:
        wrong += Snapshot(data / "snapshot").check(state)
        stored = {name for (name,) in state.db.execute("SELECT DISTINCT segment FROM stored")}
        if stored != set(manifest.vectors):
            wrong.append("the state names other segments than the dataset")
        lacking = "SELECT count(*) FROM points WHERE vector_key NOT IN (SELECT vector_key FROM stored)"
        if state.db.execute(lacking).fetchone()[0]:
            wrong.append("points without a stored vector")
    finally:
        state.db.close()
    return wrong


def strays(kb: Path) -> list[str]:
    """What nobody needs any more and a run that comes to its end removes: files of the dead, releases beyond `keep`."""
    from ragops.workspace import Workspace
    from ragops_pipelines.dataset import Dataset
    from ragops_pipelines.snapshot import Snapshot

    data = kb / "data"
    found = [
        file.relative_to(kb).as_posix()
        for file in kb.rglob("*")
        if file.name.endswith((".tmp", ".old", ".draft")) or file.name.startswith("work.db")
    ]
    manifest, seen = Dataset(data / "dataset").manifest(), Snapshot(data / "snapshot").manifest()
    assert manifest is not None
    assert seen is not None
    for part, named in _parts(manifest).items():
        there = {file.name for file in (data / "dataset" / part).iterdir()} - {"manifest.json"}
        found += [f"dataset/{part}/{name}" for name in sorted(there - named)]
    large = {file.name for file in (data / "snapshot/objects").iterdir()} - set(seen.objects)
    kept = large.union(*(frame["sha"] for _, frame in Snapshot(data / "snapshot").shas(seen)))
    found += [f"{sha[:12]} in the snapshot" for sha in sorted(kept - _named(Snapshot(data / "snapshot"), seen))]
    with Workspace.open(kb) as workspace:
        numbers = [release.number for release in workspace.store.releases()]
    folders = sorted(int(folder.name) for folder in (kb / ".ragops/store/main/releases").iterdir())
    if len(numbers) > KEEP + 1:
        found.append(f"releases {numbers} where {KEEP + 1} are kept")
    if folders != numbers:
        found.append(f"release folders {folders} for releases {numbers}")
    return found


def _parts(manifest: Any) -> dict[str, set[str]]:
    """The files of each part of the dataset that count."""
    return {
        "documents": set(manifest.documents), "chunks": set(manifest.chunks.values()), "vectors": set(manifest.vectors)
    }  # fmt: skip


def _named(snapshot: Any, manifest: Any) -> set[str]:
    """Hashes of the bytes that the snapshot's rows name."""
    frames = [frame for _, frame in snapshot.sources(manifest)]
    return {sha for frame in frames for name in ("raw_sha", "doc_raw_sha") for sha in frame[name] if sha is not None}


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def files(kb: Path) -> dict[str, tuple[int, int, int]]:
    """Every file of dataset, snapshot, models and store, with what shows a write."""
    found = {}
    for folder in (kb / "data", kb / ".ragops/store"):
        for file in folder.rglob("*"):
            status = file.stat()
            if file.is_file() and file.name != "edge_config.json":  # which every reader's engine rewrites
                found[file.relative_to(kb).as_posix()] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def named(content: str, name: str) -> list[str] | None:
    """What a pointer file names, absolute; None for what is no pointer. `content` is where its bytes are now."""
    folder, base = os.path.split(name)
    if base == "dataset.json":
        return [os.path.join(folder, part, "manifest.json") for part in json.loads(Path(content).read_bytes())["parts"]]
    if base == "manifest.json" and "/dataset/" in folder:
        value = json.loads(Path(content).read_bytes())
        if "file" in value:  # of the rejects
            names = [value["file"]]
        else:
            names = value["files"].values() if "files" in value else [each["name"] for each in value["segments"]]
        return [os.path.join(folder, name) for name in names]
    if base == "manifest.json" and "/releases/" in folder:
        return [os.path.join(folder, part) for part in json.loads(Path(content).read_bytes())["files"]]
    if base == "LIVE":
        return [os.path.join(folder, f"releases/{int(Path(content).read_text().split()[0]):08d}/manifest.json")]
    if base == "snapshot.json":
        value = json.loads(Path(content).read_bytes())
        return [os.path.join(folder, part, each["name"]) for part in ("sources", "objects") for each in value[part]]
    return None
