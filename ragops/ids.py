"""Content hashes and identities (CONVENTIONS: sha256, lower hex; composites over canonical JSON)."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from typing import Any

import orjson

POINT_NAMESPACE = uuid.UUID("6f0b5d5e-6c3c-5b3e-9d3a-2b1f7c1f0a01")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_text(text: str) -> str:
    # A lone surrogate cannot come out of our parsers, but must not crash a hash either.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def composite(kind: str, value: Any) -> str:
    """sha256 of canonical JSON under a prefix that names its kind. Raises TypeError on a float."""
    _refuse_floats(value)
    return _digest(kind, value)


def _digest(kind: str, value: Any) -> str:
    return sha256(f"ragops:{kind}:v1\n".encode() + orjson.dumps(value, option=orjson.OPT_SORT_KEYS))


def _refuse_floats(value: Any) -> None:
    """A float's text depends on who writes it."""
    kind = type(value)
    if kind is str or kind is int:
        return
    if kind is float:
        raise TypeError("a composite hash takes no floats; give a string or an integer")
    if kind is dict:
        for item in value.values():
            _refuse_floats(item)
    elif kind is list or kind is tuple:
        for item in value:
            _refuse_floats(item)


def document_id(source: str, uri: str) -> str:
    return _digest("document", [source, uri])


def document_version(raw_sha: str, parser: str, metadata_sha: str) -> str:
    return _digest("document_version", [raw_sha, parser, metadata_sha])


def chunk_id(document: str, embed_text_sha: str, nth: int) -> str:
    """`nth` counts equal texts within one document, from 0."""
    return _digest("chunk", [document, embed_text_sha, nth])


def parse_key(raw_sha: str, media_type: str, encoding: str | None, parser: str) -> str:
    return _digest("parse", [raw_sha, media_type, encoding, parser])


def vector_key(embed_text_sha: str, space: str) -> str:
    """Without the numerics: those are recorded and watched, so a vector made on a GPU serves a CPU run too."""
    return _digest("vector", [embed_text_sha, space])


def payload_sha(payload: Mapping[str, Any], meta: str) -> str:
    """Of a payload without itself and without permissions, which change on their own; `meta` is its metadata as
    canonical JSON text, as that may hold floats."""
    kept = {key: value for key, value in payload.items() if key not in ("tenant", "groups")}
    return _digest("payload", kept | {"meta": meta})


def point_id(chunk: str, payload_sha: str) -> str:
    """The point's UUID in an embedded store: a changed payload is another, immutable point.

    uuid5(POINT_NAMESPACE, chunk + payload_sha), written out because it is made once per chunk.
    """
    digest = bytearray(hashlib.sha1(POINT_NAMESPACE.bytes + (chunk + payload_sha).encode()).digest()[:16])  # noqa: S324
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def short(digest: str) -> str:
    return digest[:12]
