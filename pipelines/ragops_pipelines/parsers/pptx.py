"""Slides: titles as headings, text, tables, chart words and notes, with the slide's number as the page."""

from __future__ import annotations

from collections.abc import Iterator

from ragops.errors import ParseError
from ragops.types import Block, ParserOutput
from ragops_pipelines.parsers.archive import Archive
from ragops_pipelines.parsers.rows import table_blocks
from ragops_pipelines.parsers.tree import Element, attribute, local

_NUMBERS = ("sldNum", "sldImg")
_FRAME = ("dt", "ftr", "hdr")  # the same on every slide, so it is said once


def parse(data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
    archive = Archive(data)
    kinds = archive.relations("").values()
    main = next((path for kind, path in kinds if kind == "officeDocument"), "ppt/presentation.xml")
    if main not in archive.names:
        raise ParseError("The file has no presentation part: it is no presentation.", "Check the file's ending.")
    relations = archive.relations(main)
    blocks: list[Block] = []
    slides = (relations.get(key, ("", ""))[1] for key in _slide_relations(archive.xml(main)))
    paths = [path for path in slides if path in archive.names]
    said: set[str] = set()
    for number, path in enumerate(paths, 1):
        blocks.extend(_slide(archive, path, number, said))
    title = next((block.text for block in blocks if block.kind == "heading"), None)
    return ParserOutput(blocks, title=title)


def _slide_relations(root: Element) -> Iterator[str]:
    for element in root.iter():
        if local(element) == "sldId":
            for key, value in element.attrib.items():  # `id` stands there twice; the one with a namespace counts
                if key.endswith("}id"):
                    yield value


def _slide(archive: Archive, path: str, number: int, said: set[str]) -> Iterator[Block]:
    relations = archive.relations(path)
    yield from _shapes(archive, archive.xml(path), relations, number, said)
    for kind, target in relations.values():
        if kind == "notesSlide" and target in archive.names:
            notes = [b.text for b in _shapes(archive, archive.xml(target), {}, number, said)]
            if notes:
                yield Block("paragraph", "Notes: " + "\n".join(notes), page=number)


def _shapes(
    archive: Archive, element: Element, relations: dict[str, tuple[str, str]], number: int, said: set[str]
) -> Iterator[Block]:
    stack = [iter(element)]
    while stack:
        child = next(stack[-1], None)
        if child is None:
            stack.pop()
            continue
        name = local(child)
        if name == "sp":
            yield from _shape(child, number, said)
        elif name == "tbl":
            yield from table_blocks(
                [[_plain(cell) for cell in row if local(cell) == "tc"] for row in child if local(row) == "tr"],
                page=number,
            )
        elif name in ("chart", "relIds"):  # charts and SmartArt live in parts of their own
            for key in ("id", "dm"):
                target = relations.get(attribute(child, key) or "", ("", ""))[1]
                if target in archive.names:
                    yield from _words(archive.xml(target), number)
        elif name != "Fallback":
            stack.append(iter(child))


def _shape(shape: Element, number: int, said: set[str]) -> Iterator[Block]:
    role = next((attribute(e, "type") or "body" for e in shape.iter() if local(e) == "ph"), "")
    if role in _NUMBERS:
        return
    body = next((e for e in shape if local(e) == "txBody"), None)
    if body is None:
        return
    lines = [(text, _level(p)) for p in body if local(p) == "p" and (text := _plain(p))]
    if not lines:
        return
    if role in _FRAME:
        words = " ".join(text for text, _ in lines)
        if words in said:
            return
        said.add(words)
    if role in ("title", "ctrTitle"):
        yield Block("heading", " ".join(" ".join(text for text, _ in lines).split()), level=1, page=number)
    elif role in ("body", "obj") and len(lines) > 1:
        yield Block("list", "\n".join("  " * level + "- " + text for text, level in lines), page=number)
    else:
        yield Block("paragraph", "\n".join(text for text, _ in lines), page=number)


def _plain(element: Element) -> str:
    parts: list[str] = []
    for child in element.iter():
        name = local(child)
        if name == "t":
            parts.append(child.text or "")
        elif name == "br" or (name == "p" and parts):
            parts.append("\n")
    return "\n".join(line for line in (" ".join(line.split()) for line in "".join(parts).split("\n")) if line)


def _level(paragraph: Element) -> int:
    value = next((attribute(e, "lvl") for e in paragraph if local(e) == "pPr"), None)
    return int(value) if value and value.isdigit() and len(value) == 1 else 0


def _words(root: Element, number: int) -> Iterator[Block]:
    """Titles, series and categories of a chart, or the words of a diagram, each once."""
    words: dict[str, None] = {}
    for element in root.iter():
        name = local(element)
        if name == "t" or (name == "v" and any(local(above) == "strCache" for above in element.iterancestors())):
            text = " ".join((element.text or "").split())
            if text:
                words[text] = None
    if words:
        yield Block("paragraph", "\n".join(words), page=number)
