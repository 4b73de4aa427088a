"""What a pool and its workers say to one another: frames of JSON and bytes, never pickles.

A worker reads hostile files; whatever it sends must not be able to run code in the parent.
"""

from __future__ import annotations

import json
import mmap
import re
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ragops.errors import ParseError
from ragops.types import REJECT_CODES, BlockKind, Fields, Parsed, Span

_FRAME = struct.Struct("<IQ")  # length of the JSON, length of the bytes after it
_PROGRESS = struct.Struct("<qqd")
PROGRESS_BYTES = _PROGRESS.size

IDLE, LOADING, PARSING = 0, 1, 2  # phases of a worker

#: How libraries put it that memory ran out, in an error or as their last words.
OUT_OF_MEMORY = re.compile(r"memory allocation|out of memory|MemoryError|bad_alloc|cannot allocate memory", re.I)

_KINDS: tuple[BlockKind, ...] = ("heading", "paragraph", "list", "table", "code")
_KIND_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}


class Closed(Exception):
    """The other side is gone."""


def encode(header: Mapping[str, Any]) -> bytes:
    """Raises TypeError for what JSON does not know."""
    return json.dumps(header).encode()


def send(sock: socket.socket, head: bytes, *bodies: bytes) -> None:
    size = sum(map(len, bodies))
    frame = _FRAME.pack(len(head), size)
    if size <= 65_536:
        sock.sendall(b"".join((frame, head, *bodies)))
        return
    sock.sendall(frame + head)
    for body in bodies:
        sock.sendall(body)


class Inbox:
    """Reads frames; keeps what it read of the next one."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._held = bytearray()

    def ready(self) -> bool:
        """Whether a whole frame is there already."""
        if len(self._held) < _FRAME.size:
            return False
        head, body = _FRAME.unpack_from(self._held)
        return bool(len(self._held) >= _FRAME.size + head + body)

    def fill(self) -> None:
        """Reads once. Raises Closed, and TimeoutError where the socket has a time limit."""
        try:
            piece = self._sock.recv(1 << 18)
        except ConnectionError as error:
            raise Closed from error
        if not piece:
            raise Closed
        self._held += piece

    def take(self) -> tuple[Any, bytes]:
        """The next frame: its header and its bytes."""
        while not self.ready():
            self.fill()
        head, body = _FRAME.unpack_from(self._held)
        start = _FRAME.size
        header = json.loads(self._held[start : start + head])
        data = bytes(memoryview(self._held)[start + head : start + head + body])
        del self._held[: start + head + body]
        return header, data


class Progress:
    """Shared memory in which a worker notes what it does, so that a death or a hang has a name."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, PROGRESS_BYTES)

    def note(self, phase: int, item: int = -1) -> None:
        _PROGRESS.pack_into(self._memory, 0, phase, item, time.monotonic())

    def read(self) -> tuple[int, int, float]:
        """(phase, item, seconds since)."""
        phase, item, started = _PROGRESS.unpack_from(self._memory)
        return phase, item, time.monotonic() - started

    def close(self) -> None:
        self._memory.close()


def pack_parsed(parsed: Parsed) -> tuple[dict[str, Any], bytes]:
    spans: list[int | None] = []
    for span in parsed.spans:
        spans += (_KIND_NUMBERS[span.kind], span.start, span.end, span.level, span.page)
    header = {"title": parsed.title, "spans": spans, "fields": dict(parsed.fields), "parser": parsed.parser}
    return header, parsed.text.encode()


def unpack_parsed(header: Mapping[str, Any], body: bytes) -> Parsed:
    flat: Sequence[Any] = header["spans"]
    spans = tuple(
        Span(_KINDS[kind], start, end, level, page)
        for kind, start, end, level, page in zip(*(flat[n::5] for n in range(5)), strict=True)
    )
    fields = cast(Fields, header["fields"])
    return Parsed(title=header["title"], text=body.decode(), spans=spans, fields=fields, parser=header["parser"])


def pack_error(error: ParseError) -> dict[str, Any]:
    return {"error": [error.message, error.hint, error.code, error.transient]}


def unpack_error(header: Mapping[str, Any]) -> ParseError:
    message, hint, code, transient = header["error"]
    code = code if code in REJECT_CODES else "damaged"
    return ParseError(str(message), str(hint), code=code, transient=bool(transient))
