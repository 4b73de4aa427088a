"""Word documents: everything a reader sees, with headings, lists and tables, read from the XML itself.

Neither kreuzberg (loses text boxes, headers, nested tables) nor unstructured (minutes and a gigabyte for a 94 KB file
of many paragraphs) keeps all of it at a bearable cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ragops.errors import ParseError
from ragops.types import Block, ParserOutput
from ragops_pipelines.parsers.archive import Archive
from ragops_pipelines.parsers.rows import table_blocks
from ragops_pipelines.parsers.tree import Element, attribute, local

_HEADING = re.compile(r"heading ([1-9])$", re.I)
# `Fallback` repeats its `Choice`; deleted and moved-away text is not the document's any more.
_SKIP = frozenset(("Fallback", "del", "moveFrom", "instrText", "delText", "pPr", "rPr", "sectPr", "tblPr", "proofErr"))


@dataclass(slots=True)
class _Style:
    name: str = ""
    base: str = ""
    level: int | None = None  # outline level, 1 is the top
    list_id: str = ""
    list_level: int = 0


@dataclass(slots=True)
class _Context:
    styles: dict[str, _Style] = field(default_factory=dict)
    ordered: dict[tuple[str, int], bool] = field(default_factory=dict)  # (list, level) -> numbers, not bullets
    counts: dict[tuple[str, int], int] = field(default_factory=dict)


def parse(data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
    archive = Archive(data)
    main = next(
        (path for kind, path in archive.relations("").values() if kind == "officeDocument"), "word/document.xml"
    )
    if main not in archive.names:
        raise ParseError("The file has no document part: it is no Word document.", "Check the file's ending.")
    relations = archive.relations(main)
    parts: dict[str, list[str]] = {}
    for kind, path in relations.values():
        if path in archive.names:
            parts.setdefault(kind, []).append(path)
    context = _Context(styles=_styles(archive, parts), ordered=_numbering(archive, parts))
    body = archive.xml(main)
    blocks = list(_blocks(next((e for e in body if local(e) == "body"), body), context))
    seen: set[str] = set()
    for kind, first in (("header", True), ("footnotes", False), ("endnotes", False), ("footer", False)):
        extra = []
        for path in sorted(parts.get(kind, ())):
            for block in _blocks(archive.xml(path), context):
                if block.text not in seen and not block.text.strip().isdigit():  # page numbers
                    seen.add(block.text)
                    extra.append(Block("paragraph", block.text) if block.kind == "heading" else block)
        blocks = extra + blocks if first else blocks + extra
    return ParserOutput(blocks, title=_title(archive, blocks))


def _title(archive: Archive, blocks: list[Block]) -> str | None:
    heading = next((block.text for block in blocks if block.kind == "heading" and block.level == 1), None)
    if heading is not None:
        return heading
    if "docProps/core.xml" in archive.names:
        for element in archive.xml("docProps/core.xml"):
            if local(element) == "title" and element.text and element.text.strip().lower() != "word document":
                return element.text.strip() or None
    return None


def _styles(archive: Archive, parts: dict[str, list[str]]) -> dict[str, _Style]:
    styles: dict[str, _Style] = {}
    for path in parts.get("styles", ())[:1]:
        for element in archive.xml(path):
            if local(element) != "style":
                continue
            style = _Style()
            for child in element:
                name = local(child)
                if name == "name":
                    style.name = attribute(child, "val") or ""
                elif name == "basedOn":
                    style.base = attribute(child, "val") or ""
                elif name == "pPr":
                    style.level = _outline(child)
                    style.list_id, style.list_level = _list(child)
            if found := _HEADING.match(style.name):
                style.level = int(found.group(1))
            elif style.name.lower() == "title":
                style.level = 1
            styles[attribute(element, "styleId") or ""] = style
    return styles


def _numbering(archive: Archive, parts: dict[str, list[str]]) -> dict[tuple[str, int], bool]:
    abstract: dict[str, dict[int, bool]] = {}
    ordered: dict[tuple[str, int], bool] = {}
    for path in parts.get("numbering", ())[:1]:
        root = archive.xml(path)
        for element in root:
            if local(element) == "abstractNum":
                levels = abstract.setdefault(attribute(element, "abstractNumId") or "", {})
                for level in element:
                    if local(level) == "lvl":
                        kind = next((attribute(e, "val") for e in level if local(e) == "numFmt"), None)
                        levels[_int(attribute(level, "ilvl"))] = kind not in (None, "bullet", "none")
        for element in root:
            if local(element) == "num":
                target = next((attribute(e, "val") for e in element if local(e) == "abstractNumId"), None)
                for depth, numbers in abstract.get(target or "", {}).items():
                    ordered[attribute(element, "numId") or "", depth] = numbers
    return ordered


def _blocks(container: Element, context: _Context) -> Iterator[Block]:
    lines: list[str] = []
    for item in _items(container):
        for block in _table(item, context) if local(item) == "tbl" else _paragraph(item, context):
            if block.kind == "list":
                lines.append(block.text)
                continue
            if lines:
                yield Block("list", "\n".join(lines))
                lines = []
            yield block
    if lines:
        yield Block("list", "\n".join(lines))


def _items(container: Element) -> Iterator[Element]:
    """Paragraphs and tables in order, through content controls and the like."""
    stack = [iter(container)]
    while stack:
        element = next(stack[-1], None)
        if element is None:
            stack.pop()
            continue
        name = local(element)
        if name in ("p", "tbl"):
            yield element
        elif name not in _SKIP:
            stack.append(iter(element))


def _paragraph(element: Element, context: _Context) -> Iterator[Block]:
    boxes: list[Element] = []
    text = _text(element, boxes)
    properties = next((e for e in element if local(e) == "pPr"), None)
    level, list_id, depth = _resolve(properties, context)
    if text.strip():
        if level is not None:
            yield Block("heading", " ".join(text.split()), level=min(level, 6))
        elif list_id and list_id != "0":
            yield Block("list", _list_line(text.strip(), list_id, depth, context))
        else:
            yield Block("paragraph", text.strip())
    for box in boxes:
        yield from _blocks(box, context)


def _text(element: Element, boxes: list[Element]) -> str:
    """Text of a paragraph; text boxes inside it are put aside."""
    parts: list[str] = []
    stack = [iter(element)]
    while stack:
        child = next(stack[-1], None)
        if child is None:
            stack.pop()
            continue
        name = local(child)
        if name == "t":
            parts.append(child.text or "")
        elif name == "tab":
            parts.append("\t")
        elif name in ("br", "cr"):
            parts.append("\n")
        elif name == "noBreakHyphen":
            parts.append("-")
        elif name == "txbxContent":
            boxes.append(child)
        elif name not in _SKIP:
            stack.append(iter(child))
    return "\n".join(" ".join(line.split()) for line in "".join(parts).split("\n"))


def _resolve(properties: Element | None, context: _Context) -> tuple[int | None, str, int]:
    """(outline level, list, depth in it), from the paragraph itself or else its style and that one's bases."""
    level, (list_id, depth), style_id = None, ("", 0), ""
    if properties is not None:
        level, (list_id, depth) = _outline(properties), _list(properties)
        style_id = next((attribute(e, "val") or "" for e in properties if local(e) == "pStyle"), "")
    for _ in range(16):  # a chain of bases may be a circle
        style = context.styles.get(style_id)
        if style is None:
            break
        level = style.level if level is None else level
        if not list_id:
            list_id, depth = style.list_id, style.list_level
        style_id = style.base
    return level, list_id, depth


def _list_line(text: str, list_id: str, depth: int, context: _Context) -> str:
    marker = "- "
    if context.ordered.get((list_id, depth)):
        for key in [key for key in context.counts if key[0] == list_id and key[1] > depth]:
            del context.counts[key]
        count = context.counts[list_id, depth] = context.counts.get((list_id, depth), 0) + 1
        marker = f"{count}. "
    pad = "  " * depth
    return pad + marker + text.replace("\n", "\n" + pad + " " * len(marker))


def _table(element: Element, context: _Context) -> Iterator[Block]:
    rows = [[list(_blocks(cell, context)) for cell in _children(row, "tc")] for row in _children(element, "tr")]
    if max(map(len, rows), default=0) <= 1:  # a frame around text
        for cells in rows:
            for cell in cells:
                yield from cell
        return
    yield from table_blocks([[" ".join(block.text for block in cell) for cell in cells] for cells in rows])


def _children(element: Element, name: str) -> Iterator[Element]:
    """Rows or cells, through content controls and tracked insertions."""
    for child in element:
        found = local(child)
        if found == name:
            yield child
        elif found in ("sdt", "sdtContent", "ins", "customXml", "smartTag"):
            yield from _children(child, name)


def _outline(properties: Element) -> int | None:
    value = next((attribute(e, "val") for e in properties if local(e) == "outlineLvl"), None)
    level = _int(value, 9) + 1
    return level if level <= 9 else None


def _list(properties: Element) -> tuple[str, int]:
    for element in properties:
        if local(element) == "numPr":
            found = {local(e): attribute(e, "val") for e in element}
            return found.get("numId") or "", min(_int(found.get("ilvl")), 8)
    return "", 0


def _int(value: str | None, default: int = 0) -> int:
    return int(value) if value and value.isascii() and value.isdigit() else default
