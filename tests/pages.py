"""Pages to edit, and what a release holds of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ragops.workspace import Workspace
from tests.conftest import settle


def edit(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, "utf-8")
    settle(folder / name)


def contents(workspace: Workspace, number: int | None = None) -> dict[str, Any]:
    """Every point of a release as its reader gives it: id -> payload."""
    with workspace.store.open(number) as reader:
        return {id: dict(payload) for id, payload, _ in reader.points()}


def uris(workspace: Workspace, number: int | None = None, **filter: Any) -> list[str]:
    hits = workspace.search("penguins", 50, filter=filter or None, release=number).hits
    workspace.close()
    return sorted({hit.uri for hit in hits})


def set_source(root: Path, path: Path, **options: Any) -> Workspace:
    source = {"name": "pages", "connector": "files", "path": str(path), **options}
    root.mkdir(exist_ok=True)
    value = {"version": 1, "embed": {"model": "hash:64"}, "sources": [source]}
    (root / "params.yaml").write_text(json.dumps(value), "utf-8")
    return Workspace.open(root)
