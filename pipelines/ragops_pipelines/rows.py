"""Documents and chunks as rows: what the dataset writes and what a store keeps of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from ragops import ids
from ragops.types import Chunk, Document, Metadata, Parsed, Span
from ragops_pipelines.state import metadata_from_json, metadata_to_json, storable

if TYPE_CHECKING:
    import polars as pl


def made(source: str, uri: str, raw_sha: str, parse_key: str, seen: str, parsed: Parsed) -> Document:
    """The document that a parse gives. `seen`: the metadata that the connector gave, as JSON."""
    metadata = merge_metadata(metadata_from_json(seen), parsed.fields)
    described = replace(metadata, tenant="", groups=())  # permissions change without a new version
    version = ids.document_version(raw_sha, parse_key, ids.sha256_text(metadata_to_json(described)))
    title = metadata.title or parsed.title or ""
    return Document(ids.document_id(source, uri), uri, source, raw_sha, version, title, parsed, metadata)


def payload(document: Mapping[str, Any], meta: Any, chunk: Mapping[str, Any], text: str) -> dict[str, Any]:
    """What the store keeps of a chunk (see CONVENTIONS), without its own hash. `meta`: the document's fields."""
    return {
        "chunk_id": chunk["chunk_id"],
        "document_id": document["document_id"],
        "uri": document["uri"],
        "source": document["source"],
        "title": document["title"],
        "heading": chunk["heading"],
        "page": chunk["page"],
        "start": chunk["start"],
        "end": chunk["end"],
        "text": text,
        "tenant": document["tenant"],
        "groups": document["groups"],
        "meta": meta,
    }


def document_row(document: Document, parse_key: str, seen: str) -> dict[str, Any]:
    """A document as the dataset writes it. `seen`: the metadata that its connector gave, as JSON; with the parse key
    that is all it was made of."""
    parsed, metadata = document.parsed, document.metadata
    return {
        "document_id": document.document_id,
        "uri": document.uri,
        "source": document.source,
        "raw_sha": document.raw_sha,
        "version": document.version,
        "title": document.title,
        "text": parsed.text,
        "spans": orjson.dumps([[s.kind, s.start, s.end, s.level, s.page] for s in parsed.spans]).decode(),
        "tenant": metadata.tenant,
        "groups": list(metadata.groups),
        "fields": orjson.dumps(dict(metadata.fields), option=orjson.OPT_SORT_KEYS).decode(),
        "parser": parsed.parser,
        "parse_key": parse_key,
        "seen": seen,
    }


def document_of(row: Mapping[str, Any]) -> Document:
    """A document as the dataset has it. What was found inside of it is in its metadata."""
    spans = tuple(Span(*span) for span in orjson.loads(row["spans"]))
    metadata = Metadata(row["title"], row["tenant"], tuple(row["groups"]), orjson.loads(row["fields"]))
    parsed = Parsed(row["title"], row["text"], spans, {}, row["parser"])
    return Document(
        row["document_id"], row["uri"], row["source"], row["raw_sha"], row["version"], row["title"], parsed, metadata
    )


def chunk_rows(document: Mapping[str, Any], chunks: Iterable[Chunk]) -> list[dict[str, Any]]:
    """Chunks under their identities, whatever embeds them. Equal texts of a document are told apart by their order."""
    rows: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for nth, chunk in enumerate(chunks):
        embed_sha = ids.sha256_text(chunk.embed_text)
        again = seen[embed_sha] = seen.get(embed_sha, -1) + 1
        chunk_id = ids.chunk_id(document["document_id"], embed_sha, again)
        row: dict[str, Any] = {
            "document_id": document["document_id"],
            "nth": nth,
            "chunk_id": chunk_id,
            "start": chunk.start,
            "end": chunk.end,
            "heading": list(chunk.heading),
            "page": chunk.page,
            "embed_sha": embed_sha,
        }
        row["payload_sha"] = ids.payload_sha(payload(document, None, row, chunk.text), document["fields"])
        row["point_id"] = ids.point_id(chunk_id, row["payload_sha"])
        rows.append(row)
    return rows


def document_digest(document_id: str, version: str, chunks: Iterable[Mapping[str, Any]]) -> str:
    """Of all that can answer of one document: what a dataset's fingerprint is made of."""
    return ids.composite(
        "document_state", [document_id, version, [[row["chunk_id"], row["payload_sha"]] for row in chunks]]
    )


def fingerprint(recipe: Mapping[str, str], digests: Iterable[str]) -> str:
    """Of a dataset. `digests`: its documents' own, in the order of their ids."""
    return ids.composite("dataset", {"recipe": dict(recipe), "documents": ids.sha256("\n".join(digests).encode())})


def merge_metadata(seen: Metadata, inside: Mapping[str, Any]) -> Metadata:
    """What the connector says wins over what the document says of itself (its front matter)."""
    fields = dict(inside)
    title, tenant, groups = fields.pop("title", None), fields.pop("tenant", None), fields.pop("groups", None)
    if isinstance(groups, str):
        groups = [groups]
    return Metadata(
        seen.title or (title if isinstance(title, str) else None),
        seen.tenant or (tenant if isinstance(tenant, str) else ""),
        seen.groups or (tuple(str(g) for g in groups) if isinstance(groups, list) else ()),
        storable({**fields, **seen.fields}),
    )


def frame(part: str, rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Rows of "documents" or "chunks", sorted by their keys."""
    import polars as pl

    text, number, texts = pl.String, pl.Int64, pl.List(pl.String)
    schemas: dict[str, dict[str, Any]] = {
        "documents": {
            "document_id": text, "uri": text, "source": text, "raw_sha": text, "version": text, "title": text,
            "text": text, "spans": text, "tenant": text, "groups": texts, "fields": text, "parser": text,
            "parse_key": text, "seen": text,
        },
        "chunks": {
            "document_id": text, "nth": number, "chunk_id": text, "point_id": text, "start": number, "end": number,
            "heading": texts, "page": number, "embed_sha": text, "payload_sha": text,
        },
    }  # fmt: skip
    key = (lambda r: r["document_id"]) if part == "documents" else (lambda r: (r["document_id"], r["nth"]))
    rows = sorted(rows, key=key)

    def column(name: str, kind: Any) -> pl.Series:
        if kind != texts:
            return pl.Series(name, [row[name] for row in rows], dtype=kind)
        # through JSON: a list in a row would become a series of its own first
        return pl.Series(name, [orjson.dumps(row[name]).decode() for row in rows], dtype=text).str.json_decode(kind)

    return pl.DataFrame([column(name, kind) for name, kind in schemas[part].items()])
