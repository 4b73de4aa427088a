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

_ROMAN = (
    (1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"),
    (50, "l"), (40, "xl"), (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"),
)  # fmt: skip


@dataclass(slots=True)
class _Style:
    name: str = ""
    base: str = ""
    level: int | None = None  # outline level, 1 is the top
    list_id: str = ""
    list_level: int = 0


@dataclass(frozen=True, slots=True)
class _Level:
    """How the items of one level of a list are numbered."""

    pattern: str  # such as "%1.%2."
    form: str  # decimal, lowerLetter, upperRoman, ...
    start: int


@dataclass(slots=True)
class _Context:
    styles: dict[str, _Style] = field(default_factory=dict)
    levels: dict[tuple[str, int], _Level] = field(default_factory=dict)  # by list and level; bullets are left out
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
    context = _Context(styles=_styles(archive, parts), levels=_numbering(archive, parts))
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


def _numbering(archive: Archive, parts: dict[str, list[str]]) -> dict[tuple[str, int], _Level]:
    abstract: dict[str, dict[int, _Level]] = {}
    levels: dict[tuple[str, int], _Level] = {}
    for path in parts.get("numbering", ())[:1]:
        root = archive.xml(path)
        for element in root:
            if local(element) == "abstractNum":
                found = abstract.setdefault(attribute(element, "abstractNumId") or "", {})
                for level in element:
                    values = {local(e): attribute(e, "val") or "" for e in level}
                    if values.get("numFmt", "bullet") not in ("bullet", "none") and "%" in values.get("lvlText", ""):
                        start = _int(values.get("start"), 1)
                        found[_int(attribute(level, "ilvl"))] = _Level(values["lvlText"], values["numFmt"], start)
        for element in root:
            if local(element) == "num":
                target = next((attribute(e, "val") for e in element if local(e) == "abstractNumId"), None)
                for depth, found_level in abstract.get(target or "", {}).items():
                    levels[attribute(element, "numId") or "", depth] = found_level
    return levels


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
        listed = list_id not in ("", "0")
        number = _number(list_id, depth, context) if listed else ""
        if level is not None:
            yield Block("heading", " ".join(f"{number} {text}".split()), level=min(level, 6))
        elif listed:
            pad, marker = "  " * depth, f"{number or '-'} "
            yield Block("list", pad + marker + text.strip().replace("\n", "\n" + pad + " " * len(marker)))
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


def _number(list_id: str, depth: int, context: _Context) -> str:
    """The next number of a list, as Word would print it; "" for a bullet."""
    level = context.levels.get((list_id, depth))
    if level is None:
        return ""
    for key in [key for key in context.counts if key[0] == list_id and key[1] > depth]:
        del context.counts[key]
    context.counts[list_id, depth] = context.counts.get((list_id, depth), level.start - 1) + 1

    def count(match: re.Match[str]) -> str:
        above = int(match.group(1)) - 1
        other = context.levels.get((list_id, above), level)
        return _numeral(context.counts.get((list_id, above), other.start), other.form)

    return re.sub(r"%([1-9])", count, level.pattern)


def _numeral(number: int, form: str) -> str:
    if form in ("lowerLetter", "upperLetter") and number > 0:
        letter = chr(ord("a") + (number - 1) % 26) * min((number - 1) // 26 + 1, 10)
        return letter if form == "lowerLetter" else letter.upper()
    if form in ("lowerRoman", "upperRoman") and 0 < number < 4000:
        roman = ""
        for value, sign in _ROMAN:
            roman += sign * (number // value)
            number %= value
        return roman if form == "lowerRoman" else roman.upper()
    return str(number)


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
