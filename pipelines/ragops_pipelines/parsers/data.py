"""JSON and its lines: keys and values as indented lines that can be read and found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ragops.types import Block, ParserOutput
from ragops_pipelines.parsers import text as plain
from ragops_pipelines.parsers.decode import decode

_BLOCK = 2_000  # characters; members of a document are put together up to that


def parse(data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
    text = decode(data, encoding).lstrip("\ufeff")
    if media_type == "application/x-ndjson":
        values = [_loaded(line) for line in text.splitlines() if line.strip()]
        return ParserOutput([Block("list", "\n".join(lines)) for value in values if (lines := list(_lines(value)))])
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # cut off, with comments, or nested without end: still text
        return plain.parse(text.encode("utf-8", "replace"), "text/plain", "utf-8")
    title = value.get("title") if isinstance(value, dict) else None
    return ParserOutput(_blocks(value), title=title if isinstance(title, str) else None)


def _loaded(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


def _blocks(value: Any) -> list[Block]:
    if isinstance(value, dict):
        members: list[Any] = [{key: member} for key, member in value.items()]
    elif isinstance(value, list):
        members = value
    else:
        members = [value]
    blocks: list[Block] = []
    held: list[str] = []
    size = 0
    for member in members:
        lines = list(_lines(member))
        length = sum(map(len, lines))
        # A record of a list stands alone; the members of one object belong together.
        if held and ((isinstance(value, list) and isinstance(member, dict | list)) or size + length > _BLOCK):
            blocks.append(Block("list", "\n".join(held)))
            held, size = [], 0
        held += lines
        size += length
    if held:
        blocks.append(Block("list", "\n".join(held)))
    return blocks


def _lines(value: Any) -> Iterator[str]:
    """Depth-first without recursion: as deep as the file is."""
    stack: list[tuple[int, str, Any]] = [(0, "", value)]  # depth, what the first line begins with, value
    while stack:
        depth, label, item = stack.pop()
        pad = "  " * min(depth, 20)
        if not isinstance(item, dict | list) or not item:
            text = _scalar(item)
            if text:
                yield f"{pad}{label}" + text.replace("\n", f"\n{pad}  ")
            continue
        lead = label if label.endswith("- ") else ""  # the first member stands on the line of its dash
        if label and not lead:
            yield f"{pad}{label.rstrip()}"
        inner = depth + 1 if label else depth
        members = [(f"{key}: ", m) for key, m in item.items()] if isinstance(item, dict) else [("- ", m) for m in item]
        for position, (name, member) in reversed(list(enumerate(members))):
            if position == 0 and lead:
                stack.append((depth, lead + name, member))
            else:
                stack.append((inner, name, member))


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if value is None or value == [] or value == {}:
        return ""
    return json.dumps(value)
