"""CocoIndex' own LanceDB example over a folder of text files, with the counting model; types are read at run time.

What is done with a file is memoised (`memo=True`), as in the example, and so is the embedding of one text, which goes
to the model in batches of 64: the decorators of its `SentenceTransformerEmbedder`.
"""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cocoindex as coco
import numpy as np
from cocoindex.connectors import lancedb, localfs
from cocoindex.ops.text import RecursiveSplitter
from cocoindex.resources.file import PatternFilePathMatcher
from cocoindex.resources.id import IdGenerator
from cocoindex.resources.schema import VectorSchema
from counted import DIM, Model
from numpy.typing import NDArray

DATABASE = coco.ContextKey[lancedb.LanceAsyncConnection]("database")
CHARACTERS = 420
splitter = RecursiveSplitter()
model = Model()


@dataclass
class Row:
    id: int
    filename: str
    text: str
    embedding: Annotated[NDArray[np.float32], VectorSchema(dtype=np.dtype(np.float32), size=DIM)]


@coco.lifespan
async def lifespan(builder: coco.EnvironmentBuilder) -> AsyncIterator[None]:
    builder.provide(DATABASE, await lancedb.connect_async(os.environ["LANCEDB"]))
    yield


@coco.fn.as_async(batching=True, max_batch_size=64)
def batch(texts: list[str]) -> list[Any]:
    return [np.array(vector, dtype=np.float32) for vector in model.embed(texts)]


@coco.fn(memo=True, version=1, logic_tracking="self")
async def embed(text: str) -> Any:
    return await batch(text)


@coco.fn
async def process_chunk(chunk: Any, filename: str, ids: IdGenerator, table: Any) -> None:
    table.declare_row(row=Row(await ids.next_id(chunk.text), filename, chunk.text, await embed(chunk.text)))


@coco.fn(memo=True)
async def process_file(file: Any, table: Any) -> None:
    chunks = splitter.split(await file.read_text(), chunk_size=CHARACTERS, chunk_overlap=0, language="markdown")
    await coco.map(process_chunk, chunks, str(file.file_path.path), IdGenerator(), table)


@coco.fn
async def app_main(folder: Path) -> None:
    schema = await lancedb.TableSchema.from_class(Row, primary_key=["id"])
    table = await lancedb.mount_table_target(DATABASE, "main", schema)
    matcher = PatternFilePathMatcher(included_patterns=["**/*.txt"])
    files = localfs.walk_dir(folder, recursive=True, path_matcher=matcher)
    await coco.mount_each(process_file, files.items(), table)


def app(folder: Path) -> Any:
    """Environment: COCOINDEX_DB and LANCEDB, where state and table go."""
    return coco.App(coco.AppConfig(name="Main"), app_main, folder=folder)
