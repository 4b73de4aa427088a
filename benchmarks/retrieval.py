"""How well the hits answer: SciFact and Cranfield, by vectors, by words and by both.

    python benchmarks/retrieval.py [--data FOLDER] [--work FOLDER] [--out FILE] [--only scifact|cranfield]

Each collection is there twice. `whole`: one point per abstract, its vector made of the first 256 word pieces and BM25
reading all of it, which is what published numbers are of; written through the store's own API, since ragops' chunker
loses nothing. `chunked`: ingested by ragops (connector `records`) with default settings, a document ranked by its best
chunk. Questions are asked by ragops' own evaluation, 100 documents deep.

Fusions are compared on SciFact's train questions alone (`candidates`); test questions and Cranfield only see what
production does and the best of each family on train. Collections are kept in the work folder: a second run embeds
nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics as numbers
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import measure

from ragops import config, ids
from ragops.embedders import load
from ragops.evaluation import measures, statistics
from ragops.evaluation.queries import QuerySet, read
from ragops.evaluation.results import Evaluation
from ragops.evaluation.run import evaluate
from ragops.retrieval.fusion import DEPTH, fuse
from ragops.stores.bm25 import Bm25, text_of
from ragops.stores.edge import EdgeStore
from ragops.types import Embedder, Mode, Place, Point, Reader, Release, Store, Tokenizer
from ragops.workspace import Workspace

TEMP = Path(tempfile.gettempdir()) / "ragops-data"
PACKAGES = ("ragops", "qdrant-edge-py", "torch", "onnxruntime", "tokenizers", "ir-measures", "numpy")
COLLECTIONS = ("scifact", "cranfield")
MODES: tuple[Mode, ...] = ("dense", "bm25", "hybrid")
METRIC = "nDCG@10"
DENSE, BM25 = 0.6451, 0.679  # published for SciFact's test questions: all-MiniLM-L6-v2, BM25 over one field
HYBRID = {"scifact": 0.715, "cranfield": 0.410}  # measured before there was any code
DEPTHS = (50, DEPTH, 200, 1000)

Legs = Mapping[str, Sequence[Place]]
Fusion = Callable[[Legs], Sequence[str]]  # legs to point ids, best first


# ---------------------------------------------------------------- collections
def rows(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]


def cut(texts: Sequence[str], tokenizer: Tokenizer, tokens: int) -> list[str]:
    """Each text up to its last token that a window of so many has room for."""
    found = list(texts)
    for index, offsets in enumerate(tokenizer.offsets(found)):
        most = tokens
        while len(offsets) > tokens:  # a word cut in two may count one more than its half did
            found[index] = texts[index][: offsets[most - 1][1]]
            offsets_now = tokenizer.offsets([found[index]])[0]
            if len(offsets_now) <= tokens:
                break
            most -= 1
    return found


def points(name: str, documents: Sequence[Mapping[str, Any]]) -> Iterator[Point]:
    for document in documents:
        uri = f"{name}:/{document['_id']}"
        payload = {
            "chunk_id": ids.sha256_text(uri), "document_id": ids.sha256_text(uri), "uri": uri, "source": name,
            "title": document["title"], "heading": [], "page": None, "start": 0, "end": len(document["text"]),
            "text": document["text"], "tenant": "", "groups": [], "meta": {}, "payload_sha": ids.sha256_text(uri),
        }  # fmt: skip
        yield Point(str(uuid.uuid5(uuid.NAMESPACE_OID, uri)), payload["chunk_id"], payload["document_id"], "", payload)


def seal(store: Store, release: Release, pairs: Sequence[tuple[Point, Sequence[float]]]) -> None:
    store.write(release, base=None, delete=[], add=iter(pairs))
    store.publish(release.number)


def whole(folder: Path, name: str, documents: Sequence[Mapping[str, Any]]) -> Store:
    """One point per abstract."""
    store = EdgeStore(folder)
    if store.live() is not None:
        return store
    embedder = load("all-MiniLM-L6-v2")
    documents = [document for document in documents if document["title"] or document["text"]]
    window = embedder.space.max_tokens - embedder.tokenizer.special_tokens
    texts = cut([f"{each['title']} {each['text']}".strip() for each in documents], embedder.tokenizer, window)
    vectors = embedder.embed(texts)
    made = list(points(name, documents))
    lengths = Bm25(1)
    release = Release(
        1, "main", "whole", embedder.space, embedder.numerics, len(made), "2026-01-01T00:00:00+00:00",
        round(numbers.mean(lengths.length(text_of(point.payload)) for point in made)),
    )  # fmt: skip
    seal(store, release, list(zip(made, vectors.tolist(), strict=True)))
    return store


def chunked(folder: Path, name: str, corpus: Path) -> Workspace:
    """By ragops itself, with default settings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / config.FILE).write_text(
        f"version: 1\nsources:\n  - {{name: {name}, connector: records, path: {corpus}, metadata: []}}\n"
    )
    workspace = Workspace.open(folder)
    workspace.ingest()
    return workspace


def untitled(folder: Path, reader: Reader) -> Store:
    """The same points, without title and headings: BM25 then reads the text alone."""
    store = EdgeStore(folder)
    if store.live() is None:
        pairs = [
            (
                Point(id, payload["chunk_id"], payload["document_id"], "", {**payload, "title": "", "heading": []}),
                vector,
            )
            for id, payload, vector in reader.points()
        ]
        seal(store, reader.release, pairs)
    return store


# ---------------------------------------------------------------- what production does
def told(found: Mapping[str, Evaluation]) -> dict[str, Any]:
    """The measures, and the paired tests of the hybrid against each leg."""
    return {
        "questions": found["hybrid"].queries,
        "metrics": {
            mode: {name: round(value, 4) for name, value in each.metrics.items()} for mode, each in found.items()
        },
        "hybrid less": {
            mode: paired(found["hybrid"].values(METRIC), found[mode].values(METRIC)) for mode in ("dense", "bm25")
        },
    }


def paired(better: Sequence[float], worse: Sequence[float]) -> dict[str, Any]:
    differences = [a - b for a, b in zip(better, worse, strict=True)]
    low, high = statistics.interval(differences, rounds=2000)
    return {
        "mean": round(math.fsum(differences) / len(differences), 4),
        "p": round(statistics.randomisation(differences, rounds=10_000).p, 5),
        "interval": [round(low, 4), round(high, 4)],
    }


# ---------------------------------------------------------------- fusions to choose from
CONSTANT = 60  # of reciprocal rank fusion, as its authors propose (Cormack, Clarke and Buettcher, SIGIR 2009)


def reciprocal(constant: int, depth: int = DEPTH, dense: float = 0.5) -> Fusion:
    """Reciprocal ranks; `dense` is that leg's share of the weight."""

    def fused(legs: Legs) -> list[str]:
        cutoff = {name: places[:depth] for name, places in legs.items()}
        weights = {"dense": dense, "bm25": 1 - dense}
        return order({
            name: {place.point_id: weights[name] / (constant + rank) for rank, place in enumerate(places, 1)}
            for name, places in cutoff.items()
        })  # fmt: skip

    return fused


def convex(dense: float, scale: str, depth: int = DEPTH) -> Fusion:
    """A weighted sum of scores, scaled by leg: between its least and its best (`min-max`); between the least that there
    can be and its best (`floor`: cosine -1, BM25 0); by mean and deviation (`z`). A missing one counts as the least."""
    weights = {"dense": dense, "bm25": 1 - dense}

    def fused(legs: Legs) -> list[str]:
        scaled: dict[str, dict[str, float]] = {}
        for name, places in legs.items():
            scores = [place.score for place in places[:depth]]
            if not scores:
                continue
            low, high = min(scores), max(scores)
            if scale == "floor":
                low = -1.0 if name == "dense" else 0.0
            if scale == "z":
                high = low + (numbers.pstdev(scores) or 1.0)
            scaled[name] = {
                place.point_id: weights[name] * (place.score - low) / ((high - low) or 1.0) for place in places[:depth]
            }
        return order(scaled)

    return fused


def order(legs: Mapping[str, Mapping[str, float]]) -> list[str]:
    total: dict[str, float] = {}
    for scores in legs.values():
        for point, score in scores.items():
            total[point] = total.get(point, 0.0) + score
    return sorted(total, key=lambda point: (-total[point], point))


def production(legs: Legs) -> list[str]:
    return [each.place.point_id for each in fuse({name: places[:DEPTH] for name, places in legs.items()})]


def candidates() -> dict[str, Fusion]:
    shares = (0.3, 0.4, 0.5, 0.6, 0.7)
    return {
        PRODUCTION: production,
        **{f"rrf {constant}": reciprocal(constant) for constant in (1, 5, 10, 20, 30, 40, 60, 80, 100)},
        **{f"rrf {CONSTANT}, {depth} deep": reciprocal(CONSTANT, depth) for depth in DEPTHS if depth != DEPTH},
        **{
            f"rrf {constant}, dense {share}": reciprocal(constant, dense=share)
            for constant in (10, CONSTANT)
            for share in shares
            if share != 0.5
        },
        **{
            f"{scale}, dense {share}": convex(share, scale) for scale in ("min-max", "floor", "z") for share in shares
        },
    }  # fmt: skip


PRODUCTION = "production"
PLAIN = (
    "rrf 60",
    "rrf 10",
    "min-max, dense 0.5",
    "z, dense 0.5",
)  # equal weights: go on whether or not they are the best


def legs_of(reader: Reader, encoder: Embedder, questions: QuerySet) -> dict[str, Legs]:
    """Question -> its two legs, as deep as any candidate looks."""
    vectors = encoder.embed_queries([question.text for question in questions.questions])
    found: dict[str, Legs] = {}
    for question, vector in zip(questions.questions, vectors.tolist(), strict=True):
        dense, words = reader.rank([vector, question.text], max(DEPTHS))
        found[question.id] = {"dense": dense, "bm25": words}
    return found


def scored(
    legs: Mapping[str, Legs], questions: QuerySet, names: Mapping[str, str], fusion: Fusion
) -> tuple[list[float], dict[str, float]]:
    """nDCG@10 of each question, and the means. `names`: point id -> the document's name in the judgements."""
    qrels = {
        question.id: {each.document: each.relevance for each in question.expected} for question in questions.questions
    }
    run = {
        question: list(dict.fromkeys(names[point] for point in fusion(found)))[:DEPTH]
        for question, found in legs.items()
    }
    values = measures.per_question([METRIC, "Recall@100"], qrels, run)
    means = {
        name: round(measures.mean([value[name] for value in values.values()]), 4) for name in (METRIC, "Recall@100")
    }
    return [values[question.id][METRIC] for question in questions.questions], means


def table(
    legs: Mapping[str, Legs], questions: QuerySet, names: Mapping[str, str], fusions: Mapping[str, Fusion]
) -> dict[str, Any]:
    """Each fusion's means, and its paired test against what production does."""
    base, means = scored(legs, questions, names, fusions[PRODUCTION])
    found: dict[str, Any] = {PRODUCTION: means}
    for name, fusion in fusions.items():
        if name != PRODUCTION:
            values, means = scored(legs, questions, names, fusion)
            found[name] = {**means, "less production": paired(values, base)}
    return found


# ---------------------------------------------------------------- all of it
def named(reader: Reader) -> dict[str, str]:
    return {id: payload["uri"].partition(":/")[2] for id, payload, _ in reader.points()}


def at_least(name: str, value: float, limit: float) -> dict[str, Any]:
    return {"bar": name, "value": round(value, 4), "at_least": limit, "met": value >= limit}


def bars_of(name: str, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    metrics = {mode: found["metrics"][mode][METRIC] for mode in MODES}
    bars = [
        at_least(f"{name}: hybrid {METRIC}", metrics["hybrid"], HYBRID[name]),
        *(at_least(f"{name}: hybrid above {mode}", metrics["hybrid"], metrics[mode]) for mode in ("dense", "bm25")),
    ]
    if name == "scifact":
        bars += [
            measure.bar("scifact: dense from the published 0.6451", abs(metrics["dense"] - DENSE), 0.005),
            measure.bar("scifact: BM25 from the published 0.679", abs(metrics["bm25"] - BM25), 0.01),
        ]
    return bars


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=TEMP, help="folders scifact and cranfield, in BEIR form")
    parser.add_argument("--work", type=Path, default=TEMP / "cache" / "retrieval", help="where collections are kept")
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "retrieval.json")
    parser.add_argument("--only", choices=COLLECTIONS)
    parser.add_argument("--first", type=int, help="so many documents and questions only, to try it")
    arguments = parser.parse_args()
    environment = measure.environment(PACKAGES)
    result: dict[str, Any] = {"environment": environment, "bars": [], "collections": {}}
    finalists: list[str] = []
    for name in COLLECTIONS:
        if arguments.only in (None, name):
            found = collection(name, arguments.data / name, arguments.work / name, finalists, arguments.first)
            result["collections"][name] = found
            if not arguments.first:
                result["bars"] += bars_of(name, found["whole"])
    for each in result["bars"]:
        limit = f"at most {each['at_most']}" if "at_most" in each else f"at least {each['at_least']}"
        print(f"{'met   ' if each['met'] else 'MISSED'}  {each['value']:8.4f}  {limit:16}  {each['bar']}")
    measure.write(arguments.out, result)


def collection(name: str, data: Path, work: Path, finalists: list[str], first: int | None) -> dict[str, Any]:
    """Everything of one. Where it has train questions, they fill the `finalists`."""
    corpus = data / "corpus.jsonl"
    if first:
        work = work.with_name(f"{name}-{first}")
        corpus = fewer(data, work, first)
    documents = rows(corpus)
    sets = {split.stem: read(data / "queries.jsonl", split) for split in sorted((data / "qrels").glob("*.tsv"))}
    workspace = chunked(work / "kb", name, corpus)
    stores = {"whole": whole(work / "whole", name, documents), "chunked": workspace.store}
    found: dict[str, Any] = {"documents": len(documents)}
    with contextlib.ExitStack() as stack:
        readers = {kind: stack.enter_context(store.open()) for kind, store in stores.items()}
        encoder = workspace.encoder(readers["whole"].release)
        names = {kind: named(reader) for kind, reader in readers.items()}
        if "train" in sets:
            found["train"] = {
                kind: table(legs_of(reader, encoder, sets["train"]), sets["train"], names[kind], candidates())
                for kind, reader in readers.items()
            }
            finalists[:] = best(found["train"])
            for fusion in candidates():
                print(f"  train {fusion:20}", *(f"{found['train'][kind][fusion]}" for kind in readers), flush=True)
        for kind, reader in readers.items():
            uris = [row.uri for row in stores[kind].point_rows(reader.release.number)]
            print(f"{name}, {kind}: {reader.release.points} points", flush=True)
            answers = {mode: evaluate(reader, encoder, sets["test"], uris=uris, mode=mode) for mode in MODES}
            found[kind] = {"points": reader.release.points, **told(answers)}
            for mode, metrics in found[kind]["metrics"].items():
                print(f"  {mode:7}", {key: value for key, value in metrics.items() if key != "unjudged@10"}, flush=True)
            print(f"  hybrid less {found[kind]['hybrid less']}", flush=True)
            chosen = {fusion: candidates()[fusion] for fusion in (PRODUCTION, *finalists)}
            found[kind]["fusions"] = table(legs_of(reader, encoder, sets["test"]), sets["test"], names[kind], chosen)
            for fusion, means in found[kind]["fusions"].items():
                print(f"  test {fusion:21} {means}", flush=True)
            with untitled(work / f"{kind}-untitled", reader).open() as bare:
                values = evaluate(bare, None, sets["test"], uris=uris, mode="bm25")
            found[kind]["bm25 of the text alone"] = {
                "metrics": {metric: round(value, 4) for metric, value in values.metrics.items()},
                "title and headings add": paired(answers["bm25"].values(METRIC), values.values(METRIC)),
            }
            print(f"  bm25 of the text alone {found[kind]['bm25 of the text alone']}", flush=True)
    workspace.close()
    return found


def best(train: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The best of each family by the mean over whole and chunked, and those of equal weights."""
    families: dict[str, str] = {}
    for fusion in candidates():
        if fusion != PRODUCTION:
            family = (fusion.split()[0], "dense" in fusion, "deep" in fusion)
            known = families.get(str(family))
            if known is None or _mean(train, fusion) > _mean(train, known):
                families[str(family)] = fusion
    return sorted({*families.values(), *PLAIN}, key=lambda fusion: -_mean(train, fusion))


def _mean(train: Mapping[str, Mapping[str, Any]], fusion: str) -> float:
    return numbers.mean(found[fusion][METRIC] for found in train.values())


def fewer(data: Path, work: Path, first: int) -> Path:
    """A corpus to try things with: the first documents, and some that are judged."""
    work.mkdir(parents=True, exist_ok=True)
    judged = {
        line.split("\t")[1]
        for split in (data / "qrels").glob("*.tsv")
        for line in split.read_text("utf-8").splitlines()[1 : first + 1]
    }
    chosen = [each for n, each in enumerate(rows(data / "corpus.jsonl")) if n < first or each["_id"] in judged]
    corpus = work / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(each) + "\n" for each in chosen), "utf-8")
    return corpus


if __name__ == "__main__":
    main()
