"""The query log: nothing waits for it, nothing in it stands twice, and what is lost is counted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ragops.drift import events
from ragops.drift.events import Event, Found, Log, read

START = datetime(2026, 3, 1, tzinfo=UTC)


def event(n: int, **changes: object) -> Event:
    values: dict[str, object] = {
        "id": f"{n:024x}", "time": (START + timedelta(minutes=n)).timestamp(), "release": 3, "space": "ab" * 32,
        "mode": "hybrid", "k": 2, "ms": 1.5, "tenant": "acme", "session": f"s{n // 3}",
        "found": (Found(f"c{n}", f"d{n}", 0.03, 0.5, None), Found("c", "d", 0.02, None, 7.5)),
        "vector": np.full(4, n, "<f4").tobytes(),
    }  # fmt: skip
    return Event(**{**values, **changes})  # type: ignore[arg-type]


def test_what_is_recorded_is_read(tmp_path: Path) -> None:
    log = Log(tmp_path / "q", rows=4)
    for n in (2, 0, 1):
        log.record(event(n))
    log.record(event(3, vector=None, text="what?", tenant=None, session=None, mode="bm25", found=()))
    log.close()
    found = read(tmp_path / "q")
    assert found.events["id"].to_list() == [event(n).id for n in range(4)]
    first = found.events.row(0, named=True)
    assert first["time"] == START
    assert (first["chunk_ids"], first["document_ids"]) == (["c0", "c"], ["d0", "d"])
    assert (first["dense"], first["bm25"], first["vector"]) == ([0.5, None], [None, 7.5], [0.0] * 4)
    last = found.events.row(3, named=True)
    assert (last["vector"], last["text"], last["tenant"], last["chunk_ids"]) == (None, "what?", None, [])
    assert (found.dropped, found.damaged) == (0, ())
    assert read(tmp_path / "q", START + timedelta(minutes=1), START + timedelta(minutes=3)).events.height == 2
    assert pl.read_parquet(str(tmp_path / "q/*.parquet")).height == 4  # as it is
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "q").iterdir())
    assert read(tmp_path / "nothing").events.height == 0


def test_segments_are_written_by_count_and_by_time(tmp_path: Path) -> None:
    log = Log(tmp_path, rows=10, seconds=0.05)
    for n in range(25):
        log.record(event(n))
    waited = threading.Event()
    for _ in range(200):
        if read(tmp_path).events.height == 25:
            break
        waited.wait(0.05)
    assert read(tmp_path).events.height == 25
    assert len(list(tmp_path.glob("*.parquet"))) >= 3
    log.close()
    log.record(event(99))
    log.close()
    assert read(tmp_path).events.height == 25


def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    log = Log(tmp_path, queue=5, rows=100, seconds=3600)
    for n in range(12):
        log.record(event(n))
    log.flush()
    log.record(event(12))
    log.close()
    found = read(tmp_path)
    assert found.events.height == 6
    assert found.dropped == 7


def test_many_threads(tmp_path: Path) -> None:
    log = Log(tmp_path, rows=50, seconds=0.01)

    def ask(first: int) -> None:
        for n in range(first, first + 200):
            log.record(event(n))

    threads = [threading.Thread(target=ask, args=(n * 200,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    found = read(tmp_path)
    assert found.events.height + found.dropped == 1600
    assert found.dropped == 0


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    place = tmp_path / "q"
    place.write_text("in the way")
    log = Log(place, rows=2, seconds=3600)
    log.record(event(0))
    log.flush()
    assert "cannot be written" in str(log.trouble)
    place.unlink()
    log.record(event(1))
    log.flush()
    assert log.trouble is None
    assert read(place).events["id"].to_list() == [event(0).id, event(1).id]
    log.close()


def test_a_fork_and_a_kill(tmp_path: Path) -> None:
    """The child writes what it saw and nothing of its parent's; a killed process leaves whole segments only."""
    code = """
import os, signal, sys
from pathlib import Path
from ragops.drift.events import Log
from tests.test_events import event
log = Log(Path(sys.argv[1]), rows=3, seconds=3600)
log.record(event(0))
child = os.fork()
if child == 0:
    log.record(event(1)); log.flush(); os._exit(0)
os.waitpid(child, 0)
log.record(event(2)); log.flush()
log.record(event(3))
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=False, timeout=60)
    assert done.returncode == -9
    found = read(tmp_path)
    assert found.events["id"].to_list() == [event(n).id for n in range(3)]
    assert found.damaged == ()


def test_damaged_and_doubled_segments(tmp_path: Path) -> None:
    events.write(tmp_path, [event(0), event(1)], 2)
    events.write(tmp_path, [event(1), event(2)], 0)
    cut = events.write(tmp_path, [event(3)], 0)
    cut.write_bytes(cut.read_bytes()[:-20])
    strange = tmp_path / "20260301T000000-0.parquet"
    pl.DataFrame({"a": [1]}).write_parquet(strange)
    (tmp_path / "empty.parquet").touch()
    found = read(tmp_path)
    assert found.events["id"].to_list() == [event(n).id for n in range(3)]
    assert found.dropped == 2
    assert set(found.damaged) == {cut, strange, tmp_path / "empty.parquet"}


def test_what_is_old_leaves(tmp_path: Path) -> None:
    paths = [events.write(tmp_path, [event(n)], 0) for n in range(4)]
    for n, path in enumerate(paths):
        moment = (START + timedelta(days=n)).timestamp()
        os.utime(path, (moment, moment))
    now = START + timedelta(days=4)
    assert events.prune(tmp_path, 10, 1 << 30, now) == []
    assert events.prune(tmp_path, 3.5, 1 << 30, now) == paths[:1]
    size = paths[3].stat().st_size
    assert events.prune(tmp_path, 10, int(1.5 * size), now) == paths[1:3]
    assert list(tmp_path.iterdir()) == paths[3:]


@pytest.mark.parametrize("count", [1, 500])
def test_ids_sort_by_time(count: int) -> None:
    ids = [events.new_id() for _ in range(count)]
    assert len(set(ids)) == count
    assert [each[:12] for each in ids] == sorted(each[:12] for each in ids)
