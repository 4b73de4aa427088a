"""Content hashes and identities (CONVENTIONS: sha256, lower hex; composites over canonical JSON)."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

POINT_NAMESPACE = uuid.UUID("6f0b5d5e-6c3c-5b3e-9d3a-2b1f7c1f0a01")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_text(text: str) -> str:
    # A lone surrogate cannot come out of our parsers, but must not crash a hash either.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def composite(kind: str, value: Any) -> str:
    """sha256 of canonical JSON under a prefix that names its kind. Floats are refused: their text differs."""
    return sha256(f"ragops:{kind}:v1\n".encode() + canonical_json(value))


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8, no floats. Raises TypeError on a float or an unknown type."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if "." in text or "e" in text:  # cheap pre-check before the exact one
        _refuse_floats(value)
    return text.encode("utf-8", "surrogatepass")


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        raise TypeError("a composite hash takes no floats; give a string or an integer")
    if isinstance(value, dict):
        for item in value.values():
            _refuse_floats(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _refuse_floats(item)


def document_id(source: str, uri: str) -> str:
    return composite("document", [source, uri])


def document_version(raw_sha: str, parser: str, metadata_sha: str) -> str:
    return composite("document_version", [raw_sha, parser, metadata_sha])


def chunk_id(document: str, embed_text_sha: str, nth: int) -> str:
    """`nth` counts equal texts within one document, from 0."""
    return composite("chunk", [document, embed_text_sha, nth])


def parse_key(raw_sha: str, media_type: str, encoding: str | None, parser: str) -> str:
    return composite("parse", [raw_sha, media_type, encoding, parser])


def vector_key(embed_text_sha: str, space: str) -> str:
    """Without the numerics: those are recorded and watched, so a vector made on a GPU serves a CPU run too."""
    return composite("vector", [embed_text_sha, space])


def point_id(chunk: str, payload_sha: str) -> str:
    """The point's UUID in an embedded store: a changed payload is another, immutable point."""
    return str(uuid.uuid5(POINT_NAMESPACE, chunk + payload_sha))


def short(digest: str) -> str:
    return digest[:12]
