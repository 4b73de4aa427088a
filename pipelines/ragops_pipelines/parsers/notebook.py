"""Jupyter notebooks: prose as Markdown, code and its text output as code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ragops.errors import ParseError
from ragops.types import Block, ParserOutput
from ragops_pipelines.parsers import markdown
from ragops_pipelines.parsers.decode import decode


def parse(data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
    try:
        notebook = json.loads(decode(data, encoding or "utf-8"))
    except (ValueError, RecursionError) as error:
        raise ParseError(f"The notebook is no JSON: {error}.", "Open and save it in Jupyter again.") from error
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if cells is None and isinstance(notebook, dict):  # format 3
        cells = [cell for sheet in _list(notebook.get("worksheets")) for cell in _list(sheet.get("cells"))]
    blocks = [block for cell in _list(cells) if isinstance(cell, dict) for block in _cell(cell)]
    title = next((block.text for block in blocks if block.kind == "heading" and block.level == 1), None)
    return ParserOutput(blocks, title=title)


def _cell(cell: dict[str, Any]) -> Iterator[Block]:
    source = _joined(cell.get("source", cell.get("input", "")))
    kind = cell.get("cell_type")
    if kind == "code":
        if source.strip():
            yield Block("code", source.rstrip())
        for output in _list(cell.get("outputs")):
            text = _output(output) if isinstance(output, dict) else ""
            if text.strip():
                yield Block("code", text.strip("\n").rstrip())
    elif kind == "heading":
        yield Block("heading", source.strip(), level=int(cell.get("level", 1)))
    elif kind == "raw":
        yield Block("paragraph", source)
    else:
        yield from markdown.parse_text(source).blocks


def _output(output: dict[str, Any]) -> str:
    if output.get("output_type") in ("error", "pyerr"):
        return f"{output.get('ename', '')}: {output.get('evalue', '')}"
    data = output.get("data")
    return _joined(data.get("text/plain", "")) if isinstance(data, dict) else _joined(output.get("text", ""))


def _joined(source: Any) -> str:
    if isinstance(source, list):
        return "".join(part for part in source if isinstance(part, str))
    return source if isinstance(source, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
