"""HTML to blocks. Nothing that a reader sees is dropped; scripts, styles and hidden parts are."""

from __future__ import annotations

import re

from ragops.errors import ParseError
from ragops.types import Block, ParserOutput
from ragops_pipelines.parsers.decode import decode
from ragops_pipelines.parsers.rows import table_blocks
from ragops_pipelines.parsers.tree import Element, deeper_than, local, parse_html, parse_xml

_SKIP = frozenset(
    ("script", "style", "template", "noscript", "head", "iframe", "annotation", "annotation-xml", "datalist")
)
_HEADINGS = {f"h{n}": n for n in range(1, 7)}
_BLOCKS = frozenset(
    """
    address article aside blockquote body button caption center dd details dialog dir div dl dt fieldset figcaption
    figure footer form frameset header hgroup hr html label legend main menu nav optgroup option p search section
    select summary tbody td textarea tfoot th thead tr
    """.split()  # noqa: SIM905
)
_LISTS = frozenset(("ul", "ol", "menu", "dir"))
_COMPLEX_CELL = ("table", "h1", "h2", "h3", "h4", "h5", "h6", "pre")
_HIDDEN = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.I)
_BREAK = "\x0b"  # stands for <br> until white space is collapsed
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.I)
_XML_CHARSET = re.compile(rb"^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{2,40})", re.I)
_XML_DECLARATION = re.compile(r"^\s*\ufeff?\s*<\?xml[^>]*\?>\s*")
_EMPTY_RAW = re.compile(r"<(title|script|style|textarea|iframe|noscript)\b([^<>]*)/>", re.I)
_TAG = re.compile(r"</?([a-zA-Z][\w:-]*)[^<>]*>")
_KEPT_WHEN_FLAT = frozenset(("title", "pre", "script", "style", "template", "noscript", "head", *_HEADINGS))
_ANCHORS = "¶# \uf0c1"  # signs of the links that documentation hangs on its headings
_MAX_DEPTH = 256  # libxml2 stops at 2,048 with what it has got; Python's stack is ours to spare


def parse(data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
    return parse_text(decode(data, encoding or declared_encoding(data)))


def declared_encoding(data: bytes) -> str | None:
    """The charset that a document names itself by, if any."""
    head = data[:4096]
    found = _META_CHARSET.search(head) or _XML_CHARSET.search(head)
    return found.group(1).decode("ascii") if found else None


def parse_text(text: str, *, page: int | None = None) -> ParserOutput:
    """Blocks of an HTML document or fragment."""
    root = _tree(text)
    if root is None:
        return ParserOutput([])
    walk = _Walk(page)
    walk.element(root, 0)
    walk.flush()
    title = next((t for e in root.iter() if _name(e) == "title" and (t := _plain(e))), None)
    if title is None:
        title = next((b.text for b in walk.blocks if b.kind == "heading" and b.level == 1), None)
    return ParserOutput(walk.blocks, title=title)


def _tree(text: str) -> Element | None:
    text = text.replace("\0", "")
    if not text.strip():
        return None
    if text.lstrip("\ufeff \t\r\n").startswith("<?xml"):  # XHTML: its `<title/>` would swallow the document as HTML
        try:
            root = parse_xml(_XML_DECLARATION.sub("", text, count=1).encode("utf-8", "replace"))
            if _name(root) == "html" and not deeper_than(root, _MAX_DEPTH):
                return root
        except ParseError:
            pass  # as most XHTML in the wild: not well-formed, so it is read as HTML
        text = _EMPTY_RAW.sub(r"<\1\2></\1>", text)
    for attempt in range(3):
        # Nested too deep: the same text without the nesting, first that of blocks and then all.
        source = text if attempt == 0 else _flat(text) if attempt == 1 else _TAG.sub(" ", text)
        found, cut = parse_html(source)
        if found is None or not (cut or deeper_than(found, _MAX_DEPTH)):
            return found
    raise ParseError("The HTML is nested too deep to be read.", "Check that the file is a document.")


def _flat(text: str) -> str:
    """Block tags become `<p>`, which never nests; inline tags vanish."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1).lower()
        if name in _KEPT_WHEN_FLAT:
            return match.group(0)
        if name in _BLOCKS or name in _LISTS or name in ("li", "table", "br"):
            return "<p>"
        return ""

    return _TAG.sub(replace, text)


_NAMES: dict[object, str] = {}  # a page has few names and asks for them often


def _name(element: Element) -> str:
    tag = element.tag
    name = _NAMES.get(tag)
    if name is None:
        name = local(element).lower()
        if len(_NAMES) < 1000:
            _NAMES[tag] = name
    return name


def _plain(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


class _Walk:
    """One pass over the tree, in document order."""

    def __init__(self, page: int | None) -> None:
        self.blocks: list[Block] = []
        self._page = page
        self._parts: list[str] = []  # inline text of the block that is being read
        self._lines: list[str] | None = None  # lines of the outermost list that is being read
        self._indent = 0
        self._bullet = ""

    def flush(self) -> None:
        if not self._parts:
            return
        text = _collapsed(self._parts)
        self._parts.clear()
        if not text:
            return
        if self._lines is None:
            self.blocks.append(Block("paragraph", text, page=self._page))
            return
        pad = "  " * max(self._indent - 1, 0)
        first = pad + self._bullet
        rest = pad + " " * len(self._bullet) if self._bullet else pad + "  "
        first = first if self._bullet else rest
        self._lines.append(first + text.replace("\n", "\n" + rest))
        self._bullet = ""

    def element(self, element: Element, depth: int) -> None:
        name = _name(element)
        if name in _SKIP:
            return
        if _hidden(element):
            return
        if name in _HEADINGS:
            self._heading(element, _HEADINGS[name])
        elif name == "pre" or name == "listing" or name == "xmp":
            self._code(element)
        elif name == "table":
            self._table(element, depth)
        elif name in _LISTS:
            self._list(element, depth, ordered=name == "ol")
        elif name == "br":
            self._parts.append(_BREAK)
        elif name == "img":
            alt = element.get("alt")
            if alt and not alt.isspace():
                self._parts.append(f" {alt} ")
        elif name == "svg":
            self._parts.append(" " + " ".join(_plain(e) for e in element.iter() if _name(e) in ("text", "title")) + " ")
        elif name in _BLOCKS or "-" in name:
            self.flush()
            self._children(element, depth)
            self.flush()
        elif name == "q":
            self._parts.append('"')
            self._children(element, depth)
            self._parts.append('"')
        else:
            self._children(element, depth)

    def _children(self, element: Element, depth: int) -> None:
        parts = self._parts
        if element.text:
            parts.append(element.text)
        for child in element:
            self.element(child, depth + 1)
            if child.tail:
                parts.append(child.tail)

    def _heading(self, element: Element, level: int) -> None:
        self.flush()
        before, self._parts = self._parts, []
        self._inline(element)
        text = " ".join(_collapsed(self._parts).split()).rstrip(_ANCHORS)
        self._parts = before
        if text:
            self._close_list()
            self.blocks.append(Block("heading", text, level=level, page=self._page))

    def _inline(self, element: Element) -> None:
        """Everything inside, whatever its tag, as one run of text."""
        if element.text:
            self._parts.append(element.text)
        for child in element:
            name = _name(child)
            if name == "br":
                self._parts.append(_BREAK)
            elif name == "img":
                self._parts.append(f" {child.get('alt') or ''} ")
            elif name not in _SKIP and not _hidden(child):
                apart = name in _BLOCKS or name in _LISTS or name in ("li", "pre", "table")
                if apart:
                    self._parts.append(_BREAK)
                self._inline(child)
                if apart:
                    self._parts.append(_BREAK)
            if child.tail:
                self._parts.append(child.tail)

    def _code(self, element: Element) -> None:
        self.flush()
        text = _verbatim(element).strip("\r\n").rstrip()
        if text.strip():
            self._close_list()
            self.blocks.append(Block("code", text, page=self._page))

    def _list(self, element: Element, depth: int, *, ordered: bool) -> None:
        self.flush()
        outermost = self._lines is None
        if outermost:
            self._lines = []
        self._indent += 1
        bullet = self._bullet
        number = _start(element)
        if element.text and not element.text.isspace():
            self._parts.append(element.text)
        for child in element:
            if _name(child) == "li":
                self.flush()
                number = _start(child, number, "value")
                self._bullet = f"{number}. " if ordered else "- "
                number += 1
                if not _hidden(child):
                    self._children(child, depth + 1)
                self.flush()
                self._bullet = ""
            else:
                self.element(child, depth + 1)
            if child.tail and not child.tail.isspace():
                self._parts.append(child.tail)
        self.flush()
        self._bullet = bullet if not outermost else ""
        self._indent -= 1
        if outermost:
            self._close_list()
            self._lines = None

    def _close_list(self) -> None:
        """What was read of a list becomes a block; something that is no line of it follows."""
        if self._lines:
            self.blocks.append(Block("list", "\n".join(self._lines), page=self._page))
            self._lines.clear()

    def _table(self, element: Element, depth: int) -> None:
        self.flush()
        if next(element.iterdescendants(*_COMPLEX_CELL), None) is not None:  # made for layout
            self._children(element, depth)
            self.flush()
            return
        rows: list[list[str]] = []
        for row in element.iter():
            name = _name(row)
            if name == "tr":
                rows.append([self._cell(cell) for cell in row if _name(cell) in ("td", "th")])
            elif name == "caption":
                rows.append([self._cell(row)])
        if max(map(len, rows), default=0) <= 1 and len(rows) <= 1:  # a frame around text
            self._children(element, depth)
            self.flush()
            return
        blocks = table_blocks(rows, page=self._page)
        if blocks:
            self._close_list()
            self.blocks.extend(blocks)

    def _cell(self, element: Element) -> str:
        if _hidden(element):
            return ""
        before, self._parts = self._parts, []
        self._inline(element)
        text = _collapsed(self._parts)
        self._parts = before
        return " ".join(text.split())


def _collapsed(parts: list[str]) -> str:
    text = "".join(parts)
    if _BREAK not in text:
        return " ".join(text.split())
    lines = (" ".join(line.split()) for line in text.split(_BREAK))
    return "\n".join(line for line in lines if line)


def _verbatim(element: Element) -> str:
    parts = [element.text or ""]
    for child in element:
        name = _name(child)
        parts.append("\n" if name == "br" else "" if name in _SKIP else _verbatim(child))
        parts.append(child.tail or "")
    return "".join(parts)


def _hidden(element: Element) -> bool:
    hidden = element.get("hidden")
    if hidden is not None and hidden != "until-found":
        return True
    style = element.get("style")
    return style is not None and _HIDDEN.search(style) is not None


def _start(element: Element, default: int = 1, attribute: str = "start") -> int:
    value = element.get(attribute)
    return int(value) if value and value.isascii() and value.isdigit() and len(value) < 7 else default
