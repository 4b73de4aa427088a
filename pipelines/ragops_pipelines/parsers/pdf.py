"""PDF to blocks with pdfium: lines joined to paragraphs, headings from the outline and the type size, pages known."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ragops.errors import ParseError
from ragops.types import Block, BlockKind, ParserOutput

# Compatibility characters that only stand for the shape of letters: ligatures and Arabic presentation forms.
_SHAPES = re.compile("[\ufb00-\ufb06\ufb13-\ufb17\ufb50-\ufdff\ufe70-\ufefc]+")
# pdfium turns the ligature of lam and alef round; an alef before an alef with hamza is in no Arabic word.
_TURNED_LIGATURE = re.compile("ا([أإآ])ل")
_HYPHEN = "\ufffe"  # pdfium's sign for a hyphen at a line's end, with the two lines joined
_SPLIT_WORD = re.compile(f"(\\w+){_HYPHEN}(\\w+)")
_WORD = re.compile(r"\w+(?:-\w+)*")
_BULLET = re.compile(r"(?:[•‣▪●○◦∙·–\uf0b7\uf0a7][ \t]|[-*][ \t]|\(?(?:\d{1,3}|[a-zA-Z])[.)][ \t])")
_MADE_BY_TOOL = re.compile(r"^(?:microsoft (?:word|powerpoint)|untitled|powerpoint presentation)|\.\w{2,5}$", re.I)
_MAX_OUTLINE = 5_000


@dataclass(slots=True)
class _Line:
    text: str
    size: float  # type size of the first character in points, as it stands on the page
    left: float
    right: float
    bottom: float
    top: float


def parse(data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
    document = _open(data)
    try:
        pages, unread = _read(document)
        outline = _outline(document)
        title = (document.get_metadata_dict(skip_empty=True).get("Title") or "").strip()
    finally:
        document.close()
    if not any(pages) and unread:
        raise ParseError("No page of the PDF can be read.", "The file is damaged: replace it, or repair it first.")
    if not any(pages):
        raise ParseError(
            f"The PDF has {len(pages)} pages and no text: it is scanned or drawn.",
            "Run OCR over it first, for example with `ocrmypdf in.pdf out.pdf`, and ingest the result.",
            code="empty",
        )
    words = _vocabulary(pages)
    sizes = _heading_sizes(pages)
    blocks: list[Block] = []
    for number, lines in enumerate(pages, 1):
        blocks.extend(_blocks(lines, number, outline.get(number, {}), sizes, words))
    fields = {"pages_unreadable": ", ".join(map(str, unread))} if unread else {}
    return ParserOutput(blocks, title=None if not title or _MADE_BY_TOOL.search(title) else title, fields=fields)


def _open(data: bytes) -> Any:
    import pypdfium2  # type: ignore[import-untyped]
    from pypdfium2 import raw

    try:
        document = pypdfium2.PdfDocument(data)
        len(document)
    except pypdfium2.PdfiumError as error:
        if error.err_code in (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY):
            raise ParseError(
                "The PDF needs a password.",
                "Save a copy without one, for example with `qpdf --decrypt --password=... in.pdf out.pdf`.",
                code="encrypted",
            ) from error
        raise ParseError(
            "The PDF cannot be opened: it is damaged or cut off.",
            "Replace it, or repair it with `qpdf in.pdf out.pdf`.",
        ) from error
    return document


def _read(document: Any) -> tuple[list[list[_Line]], list[int]]:
    """Lines per page, and the numbers of the pages that cannot be read."""
    import pypdfium2

    pages: list[list[_Line]] = []
    unread: list[int] = []
    for number in range(1, len(document) + 1):
        try:
            page = document[number - 1]
            textpage = page.get_textpage()
        except pypdfium2.PdfiumError:
            pages.append([])
            unread.append(number)
            continue
        pages.append(list(_lines(textpage)))
        textpage.close()
        page.close()
    return pages, unread


def _lines(textpage: Any) -> Iterator[_Line]:
    from pypdfium2 import raw

    text = textpage.get_text_range()
    rect, matrix = raw.FS_RECTF(), raw.FS_MATRIX()
    line: _Line | None = None
    start = 0  # pdfium's index of the piece, in UTF-16 units
    for piece in text.split("\r\n"):
        stripped = piece.strip()
        if stripped:
            lead = len(piece) - len(piece.lstrip())
            first = raw.FPDFText_GetCharIndexFromTextIndex(textpage, start + lead)
            last = raw.FPDFText_GetCharIndexFromTextIndex(textpage, start + lead + _units(stripped) - 1)
            # The loose box is as high as the font, whatever the letter.
            raw.FPDFText_GetLooseCharBox(textpage, first, rect)
            left, bottom, top = rect.left, rect.bottom, rect.top
            raw.FPDFText_GetLooseCharBox(textpage, last, rect)
            if line is not None and _beside(line, left, bottom, top):  # a superscript, a tab stop, another font
                line.text = f"{line.text} {stripped}"
                line.right = rect.right
            else:
                if line is not None:
                    yield line
                raw.FPDFText_GetMatrix(textpage, first, matrix)
                upright = abs(matrix.a) >= abs(matrix.b)  # text that runs up the margin is no heading
                size = raw.FPDFText_GetFontSize(textpage, first) * math.hypot(matrix.c, matrix.d) * upright
                bottom, top = min(bottom, rect.bottom), max(top, rect.top)
                line = _Line(stripped, round(size, 1), left, rect.right, bottom, top)
        start += _units(piece) + 2
    if line is not None:
        yield line


def _units(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "replace")) // 2


def _beside(line: _Line, left: float, bottom: float, top: float) -> bool:
    overlap = min(line.top, top) - max(line.bottom, bottom)
    height = min(line.top - line.bottom, top - bottom)
    return height > 0 and overlap > 0.3 * height and -1 <= left - line.right < 40


def _outline(document: Any) -> dict[int, dict[str, int]]:
    """Page -> heading text without spaces -> level, from the bookmarks."""
    import pypdfium2

    found: dict[int, dict[str, int]] = {}
    try:
        for count, mark in enumerate(document.get_toc(max_depth=6)):
            if count >= _MAX_OUTLINE:
                break
            target = mark.get_dest()
            index = target.get_index() if target else None
            if index is not None and (key := _key(mark.get_title())):
                found.setdefault(index + 1, {}).setdefault(key, mark.level + 1)
    except (pypdfium2.PdfiumError, UnicodeError):
        return found  # bookmarks are a bonus; what was read of them is right
    return found


def _key(text: str) -> str:
    return "".join(c for c in _readable(text) if c.isalnum()).lower()


def _readable(text: str) -> str:
    import unicodedata

    text = _SHAPES.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text).replace("\uf0b7", "•")
    return _TURNED_LIGATURE.sub(r"ال\1", text) if "\u0627" in text else text


def _vocabulary(pages: list[list[_Line]]) -> set[str]:
    """The words of the document, hyphenated ones included, which settle a hyphen; nothing where there is none."""
    if not any(_HYPHEN in line.text or line.text.endswith("-") for lines in pages for line in lines):
        return set()
    words: set[str] = set()
    for lines in pages:
        cut = False
        for line in lines:
            text = _SPLIT_WORD.sub(" ", line.text.lower())  # parts of words are no words
            found = _WORD.findall(text)
            words.update(found[cut : -1 if text.endswith("-") else None])
            cut = text.endswith("-")
    return words


def _heading_sizes(pages: list[list[_Line]]) -> dict[float, int]:
    """Type size -> heading level, for sizes well above the one that most of the text has."""
    weight: Counter[float] = Counter()
    for lines in pages:
        for line in lines:
            weight[line.size] += len(line.text)
    body = max(weight, key=lambda size: (weight[size], size))
    large = sorted((size for size in weight if size >= body * 1.15 and size - body >= 1), reverse=True)
    if body <= 1 or sum(weight[size] for size in large) > 0.2 * sum(weight.values()):
        return {}  # sizes say nothing here: a poster, slides, or text that is scaled by its matrix
    # Sizes within half a point are one level.
    levels: dict[float, int] = {}
    level, last = 0, 0.0
    for size in large:
        if not level or last - size > 0.5:
            level, last = min(level + 1, 6), size
        levels[size] = level
    return levels


def _blocks(
    lines: list[_Line], page: int, outline: dict[str, int], sizes: dict[float, int], words: set[str]
) -> Iterator[Block]:
    width = max((line.right - line.left for line in lines), default=0)
    gap = _usual_gap(lines)
    group: list[_Line] = []

    def close() -> Iterator[Block]:
        if group:
            text = _mended(_joined(group, width), words)
            kind: BlockKind = "list" if sum(bool(_BULLET.match(line.text)) for line in group) > 1 else "paragraph"
            yield Block(kind, text, page=page)
            group.clear()

    position = 0
    while position < len(lines):
        found = _heading(lines, position, outline, sizes, gap)
        if found is not None:
            count, level = found
            yield from close()
            heading = _mended(" ".join(line.text for line in lines[position : position + count]), words)
            yield Block("heading", heading, level=level, page=page)
            position += count
            continue
        line = lines[position]
        if group and _apart(group[-1], line, gap):
            yield from close()
        group.append(line)
        position += 1
    yield from close()


def _heading(
    lines: list[_Line], position: int, outline: dict[str, int], sizes: dict[float, int], gap: float
) -> tuple[int, int] | None:
    """(lines, level) of the heading that begins here."""
    if outline:
        key = ""
        for count, line in enumerate(lines[position : position + 3], 1):
            key += _key(line.text)
            if key in outline:
                return count, outline[key]
    first = lines[position]
    level = sizes.get(first.size)
    if level is None or not any(c.isalpha() for c in first.text):
        return None
    count = 1
    while position + count < len(lines) and count < 4 and lines[position + count].size == first.size:
        if _apart(lines[position + count - 1], lines[position + count], gap):
            break
        count += 1
    more = position + count < len(lines) and lines[position + count].size == first.size and count == 4
    return None if more else (count, level)  # longer ones are a text in large type


def _usual_gap(lines: list[_Line]) -> float:
    """Space between two lines of one paragraph, relative to their height."""
    gaps = sorted(
        (above.bottom - below.top) / height
        for above, below in itertools.pairwise(lines)
        if (height := below.top - below.bottom) > 0 and above.bottom > below.bottom
    )
    return min(gaps[len(gaps) // 3], 1.5) if gaps else 0.0


def _apart(above: _Line, below: _Line, usual: float) -> bool:
    """Whether there is more than a line's usual space between two lines, or a new column begins."""
    height = max(above.top - above.bottom, below.top - below.bottom)
    if height <= 0:
        return False
    gap = (above.bottom - below.top) / height
    larger, smaller = max(above.size, below.size), min(above.size, below.size)
    return gap > usual + 0.3 or gap < -2.5 or larger > 1.3 * smaller


def _joined(group: list[_Line], width: float) -> str:
    """Full lines run on; a short one ends its line, and a bullet begins one."""
    parts = [group[0].text]
    for above, line in itertools.pairwise(group):
        short = width > 0 and above.right - above.left < 0.35 * width
        ended = above.text.endswith((".", ":", "!", "?")) and above.right - above.left < 0.6 * width
        if above.text.endswith("-") and line.text[:1].islower() and above.text[-2:-1].isalpha():
            parts[-1] = parts[-1][:-1] + _HYPHEN
            parts.append(line.text)
        elif short or ended or _BULLET.match(line.text):
            parts.append("\n" + line.text)
        else:
            parts.append(" " + line.text)
    return "".join(parts)


def _mended(text: str, words: set[str]) -> str:
    """A word cut at a line's end is made whole; a compound keeps its hyphen, as far as the document's words tell."""

    def join(match: re.Match[str]) -> str:
        before, after = match.group(1), match.group(2)
        whole, compound = before + after, f"{before}-{after}"
        if not after[0].islower() or not before[-1].isalpha() or compound.lower() in words:
            return compound
        halves = len(before) > 2 and len(after) > 2 and before.lower() in words and after.lower() in words
        return compound if halves and whole.lower() not in words else whole

    if _HYPHEN in text:
        text = _SPLIT_WORD.sub(join, text).replace(_HYPHEN, "")
    return _readable(text)
