"""The process that parses: `python -P -m ragops_pipelines.parsers.worker`, started by the pool.

It is meant to be killed: it holds nothing that is not in the file it works on.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import socket
import sys
import time
from typing import Any

from ragops.errors import ParseError
from ragops.types import Parsed
from ragops_pipelines import parsers
from ragops_pipelines.parse import Limits, assemble
from ragops_pipelines.parsers import wire
from ragops_pipelines.parsers.archive import check_unpacked

_MAX_FILES = 2_000  # libraries leak; a fresh process costs less
_MAX_RESIDENT = 1 << 30
_MAX_LOG = 1 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    arguments = json.loads(sys.argv[1])
    _die_with_parent(arguments["parent"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _cut_network()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not arguments["plugins"]:
        parsers.expect_no_plugins()
    limits = Limits(**arguments["limits"])
    sock = socket.socket(fileno=arguments["socket"])
    progress = wire.Progress(arguments["progress"])
    inbox = wire.Inbox(sock)
    done = 0
    while True:
        try:
            header, data = inbox.take()
        except wire.Closed:
            return
        start = 0
        retire = False
        for item, (media_type, encoding, size) in enumerate(header["items"]):
            raw = data[start : start + size]
            start += size
            retire = not _one(sock, progress, item, raw, media_type, encoding, limits)
            done += 1
            if retire:
                break
        progress.note(wire.IDLE)
        retire = retire or done >= _MAX_FILES or _resident() > _MAX_RESIDENT
        wire.send(sock, wire.encode({"done": True, "retire": retire}))
        _trim_log()
        if retire:
            return


def _one(
    sock: socket.socket, progress: wire.Progress, item: int, data: bytes, media_type: str, encoding: str | None,
    limits: Limits,
) -> bool:  # fmt: skip
    """Parse and answer. False: memory ran out, so this process is spent."""
    healthy = True
    body = b""
    try:
        progress.note(wire.LOADING, item)
        parser = parsers.find(media_type)
        if isinstance(parser, parsers.Spec):
            parser.load()
        with _Limited(limits):
            progress.note(wire.PARSING, item)
            header, text = wire.pack_parsed(_parse(parser, data, media_type, encoding, limits))
            answer, body = wire.encode({"item": item, **header}), text
    except ParseError as error:
        answer = _refusal(item, error)
    except MemoryError:
        healthy = False
        answer = _refusal(item, limits.out_of_memory())
    except RecursionError:
        answer = _refusal(item, ParseError("The file is nested too deep to be read.", "Check that it is a document."))
    except Exception as error:  # libraries raise what they like; one file must not end the worker
        name, words = type(error).__name__, " ".join(str(error).split())[:300]
        healthy = wire.OUT_OF_MEMORY.search(words) is None
        broken = ParseError(f"The file cannot be read: {name}: {words}", "Check it, or replace it with a whole copy.")
        answer = _refusal(item, broken if healthy else limits.out_of_memory())
    wire.send(sock, answer, body)
    return healthy


def _refusal(item: int, error: ParseError) -> bytes:
    return wire.encode({"item": item, **wire.pack_error(error)})


def _parse(parser: Any, data: bytes, media_type: str, encoding: str | None, limits: Limits) -> Parsed:
    if not data.strip(b" \t\r\n\f\v\0\xef\xbb\xbf"):
        raise ParseError(
            "The file is empty." if not data else f"The file holds {len(data):,} bytes of white space and no text.",
            "Nothing is to be done, unless it should hold something.",
            code="empty",
        )
    if data[:4] == b"PK\x03\x04":
        check_unpacked(data, limits.unpacked)
    parsed = assemble(parser.parse(data, media_type, encoding), parser.name, limits.text)
    if not parsed.text:
        raise ParseError(
            f"The {parser.name} parser found no text in {len(data):,} bytes of {media_type}.",
            "Nothing is to be done, unless the document shows text when you open it.",
            code="empty",
        )
    return parsed


class _Limited:
    """Address space and CPU time of this process, as far as one file may add to them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def __enter__(self) -> None:
        # A second more: the kernel counts whole seconds.
        _soft(resource.RLIMIT_CPU, math.ceil(time.process_time() + self._limits.seconds))
        if (size := _address_space()) is not None:
            _soft(resource.RLIMIT_AS, size + self._limits.memory)

    def __exit__(self, *_: object) -> None:
        _soft(resource.RLIMIT_AS, resource.RLIM_INFINITY)
        _soft(resource.RLIMIT_CPU, resource.RLIM_INFINITY)


def _soft(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY and (value == resource.RLIM_INFINITY or value > hard):
        value = hard
    resource.setrlimit(kind, (value, hard))


def _statm() -> list[int] | None:
    try:
        with open("/proc/self/statm", "rb") as file:
            return [int(field) * _PAGE for field in file.read().split()]
    except OSError:
        return None  # not Linux: the address space is not limited there


def _address_space() -> int | None:
    return fields[0] if (fields := _statm()) else None


def _resident() -> int:
    return fields[1] if (fields := _statm()) else 0


def _trim_log() -> None:
    try:
        if os.fstat(2).st_size > _MAX_LOG:
            os.ftruncate(2, 0)
    except OSError:
        pass  # the log is only for the reason of a crash


def _die_with_parent(parent: int) -> None:
    """So that no worker outlives a killed parent, even in the middle of a file."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _cut_network() -> None:
    """No parser has business outside this machine; Python code that tries learns so."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
            raise PermissionError(f"a parser may not use the network ({event} {arguments[0]!r})")
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg") and arguments[0].family != socket.AF_UNIX:
            raise PermissionError(f"a parser may not use the network ({event} {arguments[1]!r})")

    sys.addaudithook(refuse)


if __name__ == "__main__":
    main()
