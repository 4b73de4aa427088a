"""The store on a server, in place and with a collection per release: `python benchmarks/server.py [--points 20000]`.

Requests, bytes and seconds of a first load, a change of 1 %, publishing it, a rollback and the removal of a release;
then whether the hits are those of the embedded store, query by query. No Qdrant server was at hand: qdrant-client's
local mode answers behind a small HTTP server (tests/qdrant_stub.py), so requests and bytes are real and `client_cpu_s`
is this side's, but `wall_s` is local mode's and tells nothing of a server.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import measure
import synthetic

from ragops.config import StoreSettings
from ragops.stores import open_store
from ragops.types import Point, Reader, Release, Scored, Space, Store
from tests.qdrant_stub import Stub

DIM = 64
SPACE = Space("ab" * 32, "random", DIM, 256, "", normalized=True)
WORDS = synthetic.vocabulary(5_000)
LAYOUTS = ("in_place", "collection_per_release")


def release(number: int, points: int) -> Release:
    return Release(number, "main", f"{number:064x}", SPACE, "float32", points, "2026-01-01T00:00:00+00:00", 30)


def made(i: int) -> tuple[Point, np.ndarray]:
    rng = np.random.default_rng(i)
    return synthetic.point(i, synthetic.text(rng, WORDS, 40)), rng.standard_normal(DIM)


def serve(pipe: Any) -> None:
    """The stub in a process of its own, so that its CPU is not ours. Tells what it saw when asked, then forgets it."""
    warnings.filterwarnings("ignore")
    with Stub() as stub:
        pipe.send(stub.url)
        while pipe.recv() != "end":
            seen = dict(sorted(stub.seen.items()))
            told = {"requests": sum(seen.values()), "bytes_sent": stub.received, "bytes_received": stub.sent}
            stub.forget()  # before the other side goes on
            pipe.send({**told, "by_kind": seen})


@contextlib.contextmanager
def served() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """The address of a stub, and a call for what it saw since the last one."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    process.start()

    def seen() -> dict[str, Any]:
        here.send("seen")
        found: dict[str, Any] = here.recv()
        return found

    try:
        yield here.recv(), seen
    finally:
        here.send("end")
        process.join()


def change(n: int) -> tuple[list[str], list[tuple[Point, np.ndarray]]]:
    """1 % of the points, spread over all, replaced by others."""
    gone = [made(i)[0].point_id for i in range(0, n, 100)]
    return gone, [made(n + i) for i in range(len(gone))]


def measured(seen: Callable[[], dict[str, Any]], work: Callable[[], object]) -> dict[str, Any]:
    seen()
    start, cpu = time.perf_counter(), time.process_time()
    work()
    spent, wall = time.process_time() - cpu, time.perf_counter() - start
    return {**seen(), "client_cpu_s": round(spent, 3), "wall_s": round(wall, 2)}


def steps(store: Store, n: int) -> dict[str, Callable[[], object]]:
    gone, new = change(n)
    return {
        "first load": lambda: store.write(release(1, n), base=None, delete=[], add=(made(i) for i in range(n))),
        "publish": lambda: store.publish(1),
        "change of 1 %": lambda: store.write(release(2, n), base=1, delete=gone, add=new),
        "publish the change": lambda: store.publish(2),
        "rollback": lambda: store.publish(1, hold=True),
        "forward again": lambda: store.publish(2),
        "remove the old release": lambda: store.remove(1),
    }


def same(left: Reader, right: Reader, count: int) -> dict[str, int]:
    """Queries with the same points in the same order, their scores at most one step of rounding apart, of `of_each`;
    `to_the_digit`: those of all three kinds whose scores are equal as told."""
    found = {"exact": 0, "exact_filtered": 0, "bm25": 0, "of_each": count, "to_the_digit": 0}
    rng = np.random.default_rng(7)
    for i in range(count):
        query = rng.standard_normal(DIM).tolist()
        words = synthetic.text(rng, WORDS, 5)
        where = {"tenant": f"t{i % 10}"}
        kinds: dict[str, tuple[Callable[[Reader], list[Scored]], float]] = {
            "exact": (lambda reader, query=query: reader.search(query, 10, exact=True), 1e-4),
            "exact_filtered": (
                lambda reader, query=query, where=where: reader.search(query, 10, where, exact=True),
                1e-4,
            ),
            "bm25": (lambda reader, words=words: reader.search_text(words, 10), 1e-2),
        }
        for kind, (ask, step) in kinds.items():
            a, b = ask(left), ask(right)
            alike = [x.point_id for x in a] == [y.point_id for y in b] and [x.payload for x in a] == [
                y.payload for y in b
            ]
            found[kind] += alike and all(abs(x.score - y.score) < 1.01 * step for x, y in zip(a, b, strict=True))
            found["to_the_digit"] += a == b
    return found


def run(n: int, queries: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as root:
        embedded = open_store(Path(root))
        for name, step in steps(embedded, n).items():
            if name != "remove the old release":
                step()
        for layout in LAYOUTS:
            with served() as (url, seen):
                store = open_store(Path(root), StoreSettings(url, layout=layout))
                found: dict[str, Any] = {}
                for name, step in steps(store, n).items():
                    if name == "remove the old release":
                        agree = {}
                        for number in (1, 2):
                            with contextlib.closing(embedded.open(number)) as left:
                                agree[f"release {number}"] = same(left, store.open(number), queries)
                        found["queries with the same hits as the embedded store"] = agree
                    found[name] = measured(seen, step)
                    print(
                        f"{layout}: {name}: {found[name]['requests']} requests, {found[name]['wall_s']} s",
                        file=sys.stderr,
                    )
                result[layout] = found
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "server.json")
    arguments = parser.parse_args()
    where = measure.environment(("qdrant-client", "qdrant-edge-py"))
    found = run(arguments.points, arguments.queries)
    place, apart = (found[layout] for layout in LAYOUTS)
    load, small = place["first load"]["bytes_sent"], place["change of 1 %"]["bytes_sent"]
    moved = sum(apart["change of 1 %"][key] for key in ("bytes_sent", "bytes_received"))
    agree = [
        each for side in found.values() for each in side["queries with the same hits as the embedded store"].values()
    ]
    asked = sum(3 * each["of_each"] for each in agree)
    told = sum(each[key] for each in agree for key in ("exact", "exact_filtered", "bm25"))
    bars = [
        measure.bar("in place: bytes sent for 1 % over those of the first load", small / load, 0.03),
        measure.bar(
            "in place over a collection per release: bytes moved for 1 %",
            (small + place["change of 1 %"]["bytes_received"]) / moved,
            0.03,
        ),
        measure.bar("in place: requests of a rollback", place["rollback"]["requests"], 2),
        measure.bar("queries with other hits than the embedded store's", asked - told, 0),
    ]
    measure.show(bars)
    measure.write(
        arguments.out,
        {**where, "points": arguments.points, "dim": DIM, "asked": asked, "same": told, "bars": bars, "layouts": found},
    )


if __name__ == "__main__":
    main()
