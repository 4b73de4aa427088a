"""XML to readable lines: mixed content as paragraphs, data as `name: value`."""

from __future__ import annotations

import re

from ragops.errors import ParseError
from ragops.types import Block, ParserOutput
from ragops_pipelines.parsers import html
from ragops_pipelines.parsers.decode import decode
from ragops_pipelines.parsers.tree import Element, local, parse_xml

_MARKUP = re.compile(r"</?[a-zA-Z][a-zA-Z0-9]*(?:\s[^<>]*)?/?>")
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")


def parse(data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
    root = _root(data, encoding)
    if local(root) == "html":
        return html.parse(data, media_type, encoding)
    walk = _Walk()
    walk.element(root)
    walk.close()
    title = next(
        (" ".join(t) for e in root.iter() if local(e) == "title" and (t := "".join(e.itertext()).split())), None
    )
    return ParserOutput(walk.blocks, title=title)


def _root(data: bytes, encoding: str | None) -> Element:
    text = decode(data, encoding or html.declared_encoding(data)).lstrip("\ufeff \t\r\n")
    clean = _DECLARATION.sub("", text, count=1).encode("utf-8", "replace")
    try:
        # Entities of the file's own are expanded within bounds; nothing outside of it is ever read.
        return parse_xml(clean, entities=True)
    except ParseError as error:
        try:
            return parse_xml(clean, entities=True, recover=True)
        except ParseError:
            raise error from None


class _Walk:
    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._lines: list[str] = []

    def close(self) -> None:
        if self._lines:
            self.blocks.append(Block("paragraph", "\n".join(self._lines)))
            self._lines = []

    def element(self, element: Element) -> None:
        if not isinstance(element.tag, str):
            return
        if len(element) == 0:
            self._leaf(element)
        elif (element.text or "").strip() or any((child.tail or "").strip() for child in element):
            self.close()
            text = " ".join("".join(element.itertext()).split())
            self.blocks.append(Block("paragraph", text))
        else:
            if any(len(child) for child in element):
                self.close()
            self._attributes(element)
            for child in element:
                self.element(child)
            if any(len(child) for child in element) or len(element) > 1:
                self.close()

    def _leaf(self, element: Element) -> None:
        raw = element.text or ""
        if _MARKUP.search(raw):  # feeds carry HTML as text
            found = html.parse_text(raw).blocks
            self.close()
            self.blocks.extend(block for block in found)
            return
        text = " ".join(raw.split())
        if text:
            self._lines.append(f"{local(element)}: {text}" if len(text) < 200 else text)
        else:
            self._attributes(element)

    def _attributes(self, element: Element) -> None:
        words = [f"{key.rpartition('}')[2]}={value}" for key, value in element.attrib.items() if value.strip()]
        if words:
            self._lines.append(f"{local(element)}: {' '.join(words)}")
