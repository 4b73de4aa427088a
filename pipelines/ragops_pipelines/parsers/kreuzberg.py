"""Sheets, old Office formats, RTF and Outlook messages, by kreuzberg."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ragops.errors import ParseError
from ragops.types import Block, ParserOutput
from ragops_pipelines.parsers import general
from ragops_pipelines.parsers.archive import Archive
from ragops_pipelines.parsers.rows import table_blocks

_SHEET = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_SHEETS = frozenset(
    (
        _SHEET,
        "application/vnd.ms-excel",
        "application/vnd.ms-excel.sheet.macroenabled.12",
        "application/vnd.ms-excel.sheet.binary.macroenabled.12",
    )
)
_ALIASES = {"text/rtf": "application/rtf"}
_MIDNIGHT = re.compile(r"^(\d{4}-\d\d-\d\d) 00:00:00$|^1899-12-3[01] (\d\d:\d\d:\d\d)$")
_BULLET = re.compile(r"^[•▪‣◦·]\s*")


def parse(data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
    import kreuzberg

    if media_type == _SHEET:
        Archive(data)  # a zip that is cut off needs no second opinion
    config = kreuzberg.ExtractionConfig(use_cache=False, include_document_structure=media_type not in _SHEETS)
    try:
        result = kreuzberg.extract_bytes_sync(data, _ALIASES.get(media_type, media_type), config)
    except (kreuzberg.KreuzbergError, ValueError, RuntimeError, OSError) as error:
        if re.search(r"password|encrypt", str(error), re.I):
            raise ParseError("The file needs a password.", "Save a copy without one.", code="encrypted") from error
        return general.second_opinion(data, media_type, encoding, error)
    metadata: Mapping[str, Any] = result.metadata
    if media_type in _SHEETS:
        return ParserOutput(_sheets(result.tables, metadata.get("sheet_names") or []))
    structure: Any = result.document
    nodes: list[dict[str, Any]] = (structure or {}).get("nodes") or []
    if _is_encrypted_mail(data, media_type, nodes):
        raise ParseError("The message is encrypted.", "Save a decrypted copy.", code="encrypted")
    blocks = _blocks(nodes)
    if 10 * sum(len(block.text) for block in blocks) < 8 * len(result.content):  # the structure lost text
        blocks = [Block("paragraph", part.strip()) for part in result.content.split("\n\n") if part.strip()]
    title = metadata.get("subject") if media_type == "application/vnd.ms-outlook" else None
    return ParserOutput(blocks, title=title if isinstance(title, str) else None)


def _sheets(tables: Iterable[Any], names: list[str]) -> list[Block]:
    blocks: list[Block] = []
    for table in tables:
        number = table.page_number
        rows = table_blocks([[_cell(cell) for cell in row] for row in table.cells])
        if rows:
            name = names[number - 1] if 0 < number <= len(names) else f"Sheet {number}"
            blocks.append(Block("heading", name, level=1))
            blocks.extend(rows)
    return blocks


def _cell(text: str) -> str:
    match = _MIDNIGHT.match(text)
    return (match.group(1) or match.group(2)) if match else text


def _blocks(nodes: Iterable[dict[str, Any]]) -> list[Block]:
    blocks: list[Block] = []
    page: int | None = None
    items: list[str] = []

    def close() -> None:
        if items:
            blocks.append(Block("list", "\n".join(items), page=page))
            items.clear()

    for node in nodes:
        content = node.get("content") or {}
        kind = content.get("node_type")
        text = str(content.get("text") or "").replace("\r\n", "\n").strip()
        if kind == "list_item":
            if text:
                items.append("- " + _BULLET.sub("", text))
            continue
        close()
        if kind == "heading" and text:
            blocks.append(
                Block("heading", " ".join(text.split()), level=min(int(content.get("level") or 1), 6), page=page)
            )
        elif kind == "slide":
            page = int(content.get("number") or 0) or page
            if title := " ".join(str(content.get("title") or "").split()):
                blocks.append(Block("heading", title, level=1, page=page))
        elif kind == "table":
            blocks.extend(table_blocks(_grid(content.get("grid") or {}), page=page))
        elif kind == "code" and text:
            blocks.append(Block("code", text, page=page))
        elif kind == "metadata_block":
            lines = [f"{name}: {value}" for name, value in content.get("entries") or () if value]
            blocks.append(Block("paragraph", "\n".join(lines), page=page))
        elif kind == "footnote":  # slide notes, which often only repeat the slide
            seen = {line.strip() for block in blocks if block.page == page for line in block.text.split("\n")}
            if new := [line for line in text.split("\n") if line.strip() and line.strip() not in seen]:
                blocks.append(Block("paragraph", "\n".join(new), page=page))
        elif kind != "group" and text:  # a group repeats its heading
            blocks.extend(Block("paragraph", part, page=page) for part in text.split("\n\n") if part.strip())
    close()
    return blocks


def _grid(grid: dict[str, Any]) -> list[list[str]]:
    width, height = int(grid.get("cols") or 0), int(grid.get("rows") or 0)
    if width * height > 50_000_000:
        raise ParseError("A table claims more than fifty million cells.", "Check the file.", code="too_large")
    rows = [[""] * width for _ in range(height)]
    for cell in grid.get("cells") or ():
        rows[cell["row"]][cell["col"]] = str(cell.get("content") or "")
    return rows


def _is_encrypted_mail(data: bytes, media_type: str, nodes: list[dict[str, Any]]) -> bool:
    """Outlook keeps an encrypted message as one attachment of a class that says so."""
    if media_type != "application/vnd.ms-outlook":
        return False
    only_headers = all((node.get("content") or {}).get("node_type") == "metadata_block" for node in nodes)
    marks = ("IPM.Note.SMIME", "multipart/encrypted", "application/pkcs7-mime", "rpmsg")
    return only_headers and any(mark.encode("utf-16-le") in data or mark.encode() in data for mark in marks)
