"""Many processes at one store in a folder."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest

from ragops.errors import StoreError
from ragops.stores.edge import EdgeStore
from ragops.types import Point
from tests.edge_stores import folder, python, sound
from tests.store_contract import fill, pairs, point, release, vector


def test_a_reader_is_not_used_after_a_fork(edge: EdgeStore) -> None:
    fill(edge, 10)
    reader = edge.open()
    pid = os.fork()
    if pid == 0:
        status = 5
        try:
            for call in (
                lambda: reader.search(vector(1), 1),
                lambda: reader.search_text("harbour", 1),
                reader.count,
                lambda: next(reader.points()),
            ):
                with pytest.raises(StoreError, match="fork"):
                    call()
            reader.close()
            with edge.open() as own:
                status = 0 if own.search(vector(3), 1)[0].point_id == point(3).point_id else 4
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert reader.count() == 10  # ours still works
    reader.close()


def test_four_processes_read_one_release(edge: EdgeStore) -> None:
    fill(edge, 200)
    code = """
for _ in range(5):
    with EdgeStore(Path(sys.argv[1])).open() as reader:
        found = [[hit.point_id for hit in reader.search(vector(i), 5)] for i in range(20)]
print(json.dumps(found))
"""
    processes = [python(code, edge.root) for _ in range(4)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    found = [json.loads(out) for out, _ in outputs]
    assert found[0] == found[1] == found[2] == found[3]
    assert [ids[0] for ids in found[0]] == [point(i).point_id for i in range(20)]
    assert edge.check() == []  # reading changes nothing that was sealed


def test_readers_see_one_release_while_others_are_published_and_pruned(edge: EdgeStore) -> None:
    """Release n holds 10 n points, all of which say n."""

    def points(n: int) -> Iterator[tuple[Point, np.ndarray]]:
        return ((point(i, meta={"release": n}), vector(i)) for i in range(10 * n))

    edge.write(release(1, 10), base=None, delete=[], add=points(1))
    edge.publish(1)
    code = """
store = EdgeStore(Path(sys.argv[1])); print("ready", flush=True)
seen = {}
while not os.path.exists(sys.argv[2]):
    with store.open() as reader:
        n = reader.release.number
        hits = reader.search(vector(3), 1000)
        assert len(hits) == reader.count() == 10 * n, (n, len(hits))
        assert {hit.payload["meta"]["release"] for hit in hits} == {n}
        seen[n] = seen.get(n, 0) + 1
print(json.dumps(seen))
"""
    stop = edge.root / "stop"
    processes = [python(code, edge.root, stop) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    old = [point(i, meta={"release": 1}).point_id for i in range(10)]
    for n in range(2, 6):
        edge.write(release(n, 10 * n), base=n - 1, delete=old, add=points(n))
        old = [point(i, meta={"release": n}).point_id for i in range(10 * n)]
        edge.publish(n)
        edge.remove(n - 1, timeout=60)
    stop.touch()
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert json.loads(out)  # it saw something
    sound(edge, 5, 50)


def test_remove_waits_for_readers_of_other_processes(edge: EdgeStore) -> None:
    fill(edge, 3)
    edge.write(release(2, 1), base=None, delete=[], add=pairs(1))
    code = 'r = EdgeStore(Path(sys.argv[1])).open(1); print("open", flush=True); sys.stdin.readline(); print(r.count())'
    process = python(code, edge.root, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    edge.publish(2)
    with pytest.raises(StoreError, match="in use"):
        edge.remove(1, timeout=0.2)
    out, err = process.communicate("go\n", timeout=60)
    assert out == "3\n", err
    edge.remove(1, timeout=0.2)
    assert not folder(edge, 1).exists()


def test_two_writers(edge: EdgeStore) -> None:
    fill(edge, 3)
    code = """
def slow():
    print("now", flush=True); sys.stdin.readline(); yield from pairs(7)
EdgeStore(Path(sys.argv[1])).write(release(2, 1), base=None, delete=[], add=slow())
"""
    process = python(code, edge.root, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    with pytest.raises(StoreError, match="Another process is writing"):
        EdgeStore(edge.root, patience=0.2).write(release(3, 1), base=None, delete=[], add=pairs(8))
    _, err = process.communicate("go\n", timeout=60)
    assert process.returncode == 0, err
    assert [each.number for each in edge.releases()] == [1, 2]


def test_a_closed_reader_says_so(edge: EdgeStore) -> None:
    fill(edge, 3)
    reader = edge.open()
    reader.close()
    reader.close()
    with pytest.raises(StoreError, match="closed"):
        reader.search(vector(1), 1)
