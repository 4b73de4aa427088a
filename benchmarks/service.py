"""The service over HTTP: throughput, switched releases, tenants: `python benchmarks/service.py [--points 50000]`.

- `load`: queries per second and latencies of 1, 8 and 32 clients that ask without a pause, each query embedded alone,
  together with those that came while the model was busy (the default), or after waiting 3 ms for others. The server's
  CPU per query stands beside them: on a busy machine it tells more than the clock.
- `switches`: 100 releases published in turn while 8 clients ask: answers that failed, and answers that hold passages of
  another release than the one they name.
- `tenants`: 10,000 random pairs of an asker and a filter that asks for somebody else's documents, through the builder
  of scopes and the store; every hit is held against a plain statement of the rules.

Passages are random (synthetic.py), with random vectors in the space of all-MiniLM-L6-v2; queries are sentences of
docs/ with two words that passages have, embedded by that model's exported encoder. The clients share the cores with the
server.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import measure
import numpy as np
import synthetic

from ragops.config import FILE
from ragops.keys import Keys
from ragops.retrieval.query import Query
from ragops.retrieval.scope import scope
from ragops.retrieval.search import search
from ragops.stores.edge import EdgeStore
from ragops.types import Point, Release
from ragops.workspace import Workspace

ROOT = Path(__file__).resolve().parents[1]
WORDS = synthetic.vocabulary(5_000)
PACKAGES = ("ragops", "fastapi", "uvicorn", "h11", "limits", "pydantic", "qdrant-edge-py", "onnxruntime", "tokenizers")
SIDES = {"alone": (1, 0), "together": (32, 0), "together, 3 ms": (32, 3)}  # texts at once, batch_ms
RATE = "900000000/second"
SERVER = (
    "import sys; from pathlib import Path; from ragops.service.run import serve;"
    "serve(Path(sys.argv[1]), port=0, together=int(sys.argv[2]), told=lambda url: print(url, flush=True))"
)


# ---------------------------------------------------------------- what is asked
def workspace(folder: Path, model: str = "all-MiniLM-L6-v2") -> Workspace:
    """One page of the documentation ingested, so that there is an encoder and a release to follow."""
    root = folder / "kb"
    (folder / "docs").mkdir(parents=True)
    (folder / "docs/search.md").write_text((ROOT / "docs/search.md").read_text("utf-8"), "utf-8")
    root.mkdir()
    (root / FILE).write_text(
        f"version: 1\nsources: [{{name: docs, path: ../docs}}]\nembed: {{model: '{model}'}}\nserve: {{batch_ms: 0}}\n"
    )
    found = Workspace.open(root)
    found.ingest()
    return found


def write(found: Workspace, number: int, points: int, edition: str = "") -> Release:
    """A release of random passages, in the space of the workspace's model."""
    store = EdgeStore(found.local / "store")
    told = store.releases()[0]
    rng = np.random.default_rng(number)

    def made() -> Iterator[tuple[Point, Sequence[float]]]:
        for i in range(points):
            point = synthetic.point(i, f"{edition} {synthetic.text(rng, WORDS, 60)}".strip())
            # a word that stands in every passage ties all of them, which no documents do
            payload = {**point.payload, "title": " ".join(rng.choice(WORDS, 3)), "heading": []}
            yield replace(point, payload=payload), rng.standard_normal(384)

    release = replace(told, number=number, points=points, fingerprint=f"{number:064x}")
    return store.write(release, base=None, delete=[], add=made())


def questions() -> list[str]:
    """Sentences of the documentation, each with two words that passages have."""
    chosen = random.Random(0)
    words = list(WORDS[5:1000])
    return [" ".join([each, *chosen.choices(words, k=2)]) for each in sentences()]


def sentences() -> list[str]:
    found = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
        found += [" ".join(each.split()[:16]) for each in re.split(r"[.?!:]\s", text) if 5 <= len(each.split()) <= 40]
    random.Random(0).shuffle(found)
    return found


# ---------------------------------------------------------------- the server, and clients
@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int
    headers: dict[str, str]

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(root: Path, together: int, window: float, key: str) -> Iterator[Server]:
    params = root / FILE
    params.write_text(re.sub(r"batch_ms: [\d.]+", f"batch_ms: {window}", params.read_text("utf-8")), "utf-8")
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, root, str(together)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().rpartition(":")[2])
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        server = Server(process, port, headers)
        ask(server, [{"text": "warm", "k": 10}] * 5)
        yield server
    finally:
        process.terminate()
        assert process.wait(60) == 0
        process.stdout.close()


def ask(server: Server, bodies: Sequence[dict[str, Any]]) -> list[tuple[float, int, Any]]:
    """Seconds, status and answer of each, over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    found = []
    for body in bodies:
        start = time.perf_counter()
        connection.request("POST", "/v1/search", json.dumps(body), server.headers)
        response = connection.getresponse()
        data = response.read()
        found.append((time.perf_counter() - start, response.status, data))
    connection.close()
    return found


def load(server: Server, texts: Sequence[str], clients: int, seconds: float) -> dict[str, float]:
    """Clients that ask without a pause."""
    stop = threading.Event()
    took: list[float] = []

    def run(n: int) -> None:
        chosen = random.Random(n)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        while not stop.is_set():
            body = json.dumps({"text": chosen.choice(texts), "k": 10})
            start = time.perf_counter()
            connection.request("POST", "/v1/search", body, server.headers)
            response = connection.getresponse()
            data = response.read()
            took.append(time.perf_counter() - start)
            assert response.status == 200, data
        connection.close()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(clients)]
    cpu, start = server.cpu(), time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    wall, cpu = time.perf_counter() - start, server.cpu() - cpu
    cuts = statistics.quantiles(took, n=100)
    return {
        "per_second": len(took) / wall, "p50_ms": cuts[49] * 1000, "p99_ms": cuts[98] * 1000,
        "cpu_ms": cpu / len(took) * 1000,
    }  # fmt: skip


def fetches(server: Server, points: int, count: int = 30) -> dict[str, Any]:
    """Milliseconds of single passages and documents."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    chosen = random.Random(0)
    took: dict[str, list[float]] = {}
    for _ in range(count):
        i = chosen.randrange(points)
        document = f"/v1/documents/{i // 8:064x}"
        for name, path in {"document": document, "chunk": f"{document}/chunks/{i:064x}"}.items():
            start = time.perf_counter()
            connection.request("GET", path, headers=server.headers)
            response = connection.getresponse()
            response.read()
            assert response.status == 200
            took.setdefault(name, []).append((time.perf_counter() - start) * 1000)
    connection.close()
    return {name: measure.summary(each) for name, each in took.items()}


def throughput(folder: Path, points: int, rounds: int, seconds: float) -> dict[str, Any]:
    if (folder / "load").is_dir():
        found = Workspace.open(folder / "load" / "kb")
    else:
        found = workspace(folder / "load")
        write(found, 2, points)
        found.publish(2)
    key = Keys(found.local).create(f"bench-{time.time_ns()}", tenant=None, rate=RATE)[1]
    texts = questions()
    seen: dict[tuple[str, int], list[dict[str, float]]] = {}
    for round_ in range(rounds):
        names = list(SIDES)
        shift = round_ % len(names)
        for name in names[shift:] + names[:shift]:
            with served(found.root, *SIDES[name], key) as server:
                for clients in (1, 8, 32):
                    seen.setdefault((name, clients), []).append(load(server, texts, clients, seconds))
        print(f"round {round_ + 1} of {rounds}", file=sys.stderr)
    with served(found.root, *SIDES["together"], key) as server:
        fetched = fetches(server, points)
    return {
        "fetch_ms": fetched, "points": points, "queries": len(texts), "seconds": seconds, "mode": "hybrid", "k": 10,
        "sides": {
            name: {
                str(clients): {
                    what: measure.summary([each[what] for each in seen[name, clients]])
                    for what in ("per_second", "p50_ms", "p99_ms", "cpu_ms")
                }
                for clients in (1, 8, 32)
            }
            for name in SIDES
        },
        "over_alone": {
            f"{name}, {clients} clients": {
                what: measure.ratio(
                    [each[what] for each in seen[name, clients]], [each[what] for each in seen["alone", clients]]
                )
                for what in ("per_second", "cpu_ms")
            }
            for name in list(SIDES)[1:]
            for clients in (1, 8, 32)
        },
    }  # fmt: skip


# ---------------------------------------------------------------- releases
def switches(folder: Path, points: int, count: int) -> dict[str, Any]:
    found = workspace(folder / "switches")
    for number in (2, 3):
        write(found, number, points, f"edition{number}")
    found.publish(2)
    key = Keys(found.local).create("bench", tenant=None, rate=RATE)[1]
    texts = questions()
    stop = threading.Event()
    answers = failed = mixed = 0
    took: list[float] = []
    served_by: dict[int, int] = {}
    lock = threading.Lock()

    def run(n: int, server: Server) -> None:
        nonlocal answers, failed, mixed
        chosen = random.Random(n)
        while not stop.is_set():
            try:
                ((seconds, status, data),) = ask(server, [{"text": chosen.choice(texts), "k": 10}])
            except OSError:
                seconds, status, data = 0.0, 0, b"{}"
            value = json.loads(data)
            with lock:
                answers += 1
                if status != 200:
                    failed += 1
                    continue
                took.append(seconds)
                number = value["release"]
                served_by[number] = served_by.get(number, 0) + 1
                mixed += any(not hit["text"].startswith(f"edition{number} ") for hit in value["hits"])

    with served(found.root, 32, 0, key) as server:
        threads = [threading.Thread(target=run, args=(n, server)) for n in range(8)]
        for thread in threads:
            thread.start()
        delays = []
        for n in range(count):
            wanted = 3 - n % 2
            found.publish(wanted)
            start = time.perf_counter()
            while json.loads(ask(server, [{"text": "which release?", "k": 1}])[0][2])["release"] != wanted:
                pass
            delays.append(time.perf_counter() - start)
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join()
    cuts = statistics.quantiles(took, n=100)
    return {
        "points": points, "clients": 8, "switches": count, "answers": answers, "failed": failed, "mixed": mixed,
        "answers_by_release": {str(number): served_by[number] for number in sorted(served_by)},
        "p50_ms": round(cuts[49] * 1000, 2), "p99_ms": round(cuts[98] * 1000, 2),
        "seconds_until_the_new_one_answers": measure.summary(delays),
    }  # fmt: skip


# ---------------------------------------------------------------- tenants
ODD = ["", "*", "acme", "ACME", "acme ", "acme*", "null", "None", '"', "'", "a' OR '1'='1", '{"tenant": "acme"}',
       "a\\b", "Größe", "日本", "\u202eacme", "\x00", "a" * 200, "%", "..", "0", "true"]  # fmt: skip


def tenants(folder: Path, points: int, pairs: int) -> dict[str, Any]:
    """Random askers, and filters that ask for others, against the rules said plainly."""
    found = workspace(folder / "tenants", "hash:384")
    chosen = random.Random(0)
    names = ODD + [f"tenant{n}" for n in range(100)]
    groups = ["hr", "staff", "a,b", "*", "Ω", ""]
    owners = [
        (chosen.choice(names), tuple(sorted(chosen.sample(groups, chosen.choice([0, 0, 1, 2]))))) for _ in range(points)
    ]
    store = EdgeStore(found.local / "store")
    rng = np.random.default_rng(0)

    def made() -> Iterator[tuple[Point, Sequence[float]]]:
        for i, (tenant, theirs) in enumerate(owners):
            point = synthetic.point(i, synthetic.text(rng, WORDS, 20))
            payload = {**point.payload, "tenant": tenant, "groups": list(theirs), "document_id": f"{i:064x}"}
            yield replace(point, document_id=f"{i:064x}", payload=payload), rng.standard_normal(384)

    release = replace(store.releases()[0], number=2, points=points, fingerprint=f"{2:064x}")
    store.write(release, base=None, delete=[], add=made())
    reader = store.open(2)
    encoder = found.encoder(release)

    def sees(tenant: str | None, theirs: tuple[str, ...] | None, owner: tuple[str, tuple[str, ...]]) -> bool:
        return (tenant is None or owner[0] == tenant) and (theirs is None or not owner[1] or not set(owner[1]).isdisjoint(theirs))  # fmt: skip  # noqa: E501

    def wish(other: str) -> dict[str, Any] | None:
        return chosen.choice([
            None, {"tenant": other}, {"tenant": {"in": [other, chosen.choice(names)]}}, {"tenant": {"exists": True}},
            {"any": [{"tenant": other}, {"groups": {"exists": False}}]}, {"groups": {"exists": True}},
            {"any": [{"any": [{"tenant": other}]}, {"source": "docs"}]}, {"meta.n": {"gte": 0}},
            {"document_id": f"{chosen.randrange(points):064x}"},
        ])  # fmt: skip

    leaks = hits = lacking = empty = 0
    for n in range(pairs):
        tenant = None if chosen.random() < 0.02 else chosen.choice([*names, "nobody"])
        theirs = chosen.choice([None, None, (), ("hr",), ("staff", "a,b"), ("a", "b"), ("*",)])
        seen = scope(tenant, theirs)
        query = Query(
            " ".join(chosen.choices(list(WORDS[:50]), k=4)), chosen.choice([1, 10, 50]), scope=seen, collapse=False,
            filter=wish(chosen.choice(names)), mode=chosen.choice(["dense", "bm25", "hybrid"]),
            exact=chosen.random() < 0.3,
        )  # fmt: skip
        answer = search(reader, encoder, query).hits
        hits += len(answer)
        empty += not answer
        leaks += sum(not sees(tenant, theirs, owners[hit.meta["n"]]) for hit in answer)
        if n % 10 == 0:  # and nothing of one's own is missing
            lacking += reader.count(seen) != sum(sees(tenant, theirs, owner) for owner in owners)
    return {"points": points, "names": len(names), "pairs": pairs, "hits": hits, "without_hits": empty, "leaks": leaks,
            "counts_that_differ": lacking}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--switches", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--only", choices=["load", "switches", "tenants"], nargs="*")
    parser.add_argument("--work", type=Path, help="a folder that keeps the release of 50,000 passages")
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "service.json")
    options = parser.parse_args()
    parts = options.only or ["load", "switches", "tenants"]
    result: dict[str, Any] = json.loads(options.out.read_text("utf-8")) if options.only and options.out.exists() else {}
    result.setdefault("environment", {})
    with tempfile.TemporaryDirectory(prefix="ragops-service-") as temporary:
        folder = options.work or Path(temporary)
        for part in parts:
            environment = measure.environment(PACKAGES)
            if part == "tenants":
                result[part] = tenants(folder, 5_000, options.pairs)
            elif part == "switches":
                result[part] = switches(folder, min(options.points, 10_000), options.switches)
            else:
                result[part] = throughput(folder, options.points, options.rounds, options.seconds)
            result["environment"][part] = environment
            measure.write(options.out, result)
    bars = []
    if "tenants" in result:
        bars.append(measure.bar("hits of somebody else, of 10,000 pairs", result["tenants"]["leaks"], 0))
        bars.append(measure.bar("counts that differ from the rules'", result["tenants"]["counts_that_differ"], 0))
    if "switches" in result:
        bars.append(measure.bar("failed answers while releases switch", result["switches"]["failed"], 0))
        bars.append(measure.bar("mixed answers while releases switch", result["switches"]["mixed"], 0))
    result["bars"] = bars
    measure.write(options.out, result)
    measure.show(bars)


if __name__ == "__main__":
    main()
