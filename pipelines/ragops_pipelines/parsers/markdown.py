"""Markdown to blocks: CommonMark's own block structure, with the inline marks taken off."""

from __future__ import annotations

import html as entities
import re
from functools import cache
from typing import TYPE_CHECKING

from ragops.types import Block, ParserOutput
from ragops_pipelines.parsers import frontmatter, html
from ragops_pipelines.parsers import text as plain
from ragops_pipelines.parsers.decode import decode
from ragops_pipelines.parsers.rows import table_blocks

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_MAX_NESTING = 100
# Deeper nesting than that would be dropped by the library in silence, so such files are read as plain text.
_TOO_DEEP = re.compile(r"^(?:[ \t]*(?:>|[-*+][ \t]|\d+[.)][ \t])){40}|^[ \t>]{150,}(?:[-*+]|\d+[.)])[ \t]", re.M)

_INLINE_MARKS = re.compile(r"[\[*_`<&\\~]")
_OPAQUE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)|\\([!-/:-@\[-`{-~])", re.S)
_AUTOLINK = re.compile(r"<([a-zA-Z][a-zA-Z0-9+.-]{1,31}:[^\s<>]*|[\w.+-]+@[\w.-]+)>")
_TAG = re.compile(r"<!--.*?-->|</?[a-zA-Z][a-zA-Z0-9-]*(?:\s[^<>]*)?/?>", re.S)
_LINK = re.compile(
    r"!?\[((?:[^\[\]]|\[[^\[\]]*\])*)\](?:\(\s*(?:<[^<>\n]*>|(?:[^\s()]|\([^\s()]*\))*)"
    r"(?:\s+(?:\"[^\"]*\"|'[^']*'|\([^()]*\)))?\s*\)|\[[^\[\]]*\])"
)
_STARS = re.compile(r"(\*{1,3})(?=[^\s*])(.+?)(?<=[^\s*])\1(?!\*)", re.S)
_UNDERSCORES = re.compile(r"(?<!\w)(_{1,3})(?=[^\s_])(.+?)(?<=[^\s_])\1(?!\w)", re.S)
_STRIKE = re.compile(r"~~(?=\S)(.+?)(?<=\S)~~", re.S)
_BREAK = re.compile(r"(?: {2,}|\\)\n[ \t]*|<br\s*/?>\s*", re.I)
_HELD = re.compile("\x02(\\d+)\x03")


def parse(data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
    return parse_text(decode(data, encoding))


def parse_text(text: str) -> ParserOutput:
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate({0: None, 2: None, 3: None})
    fields, raw, body = frontmatter.split(text)
    if _TOO_DEEP.search(body):
        blocks = list(plain.parse(body.encode("utf-8", "replace"), "text/plain", "utf-8").blocks)
    else:
        blocks = _Walk().walk(_parser().parse(body))
    if fields is None and raw.strip():  # not metadata, so it must be text
        blocks.insert(0, Block("paragraph", raw.strip("\n")))
    title = (fields or {}).get("title") or next((b.text for b in blocks if b.kind == "heading" and b.level == 1), None)
    return ParserOutput(blocks, title=str(title) if title else None, fields=fields or {})


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"maxNesting": _MAX_NESTING}).enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])  # inline marks are taken off below, five times faster
    return parser


class _Walk:
    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._lines: list[str] | None = None  # lines of the outermost list that is being read
        self._markers: list[str] = []  # of the open list items
        self._fresh = False  # whether the innermost item still needs its marker

    def walk(self, tokens: list[Token]) -> list[Block]:
        numbered: list[bool] = []
        rows: list[list[str]] = []
        level = 0
        in_row = False
        for token in tokens:
            kind = token.type
            if kind == "inline":
                if level:
                    self._heading(token.content, level)
                elif in_row:
                    rows[-1].append(inline(token.content))
                else:
                    self._text(inline(token.content))
            elif kind == "heading_open":
                level = int(token.tag[1])
            elif kind == "heading_close":
                level = 0
            elif kind in ("fence", "code_block"):
                self._whole([Block("code", token.content.rstrip())])
            elif kind == "html_block":
                self._html(token.content)
            elif kind in ("bullet_list_open", "ordered_list_open"):
                numbered.append(kind == "ordered_list_open")
                if self._lines is None:
                    self._lines = []
            elif kind in ("bullet_list_close", "ordered_list_close"):
                numbered.pop()
                if not numbered:
                    self._close_list()
                    self._lines = None
            elif kind == "list_item_open":
                self._markers.append(f"{token.info}. " if numbered[-1] else "- ")
                self._fresh = True
            elif kind == "list_item_close":
                self._markers.pop()
                self._fresh = False
            elif kind == "table_open":
                rows = []
            elif kind == "tr_open":
                rows.append([])
                in_row = True
            elif kind == "tr_close":
                in_row = False
            elif kind == "table_close":
                self._whole(table_blocks(rows))
        return self._blocks

    def _text(self, text: str) -> None:
        if not text:
            return
        if self._lines is None:
            self._blocks.append(Block("paragraph", text))
            return
        pad = "  " * (len(self._markers) - 1)
        marker = self._markers[-1] if self._markers else ""
        rest = pad + " " * len(marker)
        self._lines.append((pad + marker if self._fresh else rest) + text.replace("\n", "\n" + rest))
        self._fresh = False

    def _heading(self, content: str, level: int) -> None:
        text = " ".join(inline(content).split())
        if text:
            self._whole([Block("heading", text, level=level)])

    def _html(self, content: str) -> None:
        if content.lstrip().startswith("<!--") and content.rstrip().endswith("-->") and content.count("-->") == 1:
            return
        for block in html.parse_text(content).blocks:
            if block.kind == "paragraph":
                self._text(block.text)
            else:
                self._whole([block])

    def _whole(self, blocks: list[Block]) -> None:
        """Blocks that are no lines of the list around them."""
        blocks = [block for block in blocks if block.text.strip()]
        if blocks:
            self._close_list()
            self._blocks.extend(blocks)

    def _close_list(self) -> None:
        if self._lines:
            self._blocks.append(Block("list", "\n".join(self._lines)))
            self._lines.clear()


def inline(text: str) -> str:
    """The text of a paragraph, heading or cell without its marks; hard breaks stay line breaks."""
    if _INLINE_MARKS.search(text) is None:
        return _unwrapped(text)
    held: list[str] = []

    def hold(match: re.Match[str]) -> str:
        escaped = match.group(3)
        held.append(escaped if escaped is not None else _code_span(match.group(2)))
        return f"\x02{len(held) - 1}\x03"

    if "`" in text or "\\" in text:
        text = _OPAQUE.sub(hold, text)
    text = _unwrapped(text)
    if "<" in text:
        text = _TAG.sub("", _AUTOLINK.sub(r"\1", text))
    for _ in range(3):  # an image inside a link, and the like
        if "](" not in text and "][" not in text:
            break
        text = _LINK.sub(r"\1", text)
    for _ in range(3):
        before = text
        if "*" in text:
            text = _STARS.sub(r"\2", text)
        if "_" in text:
            text = _UNDERSCORES.sub(r"\2", text)
        if text == before:
            break
    if "~~" in text:
        text = _STRIKE.sub(r"\1", text)
    if "&" in text:
        text = entities.unescape(text)
    return _HELD.sub(lambda match: held[int(match.group(1))], text) if held else text


def _code_span(content: str) -> str:
    content = content.replace("\n", " ")
    padded = len(content) > 2 and content[0] == content[-1] == " " and not content.isspace()
    return content[1:-1] if padded else content


def _unwrapped(text: str) -> str:
    if "\n" not in text and "<" not in text:
        return text.strip()
    lines = _BREAK.sub("\x0b", text).split("\x0b")
    return "\n".join(line for line in (" ".join(line.split()) for line in lines) if line)
