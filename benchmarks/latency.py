"""How long a query takes: `Retriever.search` beside Chroma, LanceDB and qdrant-client's local mode.

    python benchmarks/latency.py --corpus FOLDER [FOLDER ...] [--real N] [--python PEERS/bin/python] [--out FILE]

The folders are chunked by ragops and written into one store for the first, one for all of them. Vectors are those of
all-MiniLM-L6-v2 for `--real` of the distinct texts (default: all, an hour of CPU), and for the others mixtures of two
real ones: the index is as large and as crowded, and what is found for a question is partly nonsense. Questions are
made of texts with real vectors. Half of the documents are of one tenant, a tenth and a hundredth of two others, the
rest of a fourth. The work folder keeps all this.

Every side has the same chunks and vectors, asks the same questions with the same query encoder (ragops' own, on
onnxruntime), returns ten texts with their source, and is a process of its own; they take turns, in rounds. Told are
p50 and p99 in milliseconds over all rounds, the encoder's share of it, the ratios of the rounds' medians, recall of
the dense search, and queries per second of 1 and 8 threads.

How the others are set up: Chroma's HNSW by its defaults with cosine distance; LanceDB with an index of vectors
(`IVF_HNSW_SQ`, refined), one of words and one of tenants; qdrant-client in memory, which compares with every vector
(the `:memory:` mode, since its folder takes a transaction per point). Chroma has no BM25 of its own in this mode.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import measure

if TYPE_CHECKING:
    from ragops.types import Release, Space

sys.path += [str(Path(__file__).parent.parent)]  # a peer's interpreter needs the query encoder

K = 10
RRF = 60
BELOW = {"half": 0.5, "tenth": 0.6, "hundredth": 0.61, "rest": 1.0}  # of a document's number, from 0 to 1
PACKAGES = ("ragops", "qdrant-edge-py", "onnxruntime", "tokenizers", "numpy")
PEERS = ("chromadb", "lancedb", "qdrant-client", "onnxruntime", "tokenizers", "numpy", "pyarrow")
SIDES = {"chroma": ("dense",), "lancedb": ("dense", "bm25", "hybrid"), "qdrant local": ("dense", "hybrid")}
SLOW = ("qdrant local",)  # a tenth of a second a query and more: fewer of them
MODES = ("dense", "bm25", "hybrid")


# ---------------------------------------------------------------- what all sides have
def build(corpora: Sequence[Path], work: Path, real: int | None) -> list[Path]:
    """Stores with tenants, small to large, each beside what the peers load: vectors.npy and rows.jsonl."""
    import instant

    from ragops import config
    from ragops.workspace import Workspace

    kb = work / "kb"
    kb.mkdir(parents=True, exist_ok=True)
    names = [f"corpus{n}" for n in range(len(corpora))]
    sources = "".join(
        f"  - {{name: {name}, connector: files, path: {path.absolute()}}}\n"
        for name, path in zip(names, corpora, strict=True)
    )
    model = instant.register(work / "plugin")
    (kb / config.FILE).write_text(f"version: 1\nembed: {{model: '{model}'}}\nsources:\n{sources}")
    # the others load their own copies: what is kept must never be of other corpora, or of other vectors
    mark = hashlib.sha256(repr(([str(path.absolute()) for path in corpora], real)).encode()).hexdigest()[:12]
    found = [work / f"store-{mark}-{count}" for count in range(1, len(corpora) + 1)]
    if all((folder / "done").exists() for folder in found):
        return found
    with Workspace.open(kb) as workspace:
        workspace.ingest()
        reader = workspace.reader()
        keys = {row.point_id: row.vector_key for row in workspace.store.point_rows(reader.release.number)}
        rows = [(id, payload) for id, payload, _ in reader.points()]
        release = reader.release
    vectors = vectors_of(work, rows, keys, real)
    for count, folder in enumerate(found, 1):
        write(folder, release, [row for row in rows if row[1]["source"] in names[:count]], keys, vectors)
    return found


@dataclass(frozen=True, slots=True)
class Made:
    """Vectors by key, whose first `real` are the model's own."""

    space: Space
    numerics: str
    place: Mapping[str, int]
    values: Any  # float32 (n, dim)
    real: int


def vectors_of(
    work: Path, rows: Sequence[tuple[str, Mapping[str, Any]]], keys: Mapping[str, str], real: int | None
) -> Made:
    import numpy as np
    from retrieval import cut

    from ragops.embedders import export_query_encoder, load
    from ragops.stores.bm25 import text_of

    embedder = load("all-MiniLM-L6-v2")
    texts = {keys[id]: text_of(payload) for id, payload in rows}
    order = sorted(texts)  # by hash: by chance
    real = min(real or len(order), len(order))
    window = embedder.space.max_tokens - embedder.tokenizer.special_tokens
    some = cut([texts[key] for key in order[:real]], embedder.tokenizer, window)
    own = embedder.embed(some)
    export_query_encoder(embedder, some[:64], work / "model")
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, real, (len(order) - real, 2))
    mixed = own[pairs[:, 0]] + own[pairs[:, 1]] * rng.random((len(pairs), 1), dtype=np.float32)
    values = np.concatenate([own, mixed / np.linalg.norm(mixed, axis=1, keepdims=True)])
    return Made(embedder.space, embedder.numerics, {key: n for n, key in enumerate(order)}, values, real)


def write(
    folder: Path, told: Release, rows: Sequence[tuple[str, Mapping[str, Any]]], keys: Mapping[str, str], made: Made
) -> None:
    import numpy as np

    from ragops.stores.edge import EdgeStore
    from ragops.types import Point, Release

    folder.mkdir(parents=True, exist_ok=True)
    places = [made.place[keys[id]] for id, _ in rows]
    payloads = [{**payload, "tenant": tenant_of(payload["document_id"])} for _, payload in rows]
    np.save(folder / "vectors.npy", made.values[places])
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as lines:
        for (id, _), payload, place in zip(rows, payloads, places, strict=True):
            short = {name: payload[name] for name in ("text", "uri", "tenant", "title", "heading")}
            lines.write(json.dumps({"id": id, "real": place < made.real, **short}) + "\n")
    release = Release(
        1, "main", told.fingerprint, made.space, made.numerics, len(rows), told.created, told.avg_len
    )  # fmt: skip
    pairs = (
        (Point(id, payload["chunk_id"], payload["document_id"], "", payload), made.values[place].tolist())
        for (id, _), payload, place in zip(rows, payloads, places, strict=True)
    )
    store = EdgeStore(folder / "ragops")
    if store.live() is None:
        store.write(release, base=None, delete=[], add=pairs)
        store.publish(1)
    (folder / "done").touch()


def tenant_of(document: str) -> str:
    share = int(document[:8], 16) / 16**8
    return next(name for name, below in BELOW.items() if share < below)


def questions(folder: Path, count: int) -> list[str]:
    """Titles with their headings, and beginnings of sentences, of chunks taken by chance."""
    real = [row for row in loaded(folder) if row["real"]]
    chosen = random.Random(0).sample(real, min(count, len(real)))
    return [
        " ".join((row["text"] if n % 2 else " ".join([row["title"], *row["heading"][-1:]])).split()[: 6 + n % 9])
        for n, row in enumerate(chosen)
    ]


class Timed:
    """The query encoder, and the seconds that it took in this thread. Implements ragops.types.Embedder."""

    def __init__(self, inner: Any) -> None:
        self.space, self.numerics, self.tokenizer = inner.space, inner.numerics, inner.tokenizer
        self.embed = inner.embed
        self._inner = inner
        self._spent = threading.local()

    def embed_queries(self, texts: Sequence[str]) -> Any:
        start = time.perf_counter()
        vectors = self._inner.embed_queries(texts)
        self._spent.seconds = time.perf_counter() - start
        return vectors

    def taken(self) -> float:
        seconds: float = getattr(self._spent, "seconds", 0.0)
        self._spent.seconds = 0.0
        return seconds


def encoder_of(work: Path) -> Timed:
    from ragops.embedders.onnx import load_query_encoder

    space = json.loads((work / "model" / "manifest.json").read_text())["space"]["fingerprint"]
    return Timed(load_query_encoder(work / "model", space))


# ---------------------------------------------------------------- sides, each in a process of its own
class Side(Protocol):
    def ask(self, text: str, mode: str, tenant: str | None, scope: bool) -> list[str]:
        """Ids of the ten best."""
        ...


class Ragops:
    def __init__(self, work: Path, folder: Path, encoder: Timed) -> None:
        from ragops.retriever import Retriever
        from ragops.stores.edge import EdgeStore

        def opened(scope: dict[str, Any] | None) -> Retriever:
            return Retriever(lambda: EdgeStore(folder / "ragops"), lambda release: encoder, scope=scope)

        self._all = opened(None)
        self._of = {name: opened({"tenant": name}) for name in BELOW}

    def ask(self, text: str, mode: Any, tenant: str | None, scope: bool) -> list[str]:
        if tenant is None:
            found = self._all.search(text, K, mode=mode)
        elif scope:
            found = self._of[tenant].search(text, K, mode=mode)
        else:
            found = self._all.search(text, K, mode=mode, filter={"tenant": tenant})
        return [hit.chunk_id for hit in found.hits]


class Chroma:
    def __init__(self, work: Path, folder: Path, encoder: Timed) -> None:
        import chromadb
        import numpy as np

        self._encoder = encoder
        client = chromadb.PersistentClient(
            path=str(folder / "chroma"), settings=chromadb.Settings(anonymized_telemetry=False)
        )
        self._found = client.get_or_create_collection(
            "main", metadata={"hnsw:space": "cosine"}, embedding_function=None
        )
        rows, vectors = loaded(folder), np.load(folder / "vectors.npy")
        for start in range(self._found.count(), len(rows), 2000):
            some = rows[start : start + 2000]
            self._found.add(
                ids=[row["id"] for row in some],
                embeddings=vectors[start : start + 2000],
                documents=[row["text"] for row in some],
                metadatas=[{"uri": row["uri"], "tenant": row["tenant"]} for row in some],
            )

    def ask(self, text: str, mode: str, tenant: str | None, scope: bool) -> list[str]:
        vector = self._encoder.embed_queries([text])
        where = None if tenant is None else {"tenant": tenant}
        found = self._found.query(
            query_embeddings=vector, n_results=K, where=where, include=["documents", "metadatas", "distances"]
        )
        return list(found["ids"][0])


class Lance:
    def __init__(self, work: Path, folder: Path, encoder: Timed) -> None:
        import lancedb
        import numpy as np
        import pyarrow as pa
        from lancedb.rerankers import RRFReranker

        self._encoder = encoder
        self._rerank = RRFReranker(K=RRF)
        db = lancedb.connect(str(folder / "lancedb"))
        if not (folder / "lancedb" / "done").exists():
            rows, vectors = loaded(folder), np.load(folder / "vectors.npy")
            flat = pa.array(vectors.reshape(-1))
            columns = {name: pa.array([row[name] for row in rows]) for name in ("id", "text", "uri", "tenant")}
            columns["words"] = pa.array(["\n".join([row["title"], *row["heading"], row["text"]]) for row in rows])
            columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
            table = db.create_table("main", pa.table(columns), mode="overwrite")
            table.create_index(metric="cosine", index_type="IVF_HNSW_SQ", vector_column_name="vector")
            table.create_scalar_index("tenant", index_type="BITMAP")
            table.create_fts_index("words", stem=True, remove_stop_words=True)
            (folder / "lancedb" / "done").touch()
        self._table = db.open_table("main")

    def ask(self, text: str, mode: str, tenant: str | None, scope: bool) -> list[str]:
        from lancedb.query import MatchQuery

        words = MatchQuery(text, "words")
        if mode == "bm25":
            query = self._table.search(words, query_type="fts")
        else:
            vector = self._encoder.embed_queries([text])[0]
            if mode == "dense":
                query = self._table.search(vector, vector_column_name="vector").distance_type("cosine")
            else:
                query = self._table.search(query_type="hybrid", vector_column_name="vector")
                query = query.vector(vector).text(words).distance_type("cosine").rerank(self._rerank)
            query = query.refine_factor(2)
        if tenant is not None:
            query = query.where(f"tenant = '{tenant}'", prefilter=True)
        found = query.select(["id", "text", "uri"]).limit(K).to_arrow()
        return list(found["id"].to_pylist())


class Qdrant:
    def __init__(self, work: Path, folder: Path, encoder: Timed) -> None:
        import numpy as np
        from qdrant_client import QdrantClient, models

        self._models = models
        self._encoder = encoder
        self._client = QdrantClient(":memory:")
        rows, vectors = loaded(folder), np.load(folder / "vectors.npy")
        self._client.create_collection(
            "main",
            vectors_config={"dense": models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)},
            sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        )
        words = [json.loads(line) for line in (folder / "words.jsonl").open()]
        for start in range(0, len(rows), 1000):
            points = [
                models.PointStruct(
                    id=row["id"],
                    vector={"dense": vector.tolist(), "bm25": models.SparseVector(indices=word[0], values=word[1])},
                    payload={name: row[name] for name in ("text", "uri", "tenant")},
                )
                for row, vector, word in zip(
                    rows[start : start + 1000], vectors[start : start + 1000], words[start : start + 1000], strict=True
                )
            ]
            self._client.upsert("main", points)
        self._words = json.loads((folder / "queries.json").read_text())

    def ask(self, text: str, mode: str, tenant: str | None, scope: bool) -> list[str]:
        models = self._models
        vector = self._encoder.embed_queries([text])[0].tolist()
        condition = None
        if tenant is not None:
            match = models.FieldCondition(key="tenant", match=models.MatchValue(value=tenant))
            condition = models.Filter(must=[match])
        if mode == "dense":
            found = self._client.query_points(
                "main", query=vector, using="dense", query_filter=condition, limit=K, with_payload=True
            )
        else:
            indices, values = self._words[text]
            word = models.SparseVector(indices=indices, values=values)
            found = self._client.query_points(
                "main",
                prefetch=[
                    models.Prefetch(query=vector, using="dense", filter=condition, limit=100),
                    models.Prefetch(query=word, using="bm25", filter=condition, limit=100),
                ],
                query=models.FusionQuery(fusion=models.Fusion.RRF),
                limit=K,
                with_payload=True,
            )
        return [str(point.id) for point in found.points]


def loaded(folder: Path) -> list[dict[str, Any]]:
    with (folder / "rows.jsonl").open(encoding="utf-8") as rows:
        return [json.loads(line) for line in rows]


def words(folder: Path, asked: Sequence[str], avg_len: int) -> None:
    """ragops' own sparse vectors, for the side that has the same engine's."""
    from ragops.stores.bm25 import Bm25, text_of

    model = Bm25(avg_len)
    (folder / "queries.json").write_text(json.dumps({text: model.query(text) for text in asked}))
    if not (folder / "words.jsonl").exists():
        with (folder / "words.jsonl").open("w") as lines:
            for row in loaded(folder):
                lines.write(json.dumps(model.document(text_of(row))) + "\n")


def serve(name: str, work: Path, folder: Path) -> None:
    """Answer orders from stdin, one JSON object a line, until it ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes elsewhere
    kinds: dict[str, type[Any]] = {"ragops": Ragops, "chroma": Chroma, "lancedb": Lance, "qdrant local": Qdrant}
    encoder = encoder_of(work)
    side: Side = kinds[name](work, folder, encoder)
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(answer(side, encoder, order)), file=out, flush=True)


def answer(side: Side, encoder: Timed, order: Mapping[str, Any]) -> dict[str, Any]:
    mode, tenant, scope = order["mode"], order["tenant"], order["scope"]

    def one(text: str) -> tuple[float, float, list[str]]:
        start = time.perf_counter()
        found = side.ask(text, mode, tenant, scope)
        return time.perf_counter() - start, encoder.taken(), found

    if order["threads"] > 1:
        with ThreadPoolExecutor(order["threads"]) as pool:
            list(pool.map(one, order["texts"][: order["threads"]]))  # opens what each thread needs
            start, cpu = time.perf_counter(), time.process_time()
            done = list(pool.map(one, order["texts"]))
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    else:
        one(order["texts"][-1])
        start, cpu = time.perf_counter(), time.process_time()
        done = [one(text) for text in order["texts"]]
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    seconds, embedding, found = zip(*done, strict=True)
    return {"seconds": seconds, "embedding": embedding, "wall": wall, "cpu": cpu, "found": found}


class Process:
    def __init__(self, python: str, name: str, work: Path, folder: Path) -> None:
        command = [python, __file__, "--side", name, "--work", str(work), "--folder", str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._next()

    def order(self, texts: Sequence[str], mode: str, tenant: str | None, scope: bool, threads: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        order = {"texts": texts, "mode": mode, "tenant": tenant, "scope": scope, "threads": threads}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._next()

    def _next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


# ---------------------------------------------------------------- measuring
Cell = tuple[str, str, str | None, bool, int]  # side, mode, tenant, as a scope, threads


def cells(sides: Sequence[str]) -> list[Cell]:
    found: list[Cell] = []
    for side in sides:
        modes = MODES if side == "ragops" else SIDES[side]
        found += [(side, mode, None, True, 1) for mode in modes]
        tenants = ("half", "tenth", "hundredth") if side == "ragops" else ("tenth",)
        found += [(side, mode, tenant, True, 1) for mode in modes for tenant in tenants]
        if side == "ragops":
            found += [(side, mode, tenant, False, 1) for mode in ("bm25", "hybrid") for tenant in tenants]
        found += [(side, mode, None, True, 8) for mode in modes if mode != "bm25"]
    return found


def rounds(
    processes: Mapping[str, Process], texts: Sequence[str], repeats: int, each: int
) -> dict[Cell, list[dict[str, Any]]]:
    def side(cell: Cell) -> Any:
        name, mode, tenant, scope, threads = cell
        turn = {"n": 0}

        def run() -> dict[str, Any]:
            first = turn["n"] * each % len(texts)
            turn["n"] += 1
            some = texts[first : first + (each if name not in SLOW else max(8, each // 10))]
            return processes[name].order(some, mode, tenant, scope, threads)

        return run

    all_ = cells(list(processes))
    return measure.interleave({cell: side(cell) for cell in all_}, repeats)  # type: ignore[type-var, dict-item]


def told(found: Mapping[Cell, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    rows = []
    for (side, mode, tenant, scope, threads), runs in found.items():
        seconds = sorted(value for run in runs for value in run["seconds"])
        embedding = [sum(run["embedding"]) / sum(run["seconds"]) for run in runs]
        rows.append(
            {
                "side": side, "mode": mode, "tenant": tenant, "threads": threads,
                **({"tenant as": "scope" if scope else "filter"} if tenant and side == "ragops" else {}),
                "queries": len(seconds), "p50_ms": percentile(seconds, 50), "p99_ms": percentile(seconds, 99),
                "embedding_share": round(statistics.median(embedding), 3),
                "cpu_ms": round(1000 * statistics.median(run["cpu"] / len(run["seconds"]) for run in runs), 3),
                "per_second": measure.summary([len(run["seconds"]) / run["wall"] for run in runs]),
            }
        )  # fmt: skip
    return rows


def percentile(ordered: Sequence[float], share: int) -> float:
    return round(1000 * ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)], 3)


def ratios(found: Mapping[Cell, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """ragops' median of a round over the other's, query for query of the same kind."""
    rows = []
    for cell, runs in found.items():
        mine = ("ragops", cell[1], cell[2], True, cell[4])
        if cell[0] != "ragops" and cell[4] == 1:
            both = (found[mine], runs)
            rows.append(
                {
                    "against": cell[0], "mode": cell[1], "tenant": cell[2],
                    "wall": measure.ratio(*([statistics.median(run["seconds"]) for run in some] for some in both)),
                    "cpu": measure.ratio(*([run["cpu"] / len(run["seconds"]) for run in some] for some in both)),
                }
            )  # fmt: skip
    return rows


def recall(found: Mapping[Cell, Sequence[Mapping[str, Any]]], texts: Sequence[str], each: int, work: Path,
           folder: Path) -> dict[str, float]:  # fmt: skip
    """Of the dense search without a tenant: hits as near as the tenth nearest text. Equal texts are as good."""
    import numpy as np

    rows, vectors = loaded(folder), np.load(folder / "vectors.npy")
    place = {row["id"]: n for n, row in enumerate(rows)}
    asked = encoder_of(work).embed_queries(texts)
    shares: dict[str, float] = {}
    for (side, mode, tenant, _, threads), runs in found.items():
        if mode != "dense" or tenant is not None or threads != 1 or side == "ragops":
            continue  # ragops' hits are distinct texts: see `recall` of ragops for its index
        good = []
        for turn, run in enumerate(runs):
            for n, ids in enumerate(run["found"]):
                scores = vectors @ asked[(turn * each % len(texts)) + n]
                least = np.sort(scores)[-K] - 1e-4
                good.append(sum(scores[place[id]] >= least for id in ids) / K)
        shares[side] = round(float(np.mean(good)), 4)
    return shares


def own_recall(work: Path, folder: Path, texts: Sequence[str]) -> float:
    """The same of ragops' index, before equal texts become one hit."""
    from ragops.stores.edge import EdgeStore

    good = []
    with EdgeStore(folder / "ragops").open() as reader:
        for vector in encoder_of(work).embed_queries(texts).tolist():
            exact = reader.search(vector, K, exact=True)
            good.append(sum(hit.score >= exact[-1].score - 1e-4 for hit in reader.search(vector, K)) / K)
    return round(statistics.mean(good), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", default=[])
    parser.add_argument("--real", type=int, help="so many distinct texts get the model's own vectors; default: all")
    parser.add_argument("--python", help="an interpreter with chromadb, lancedb and qdrant-client")
    default = Path(tempfile.gettempdir()) / "ragops-data" / "cache" / "latency"
    parser.add_argument("--work", type=Path, default=default)
    parser.add_argument("--sides", nargs="*", choices=list(SIDES), default=list(SIDES), help="the peers to ask")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--queries", type=int, default=100, help="of each kind in a round")
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "latency.json")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments.side, arguments.work, arguments.folder)
        return
    environment = measure.environment(PACKAGES)
    if arguments.python:
        environment["peers"] = measure.versions_of(arguments.python, PEERS)
    stores = build(arguments.corpus, arguments.work, arguments.real)
    result: dict[str, Any] = {"environment": environment, "k": K, "sizes": []}
    for folder in stores:
        from ragops.stores.edge import EdgeStore

        release = EdgeStore(folder / "ragops").live()
        assert release is not None
        texts = questions(folder, arguments.queries * min(arguments.repeats, 5))
        sides = ["ragops"]
        if arguments.python and folder == stores[0]:
            words(folder, texts, release.avg_len)
            sides += arguments.sides
        processes = {
            side: Process(sys.executable if side == "ragops" else arguments.python, side, arguments.work, folder)
            for side in sides
        }
        found = rounds(processes, texts, arguments.repeats, arguments.queries)
        for process in processes.values():
            process.close()
        rows, against = told(found), ratios(found)
        known = loaded(folder)
        size = {
            "chunks": release.points, "distinct_texts": len({row["text"] for row in known}),
            "with_real_vectors": sum(row["real"] for row in known), "rows": rows, "ratios": against,
            "recall": {"ragops": own_recall(arguments.work, folder, texts),
                       **recall(found, texts, arguments.queries, arguments.work, folder)},
        }  # fmt: skip
        result["sizes"].append(size)
        show(size)
    measure.write(arguments.out, result)


def show(size: Mapping[str, Any]) -> None:
    print(
        f"{size['chunks']} chunks, {size['distinct_texts']} distinct texts,"
        f" {size['with_real_vectors']} with real vectors; recall {size['recall']}"
    )
    for row in size["rows"]:
        asked = f"{row['side']:13}{row['mode']:7}{row['tenant'] or '':10}{row.get('tenant as', ''):7}{row['threads']:2}"
        print(f"{asked}  p50 {row['p50_ms']:8.2f}  p99 {row['p99_ms']:8.2f}  CPU {row['cpu_ms']:8.2f}  embedding"
              f" {row['embedding_share']:.2f}  {row['per_second']['median']:7.1f}/s")  # fmt: skip
    for row in size["ratios"]:
        wall, cpu = row["wall"], row["cpu"]
        print(f"against {row['against']:13}{row['mode']:7}{row['tenant'] or '':10}wall {wall['median']:.3f}"
              f" ({wall['q1']:.3f} to {wall['q3']:.3f})  CPU {cpu['median']:.3f} ({cpu['q1']:.3f} to"
              f" {cpu['q3']:.3f})")  # fmt: skip


if __name__ == "__main__":
    main()
