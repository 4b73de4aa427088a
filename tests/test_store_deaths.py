"""The store in a folder when a process dies, or the disk is full or not ours."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ragops.errors import DiskFull, StoreError
from ragops.stores.edge import EdgeStore
from ragops.types import Point
from tests.edge_stores import folder, python, sound, wait_for, writers
from tests.store_contract import everything, fill, pairs, point, release, vector


# ---------------------------------------------------------------- deaths
def test_the_writing_process_is_killed(edge: EdgeStore) -> None:
    fill(edge, 10)

    def shot() -> Iterator[tuple[Point, np.ndarray]]:
        yield from pairs(*range(100, 800))
        [pid] = writers(os.getpid())
        os.kill(pid, signal.SIGKILL)
        yield from pairs(*range(800, 3000))

    with pytest.raises(StoreError, match="killed"):
        edge.write(release(2, 2910), base=1, delete=[], add=shot())
    assert not folder(edge, 2).exists()
    sound(edge, 1, 10)
    edge.write(release(3, 12), base=1, delete=[], add=pairs(50, 51))
    assert len(everything(edge, 3)) == 12


@pytest.mark.parametrize("after", [0, 600, 1400])
def test_the_parent_is_killed(edge: EdgeStore, after: int) -> None:
    fill(edge, 10)
    code = """
def slow():
    for i in range(100, 1600):
        if i == 100 + int(sys.argv[2]):
            print("now", flush=True); time.sleep(600)
        yield point(i), vector(i)
EdgeStore(Path(sys.argv[1])).write(release(2, 1510), base=1, delete=[], add=slow())
"""
    process = python(code, edge.root, after)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n", process.communicate()[1]
        [child] = writers(process.pid)
    finally:
        process.kill()
        process.communicate()
    wait_for(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2])
    assert folder(edge, 2).exists()  # the draft
    sound(edge, 1, 10)
    assert [each.number for each in edge.releases()] == [1]
    with pytest.raises(StoreError, match="no release 2"):
        edge.open(2)
    edge.write(release(3, 11), base=1, delete=[], add=pairs(50))
    assert not folder(edge, 2).exists()
    assert len(everything(edge, 3)) == 11


def test_a_left_over_draft_is_discarded(edge: EdgeStore) -> None:
    fill(edge, 3)
    shutil.copytree(folder(edge, 1), folder(edge, 7), ignore=lambda *_: ["manifest.json"])
    (edge.root / "main" / ".LIVE.1.tmp").write_text("9")
    assert [each.number for each in edge.releases()] == [1]
    with pytest.raises(StoreError, match="no release 7"):
        edge.publish(7)
    edge.write(release(7, 1), base=None, delete=[], add=pairs(5))
    assert len(everything(edge, 7)) == 1
    assert not list((edge.root / "main").glob(".LIVE*"))


# ---------------------------------------------------------------- full disks
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a tmpfs of so many MiB (a release takes 70 there, holes and all). Skipped without root, never in CI."""
    mounted: list[Path] = []

    def mount(mib: int) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            if os.environ.get("CI"):
                pytest.fail(f"CI must be able to mount a tmpfs: {done.stderr}")
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def long_points(count: int) -> Iterator[tuple[Point, np.ndarray]]:
    for i in range(1000, 1000 + count):
        yield point(i, meta={"filler": os.urandom(9000).hex()}), vector(i)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(small_disk: Callable[[int], Path]) -> None:
    edge = EdgeStore(small_disk(100))
    fill(edge, 10)
    with pytest.raises(DiskFull, match="too full for release 2"):
        edge.write(release(2, 100_010), base=1, delete=[], add=long_points(100_000))
    sound(edge, 1, 10)


def test_a_disk_that_fills_while_writing(small_disk: Callable[[int], Path]) -> None:
    edge = EdgeStore(small_disk(160))
    fill(edge, 10)
    with pytest.raises(DiskFull, match="full"):
        edge.write(release(2, 3010), base=1, delete=[], add=long_points(3000))
    assert not folder(edge, 2).exists()
    sound(edge, 1, 10)
    edge.write(release(3, 11), base=1, delete=[], add=pairs(50))  # its space is free again


def test_a_disk_that_fills_under_the_engine(small_disk: Callable[[int], Path]) -> None:
    """Without any check of the free space the engine dies of SIGBUS: an error here, and the live release answers."""
    edge = EdgeStore(small_disk(150), reserve=None)
    fill(edge, 10)
    reader = edge.open()
    with pytest.raises(DiskFull, match=r"SIGBUS|No space"):
        edge.write(release(2, 3010), base=1, delete=[], add=long_points(3000))
    assert reader.search(vector(3), 1)[0].point_id == point(3).point_id
    reader.close()
    assert not folder(edge, 2).exists()
    sound(edge, 1, 10)
    edge.write(release(3, 11), base=1, delete=[], add=pairs(50))
    edge.publish(3)
    sound(edge, 3, 11)


def test_a_disk_without_a_free_byte(small_disk: Callable[[int], Path]) -> None:
    place = small_disk(100)
    edge = EdgeStore(place, reserve=None)
    fill(edge, 10)
    with open(place / "filler", "wb") as file, pytest.raises(OSError, match="space"):
        while True:
            os.write(file.fileno(), b"x" * 4096)
    with pytest.raises(DiskFull):
        edge.write(release(2, 11), base=1, delete=[], add=pairs(50))
    with pytest.raises(DiskFull):
        EdgeStore(place, "another").write(release(1, 1), base=None, delete=[], add=pairs(50))
    (place / "filler").unlink()
    sound(edge, 1, 10)


def test_a_read_only_disk(small_disk: Callable[[int], Path]) -> None:
    place = small_disk(100)
    edge = EdgeStore(place)
    fill(edge, 10)
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    with pytest.raises(StoreError, match="not writable"):
        edge.open()
    with pytest.raises(StoreError, match=r"(?i)read-only"):
        edge.write(release(2, 11), base=1, delete=[], add=pairs(50))
    live = edge.live()
    assert live is not None
    assert list(edge.point_ids(1))
    subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
    sound(edge, 1, 10)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_store_of_another_user(edge: EdgeStore) -> None:
    fill(edge, 3)
    os.chmod(edge.root, 0o700)
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(65534)
            for call in (edge.live, edge.releases, edge.open, edge.check, lambda: edge.publish(1)):
                with pytest.raises(StoreError, match="ermission"):
                    call()
            os._exit(0)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
