"""What a workspace holds on the disk: what must not depend on its past, what is missing, damaged or left over."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from tests.crash.scenarios import KEEP


def keep(kb: Path) -> dict[str, Any]:
    """What the workspace remembers that must not depend on its past: dataset, snapshot, state."""
    import polars as pl

    from ragops_pipelines.state import State

    manifest = json.loads((kb / "data/dataset/dataset.json").read_text("utf-8"))
    state = State(kb / ".ragops")
    try:
        rows = {
            "points": state.db.execute("SELECT * FROM points ORDER BY 1, 2").fetchall(),
            "sources": [known.__repr__() for known in state.sources()],
            "rejects": [
                {name: value for name, value in reject.items() if name not in ("attempts", "first_seen")}
                for reject in state.rejects()
            ],
        }
    finally:
        state.db.close()
    return {
        **{name: manifest[name] for name in ("fingerprint", "recipe", "shards", "counts", "documents", "chunks")},
        "snapshot": pl.read_parquet(kb / "data/snapshot/manifest.parquet").rows(),
        "rejected": pl.read_parquet(kb / "data/dataset/rejects/rejects.parquet").rows(),
        **rows,
    }


def whole(kb: Path, *, newest: bool = True) -> list[str]:
    """What is wrong with the files of a workspace at rest: missing or damaged.

    `newest`: the live release must be that of the dataset.
    """
    from ragops.errors import StoreError
    from ragops.workspace import Workspace
    from ragops_pipelines.snapshot import Snapshot
    from ragops_pipelines.state import State

    wrong = []
    data, local = kb / "data", kb / ".ragops"
    manifest = json.loads((data / "dataset/dataset.json").read_text("utf-8"))
    for part in ("documents", "chunks", "vectors"):
        named = set(manifest[part] if part == "vectors" else manifest[part].values())
        there = {file.name for file in (data / "dataset" / part).iterdir()}
        wrong += [f"dataset/{part}/{name} is missing" for name in sorted(named - there)]
        for name in named & there:
            sha = _sha256(data / "dataset" / part / name)
            if not name.removesuffix(".parquet").endswith(sha[:12]):
                wrong.append(f"dataset/{part}/{name} does not have its hash")
    snapshot = Snapshot(data / "snapshot")
    for sha in _named(snapshot):
        try:
            snapshot.read(sha)
        except StoreError as error:
            wrong.append(error.message)
    with Workspace.open(kb) as workspace:
        store: Any = workspace.store
        wrong += store.check()
        live = store.live()
        if newest and (live is None or live.fingerprint != manifest["fingerprint"]):
            wrong.append("the live release is not that of the dataset")
    state = State(local)
    try:
        stored = {name for (name,) in state.db.execute("SELECT DISTINCT segment FROM stored")}
        if stored != set(manifest["vectors"]):
            wrong.append("the state names other segments than the dataset")
        lacking = "SELECT count(*) FROM points WHERE vector_key NOT IN (SELECT vector_key FROM stored)"
        if state.db.execute(lacking).fetchone()[0]:
            wrong.append("points without a stored vector")
    finally:
        state.db.close()
    return wrong


def strays(kb: Path) -> list[str]:
    """What nobody needs any more and a run that comes to its end removes: files of the dead, releases beyond `keep`."""
    import polars as pl

    from ragops.workspace import Workspace
    from ragops_pipelines.snapshot import Snapshot

    data = kb / "data"
    found = [
        file.relative_to(kb).as_posix()
        for file in kb.rglob("*")
        if file.name.endswith((".tmp", ".old", ".draft")) or file.name.startswith("work.db")
    ]
    manifest = json.loads((data / "dataset/dataset.json").read_text("utf-8"))
    for part in ("documents", "chunks", "vectors"):
        named = set(manifest[part] if part == "vectors" else manifest[part].values())
        there = {file.name for file in (data / "dataset" / part).iterdir()}
        found += [f"dataset/{part}/{name}" for name in sorted(there - named)]
    snapshot = Snapshot(data / "snapshot")
    kept: set[str] = set()
    for file in snapshot.objects.iterdir():
        kept |= set(pl.read_parquet(file)["sha"]) if file.suffix == ".parquet" else {file.name}
    found += [f"{sha[:12]} in the snapshot" for sha in sorted(kept - _named(snapshot))]
    with Workspace.open(kb) as workspace:
        numbers = [release.number for release in workspace.store.releases()]
    folders = sorted(int(folder.name) for folder in (kb / ".ragops/store/main/releases").iterdir())
    if len(numbers) > KEEP + 1:
        found.append(f"releases {numbers} where {KEEP + 1} are kept")
    if folders != numbers:
        found.append(f"release folders {folders} for releases {numbers}")
    return found


def _named(snapshot: Any) -> set[str]:
    """Hashes of the bytes that the snapshot's manifest names."""
    import polars as pl

    rows = pl.read_parquet(snapshot.folder / "manifest.parquet")
    return {sha for column in ("raw_sha", "doc_raw_sha") for sha in rows[column] if sha is not None}


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
        value = json.loads(Path(content).read_bytes())
        parts = [f"documents/{n}" for n in value["documents"].values()]
        parts += [*(f"chunks/{n}" for n in value["chunks"].values()), *(f"vectors/{n}" for n in value["vectors"])]
        return [os.path.join(folder, part) for part in parts]
    if base == "manifest.json" and "/releases/" in folder:
        return [os.path.join(folder, part) for part in json.loads(Path(content).read_bytes())["files"]]
    if base == "LIVE":
        return [os.path.join(folder, f"releases/{int(Path(content).read_text().split()[0]):08d}/manifest.json")]
    if base == "snapshot.json":
        packs = json.loads(Path(content).read_bytes())["packs"].values()
        return [os.path.join(folder, "objects", pack) for pack in packs]
    return None
