"""One run of one side over a folder of text files, in its own process: what `changes.py` and `failures.py` compare.

    python benchmarks/syncing.py SIDE FOLDER STORE [--only SUBFOLDER] [--dump]

Brings the side's store in STORE to what FOLDER says now (with `--only`: to what one subfolder of it says), or, with
`--dump`, writes what the store holds to STORE/dump.json: a list of [file, text]. The model of every side is that of
`counted.py`. Where it fails, the side's own call is made once more in the same process, as a job runner would.

How each is bound: its documents' own way to keep a store in step with files, on an embedded store that outlives the
process; chunks of one paragraph, no overlap.

- `langchain-<mode>`: the indexing API with SQLRecordManager and QdrantVectorStore (local mode), for each clean-up mode;
  `langchain-cached` is `incremental` with CacheBackedEmbeddings on files.
- `llama-index-<strategy>`: SimpleDirectoryReader (`filename_as_id`), IngestionPipeline with its cache and a docstore,
  persisted after the run, QdrantVectorStore (local mode), for each docstore strategy; `-workers`: `num_workers=2`.
- `haystack`: TextFileToDocument, DocumentSplitter, DocumentWriter (OVERWRITE), InMemoryDocumentStore, saved to disk
  after the run; `haystack-checked` has a CacheChecker on the files' paths before it.
- `cocoindex`: its LanceDB example (`memo=True` on what is done with a file), with the decorators of its own embedder.
- `ragops`: `Workspace.ingest`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import counted

CHARACTERS = 420  # of a chunk at most: a paragraph of the corpus is a little shorter, and two do not fit
WORDS = 80  # the same, for those who count words

DUMP = "dump.json"

Texts = list[list[str]]  # [file, text] of each chunk in the store


def _twice(work: Callable[[], object]) -> None:
    """Once more after the model was out of reach: the same process, the same objects."""
    try:
        work()
    except Exception as error:  # each side wraps it in its own way
        if "out of reach" not in f"{error!r} {error.__cause__!r} {error.__context__!r}":
            raise
        work()


# ---------------------------------------------------------------- ragops
def ragops(folder: Path, store: Path, only: str) -> None:
    from ragops.workspace import Workspace

    root = store / "kb"
    counted.register(store)
    if not (root / "params.yaml").exists():
        with Workspace.create(root):
            model = os.environ.get("MODEL", "hash:64")
            params = f"version: 1\nembed: {{model: 'counted:{model}'}}\nchunk: {{size: {WORDS}}}\n"
            (root / "params.yaml").write_text(params)

    def work() -> None:
        with Workspace.open(root) as workspace:
            workspace.ingest(folder / only, wait=120)

    _twice(work)


def ragops_dump(folder: Path, store: Path) -> Texts:
    from ragops.workspace import Workspace

    with Workspace.open(store / "kb") as workspace:
        if workspace.store.live() is None:
            return []
        return [[row["uri"].partition(":/")[2], row["text"]] for _, row, _ in workspace.reader().points()]


# ---------------------------------------------------------------- LangChain
def langchain(folder: Path, store: Path, only: str, *, cleanup: Any, cached: bool = False) -> None:
    from langchain_classic.embeddings import CacheBackedEmbeddings
    from langchain_classic.indexes import SQLRecordManager, index
    from langchain_classic.storage import LocalFileStore
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_qdrant import QdrantVectorStore
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    class Counted(Embeddings):
        def __init__(self) -> None:
            self.model = counted.Model()

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return self.model.embed(texts)

        def embed_query(self, text: str) -> list[float]:
            return self.model.embed([text])[0]

    model: Embeddings = Counted()
    if cached:
        model = CacheBackedEmbeddings.from_bytes_store(
            model, LocalFileStore(store / "cache"), namespace="counted", batch_size=64, key_encoder="sha256"
        )
    client = _qdrant(store)
    vectors = QdrantVectorStore(
        client=client, collection_name="main", embedding=model, validate_collection_config=False
    )
    records = SQLRecordManager("main", db_url=f"sqlite:///{store}/records.db")
    records.create_schema()
    splitter = RecursiveCharacterTextSplitter(chunk_size=CHARACTERS, chunk_overlap=0)
    documents = [
        Document(file.read_text("utf-8"), metadata={"source": file.relative_to(folder).as_posix()})
        for file in sorted((folder / only).rglob("*.txt"))
    ]
    chunks = splitter.split_documents(documents)
    _twice(lambda: index(chunks, records, vectors, cleanup=cleanup, source_id_key="source"))
    client.close()


def langchain_dump(folder: Path, store: Path) -> Texts:
    return [[row["metadata"]["source"], row["page_content"]] for row in _payloads(store)]


def _qdrant(store: Path) -> Any:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(store / "qdrant"))
    if not client.collection_exists("main"):
        size = models.VectorParams(size=counted.DIM, distance=models.Distance.COSINE)
        client.create_collection("main", vectors_config=size)
    return client


def _payloads(store: Path) -> Iterator[dict[str, Any]]:
    client = _qdrant(store)
    rows, _ = client.scroll("main", limit=1_000_000)
    yield from (row.payload for row in rows)
    client.close()


# ---------------------------------------------------------------- LlamaIndex
def llama_index(folder: Path, store: Path, only: str, *, strategy: str, workers: int | None = None) -> None:
    from counted_llama import Counted
    from llama_index.core import SimpleDirectoryReader
    from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.storage.docstore import SimpleDocumentStore
    from llama_index.vector_stores.qdrant import QdrantVectorStore

    client = _qdrant(store)
    pipeline = IngestionPipeline(
        transformations=[
            SentenceSplitter(chunk_size=WORDS, chunk_overlap=0, tokenizer=_words),
            Counted(model_name="counted", embed_batch_size=32),
        ],
        docstore=SimpleDocumentStore(),
        vector_store=QdrantVectorStore("main", client=client),
        docstore_strategy=DocstoreStrategy(strategy),
    )
    kept = store / "pipeline"
    if kept.exists():
        pipeline.load(str(kept))
    documents = SimpleDirectoryReader(str(folder / only), recursive=True, filename_as_id=True).load_data()
    _twice(lambda: pipeline.run(documents=documents, num_workers=workers))
    pipeline.persist(str(kept))
    client.close()


def _words(text: str) -> list[str]:
    return text.split()


def llama_index_dump(folder: Path, store: Path) -> Texts:
    return [
        [Path(row["file_path"]).relative_to(folder).as_posix(), json.loads(row["_node_content"])["text"]]
        for row in _payloads(store)
    ]


# ---------------------------------------------------------------- Haystack
def haystack(folder: Path, store: Path, only: str, *, checked: bool = False) -> None:
    from counted_haystack import Counted
    from haystack import Pipeline
    from haystack.components.caching import CacheChecker
    from haystack.components.converters import TextFileToDocument
    from haystack.components.preprocessors import DocumentSplitter
    from haystack.components.writers import DocumentWriter
    from haystack.document_stores.types import DuplicatePolicy

    documents = _documents(store)
    pipeline = Pipeline(connection_type_validation=False)  # a CacheChecker's `misses` are a bare list
    pipeline.add_component("convert", TextFileToDocument(store_full_path=True))
    pipeline.add_component("split", DocumentSplitter(split_by="passage", split_length=1))
    pipeline.add_component("embed", Counted())
    pipeline.add_component("write", DocumentWriter(documents, policy=DuplicatePolicy.OVERWRITE))
    for one, other in (("convert", "split"), ("split", "embed"), ("embed", "write")):
        pipeline.connect(f"{one}.documents", f"{other}.documents")
    first = "convert.sources"
    if checked:
        pipeline.add_component("check", CacheChecker(documents, cache_field="meta.file_path"))
        pipeline.connect("check.misses", "convert.sources")
        first = "check.items"
    name, _, key = first.partition(".")
    files = [str(file) for file in sorted((folder / only).rglob("*.txt"))]
    _twice(lambda: pipeline.run({name: {key: files}}))
    documents.save_to_disk(str(store / "documents.json"))


def haystack_dump(folder: Path, store: Path) -> Texts:
    rows = _documents(store).filter_documents()
    return [[Path(row.meta["file_path"]).relative_to(folder).as_posix(), row.content] for row in rows]


def _documents(store: Path) -> Any:
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    file = store / "documents.json"
    return InMemoryDocumentStore.load_from_disk(str(file)) if file.exists() else InMemoryDocumentStore()


# ---------------------------------------------------------------- CocoIndex
def cocoindex(folder: Path, store: Path, only: str) -> None:
    os.environ.update(COCOINDEX_DB=str(store / "cocoindex.db"), LANCEDB=str(store / "lancedb"))
    from counted_cocoindex import app

    app(folder / only).update_blocking()


def cocoindex_dump(folder: Path, store: Path) -> Texts:
    import lancedb

    rows = lancedb.connect(str(store / "lancedb")).open_table("main").to_arrow().to_pylist()
    return [[Path(row["filename"]).relative_to(folder).as_posix(), row["text"]] for row in rows]


# ---------------------------------------------------------------- as a command
Run = Callable[[Path, Path, str], None]
SIDES: dict[str, tuple[Run, Callable[[Path, Path], Texts]]] = {
    "ragops": (ragops, ragops_dump),
    "langchain-incremental": (partial(langchain, cleanup="incremental"), langchain_dump),
    "langchain-scoped": (partial(langchain, cleanup="scoped_full"), langchain_dump),
    "langchain-full": (partial(langchain, cleanup="full"), langchain_dump),
    "langchain-cached": (partial(langchain, cleanup="incremental", cached=True), langchain_dump),
    "llama-index-upserts": (partial(llama_index, strategy="upserts"), llama_index_dump),
    "llama-index-delete": (partial(llama_index, strategy="upserts_and_delete"), llama_index_dump),
    "llama-index-upserts-workers": (partial(llama_index, strategy="upserts", workers=2), llama_index_dump),
    "llama-index-delete-workers": (partial(llama_index, strategy="upserts_and_delete", workers=2), llama_index_dump),
    "haystack": (haystack, haystack_dump),
    "haystack-checked": (partial(haystack, checked=True), haystack_dump),
    "cocoindex": (cocoindex, cocoindex_dump),
}
OURS = "ragops"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--only", default="", help="a subfolder of the folder")
    parser.add_argument("--dump", action="store_true", help="tell what the store holds instead")
    arguments = parser.parse_args()
    os.environ.setdefault("COUNTED", str(arguments.store))
    run, dump = SIDES[arguments.side]
    if arguments.dump:
        if arguments.side == OURS:
            counted.register(arguments.store)
        (arguments.store / DUMP).write_text(json.dumps(dump(arguments.folder, arguments.store)), "utf-8")
    else:
        run(arguments.folder, arguments.store, arguments.only)


if __name__ == "__main__":
    main()
