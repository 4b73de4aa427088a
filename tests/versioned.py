"""Workspaces in git and DVC repositories, and the commands that a user types there."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ragops.retrieval.query import Hit
from ragops.workspace import Workspace

QUERIES = ("penguins swim", "install the package", "an older release is wrong", "people in Oslo")
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")


def environment(place: Path) -> dict[str, str]:
    """For commands in `place`: ours first on the path, nothing of this machine's git and DVC settings."""
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_SITE_CACHE_DIR": str(place / ".dvc-site"),
        "DVC_GLOBAL_CONFIG_DIR": str(place / ".dvc-global"),
        "DVC_SYSTEM_CONFIG_DIR": str(place / ".dvc-system"),
        "DVC_NO_ANALYTICS": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }


def run(folder: Path, *command: object, code: int = 0) -> str:
    """What a command says on stdout; with an exit code other than 0, on stderr."""
    words = [*GIT, *command[1:]] if command[0] == "git" else command
    done = subprocess.run([str(word) for word in words], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr if code else done.stdout


def commit(root: Path, message: str) -> str:
    """Commit everything; returns the revision."""
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-q", "-m", message)
    return run(root, "git", "rev-parse", "HEAD").strip()


def versioned(root: Path, remote: Path) -> None:
    """git and DVC in the workspace `root`."""
    run(root, "git", "init", "-q", "-b", "main")
    run(root, "ragops", "init", "--dvc")
    run(root, "dvc", "remote", "add", "-q", "-d", "here", os.path.relpath(remote, root))


def clone(root: Path, name: str = "clone") -> Path:
    """A clone beside it, with nothing pulled."""
    run(root.parent, "git", "clone", "-q", root.name, name)
    return root.parent / name


def dvc(root: Path, what: str, **options: Any) -> Any:
    """A DVC command in this process, which costs a tenth of one of its own."""
    from dvc.repo import Repo  # type: ignore[import-untyped]

    with contextlib.chdir(root), Repo(str(root)) as repo:
        return getattr(repo, what)(**options)


def dirty(root: Path) -> Any:
    """What `dvc status` finds changed; empty when it is clean."""
    return dvc(root, "status")


def reproduce(root: Path, **options: Any) -> list[str]:
    """The stages that a `dvc repro` ran; each is a command of its own."""
    names = [stage.addressing for stage in dvc(root, "reproduce", **options)]
    return [name for name in names if not name.endswith(".dvc")]


def fingerprint(root: Path) -> str:
    return str(json.loads((root / "data/dataset/dataset.json").read_bytes())["fingerprint"])


def answers(root: Path, queries: Sequence[str] = QUERIES) -> dict[str, list[tuple[Any, ...]]]:
    """Hits and scores of the live release, by exact search."""
    with Workspace.open(root) as workspace:
        return {query: told(workspace.search(query, exact=True).hits) for query in queries}


def told(hits: Sequence[Hit]) -> list[tuple[Any, ...]]:
    return [(hit.uri, hit.chunk_id, hit.start, hit.end, hit.text, round(hit.score, 6)) for hit in hits]


def holds(root: Path) -> dict[str, Any]:
    """What dataset and snapshot hold: rows, whatever segments they stand in."""
    from ragops_pipelines.dataset import Dataset
    from ragops_pipelines.snapshot import Snapshot

    dataset, snapshot = Dataset(root / "data/dataset"), Snapshot(root / "data/snapshot")
    manifest, seen = dataset.manifest(), snapshot.manifest()
    assert manifest is not None
    assert seen is not None
    documents = [frame.drop("row") for _, frame in dataset.documents(manifest)]
    chunks = [
        dataset.chunks(manifest, name).join(frame, on="document_id", how="semi")
        for name, frame in dataset.documents(manifest)
    ]
    vectors = {
        key: vector.tobytes()
        for keys, found in dataset.segments(manifest)
        for key, vector in zip(keys, found, strict=True)
    }
    needed = {point.vector_key for point in dataset.points(manifest)}
    return {
        "fingerprint": manifest.fingerprint,
        "recipe": dict(manifest.recipe),
        "space": dict(manifest.space),
        "counts": {name: manifest.counts[name] for name in ("documents", "chunks")},
        "documents": sorted(row for frame in documents for row in map(repr, frame.rows())),
        "chunks": sorted(row for frame in chunks for row in map(repr, frame.rows())),
        "rejects": [tuple(reject.values()) for reject in dataset.rejects()],
        "snapshot": sorted(row for _, frame in snapshot.sources(seen) for row in map(repr, frame.drop("row").rows())),
        "vectors": {key: vectors.get(key) for key in needed},
        "plot": (root / "data/dataset/sources.csv").read_text("utf-8"),
    }


def files(root: Path, *but: str) -> dict[str, tuple[int, int, int]]:
    """Every file, with what shows a write; none below the folders `but`."""
    found = {}
    for file in sorted(root.rglob("*")):
        name = file.relative_to(root).as_posix()
        if file.is_file() and not name.startswith(but):
            status = file.stat()
            found[name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def edited(root: Path, changes: Mapping[str, str], file: str = "params.yaml") -> None:
    """Replace strings, each of which must be there."""
    text = (root / file).read_text("utf-8")
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    (root / file).write_text(text, "utf-8")
