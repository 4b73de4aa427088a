"""Embedding speed: ragops beside `SentenceTransformer.encode(texts, batch_size=32)`, interleaved in one run.

    python benchmarks/embedding.py FOLDER_OF_TEXT_FILES [--repeats 5] [--out benchmarks/results/embedding.json]

Real texts are cut into chunks of near-equal length (about 180 tokens) and ragged ones (mean about 75, 5th percentile
about 9). On a CPU the measure is tokens per CPU-second of the whole process, all threads counted; on a GPU tokens per
second. Then: from process start to the first query vector, beside importing sentence-transformers and encoding one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ragops import embedders

QUERY = "how do I restore an earlier release?"
THEIRS_QUERY = """
import sys
from sentence_transformers import SentenceTransformer
print(SentenceTransformer(sys.argv[1], device="cpu").encode(sys.argv[3]).shape)
"""
OURS_QUERY = """
import sys
from pathlib import Path
from ragops import embedders
print(embedders.load_query_encoder(Path(sys.argv[2]), sys.argv[4]).embed_queries([sys.argv[3]])[0].shape)
"""


def chunks(folder: Path, near_equal: int, ragged: int) -> dict[str, list[str]]:
    """Slices of the folder's texts, at token borders."""
    tokenizer = embedders.load_tokenizer(embedders.find_model(embedders.DEFAULT_MODEL))
    random = np.random.default_rng(0)
    lengths: dict[str, Callable[[], int]] = {
        "near_equal": lambda: int(random.integers(170, 191)),
        "ragged": lambda: int(np.clip(random.gamma(1.65, 46), 3, 250)),
    }
    wanted = {"near_equal": near_equal, "ragged": ragged}
    result: dict[str, list[str]] = {name: [] for name in wanted}
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".md", ".txt", ".rst"))
    random.shuffle(paths)  # type: ignore[arg-type]
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        offsets = tokenizer.offsets([text])[0]
        for name, length in lengths.items():
            first, taken = 0, 0
            # A few from each file, so that many files have a part.
            while taken < 5 and len(result[name]) < wanted[name] and (size := length()) + first <= len(offsets):
                result[name].append(text[offsets[first][0] : offsets[first + size - 1][1]])
                first, taken = first + size, taken + 1
        if all(len(result[name]) == count for name, count in wanted.items()):
            return result
    raise SystemExit(f"{folder} has too little text")


def cost(run: Callable[[], Any], on_cpu: bool) -> tuple[float, Any]:
    clock = time.process_time if on_cpu else time.perf_counter
    start = clock()
    result = run()
    return clock() - start, result


def compare(texts: list[str], theirs: Callable[[], Any], ours: Callable[[], Any], repeats: int, on_cpu: bool) -> Any:
    tokenizer = embedders.load_tokenizer(embedders.find_model(embedders.DEFAULT_MODEL))
    counts = np.array(tokenizer.count(texts)) + 2
    theirs()
    ours()
    rows = []
    cosine = 1.0
    for _ in range(repeats):
        cost_theirs, expected = cost(theirs, on_cpu)
        cost_ours, vectors = cost(ours, on_cpu)
        rows.append((counts.sum() / cost_theirs, counts.sum() / cost_ours, cost_theirs / cost_ours))
        cosine = min(cosine, float(np.min(np.sum(expected * vectors, axis=1))))
    columns = list(zip(*rows, strict=True))
    return {
        "texts": len(texts),
        "tokens": {"mean": round(float(counts.mean()), 1), "p5": float(np.percentile(counts, 5))},
        "encode_tokens_per_s": spread(columns[0], 0),
        "ragops_tokens_per_s": spread(columns[1], 0),
        "ratio": spread(columns[2], 2),
        "min_cosine": round(cosine, 7),
    }


def spread(values: Any, digits: int) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def start_up(repeats: int) -> Any:
    """Wall and CPU seconds from process start to the vector of one query."""
    embedder = embedders.load(embedders.DEFAULT_MODEL, device="cpu")
    model = str(embedders.find_model(embedders.DEFAULT_MODEL).folder)
    with tempfile.TemporaryDirectory() as scratch:
        folder = embedders.export_query_encoder(embedder, [], Path(scratch) / "encoder")
        arguments = [model, str(folder), QUERY, embedder.space.fingerprint]
        rows: dict[str, list[tuple[float, float]]] = {"sentence_transformers": [], "ragops": []}
        for _ in range(repeats + 1):
            for name, code in (("sentence_transformers", THEIRS_QUERY), ("ragops", OURS_QUERY)):
                start, before = time.perf_counter(), os.times()
                subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
                after = os.times()
                cpu = after.children_user + after.children_system - before.children_user - before.children_system
                rows[name].append((time.perf_counter() - start, cpu))
    rows = {name: values[1:] for name, values in rows.items()}  # the first ones warm the file cache
    pairs = list(zip(rows["ragops"], rows["sentence_transformers"], strict=True))
    return {
        **{
            name: {"wall_s": spread([w for w, _ in values], 2), "cpu_s": spread([c for _, c in values], 2)}
            for name, values in rows.items()
        },
        "wall_share": spread([ours[0] / theirs[0] for ours, theirs in pairs], 3),
        "cpu_share": spread([ours[1] / theirs[1] for ours, theirs in pairs], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--near-equal", type=int, default=96, help="number of near-equal chunks")
    parser.add_argument("--ragged", type=int, default=192, help="number of ragged chunks")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "embedding.json")
    options = parser.parse_args()

    import torch
    from sentence_transformers import SentenceTransformer

    texts = chunks(options.folder, options.near_equal, options.ragged)
    on_cpu = not torch.cuda.is_available()
    device = "cpu" if on_cpu else "cuda"
    model = SentenceTransformer(str(embedders.find_model(embedders.DEFAULT_MODEL).folder), device=device)
    default = torch.get_num_threads()
    results: dict[str, Any] = {}
    for label, threads in (("one_thread", 1), ("default_threads", default)) if on_cpu else (("gpu", default),):
        torch.set_num_threads(threads)
        embedder = embedders.load(embedders.DEFAULT_MODEL, device=device)
        results[label] = {"threads": threads, "numerics": embedder.numerics}
        for name, part in texts.items():
            results[label][name] = compare(
                part,
                lambda part=part: model.encode(part, batch_size=32, show_progress_bar=False),  # type: ignore[misc]
                lambda part=part, embedder=embedder: embedder.embed(part),  # type: ignore[misc]
                options.repeats,
                on_cpu,
            )
            print(label, name, json.dumps(results[label][name]))
    import sentence_transformers

    report = {
        "schema": 1,
        "measure": "tokens per CPU-second" if on_cpu else "tokens per second",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "versions": {"torch": torch.__version__, "sentence_transformers": sentence_transformers.__version__},
        "embedding": results,
        "first_query": start_up(min(options.repeats, 3)),
    }
    print("first query", json.dumps(report["first_query"]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
