"""A store in a folder, and the processes around it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ragops.stores.edge import EdgeStore
from tests.store_contract import everything

ROOT = Path(__file__).resolve().parents[1]


def folder(store: EdgeStore, number: int) -> Path:
    return store.root / store.collection / "releases" / f"{number:08d}"


def python(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Another process that runs `code` after the imports that all of them need."""
    head = (
        "import sys, os, time, json; from pathlib import Path\n"
        "from ragops.stores.edge import EdgeStore\n"
        "from tests.store_contract import *\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            status = (entry / "stat").read_text() if entry.name.isdigit() else ""
        except (FileNotFoundError, ProcessLookupError):
            continue
        if status and int(status.rpartition(")")[2].split()[1]) == pid:
            found.append(int(entry.name))
    return found


def writers(pid: int) -> list[int]:
    return [child for child in children(pid) if b"edge_writer" in Path(f"/proc/{child}/cmdline").read_bytes()]


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def sound(store: EdgeStore, number: int, points: int) -> None:
    assert store.check() == []
    live = store.live()
    assert live is not None
    assert live.number == number
    assert len(everything(store)) == points
