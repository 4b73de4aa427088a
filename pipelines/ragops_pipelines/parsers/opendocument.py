"""OpenDocument texts, sheets and slides, read from content.xml."""

from __future__ import annotations

from collections.abc import Iterator

from ragops.errors import ParseError
from ragops.types import Block, ParserOutput
from ragops_pipelines.parsers.archive import Archive
from ragops_pipelines.parsers.rows import table_blocks
from ragops_pipelines.parsers.tree import Element, attribute, local

_SKIP = frozenset(("tracked-changes", "annotation", "annotation-end", "forms", "sequence-decls", "notes", "settings"))
_MAX_REPEAT = 100  # an "empty" row may be repeated a million times


def parse(data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
    archive = Archive(data)
    if "META-INF/manifest.xml" in archive.names and b"encryption-data" in archive.read("META-INF/manifest.xml"):
        raise ParseError("The document needs a password.", "Save a copy without one.", code="encrypted")
    blocks = list(_blocks(archive.xml("content.xml"), None))
    title = next((block.text for block in blocks if block.kind == "heading" and block.level == 1), None)
    return ParserOutput(blocks, title=title or _meta_title(archive))


def _meta_title(archive: Archive) -> str | None:
    if "meta.xml" not in archive.names:
        return None
    return next((e.text for e in archive.xml("meta.xml").iter() if local(e) == "title" and e.text), None)


def _blocks(container: Element, page: int | None) -> Iterator[Block]:
    slide = 0
    for element in container:
        name = local(element)
        if name == "h":
            level = attribute(element, "outline-level") or "1"
            yield from _block("heading", element, page, min(int(level) if level.isdigit() else 1, 6))
        elif name == "p":
            yield from _block("paragraph", element, page)
        elif name == "list":
            lines = list(_list(element, 0))
            if lines:
                yield Block("list", "\n".join(lines), page=page)
        elif name == "table":
            sheet = attribute(element, "name")
            blocks = table_blocks(_rows(element), page=page)
            if blocks and sheet and local(container) == "spreadsheet":
                yield Block("heading", sheet, level=1, page=page)
            yield from blocks
        elif name == "page":
            slide += 1
            yield from _blocks(element, slide)
        elif name not in _SKIP:
            yield from _blocks(element, page)


def _block(kind: str, element: Element, page: int | None, level: int = 0) -> Iterator[Block]:
    boxes: list[Element] = []
    text = _text(element, boxes).strip()
    if text:
        if kind == "heading":
            yield Block("heading", " ".join(text.split()), level=level, page=page)
        else:
            yield Block("paragraph", text, page=page)
    for box in boxes:
        yield from _blocks(box, page)


def _text(element: Element, boxes: list[Element]) -> str:
    parts = [element.text or ""]
    for child in element:
        name = local(child)
        if name == "s":
            count = attribute(child, "c") or "1"
            parts.append(" " * min(int(count) if count.isdigit() else 1, 1000))
        elif name == "tab":
            parts.append("\t")
        elif name == "line-break":
            parts.append("\n")
        elif name in ("text-box", "table"):
            boxes.append(child)
        elif name == "note":
            body = " ".join(_text(e, boxes) for e in child if local(e) == "note-body")
            parts.append(f" ({' '.join(body.split())}) ")
        elif name == "p":
            parts.append("\n" + _text(child, boxes))
        elif name not in _SKIP:
            parts.append(_text(child, boxes))
        parts.append(child.tail or "")
    return "".join(parts)


def _list(element: Element, depth: int) -> Iterator[str]:
    for item in element:
        if local(item) not in ("list-item", "list-header"):
            continue
        first = True
        for child in item:
            if local(child) == "list":
                yield from _list(child, depth + 1)
            else:
                text = " ".join(_text(child, []).split())
                if text:
                    yield "  " * depth + ("- " if first else "  ") + text
                    first = False


def _rows(table: Element) -> list[list[str]]:
    rows: list[list[str]] = []
    for element in table.iter():
        if local(element) != "table-row" or _table_of(element) is not table:
            continue
        row: list[str] = []
        for cell in element:
            if local(cell) in ("table-cell", "covered-table-cell"):
                text = " ".join(" ".join(_text(p, []).split()) for p in cell if local(p) not in _SKIP)
                row.extend([text] * _repeat(cell, "number-columns-repeated"))
        while row and not row[-1]:
            row.pop()
        rows.extend([row] * (_repeat(element, "number-rows-repeated") if row else 1))
    return rows


def _table_of(row: Element) -> Element | None:
    return next((above for above in row.iterancestors() if local(above) == "table"), None)


def _repeat(element: Element, name: str) -> int:
    value = attribute(element, name) or "1"
    return min(int(value), _MAX_REPEAT) if value.isdigit() else 1
