"""Mail: subject as heading, who and when, the body, and attachments that are text."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from email.message import Message

from ragops.errors import ParseError
from ragops.types import Block, ParserOutput
from ragops_pipelines.parsers import html
from ragops_pipelines.parsers import text as plain
from ragops_pipelines.parsers.decode import decode

_MAX_NESTING = 8  # messages inside messages
_ENCRYPTED = ("multipart/encrypted", "application/pgp-encrypted")


def parse(data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
    if encoding is not None and encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32")):
        data = decode(data, encoding).lstrip("\ufeff").encode()
    message = email.message_from_bytes(data.lstrip(b"\r\n \t"), policy=email.policy.default)
    if not message.keys():
        raise ParseError("The mail has no headers: it is no message.", "Check the file's ending.", code="damaged")
    blocks = list(_message(message, 0))
    return ParserOutput(blocks, title=_header(message, "subject") or None)


def _message(message: Message, depth: int) -> Iterator[Block]:
    subject = _header(message, "subject")
    if subject:
        yield Block("heading", subject, level=min(depth + 1, 6))
    lines = [f"{name}: {value}" for name in ("From", "To", "Cc", "Date") if (value := _header(message, name))]
    if lines:
        yield Block("paragraph", "\n".join(lines))
    yield from _part(message, depth)


def _part(part: Message, depth: int) -> Iterator[Block]:
    kind = part.get_content_type()
    if kind in _ENCRYPTED or (kind.endswith("pkcs7-mime") and part.get_param("smime-type") != "signed-data"):
        raise ParseError("The mail is encrypted.", "Ingest a decrypted copy.", code="encrypted")
    if kind == "message/rfc822":
        if depth < _MAX_NESTING:
            for inner in part.get_payload() if isinstance(part.get_payload(), list) else []:
                if isinstance(inner, Message):
                    yield from _message(inner, depth + 1)
        return
    if part.is_multipart():
        parts = [inner for inner in part.get_payload() if isinstance(inner, Message)]
        if kind == "multipart/alternative":
            parts = _best(parts)
        for inner in parts:
            yield from _part(inner, depth)
        return
    name = part.get_filename()
    if name:
        yield Block("paragraph", f"Attachment: {name}")
    if kind not in ("text/plain", "text/html", "text/markdown", "text/csv", "text/x-amp-html"):
        return
    raw = part.get_payload(decode=True)
    if not isinstance(raw, bytes) or not raw.strip():
        return
    charset = part.get_content_charset()
    if kind == "text/html":
        yield from html.parse_text(decode(raw, charset or html.declared_encoding(raw))).blocks
    else:
        yield from plain.parse(raw, kind, charset).blocks


def _best(parts: list[Message]) -> list[Message]:
    """Of the same text in several forms, one: the plain one unless it is empty."""
    for kind in ("text/plain", "text/html"):
        for part in parts:
            raw = part.get_payload(decode=True) if part.get_content_type() == kind else None
            if isinstance(raw, bytes) and raw.strip():
                return [part]
    return parts[-1:]


def _header(message: Message, name: str) -> str:
    try:
        value = message.get(name)
    except (ValueError, TypeError, IndexError, AttributeError):  # the parser of a broken header may itself break
        return ""
    return " ".join(str(value).split()) if value is not None else ""
