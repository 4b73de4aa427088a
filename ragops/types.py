"""The nouns and seams. Everything above the ground floor speaks in these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.float32]

Scalar: TypeAlias = str | int | float | bool
Fields: TypeAlias = Mapping[str, Scalar | list[Scalar]]
Stage: TypeAlias = Literal["scan", "fetch", "parse", "chunk", "embed"]

#: Why a source did not pass; a reject's `code` is one of these.
REJECT_CODES = (
    "empty",  # no bytes, or bytes without any text
    "too_large",  # above the size limit, or unpacks to too much
    "unsupported",  # no parser for this media type, or one that is switched off
    "encrypted",  # needs a password
    "damaged",  # broken, truncated, or not what it says it is
    "timeout",  # the parser ran out of its time (transient)
    "memory",  # the parser ran out of its memory (transient)
    "crashed",  # the parser's process died (transient)
    "unreadable",  # permission, vanished or changing while read (transient)
    "bad_name",  # a name that has no portable URI
    "bad_record",  # a row without id or text, or of the wrong type
    "missing_tool",  # needs a program that is not installed (OCR, LibreOffice)
)


# ---------------------------------------------------------------- sources (connectors)
@dataclass(frozen=True, slots=True)
class Metadata:
    """What a connector knows about a source beside its bytes. A user's own fields stand in `fields`."""

    title: str | None = None
    tenant: str = ""
    groups: tuple[str, ...] = ()
    fields: Fields = field(default_factory=dict)


@dataclass(slots=True, unsafe_hash=True)  # not frozen: that doubles its price, and a scan makes one of every file
class Entry:
    """One source as a scan lists it; no byte has been read yet. Do not change one."""

    uri: str
    token: str  # change token: an equal token means an unchanged source
    size: int | None = None  # bytes, where known
    locator: str = ""  # how `fetch` finds it again; private to the connector
    container: str = ""  # the file that holds many sources (records), else ""
    settled: bool = True  # False: too fresh to trust the token, hash again at the next run


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A scan's word that every source in `container` is as it was when its token was last `token`."""

    container: str
    token: str


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes of one source, as fetched."""

    uri: str
    data: bytes
    media_type: str
    encoding: str | None  # of text formats, where it was told or found
    metadata: Metadata
    token: str  # the change token of exactly these bytes
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Reject:
    """A source that did not pass."""

    uri: str
    source: str
    stage: Stage
    code: str
    reason: str
    hint: str
    raw_sha: str | None = None
    transient: bool = False


class Scan(Protocol):
    """One pass over a source. `complete` and `containers` are right once the iteration has ended."""

    @property
    def complete(self) -> bool:
        """False: something could not be listed, so nothing may be deleted because of this scan."""
        ...

    @property
    def containers(self) -> Mapping[str, str]:
        """Container uri -> token, for connectors whose files hold many sources."""
        ...

    def __iter__(self) -> Iterator[Entry | Unchanged | Reject]: ...


class Connector(Protocol):
    """A named place that sources come from."""

    @property
    def name(self) -> str: ...

    def scan(self, known: Callable[[str], str | None]) -> Scan:
        """List sources in a stable order. `known(container)` is the token last seen of a container."""
        ...

    def fetch(self, entry: Entry) -> Source:
        """Read one source. Raises FetchError; code "unreadable" for one that vanished or keeps changing."""
        ...

    def owns(self, uri: str) -> bool:
        """Whether a uri lies in what this connector would list: deletes never reach outside of it."""
        ...


# ---------------------------------------------------------------- documents (parsing)
BlockKind: TypeAlias = Literal["heading", "paragraph", "list", "table", "code"]


@dataclass(frozen=True, slots=True)
class Block:
    """What a parser yields: one structural piece, in reading order."""

    kind: BlockKind
    text: str
    level: int = 0  # headings: 1 is the top
    page: int | None = None  # counted from 1


@dataclass(frozen=True, slots=True)
class Span:
    """A block's place in its document's text: half-open, in code points."""

    kind: BlockKind
    start: int
    end: int
    level: int = 0
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """The text of a source: NFC, `\\n` line ends, blocks set apart by a blank line. A function of content alone."""

    title: str | None
    text: str
    spans: tuple[Span, ...]
    fields: Fields = field(default_factory=dict)  # metadata found inside (front matter, author, ...)
    parser: str = ""  # name of the parser that made it


class Parser(Protocol):
    """Bytes to blocks. Runs in a worker process that may be killed."""

    @property
    def name(self) -> str: ...
    @property
    def media_types(self) -> Sequence[str]: ...

    def fingerprint(self) -> str:
        """Changes whenever the same bytes may give another text: versions and settings."""
        ...

    def parse(self, data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
        """Raises ParseError."""
        ...


@dataclass(frozen=True, slots=True)
class ParserOutput:
    blocks: Sequence[Block]
    title: str | None = None
    fields: Fields = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Document:
    """One parsed source under its identity."""

    document_id: str
    uri: str
    source: str
    raw_sha: str
    version: str  # ids.document_version
    title: str
    parsed: Parsed
    metadata: Metadata


# ---------------------------------------------------------------- chunks
@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of a document: `parsed.text[start:end] == text`, always."""

    start: int
    end: int
    text: str
    heading: tuple[str, ...]  # path from the top, without the document's title
    page: int | None
    embed_text: str  # what the model reads: template(title, heading, text)


@dataclass(frozen=True, slots=True)
class Point:
    """A chunk under its identity, with what the store keeps of it. The vector comes beside it."""

    point_id: str
    chunk_id: str
    document_id: str
    vector_key: str
    payload: Mapping[str, Any]


# ---------------------------------------------------------------- models
@dataclass(frozen=True, slots=True)
class Space:
    """One vector space. `fingerprint` covers weights, tokenizer, pooling, prompts, normalisation and window."""

    fingerprint: str
    model: str  # the name a person knows it by
    dim: int
    max_tokens: int  # the window, special tokens counted
    weights_sha: str
    normalized: bool
    query_prompt: str = ""
    document_prompt: str = ""


class Tokenizer(Protocol):
    """The embedder's own tokenizer, without truncation."""

    @property
    def special_tokens(self) -> int:
        """Added around every text (2 for BERT: [CLS], [SEP])."""
        ...

    @property
    def fingerprint(self) -> str:
        """Sha256 of its definition."""
        ...

    @property
    def additive(self) -> bool:
        """True where a text, cut beside white space or a full stop, always counts what its parts count together.

        Chunks are then not counted again. When in doubt, False.
        """
        ...

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Per text, the code-point span of each token, special tokens left out."""
        ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens per text, special tokens left out."""
        ...


class Embedder(Protocol):
    """Texts to vectors of one space. Never truncates in silence."""

    @property
    def space(self) -> Space: ...
    @property
    def numerics(self) -> str:
        """Dtype, runtime and device, such as "float32/torch-2.13/cpu"."""
        ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Documents to float32 (len(texts), dim), in the order given. Prompts are added here."""
        ...

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Queries to float32 (len(texts), dim); longer ones are cut at the window."""
        ...


# ---------------------------------------------------------------- stores
@dataclass(frozen=True, slots=True)
class Release:
    """One sealed state of a collection."""

    number: int
    collection: str
    fingerprint: str  # of the dataset it holds
    space: Space
    numerics: str
    points: int
    created: str  # ISO 8601, UTC
    avg_len: int  # BM25's average document length, in tokens, fixed per collection
    schema: int = 1
    notes: Mapping[str, Any] = field(default_factory=dict)  # such as {"incomplete": true}


class PointRow(NamedTuple):
    """A point as a release lists it."""

    point_id: str
    chunk_id: str
    document_id: str
    vector_key: str
    uri: str


#: (tenant, groups) of a document. They are always today's, whatever release is asked.
Permission: TypeAlias = tuple[str, tuple[str, ...]]


class Place(NamedTuple):
    """A point in the order of one leg of a search, before its payload is read."""

    point_id: str
    score: float
    key: str  # by which the store finds it again


@dataclass(frozen=True, slots=True)
class Scored:
    """A point that a store found."""

    point_id: str
    score: float
    payload: Mapping[str, Any]


#: {"field": value | {"in": [...]} | {"gte":, "lt":, "exists":}}, all must hold; {"any": [filter, ...]}
Filter: TypeAlias = Mapping[str, Any]

Retrieved: TypeAlias = "list[tuple[Mapping[str, Any], Vectors | None]]"

#: What one leg of a search is asked: a dense vector (dim,), or a text for BM25.
Leg: TypeAlias = "Sequence[float] | str"

#: How a query is answered: by vectors, by words, or by both.
Mode: TypeAlias = Literal["dense", "bm25", "hybrid"]


class Reader(Protocol):
    """One sealed release, open for reading. Close it; shared with any number of other readers."""

    @property
    def release(self) -> Release: ...

    def rank(
        self, legs: Sequence[Leg], k: int, filter: Filter | None = None, *, scope: Filter | None = None,
        exact: bool = False,
    ) -> list[list[Place]]:  # fmt: skip
        """The best `k` of each leg, in one round trip: by score, ties by point id, alike on every backend.

        `scope` is what the asker may see: a condition as `filter` is, and the corpus that BM25 counts its IDF in.
        """
        ...

    def retrieve(self, places: Sequence[Place], *, vectors: bool = False) -> Retrieved:
        """Payload of each place, in order, and its dense vector (dim,), unit length, where `vectors` asks for them."""
        ...

    def search(
        self, vector: Sequence[float], k: int, filter: Filter | None = None, *, exact: bool = False, offset: int = 0
    ) -> list[Scored]:
        """One dense leg with its payloads."""
        ...

    def search_text(self, text: str, k: int, filter: Filter | None = None) -> list[Scored]:
        """One BM25 leg with its payloads."""
        ...

    def points(
        self, batch: int = 500, filter: Filter | None = None
    ) -> Iterator[tuple[str, Mapping[str, Any], Vectors]]:
        """Every point that matches, by id: id, payload, dense vector (dim,)."""
        ...

    def count(self, filter: Filter | None = None) -> int: ...

    def close(self) -> None: ...


class Store(Protocol):
    """Where releases live. Writers are serialised by the workspace's lock."""

    def releases(self) -> list[Release]:
        """Sealed ones, oldest first. Reads only manifests; one whose manifest is damaged is left out."""
        ...

    def numbers(self) -> list[int]:
        """Every number that a release has, sound or damaged, in order."""
        ...

    def live(self) -> Release | None: ...

    def held(self) -> bool:
        """Whether the live release was published to stay until somebody publishes another."""
        ...

    def point_ids(self, number: int) -> Iterable[str]:
        """Ids of a sealed release, without opening the engine."""
        ...

    def point_rows(self, number: int) -> Iterator[PointRow]:
        """Every point of a sealed release by id, without its payload and vector."""
        ...

    def write(
        self,
        release: Release,
        *,
        base: int | None,
        delete: Iterable[str],
        add: Iterable[tuple[Point, Sequence[float]]],
        progress: Callable[[int], None] = ...,
    ) -> Release:
        """Seal a new release: `base` (or nothing) less `delete` plus `add`. Nothing is published.

        `release.points` is the count that must come out. Raises StoreError, DiskFull; then no release exists.
        """
        ...

    def tidy(self) -> None:
        """Remove what writers left that died: drafts, temporary files."""
        ...

    def publish(self, number: int, *, hold: bool = False) -> None:
        """Make a sealed release the live one, in one atomic step. `hold`: later ingests seal and do not publish."""
        ...

    def permit(self, permissions: Mapping[str, Permission], *, upto: int) -> None:
        """Today's permissions of documents (by document id), for all releases up to number `upto`.

        At once, for open readers too; nothing is sealed or embedded. Later words win; repeating it changes nothing.
        """
        ...

    def permitted(self, number: int) -> Mapping[str, Permission]:
        """Documents whose permissions today may differ from those that release `number` was sealed with."""
        ...

    def opens(self, number: int) -> bool:
        """Whether the engine at hand can open a sealed release, which another one may have sealed."""
        ...

    def work(self, number: int) -> Mapping[str, int]:
        """What sealing a release cost: bytes or points copied of its base, points added and deleted."""
        ...

    def check(self, number: int) -> list[str]:
        """What is wrong with a sealed release, by its counts and checksums; empty when nothing is."""
        ...

    def remove(self, number: int, *, timeout: float = 30.0) -> None:
        """Delete a sealed release that is not live; waits `timeout` seconds for its readers, then StoreError."""
        ...

    def open(self, number: int | None = None, *, unsound: bool = False) -> Reader:
        """The live release, or the numbered one; `unsound`: even one that is not as it was sealed, to examine it."""
        ...
