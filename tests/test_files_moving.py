"""Files that come, go and change while they are listed and read; a part of a folder."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import unicodedata
from pathlib import Path

import pytest

from ragops.errors import FetchError, ScanError, UsageError, Vanished
from ragops.types import Entry
from tests.connector_contract import listing
from tests.connectors import files, names, write


# ---------------------------------------------------------------- a moving world
def test_what_vanishes_during_the_scan_is_gone(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / name, name)
    scan = files(tmp_path).scan(lambda container: None)
    rows = iter(scan)
    first = next(rows)
    (tmp_path / "b").unlink()
    rest = [item.uri for item in rows if isinstance(item, Entry)]
    assert isinstance(first, Entry)
    assert [first.uri, *rest] == ["docs:/a", "docs:/c"]
    assert scan.complete


def test_a_folder_that_moves_during_the_scan_leaves_it_incomplete(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1", "1")
    write(tmp_path / "z" / "2", "2")
    scan = files(tmp_path).scan(lambda container: None)
    rows = iter(scan)
    next(rows)
    (tmp_path / "z").rename(tmp_path / "a" / "z")  # from what is still to come to what is over
    assert list(rows) == []
    assert not scan.complete


def test_a_root_that_is_replaced_deletes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "a" / "1", "1")
    write(root / "b" / "2", "2")
    connector = files(tmp_path, path="root")
    scan = connector.scan(lambda container: None)
    rows = iter(scan)
    entry = next(rows)
    assert isinstance(entry, Entry)
    root.rename(tmp_path / "away")
    (root / "b").mkdir(parents=True)  # as an unmount leaves the empty mount point
    list(rows)
    assert not scan.complete
    connector._identity = None
    with pytest.raises(Vanished):  # of this root it is gone
        connector.fetch(entry)


def test_a_root_that_is_gone_is_no_deletion(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "a", "a")
    connector = files(tmp_path, path="root")
    (entry,) = listing(connector).entries
    root.rename(tmp_path / "away")
    with pytest.raises(FetchError) as gone:
        connector.fetch(entry)
    assert not isinstance(gone.value, Vanished)
    root.mkdir()
    with pytest.raises(FetchError, match="took the place") as replaced:
        connector.fetch(entry)
    assert not isinstance(replaced.value, Vanished)
    assert replaced.value.transient


def test_a_file_is_no_root(tmp_path: Path) -> None:
    write(tmp_path / "a.md", "a")
    with pytest.raises(ScanError, match="not a folder") as raised:
        listing(files(tmp_path, path="a.md"))
    assert "'a.md'" in raised.value.hint


def test_a_file_that_changes_while_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that strikes at every read, or only at the first."""
    path = write(tmp_path / "a", "x" * 100)
    connector = files(tmp_path)
    (entry,) = listing(connector).entries
    read, strikes = os.read, [1]

    def noisy(fd: int, size: int) -> bytes:
        data = read(fd, size)
        if strikes[0]:
            strikes[0] -= 1
            with path.open("a") as out:
                out.write("y")
        return data

    monkeypatch.setattr(os, "read", noisy)
    assert connector.fetch(entry).data == b"x" * 100 + b"y"
    strikes[0] = 1000
    with pytest.raises(FetchError, match="changes while it is read") as raised:
        connector.fetch(entry)
    assert (raised.value.code, raised.value.transient) == ("unreadable", True)


def test_a_file_rewritten_all_the_time_is_never_torn(tmp_path: Path) -> None:
    """Replaced as editors do it: every read is one version or an error."""
    path = write(tmp_path / "a", "0" * 200_000)
    connector = files(tmp_path)
    (entry,) = listing(connector).entries
    stop = threading.Event()

    def writer() -> None:
        i = 0
        while not stop.is_set():
            i = (i + 1) % 10
            write(tmp_path / ".new", str(i) * 200_000)
            os.replace(tmp_path / ".new", path)

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        for _ in range(100):
            with contextlib.suppress(FetchError):
                source = connector.fetch(entry)
                assert len(set(source.data)) == 1
                assert not source.settled
    finally:
        stop.set()
        thread.join()


def test_fresh_files_are_not_settled(tmp_path: Path) -> None:
    write(tmp_path / "a", "a")
    connector = files(tmp_path)
    (entry,) = listing(connector).entries
    assert not entry.settled
    assert not connector.fetch(entry).settled
    for date in (1, 4e9):  # a date in the future is no reason to read it for ever
        os.utime(tmp_path / "a", (date, date))
        (entry,) = listing(connector).entries
        assert entry.settled
        assert connector.fetch(entry).settled


def test_a_change_that_keeps_size_and_date_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "one")
    os.utime(path, (1, 1))
    before = listing(files(tmp_path)).tokens
    time.sleep(0.02)  # a tick of the file system's clock
    path.write_text("two")
    os.utime(path, (1, 1))
    assert listing(files(tmp_path)).tokens != before


# ---------------------------------------------------------------- a part of it
def test_subtree(tmp_path: Path) -> None:
    for name in ("a/1", "a/b/2", "a/bc", "ab/3", "é/4", ".h/5", "x/6.tmp"):
        write(tmp_path / name, name)
    part = files(tmp_path, "a/b/")
    assert names(listing(part)) == ["a/b/2"]
    assert part.owns("docs:/a/b/2")
    assert part.owns("docs:/a/b")  # it may have been a file before
    assert not part.owns("docs:/a/bc")
    assert not part.owns("docs:/a/1")
    assert names(listing(files(tmp_path, "a/1"))) == ["a/1"]
    assert names(listing(files(tmp_path, "./a"))) == ["a/1", "a/b/2", "a/bc"]
    assert names(listing(files(tmp_path, unicodedata.normalize("NFD", "é")))) == ["é/4"]
    whole = listing(files(tmp_path))
    assert [e for e in whole.entries if e.uri.startswith("docs:/a/")] == listing(files(tmp_path, "a")).entries
    for missing in ("nothing", "a/nothing", "a/1/x", ".h", ".h/5"):
        with pytest.raises(ScanError, match="missing, hidden or excluded"):
            listing(files(tmp_path, missing))
    with pytest.raises(ScanError):
        listing(files(tmp_path, "x/6.tmp", exclude=("*.tmp",)))
    for outside in ("..", "a/../../x", "/etc"):
        with pytest.raises(UsageError, match="does not lie in it"):
            files(tmp_path, outside)
