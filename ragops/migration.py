"""Schema versions: what each artefact of a workspace was written by, and what lifts an older one."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ragops import config, durable, keys, params
from ragops.errors import ConfigError, SchemaError
from ragops.stores import manifest, permissions
from ragops_pipelines import dataset, snapshot, state

Action = Literal["nothing", "lifted", "lift", "ingest", "upgrade"]


@dataclass(frozen=True, slots=True)
class Step:
    """One artefact. `found`: the schema version that it carries; `known`: the newest that this ragops reads.

    `action`: "nothing", "lift" (by `ragops migrate`; "lifted" once it was), "ingest" (the next ingest makes it anew),
    or "upgrade" (a newer ragops wrote it; nothing here may touch it).
    """

    artefact: str
    path: str
    found: int
    known: int
    action: Action

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def survey(root: Path, settings: config.Settings | None = None) -> list[Step]:
    """The artefacts that are there, with their schema versions; those that cannot be read are left to `verify`."""
    return [
        Step(artefact, path, found, known, "upgrade" if found > known else "nothing" if found == known else older)
        for artefact, path, found, known, older in _found(root, settings)
    ]


def refuse_newer(root: Path, settings: config.Settings | None = None) -> None:
    """Raises SchemaError where a newer ragops wrote something of the workspace."""
    for step in survey(root, settings):
        if step.action == "upgrade":
            raise SchemaError.newer(root / step.path, step.found, step.known)


def migrate(root: Path) -> list[Step]:
    """Lift what is older, in place. Raises SchemaError where something is newer; then nothing was touched."""
    refuse_newer(root)
    done: list[Step] = []
    for step in survey(root):
        if step.action == "lift":
            _lift(root, step.artefact)
            done.append(Step(step.artefact, step.path, step.found, step.known, "lifted"))
        else:
            done.append(step)
    return done


def _lift(root: Path, artefact: str) -> None:
    """Each step can be repeated, and is done or not done after a crash."""
    if artefact == "params":
        file = root / config.FILE
        durable.write_atomic(file, params.with_version(file.read_text("utf-8")).encode())
    elif artefact == "state":
        state.State(root / ".ragops").close()
    elif artefact == "cache":
        state.Cache(root / ".ragops").close()


# ---------------------------------------------------------------- what is there
def _found(root: Path, settings: config.Settings | None) -> Iterator[tuple[str, str, int, int, Action]]:
    """(artefact, its path in the workspace, version found, version known, what is done where it is older)"""
    version = _params(root / config.FILE)
    yield "params", config.FILE, version, config.VERSION, "lift"
    for name, known in (("state", state.SCHEMA), ("cache", state.CACHE_SCHEMA)):
        file = root / ".ragops" / f"{name}.db"
        if (found := _user_version(file)) is not None:
            yield name, f".ragops/{name}.db", found, known, "lift"
    yield from _json(root, f".ragops/{keys.FILE}", "keys", keys.SCHEMA, "lift")
    for name, known in (("dataset", dataset.SCHEMA), ("snapshot", snapshot.SCHEMA)):
        yield from _json(root, f"data/{name}/{name}.json", name, known, "ingest")
    from ragops.embedders import onnx

    models = root / "data" / "models"
    for folder in sorted(models.iterdir()) if models.is_dir() else []:
        yield from _json(root, f"data/models/{folder.name}/{onnx.MANIFEST}", "model", onnx.SCHEMA, "ingest")
    if version > config.VERSION:
        return  # where the store is, cannot be known
    store = (settings or config.load(root / config.FILE)).store
    base = root / ".ragops" / "store" / store.collection
    yield from _json(root, _inside(root, base / "permissions.json"), "permissions", permissions.SCHEMA, "ingest")
    folders = base / "releases"
    for folder in sorted(folders.iterdir()) if folders.is_dir() else []:
        yield from _json(root, _inside(root, folder / "manifest.json"), "release", manifest.SCHEMA, "ingest")


def _inside(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _params(file: Path) -> int:
    with contextlib.suppress(OSError, ValueError, ConfigError):
        return config.version(file.read_text("utf-8"))
    return config.VERSION  # whatever is wrong with it, reading it tells


def _user_version(file: Path) -> int | None:
    if not file.is_file():
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as db:
            return int(db.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.DatabaseError:
        return None


def _json(
    root: Path, path: str, artefact: str, known: int, older: Action
) -> Iterator[tuple[str, str, int, int, Action]]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((root / path).read_bytes())["schema"]
        if isinstance(found, int):
            yield artefact, path, found, known, older
