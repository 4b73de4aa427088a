"""Which chunks find the passages that answer: recall, precision and IoU at 5 retrieved chunks, and chunking's speed.

    python benchmarks/chunking.py [--data FOLDER] [--out FILE] [--only NAME ...]

Material: the open questions of Chroma's chunking evaluation (Smith & Troynikov 2024), 239 questions with exact
reference spans over 5 corpora in one index. Measures as in its `base_evaluation.py`, which counts characters: with R
the references, C the retrieved chunks, H the characters of R that lie in C,
recall = H / |R|, precision = H / sum of |C| (a character counts as often as it was retrieved), IoU = H / (sum of |C| +
|R| - H); all are means over questions, in per cent. Retrieval is exact cosine over all-MiniLM-L6-v2.
The published table used text-embedding-3-large and cl100k tokens: its order can be compared, its level cannot.
Vectors are kept in the system's temporary folder, by text.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import hashlib
import json
import platform
import re
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ragops import embedders
from ragops.types import Embedder, Parsed, Span, Tokenizer
from ragops_pipelines.chunk import DEFAULT_SIZE, Chunker

MODEL = "all-MiniLM-L6-v2"
TEMP = Path(tempfile.gettempdir()) / "ragops-data"
RETRIEVED = 5
Piece = tuple[str, int, int, str]  # corpus, start, end, what the model reads


# ---------------------------------------------------------------- corpora
def blocks(text: str) -> Parsed:
    """The corpus as it is, with the blocks that its lines show: headings of WikiText, rows, paragraphs."""
    spans: list[Span] = []
    for match in re.finditer(r"[^\n].*", text):
        line, start, end = match[0], match.start(), match.end()
        before = spans[-1] if spans else None
        near = before is not None and text[before.end : start].count("\n") == 1
        if heading := re.fullmatch(r" ((?:= )+)([^=].*?)(?: =)+ ?", line):  # its text without the marks, as parsers do
            spans.append(Span("heading", start + heading.start(2), start + heading.end(2), heading[1].count("=")))
            continue
        kind: Any = "table" if line.count(" | ") >= 1 and len(line) < 500 else "paragraph"
        if near and before is not None and before.kind == kind:
            spans[-1] = Span(kind, before.start, end)
        else:
            spans.append(Span(kind, start, end))
    return Parsed(None, text, tuple(spans))


def plain(text: str) -> Parsed:
    """The corpus as text without any structure but blank lines."""
    return Parsed(None, text, tuple(Span("paragraph", *m.span()) for m in re.finditer(r"[^\n](?:.|\n(?!\n))*", text)))


# ---------------------------------------------------------------- chunkers
def fixed(text: str, tokenizer: Tokenizer, size: int) -> Iterator[tuple[int, int]]:
    """Windows of `size` tokens."""
    offsets = tokenizer.offsets([text])[0]
    for first in range(0, len(offsets), size):
        yield offsets[first][0], offsets[min(first + size, len(offsets)) - 1][1]


def recursive(text: str, tokenizer: Tokenizer, size: int) -> list[tuple[int, int]]:
    """Recursive character splitting with the evaluation's separators, its length in the model's tokens."""
    found: list[tuple[int, int]] = []

    def split(start: int, end: int, separators: Sequence[str]) -> None:
        separator = next((sign for sign in separators if sign in text[start:end]), "")
        cuts = (
            [m.start() for m in re.finditer(re.escape(separator), text[start:end])] if separator else range(end - start)
        )
        edges = [start, *(start + cut for cut in cuts if cut), end]
        parts = list(pairwise(edges))
        counts = tokenizer.count([text[a:b] for a, b in parts])
        begin, held = start, 0
        for (a, b), count in zip(parts, counts, strict=True):
            if held and held + count > size:
                found.append((begin, a))
                begin, held = a, 0
            if count > size:
                split(a, b, separators[separators.index(separator) + 1 :])
                begin, held = b, 0
            else:
                held += count
        if held:
            found.append((begin, end))

    split(0, len(text), ["\n\n", "\n", ".", "?", "!", " "])
    return [
        (end - len(body.lstrip()), start + len(body.rstrip()))
        for start, end in found
        if (body := text[start:end]).strip()
    ]


@dataclass(frozen=True)
class Setting:
    name: str
    size: int
    overlap: int = 0
    context: bool = True
    parse: Callable[[str], Parsed] = blocks
    by: str = "ragops"

    def pieces(self, corpora: dict[str, str], tokenizer: Tokenizer, window: int) -> list[Piece]:
        if self.by != "ragops":
            cut = {"fixed tokens": fixed, "recursive": recursive}[self.by]
            return [
                (name, start, end, text[start:end])
                for name, text in corpora.items()
                for start, end in cut(text, tokenizer, self.size)
            ]
        chunker = Chunker(tokenizer, window, size=self.size, overlap=self.overlap, context=self.context)
        done = chunker.chunk_many([("", self.parse(text)) for text in corpora.values()])
        return [
            (name, chunk.start, chunk.end, chunk.embed_text)
            for name, chunks in zip(corpora, done, strict=True)
            for chunk in chunks
        ]


SETTINGS = [
    Setting("ragops 160 (the default)", 160),
    Setting("ragops 200", 200),
    Setting("recursive 200", 200, by="recursive"),
    Setting("fixed tokens 200", 200, by="fixed tokens"),
    Setting("ragops 128", 128),
    Setting("ragops 254 (the whole window)", 254),
    Setting("ragops 100", 100),
    Setting("ragops 200, overlap 40", 200, overlap=40),
    Setting("ragops 160, no context", 160, context=False),
    Setting("ragops 200, no context", 200, context=False),
    Setting("ragops 200, text without blocks", 200, parse=plain),
    Setting("recursive 128", 128, by="recursive"),
    Setting("fixed tokens 128", 128, by="fixed tokens"),
    Setting("ragops 128, overlap 32", 128, overlap=32),
]


# ---------------------------------------------------------------- vectors
class Vectors:
    """Vectors by text, remembered on disk."""

    def __init__(self, file: Path, embedder: Embedder) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(file, timeout=60)
        self._db.execute("create table if not exists vectors (key blob primary key, vector blob)")
        self._embedder = embedder

    def of(self, texts: Sequence[str], batch: int = 256) -> np.ndarray[Any, np.dtype[np.float32]]:
        keys = [hashlib.sha256(text.encode()).digest() for text in texts]
        known = dict(self._db.execute("select key, vector from vectors"))
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        for start in range(0, len(missing), batch):
            some = list(missing.items())[start : start + batch]
            for (key, _), vector in zip(some, self._embedder.embed([text for _, text in some]), strict=True):
                known[key] = np.asarray(vector, dtype=np.float32).tobytes()
                self._db.execute("insert or replace into vectors values (?, ?)", (key, known[key]))
            self._db.commit()
        return np.stack([np.frombuffer(known[key], dtype=np.float32) for key in keys])


# ---------------------------------------------------------------- measures
def length(ranges: Sequence[tuple[int, int]]) -> int:
    """Characters in the union of ranges."""
    total, reached = 0, 0
    for start, end in sorted(ranges):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


def measure(question: dict[str, Any], found: Sequence[Piece]) -> tuple[float, float, float]:
    """Recall, precision, IoU of one question."""
    wanted = [(reference["start_index"], reference["end_index"]) for reference in question["references"]]
    held = [
        (max(start, a), min(end, b))
        for corpus, start, end, _ in found
        if corpus == question["corpus_id"]
        for a, b in wanted
        if max(start, a) < min(end, b)
    ]
    hit, all_wanted, retrieved = length(held), length(wanted), sum(end - start for _, start, end, _ in found)
    return hit / all_wanted, hit / retrieved, hit / (retrieved + all_wanted - hit)


def evaluate(pieces: Sequence[Piece], questions: Sequence[dict[str, Any]], vectors: Vectors) -> dict[str, Any]:
    index = vectors.of([text for *_, text in pieces])
    asked = vectors.of([question["question"] for question in questions])
    order = np.argsort(-(asked @ index.T), axis=1, kind="stable")[:, :RETRIEVED]
    scores = [measure(question, [pieces[at] for at in row]) for question, row in zip(questions, order, strict=True)]
    recall, precision, iou = (statistics.mean(column) * 100 for column in zip(*scores, strict=True))
    spread = {
        f"{name}_sd": round(statistics.pstdev(column) * 100, 1)
        for name, column in zip(("recall", "precision", "iou"), zip(*scores, strict=True), strict=True)
    }
    by_corpus = {
        corpus: round(
            statistics.mean(s[0] for s, q in zip(scores, questions, strict=True) if q["corpus_id"] == corpus) * 100, 1
        )
        for corpus in sorted({question["corpus_id"] for question in questions})
    }
    return {
        "recall": round(recall, 1),
        "precision": round(precision, 1),
        "iou": round(iou, 1),
        **spread,
        "recall_by_corpus": by_corpus,
    }


# ---------------------------------------------------------------- speed
def speed(corpora: dict[str, str], tokenizer: Tokenizer, window: int, rounds: int = 7) -> dict[str, Any]:
    """CPU of chunking at the defaults and of one tokenisation of the same text (block by block), in turns."""
    chunker = Chunker(tokenizer, window)
    documents = [("", blocks(text)) for text in corpora.values()]
    pieces = [parsed.text[span.start : span.end] for _, parsed in documents for span in parsed.spans]
    size = sum(len(text.encode()) for text in corpora.values())
    chunks = sum(len(chunks) for chunks in chunker.chunk_many(documents))
    alone: list[float] = []
    whole: list[float] = []
    for _ in range(rounds):
        start = time.process_time()
        tokenizer.count(pieces)
        alone.append(time.process_time() - start)
        start = time.process_time()
        chunker.chunk_many(documents)
        whole.append(time.process_time() - start)
    beyond = [b - a for a, b in zip(alone, whole, strict=True)]
    return {
        "what": "CPU seconds (all threads) of chunk_many over the corpora at the defaults, and of counting the tokens "
        f"of the same blocks once; medians of {rounds} rounds in turns",
        "chunks": chunks,
        "bytes": size,
        "tokenise_s": round(statistics.median(alone), 4),
        "chunk_s": round(statistics.median(whole), 4),
        "ms_per_chunk_beyond_one_tokenisation": round(statistics.median(beyond) / chunks * 1000, 4),
        "ms_per_chunk_tokenisation": round(statistics.median(alone) / chunks * 1000, 4),
        "mb_per_cpu_s": round(size / 1e6 / statistics.median(whole), 2),
        "mb_per_cpu_s_tokenisation_alone": round(size / 1e6 / statistics.median(alone), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=TEMP / "chunking", help="corpora/, questions_open.jsonl")
    parser.add_argument("--cache", type=Path, default=TEMP / "cache" / "chunking-vectors.db")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "chunking.json")
    parser.add_argument("--only", nargs="*", help="names of settings")
    options = parser.parse_args()
    corpora = {
        file.stem: file.open(encoding="utf-8", newline="").read()
        for file in sorted((options.data / "corpora").glob("*.md"))
    }
    questions = [json.loads(line) for line in (options.data / "questions_open.jsonl").open(encoding="utf-8")]
    embedder = embedders.load(MODEL)
    vectors = Vectors(options.cache, embedder)
    rows: list[dict[str, Any]] = []
    print(f"{'setting':34}{'chunks':>8}{'tokens':>8}{'longest':>9}{'recall':>8}{'precision':>11}{'IoU':>6}")
    for setting in SETTINGS:
        if options.only and setting.name not in options.only:
            continue
        pieces = setting.pieces(corpora, embedder.tokenizer, embedder.space.max_tokens)
        counts = embedder.tokenizer.count([text for *_, text in pieces])
        scores = evaluate(pieces, questions, vectors)
        row = {
            "setting": setting.name,
            "by": setting.by,
            "size": setting.size,
            "overlap": setting.overlap,
            "context": setting.context,
            "chunks": len(pieces),
            "mean_tokens": round(statistics.mean(counts), 1),
            "longest": max(counts),
            **scores,
        }
        rows.append(row)
        print(
            f"{setting.name:34}{len(pieces):8}{row['mean_tokens']:8}{row['longest']:9}{row['recall']:8}"
            f"{row['precision']:11}{row['iou']:6}",
            flush=True,
        )
    with (options.data / "published_hero_table.csv").open() as file:
        published = list(csv.DictReader(file))
    print("\npublished, with text-embedding-3-large and sizes in cl100k tokens:")
    for row in published:
        name = f"{row['chunking']} {row['size_tokens']}, overlap {row['overlap']}"
        print(f"{name:42}{row['mean_size']:>8}{'':9}{row['recall']:>8}{row['precision']:>11}{row['iou']:>6}")
    result = {
        "what": (__doc__ or "").split("\n\n    python")[0],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("ragops", "tokenizers", "numpy", "torch")},
        "model": MODEL,
        "questions": len(questions),
        "retrieved": RETRIEVED,
        "default_size": DEFAULT_SIZE,
        "settings": rows,
        "published (text-embedding-3-large, cl100k tokens)": published,
        "speed": speed(corpora, embedder.tokenizer, embedder.space.max_tokens),
    }
    print(json.dumps(result["speed"], indent=1))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
