"""A small corpus and workspaces over it. Tests that do not need the real model use the deterministic `hash:64`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ragops.workspace import Workspace

if TYPE_CHECKING:
    from ragops.stores.edge import EdgeStore
    from tests.qdrant_stub import Stub

pytest.register_assert_rewrite(
    "tests.connector_contract", "tests.edge_stores", "tests.store_contract", "tests.versioned"
)

CORPUS = {
    "guide/install.md": "# Install\n\nUse pip to install the package.\n\n## Linux\n\nNeeds a compiler and headers.\n",
    "guide/rollback.md": "---\ntitle: Rolling back\n---\n"
    "# Rollback\n\nGo back to an older release when an answer is wrong.\n",
    "notes.txt": "Penguins live in the southern hemisphere.\n\nThey swim well and cannot fly.\n",
    "page.html": "<html><head><title>Prices</title></head><body><h1>Prices</h1><table>"
    "<tr><td>Basic</td><td>10</td></tr>"
    "<tr><td>Large</td><td>30</td></tr></table><script>track()</script></body></html>",
    "data.csv": "city,people\nOslo,700000\nBergen,290000\n",
}

PAGES = {f"page{i}.md": f"# Page {i}\n\nPenguins number {i} swim well.\n" for i in range(6)}


def write_corpus(folder: Path, files: dict[str, str] | None = None) -> Path:
    for name, text in (CORPUS if files is None else files).items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
        settle(file)
    return folder


def settle(file: Path) -> None:
    """As if written long ago, so that the change token is trusted at once."""
    os.utime(file, ns=(1_700_000_000_000_000_000,) * 2)


def use_model(root: Path, model: str = "hash:64") -> None:
    params = root / "params.yaml"
    params.write_text(params.read_text("utf-8").replace("model: all-MiniLM-L6-v2 ", f'model: "{model}"'), "utf-8")


def copy(source: Path, target: Path) -> None:
    """The content of a folder, into a new or an existing one; holes stay holes: the engine's files are sparse."""
    subprocess.run(["cp", "-a", "--sparse=auto", f"{source}/.", str(target)], check=True)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace with the deterministic model."""
    Workspace.create(tmp_path / "kb")
    use_model(tmp_path / "kb")
    return Workspace.open(tmp_path / "kb")


@pytest.fixture(scope="session")
def _ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ingested")
    write_corpus(place / "corpus")
    Workspace.create(place / "kb")
    use_model(place / "kb")
    params = place / "kb/params.yaml"
    source = "sources:\n  - name: corpus\n    connector: files\n    path: ../corpus"
    params.write_text(params.read_text("utf-8").replace("sources: []", source), "utf-8")
    assert Workspace.open(place / "kb").ingest().release == 1
    return place


@pytest.fixture
def ingested(_ingested: Path, tmp_path: Path) -> Workspace:
    """The workspace `kb` after one ingest of the folder `corpus` beside it: a copy, as good as new and cheaper."""
    copy(_ingested, tmp_path)
    return Workspace.open(tmp_path / "kb")


@pytest.fixture(scope="session")
def _versioned(_ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.versioned import commit, environment, run, versioned

    place = tmp_path_factory.mktemp("versioned")
    copy(_ingested, place)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(place).items():
            patch.setenv(name, value)
        versioned(place / "kb", place / "remote")
        assert (Workspace.open(place / "kb").ingest().dvc or {})["recorded"]
        commit(place / "kb", "first")
        run(place / "kb", "git", "tag", "first")
        run(place / "kb", "dvc", "push", "-q")
    return place


@pytest.fixture
def versioned(_versioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace of `ingested` in git and DVC repositories, committed with the tag `first` and pushed to the folder
    `remote` beside it."""
    from tests.versioned import environment

    copy(_versioned, tmp_path)
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return tmp_path / "kb"


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "pages", PAGES)


@pytest.fixture
def edge(tmp_path: Path) -> EdgeStore:
    from ragops.stores.edge import EdgeStore

    return EdgeStore(tmp_path / "store")


@pytest.fixture(scope="session")
def _sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ragops.stores.edge import EdgeStore
    from tests.store_contract import fill, pairs, release

    store = EdgeStore(tmp_path_factory.mktemp("sealed") / "store")
    fill(store, 50)
    store.write(release(2, 3), base=None, delete=[], add=pairs(1, 2, 3))
    return store.root


@pytest.fixture
def sealed(_sealed: Path, tmp_path: Path) -> EdgeStore:
    """Release 1 with 50 points, live, and release 2 with 3: a copy, to be damaged."""
    from ragops.stores.edge import EdgeStore

    copy(_sealed, tmp_path / "store")
    return EdgeStore(tmp_path / "store")


@pytest.fixture
def stub() -> Iterator[Stub]:
    from tests.qdrant_stub import Stub

    with Stub() as stub:
        yield stub


Result = subprocess.CompletedProcess[str]


@pytest.fixture
def ragops(tmp_path: Path) -> Callable[..., Result]:
    """Run the command line in a process of its own, in `tmp_path`."""

    def run(
        *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 120
    ) -> Result:
        return subprocess.run(
            [sys.executable, "-m", "ragops", *map(str, arguments)],
            cwd=cwd or tmp_path, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip

    return run


def answer(result: Result) -> Any:
    """The one JSON value on stdout."""
    assert result.stdout.strip(), result.stderr
    return json.loads(result.stdout)
