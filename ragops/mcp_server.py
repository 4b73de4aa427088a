"""The MCP server of a knowledge base: the tools `search` and `fetch` over standard input and output.

Ids and answers are as connectors of ChatGPT and others expect them: `search` names documents, `fetch` gives one whole.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated, Any

from ragops.errors import MissingExtra, RagopsError, UsageError
from ragops.retrieval.document import document
from ragops.retrieval.query import Hit, Options, Results, ask
from ragops.retriever import Retriever
from ragops.types import Mode

try:
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import ToolAnnotations
    from pydantic import Field
except ImportError as error:
    raise MissingExtra(
        f"ragops mcp needs the mcp package ({error})", "Install it: pip install 'ragops[mcp]'"
    ) from error

K = 10
MAX_K = 50  # passages of one answer: a language model reads them all
MAX_TEXT = 100_000  # characters of a document in one answer; the rest is asked for by `start`

INSTRUCTIONS = (
    "A knowledge base of documents. Use search to find passages that answer a question, in plain words; cite their url "
    "with heading or page. Use fetch with an id from search to read the whole document."
)


# Without slots: the SDK would take a slot's descriptor for a default.
@dataclass(frozen=True)
class Passage:
    """A passage that answers. `start` and `end` are code points of the document's text."""

    text: str
    heading: list[str]
    page: int | None
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Found:
    """A document that answers, with its best passage, and further ones of it."""

    id: str
    title: str
    url: str
    text: str
    heading: list[str]
    page: int | None
    start: int
    end: int
    score: float
    more: list[Passage] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """Documents, best first, and the release that gave them."""

    results: list[Found]
    release: int | None


@dataclass(frozen=True)
class Fetched:
    """A document's text from `metadata.start` to `metadata.end`; `metadata.next` is where to go on, if more is left."""

    id: str
    title: str
    text: str
    url: str
    metadata: dict[str, Any]


def server(retriever: Retriever, *, mode: Mode | None = None, k: int = K) -> MCPServer[None]:
    """The server over an open retriever, whose tenant and groups hold for both tools. `k`: passages, where a call does
    not say how many. Raises UsageError."""
    if not 1 <= k <= MAX_K:
        raise UsageError(f"k is {k}; it takes 1 to {MAX_K}")
    chosen: Options = {} if mode is None else {"mode": mode}
    ask("words", k, chosen, {}, K)
    from importlib.metadata import version

    async def search(
        query: Annotated[str, Field(description="The question, in plain words.")],
        k: Annotated[int, Field(description="How many passages.", ge=1, le=MAX_K)] = k,
        filter: Annotated[
            dict[str, Any] | None,
            Field(description='Only passages that hold this: {"source": "handbook"} or {"page": {"gte": 10}}.'),
        ] = None,
    ) -> Answer:
        """Find the passages that answer a question, with their citations, by document."""
        options: Options = {**chosen, "filter": filter}
        try:
            return answer(await retriever.asearch(query, k, **options))
        except RagopsError as error:
            raise ToolError(str(error)) from error

    async def fetch(
        id: Annotated[str, Field(description="The id of a document, from search.")],
        start: Annotated[int, Field(description="Where to go on: metadata.next of the part before.", ge=0)] = 0,
    ) -> Fetched:
        """Read a whole document."""
        try:
            return await asyncio.to_thread(fetched, retriever, id, start)
        except RagopsError as error:
            raise ToolError(str(error)) from error

    made: MCPServer[None] = MCPServer(
        "ragops", instructions=INSTRUCTIONS, version=version("ragops"), log_level="WARNING"
    )
    reads = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
    made.add_tool(search, title="Search", annotations=reads, structured_output=True)
    made.add_tool(fetch, title="Fetch", annotations=reads, structured_output=True)
    return made


def answer(results: Results) -> Answer:
    """Hits by document, in the order of each document's best."""
    documents: dict[str, Found] = {}
    for hit in results.hits:
        if (known := documents.get(hit.document_id)) is not None:
            known.more.append(_passage(hit))
            continue
        best = _passage(hit)
        documents[hit.document_id] = Found(
            hit.document_id, hit.title or hit.uri, hit.uri, best.text, best.heading, best.page, best.start, best.end,
            best.score,
        )  # fmt: skip
    return Answer(list(documents.values()), results.release)


def _passage(hit: Hit) -> Passage:
    return Passage(hit.text, list(hit.heading), hit.page, hit.start, hit.end, hit.score)


def fetched(retriever: Retriever, id: str, start: int) -> Fetched:
    """The document of an id (or a URI), or so much of it as one answer holds. Raises UsageError."""
    with retriever.reading() as (reader, _):
        found = document(reader, id, retriever.scope)
        release = reader.release.number
    if found is None:
        raise UsageError(f"there is no document {id[:200]!r} in release {release}", "Take an id from search.")
    text = found.text
    if start >= len(text) > 0:
        raise UsageError(f"the document has {len(text)} characters, so none from {start} on", "Leave out start.")
    end = min(len(text), start + MAX_TEXT)
    metadata: dict[str, Any] = {
        "source": found.source,
        "release": release,
        "start": start,
        "end": end,
        "length": len(text),
        "meta": dict(found.meta),
    }
    if end < len(text):
        metadata["next"] = end
    return Fetched(found.document_id, found.title or found.uri, text[start:end], found.uri, metadata)
