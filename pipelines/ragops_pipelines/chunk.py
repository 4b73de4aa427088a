"""Documents to chunks, counted by the embedder's own tokenizer and never longer than its window.

The text is cut into pieces that lie side by side (so nothing can be lost), every piece is counted once, and runs of
pieces become chunks. Borders, best first: section, block (paragraph, list, table, code), sentence or item or row,
clause or line, word, token. A block that fits stays whole; one that does not is cut at the best borders it has.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeAlias

from ragops import ids
from ragops.errors import UsageError
from ragops.types import BlockKind, Chunk, Parsed, Span, Tokenizer
from ragops_pipelines import versions

DEFAULT_SIZE = 160  # see Chunker
MIN_SIZE = 8
LABEL_CHARS = 200  # of a title or heading that are kept
CHARS_PER_TOKEN = 16  # a chunk has at most this many characters for each token of `size`

_SEPARATOR = " > "

# How good a border is.
_SECTION, _BLOCK, _SENTENCE, _CLAUSE, _WORD, _TOKEN, _NEVER = 6, 5, 4, 3, 2, 1, 0

# What every tokenizer takes for white space. Not `\s`: BERT's drops \f, \v and \x1c-\x1f, which joins their neighbours.
_SPACE = r"[ \t\n\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
_CLOSE = "\"'”’»›)\\]}*_」』）】》〉"
_ABBREVIATIONS = (
    r"Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|vs|cf|al|Fig|Figs|Eq|Sec|Vol|pp|ed|eds|approx|ca|e\.g|i\.e|[A-Z]|"
    r"bzw|usw|vgl|Nr|Abs|Art|Bd|z\.B|d\.h|u\.a|Ing|Mme|Sra"
)
_NO_END = "".join(rf"(?<!\b{word}\.)" for word in _ABBREVIATIONS.split("|")) + r"(?<!^\d\.)(?<!^\d\d\.)"
_STOP = "。！？｡．؟।॥։၊။៕"
# One set of signs in front lets the engine skip to them. A run of marks is entered at its first sign alone, so that a
# megabyte of dots stays linear.
_RULE_SENTENCE = re.compile(
    rf"[.!?…{_STOP}\n](?:"
    rf"(?<=[.!?…])(?<![.!?…][.!?…]){_NO_END}[.!?…]*+[{_CLOSE}]*+{_SPACE}++"
    rf"|(?<=[{_STOP}])[{_STOP}]*+[{_CLOSE}]*+{_SPACE}*+"
    rf"|(?<=\n)(?<!\n\n)[ \t]*+\n{_SPACE}*+)",
    re.MULTILINE,
)
_RULE_LINE = re.compile(r"\n++")
_RULE_BLANK = re.compile(r"\n[ \t]*\n\s*+")
_RULE_ITEM = re.compile(r"\n(?=[ \t]*+(?:[-*+•‣◦–]|\w{1,3}[.)])[ \t])")
_RULE_CLAUSE = re.compile(
    rf"[,;:|–—，、；：\t](?:(?<=[，、；：\t])[，、；：\t]*+{_SPACE}*+|(?<![，、；：\t])[{_CLOSE}]*+{_SPACE}++)"
)
_RULES: dict[BlockKind, tuple[tuple[re.Pattern[str], int], ...]] = {
    "paragraph": ((_RULE_SENTENCE, _SENTENCE), (_RULE_LINE, _CLAUSE), (_RULE_CLAUSE, _CLAUSE)),
    "heading": ((_RULE_SENTENCE, _SENTENCE), (_RULE_LINE, _CLAUSE), (_RULE_CLAUSE, _CLAUSE)),
    "list": ((_RULE_ITEM, _SENTENCE), (_RULE_LINE, _CLAUSE), (_RULE_SENTENCE, _CLAUSE), (_RULE_CLAUSE, _CLAUSE)),
    "table": ((_RULE_LINE, _SENTENCE), (_RULE_CLAUSE, _CLAUSE), (_RULE_SENTENCE, _CLAUSE)),
    "code": ((_RULE_BLANK, _SENTENCE), (_RULE_LINE, _CLAUSE)),
}
_SPACES = re.compile(_SPACE + "++")


@dataclass(slots=True)
class _Piece:
    start: int
    end: int
    border: int  # how good the border before it is
    rule: int  # the next of its kind's rules to try when it is too long
    tokens: int = -1


@dataclass(slots=True)
class _Block:
    kind: BlockKind
    start: int
    end: int  # where the next one starts
    page: int | None
    pieces: list[_Piece]
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Label:
    """A heading, or the title (which starts nowhere)."""

    text: str
    start: int = -1
    level: int = 0


#: A title or heading -> what a prefix says of it, and the tokens of that.
_Said: TypeAlias = dict[str, tuple[str, int]]


@dataclass(slots=True)
class _Section:
    path: tuple[_Label, ...]  # headings from the top, the innermost its own
    blocks: list[_Block]
    budget: int = 0  # tokens of text that a chunk of it may have
    overlap: int = 0
    tokens: int = 0


@dataclass(slots=True)
class _Work:
    title: str
    text: str
    sections: list[_Section]


@dataclass(frozen=True, slots=True)
class _Draft:
    """A chunk to be: a stretch of a document under a heading path, trimmed and not empty."""

    work: _Work
    start: int
    end: int
    path: tuple[_Label, ...]
    page: int | None
    exact: bool  # its tokens are the sum of its pieces'; not so where two parts of one word have met again


class Chunker:
    """Cuts documents for a model that reads `window` tokens.

    `size` is the most tokens of text in a chunk; by default 160, or less where the window leaves less. Measured on
    Chroma's chunking evaluation with all-MiniLM-L6-v2 (benchmarks/chunking.py, recall / precision at 5 retrieved):
    100 73.1 / 10.1, 128 71.2 / 8.0, 160 75.3 / 6.6, 200 74.2 / 5.5, 254 77.0 / 4.7. Precision falls with size, and
    recall moves little (two points are noise with 239 questions): 160 is the smallest with the recall of larger ones.
    It also leaves the longest context its room in a window of 256, so that chunks need not shrink below headings.
    `overlap` is how many tokens of the chunk before are repeated, in whole sentences where they fit; never across a
    section's border.
    `context` puts the title and the headings above a chunk in front of what the model reads (`Chunk.embed_text`), at
    most a quarter of the window, the outermost dropped first. Headings that are in the chunk already are not repeated.

    Short sections join the next sibling; every other section starts a new chunk. No chunk has more than 16 characters
    for each token of `size`, so that a megabyte which the tokenizer takes for one unknown word is still many chunks.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        window: int,
        *,
        size: int | None = None,
        overlap: int = 0,
        context: bool = True,
    ) -> None:
        """Raises UsageError for settings that cannot be."""
        room = window - tokenizer.special_tokens
        if room < MIN_SIZE:
            raise UsageError(
                f"a window of {window} tokens, {tokenizer.special_tokens} of them special, leaves {room} for text",
                f"use a model whose window leaves at least {MIN_SIZE}",
            )
        if size is None:
            size = min(DEFAULT_SIZE, room)
        if not MIN_SIZE <= size <= room:
            raise UsageError(
                f"chunk size {size} does not fit: the model's window of {window} tokens leaves {room} for text",
                f"set chunk.size between {MIN_SIZE} and {room}",
            )
        if not 0 <= overlap <= size // 2:
            raise UsageError(
                f"chunk overlap {overlap} does not fit chunks of {size} tokens",
                f"set chunk.overlap between 0 and {size // 2}, half the chunk size",
            )
        self._tokenizer = tokenizer
        self._room = room
        self._size = size
        self._overlap = overlap
        self._context = context
        self._additive = tokenizer.additive
        self._prefix_limit = room // 4
        self._max_chars = size * CHARS_PER_TOKEN
        # With an overlap sentences must be known everywhere; else a block that surely fits need not be cut to see it.
        self._whole_chars = 0 if overlap else 3 * size
        self._separator_tokens = tokenizer.count([_SEPARATOR])[0] if context else 0
        self.fingerprint = ids.composite(
            "chunker",
            {
                "version": versions.CHUNKER,
                "tokenizer": tokenizer.fingerprint,
                "window": window,
                "size": size,
                "overlap": overlap,
                "context": context,
            },
        )

    def chunk(self, title: str, parsed: Parsed) -> list[Chunk]:
        """One document's chunks, in order; see `chunk_many`."""
        return self.chunk_many([(title, parsed)])[0]

    def chunk_many(self, documents: Sequence[tuple[str, Parsed]]) -> list[list[Chunk]]:
        """The chunks of each (title, document), in order, with one call of the tokenizer for all in the common case.

        Every character that is not white space lies in a chunk; chunks are trimmed. A document of nothing but white
        space has none.
        """
        works = [_Work(_label(title), parsed.text, self._outline(parsed)) for title, parsed in documents]
        labels = self._count_all(works)
        for work in works:
            for section in work.sections:
                context = [work.title, *(label.text for label in section.path)] if self._context else []
                section.budget = min(self._size, self._room - min(self._prefix_limit, self._joined(context, labels)))
                # No piece is longer than the overlap may be, so that both together fit.
                section.overlap = min(self._overlap, section.budget // 2)
        self._refine(works)
        return [self._finish_all(list(self._drafts(work)), labels) for work in works]

    # ------------------------------------------------------------ cutting and counting
    def _outline(self, parsed: Parsed) -> list[_Section]:
        """Sections of blocks of first pieces, not yet counted."""
        sections: list[_Section] = []
        path: tuple[_Label, ...] = ()
        bare = False  # the last section is headings alone
        text, whole = parsed.text, self._whole_chars
        for span, start, end in _tiles(parsed):
            kind = span.kind
            pieces = (
                [_Piece(start, end, _BLOCK, 0)] if end - start <= whole else self._cut_first(text, kind, start, end)
            )
            block = _Block(kind, start, end, span.page, pieces)
            if kind == "heading":
                label = _Label(_label(text[start:end]), start, max(span.level, 1))
                outer = tuple(other for other in path if other.level < label.level)
                deeper = bare and len(outer) == len(path)
                path = (*outer, label)
                if deeper:  # a heading directly below a heading: what follows belongs to both
                    sections[-1].path = path
                    sections[-1].blocks.append(block)
                else:
                    sections.append(_Section(path, [block]))
                bare = True
            else:
                if not sections:
                    sections.append(_Section(path, []))
                sections[-1].blocks.append(block)
                bare = False
        return sections

    def _cut_first(self, text: str, kind: BlockKind, start: int, end: int) -> list[_Piece]:
        pieces = _cut(_Piece(start, end, _BLOCK, 0), kind, text, 0)
        if any(piece.end - piece.start > self._max_chars for piece in pieces):
            return [part for piece in pieces for part in _slices(piece, text, self._max_chars)]
        return pieces

    def _count_all(self, works: Sequence[_Work]) -> _Said:
        """Count every piece; titles and headings come back, with their tokens, short enough for a prefix."""
        pieces: list[_Piece] = []
        texts: list[str] = []
        labels: _Said = {}
        for work in works:
            text = work.text
            if self._context:
                labels[work.title] = ("", 0)
            for section in work.sections:
                if self._context:
                    labels.update((label.text, ("", 0)) for label in section.path)
                for block in section.blocks:
                    pieces += block.pieces
                    texts += [text[piece.start : piece.end] for piece in block.pieces]
        distinct = dict.fromkeys([*texts, *labels], 0)  # documents repeat themselves: table heads, fences, headings
        distinct.update(zip(distinct, self._tokenizer.count(list(distinct)) if texts else (), strict=False))
        for piece, text in zip(pieces, texts, strict=True):
            piece.tokens = distinct[text]
        for label in labels:
            tokens = distinct[label]
            labels[label] = (label, tokens) if tokens <= self._prefix_limit else self._shorten(label)
        return labels

    def _refine(self, works: Sequence[_Work]) -> None:
        """Make blocks that fit whole, and cut pieces that do not fit, all documents in step."""
        jobs: list[tuple[_Work, _Block, int]] = []
        for work in works:
            for section in work.sections:
                for block in section.blocks:
                    block.tokens = sum([piece.tokens for piece in block.pieces])
                    section.tokens += block.tokens
                first, last = section.blocks[0], section.blocks[-1]
                if section.tokens <= section.budget and last.end - first.start <= self._max_chars:
                    continue  # one chunk, or a part of one
                limit = section.budget
                for block in section.blocks:
                    tokens = block.tokens
                    if self._overlap:
                        jobs.append((work, block, min(limit, max(section.overlap, 1))))
                    elif tokens <= limit and block.end - block.start <= self._max_chars:
                        if len(block.pieces) > 1:
                            block.pieces = [_Piece(block.start, block.end, _BLOCK, 0, tokens)]
                    else:
                        jobs.append((work, block, limit))
                    # What follows a heading must fit beside it, or the heading would stand alone.
                    limit = limit - tokens if block.kind == "heading" and tokens <= limit // 2 else section.budget
        while jobs:
            fresh: list[_Piece] = []
            texts: list[str] = []
            left: list[tuple[_Work, _Block, int]] = []
            for work, block, limit in jobs:
                pieces: list[_Piece] = []
                again = False
                for piece in block.pieces:
                    if piece.tokens <= limit or piece.end - piece.start == 1:
                        pieces.append(piece)
                        continue
                    again = True
                    parts = self._cut_further(piece, block.kind, work.text, limit)
                    pieces += parts
                    fresh += parts
                    texts += [work.text[part.start : part.end] for part in parts]
                if again:
                    block.pieces = pieces
                    left.append((work, block, limit))
            if texts:
                for piece, tokens in zip(fresh, self._tokenizer.count(texts), strict=True):
                    piece.tokens = tokens
            jobs = left

    def _cut_further(self, piece: _Piece, kind: BlockKind, text: str, limit: int) -> list[_Piece]:
        """Two or more pieces, by the next rule that has a border in this one."""
        rules = len(_RULES[kind])
        for rule in range(piece.rule, rules):
            parts = _cut(piece, kind, text, rule)
            if len(parts) > 1:
                return parts
        if piece.rule <= rules:
            # Words in groups of about a quarter of the limit, so that they still pack well.
            step = (piece.end - piece.start) * limit // (4 * piece.tokens)
            parts = _cut_words(piece, text, max(step, 1), rules + 1)
            if len(parts) > 1:
                return parts
        offsets = self._tokenizer.offsets([text[piece.start : piece.end]])[0]
        count = -(-len(offsets) // limit)
        marks = [piece.start + offsets[len(offsets) * nth // count][0] for nth in range(1, count)]
        return _cut_at(piece, text, marks or [(piece.start + piece.end) // 2], rules + 1)

    # ------------------------------------------------------------ packing
    def _drafts(self, work: _Work) -> Iterator[_Draft]:
        for group in self._groups(work.sections):
            path = group[0].path
            for section in group[1:]:
                path = path[: _common(path, section.path)]
            if len(group) == 1:
                stretches = self._pack(group[0])
            else:
                stretches = [(group[0].blocks[0].start, group[-1].blocks[-1].end, group[0].blocks[0].page, True)]
            for start, end, page, exact in stretches:
                body = work.text[start:end]
                end -= len(body) - len(body.rstrip())
                start += len(body) - len(body.lstrip())
                if start < end:
                    yield _Draft(work, start, end, path, page, exact and self._additive)

    def _groups(self, sections: Sequence[_Section]) -> list[list[_Section]]:
        """Sections that are short go with the siblings after them, or else before them, where all of it fits."""
        small = self._size // 4
        groups: list[list[_Section]] = []
        at = 0
        while at < len(sections):
            group = [sections[at]]
            tokens = sections[at].tokens
            at += 1
            while at < len(sections) and tokens < small and self._fits([*group, sections[at]]):
                group.append(sections[at])
                tokens += sections[at].tokens
                at += 1
            if groups and tokens < small and self._fits([*groups[-1], *group]):
                groups[-1] += group
            else:
                groups.append(group)
        return groups

    def _fits(self, group: Sequence[_Section]) -> bool:
        """Whether neighbours make one chunk: all below the parent of the first, and within its budget."""
        first, last = group[0], group[-1]
        return (
            _common(first.path, last.path) >= len(first.path) - 1
            and sum(section.tokens for section in group) <= min(section.budget for section in group)
            and last.blocks[-1].end - first.blocks[0].start <= self._max_chars
        )

    def _pack(self, section: _Section) -> list[tuple[int, int, int | None, bool]]:
        """Start, end, page and exactness of each chunk of a section: as full as good borders allow."""
        blocks = section.blocks
        pieces = [piece for block in blocks for piece in block.pieces]
        pages = [block.page for block in blocks for _ in block.pieces]
        borders = [piece.border for piece in pieces]
        at = 0
        for block in blocks:  # none between a heading and what follows it
            at += len(block.pieces)
            if block.kind == "heading" and at < len(pieces):
                borders[at] = _NEVER
        last = len(pieces)
        starts = [piece.start for piece in pieces]
        starts.append(blocks[-1].end)
        total = list(accumulate([piece.tokens for piece in pieces], initial=0))
        stretches: list[tuple[int, int, int | None, bool]] = []
        at = 0  # the first piece that is not in a chunk yet
        while at < last:
            begin = at
            if section.overlap and stretches:
                begin = _overlap_from(at, section.overlap, stretches[-1][0], starts, borders, total)
            budget = section.budget - (total[at] - total[begin])
            reach = starts[begin] + self._max_chars
            rest = total[last] - total[at]
            stop = last
            if at + 1 < last and (rest > budget or starts[last] > reach):
                most = min(
                    bisect_right(total, total[at] + budget, at + 1, last) - 1,
                    bisect_right(starts, reach, at + 1, last) - 1,
                )
                # Full chunks from the front, so that an edit moves no border before it; only the last two are evened.
                full = min(budget, rest / 2) if rest > budget else budget
                if rest > budget:  # leave no crumb
                    crumb = bisect_right(total, total[last] - self._size // 8, at + 1, last) - 1
                    most = min(most, max(crumb, at + 1))
                least = bisect_left(total, total[at] + full / 2, at + 1, max(most, at + 1))
                aim = total[at] + full
                stop = max(
                    range(least, max(most, least) + 1), key=lambda nth: (borders[nth], -abs(total[nth] - aim), nth)
                )
            stretches.append((starts[begin], starts[stop], pages[begin], _TOKEN not in borders[begin + 1 : stop]))
            at = stop
        return stretches

    # ------------------------------------------------------------ finishing
    def _joined(self, parts: Sequence[str], labels: _Said) -> int:
        return sum(labels[part][1] for part in parts) + self._separator_tokens * max(len(parts) - 1, 0)

    def _prefix(self, draft: _Draft, labels: _Said) -> str:
        """Title and headings that the chunk does not hold itself, innermost kept."""
        path = draft.path
        title = draft.work.title
        parts = [label.text for label in path if not draft.start <= label.start < draft.end]
        if (
            title
            and not (path and _same(title, path[0].text))
            and not draft.work.text.startswith(f"{title}\n", draft.start)
        ):
            parts.insert(0, title)
        while len(parts) > 1 and self._joined(parts, labels) > self._prefix_limit:
            del parts[0]
        return _SEPARATOR.join(labels[part][0] for part in parts)

    def _shorten(self, label: str) -> tuple[str, int]:
        """The first words of a label that alone is longer than a prefix may be, and their tokens."""
        keep = self._prefix_limit
        offsets = self._tokenizer.offsets([label])[0]
        while keep and offsets:
            short = label[: offsets[min(keep, len(offsets)) - 1][1]]
            short = short.rpartition(" ")[0] or short
            tokens = self._tokenizer.count([short])[0]
            if tokens <= self._prefix_limit:
                return short, tokens
            keep //= 2
        return "", 0

    def _finish(self, draft: _Draft, labels: _Said, prefix: str | None = None) -> Chunk:
        text = draft.work.text[draft.start : draft.end]
        if prefix is None:
            prefix = self._prefix(draft, labels) if self._context else ""
        path = draft.path
        if path and _same(draft.work.title, path[0].text):
            path = path[1:]
        return Chunk(
            start=draft.start,
            end=draft.end,
            text=text,
            heading=tuple(label.text for label in path),
            page=draft.page,
            embed_text=f"{prefix}\n\n{text}" if prefix else text,
        )

    def _finish_all(self, drafts: Sequence[_Draft], labels: _Said) -> list[Chunk]:
        """Where counts do not surely add up, count what the model reads and halve what is too long."""
        done: list[Chunk] = []
        pending: list[tuple[_Draft, Chunk]] = []
        for draft in drafts:
            chunk = self._finish(draft, labels)
            if draft.exact:
                done.append(chunk)
            else:
                pending.append((draft, chunk))
        while pending:
            again: list[tuple[_Draft, Chunk]] = []
            counts = self._tokenizer.count([chunk.embed_text for _, chunk in pending])
            for (draft, chunk), tokens in zip(pending, counts, strict=True):
                if tokens <= self._room:
                    done.append(chunk)
                elif draft.end - draft.start > 1:
                    again += [(half, self._finish(half, labels)) for half in _halves(draft)]
                elif chunk.embed_text != chunk.text:
                    again.append((draft, self._finish(draft, labels, "")))
                else:
                    done.append(chunk)  # one character that is longer than the window
            pending = again
        # Halves of chunks that overlap can lie within one another: keep the outer ones.
        done.sort(key=lambda chunk: (chunk.start, -chunk.end))
        reached = accumulate((chunk.end for chunk in done), max, initial=0)
        return [chunk for chunk, before in zip(done, reached, strict=False) if chunk.end > before]


def _overlap_from(
    at: int, overlap: int, before: int, starts: Sequence[int], borders: Sequence[int], total: Sequence[int]
) -> int:
    """The piece at which a chunk starts whose own first piece is `at`; the chunk before starts at offset `before`."""
    low = max(bisect_left(total, total[at] - overlap, 0, at), bisect_right(starts, before, 0, at))
    # The furthest back that starts a sentence, else the furthest back.
    return next((nth for nth in range(low, at) if borders[nth] >= _SENTENCE), low)


# ---------------------------------------------------------------- text
def _tiles(parsed: Parsed) -> Iterator[tuple[Span, int, int]]:
    """The blocks so that they cover the text side by side: what lies between two belongs to the first."""
    size = len(parsed.text)
    if not size:
        return
    spans = [span for span in parsed.spans if span.start < min(span.end, size)]
    starts = [span.start for span in spans]
    if any(one.end > two.start for one, two in pairwise(spans)):
        raise ValueError("the blocks of a parsed document must not overlap and must be in order")
    if not spans:
        spans, starts = [Span("paragraph", 0, size)], [0]
    yield from zip(spans, [0, *starts[1:]], [*starts[1:], size], strict=True)


def _label(text: str) -> str:
    return " ".join(text[: 4 * LABEL_CHARS].split())[:LABEL_CHARS].rstrip()


def _same(one: str, two: str) -> bool:
    return one.casefold() == two.casefold()


def _common(one: Sequence[_Label], two: Sequence[_Label]) -> int:
    """How many headings two paths share from the top."""
    return next((nth for nth, (a, b) in enumerate(zip(one, two, strict=False)) if a is not b), min(len(one), len(two)))


def _cut(piece: _Piece, kind: BlockKind, text: str, rule: int) -> list[_Piece]:
    pattern, border = _RULES[kind][rule]
    parts: list[_Piece] = []
    start, before = piece.start, piece.border
    for match in pattern.finditer(text, start, piece.end):
        end = match.end()
        if end >= piece.end:
            break
        parts.append(_Piece(start, end, before, rule + 1))
        # ". a": an abbreviation that no list knows, more likely than the end of a sentence.
        start, before = end, _CLAUSE if pattern is _RULE_SENTENCE and text[end].islower() else border
    parts.append(_Piece(start, piece.end, before, rule + 1))
    return parts


def _cut_words(piece: _Piece, text: str, step: int, rule: int) -> list[_Piece]:
    """At white space, each part at least `step` characters long."""
    parts: list[_Piece] = []
    start, before = piece.start, piece.border
    while match := _SPACES.search(text, start + step, piece.end):
        if match.end() >= piece.end:
            break
        parts.append(_Piece(start, match.end(), before, rule))
        start, before = match.end(), _WORD
    parts.append(_Piece(start, piece.end, before, rule))
    return parts


def _slices(piece: _Piece, text: str, most: int) -> Iterator[_Piece]:
    """Parts of at most `most` characters, at white space where there is some."""
    start, before = piece.start, piece.border
    while piece.end - start > most:
        space = max(text.rfind(sign, start + most // 2, start + most) for sign in " \n\t\u00a0\u3000")
        end = space + 1 if space >= 0 else _unbroken(text, start + most, start)
        yield _Piece(start, end, before, piece.rule)
        start, before = end, _WORD if space >= 0 else _TOKEN
    yield _Piece(start, piece.end, before, piece.rule)


def _cut_at(piece: _Piece, text: str, marks: Sequence[int], rule: int) -> list[_Piece]:
    """At the given places, or a little before them where they would break a character that people see as one."""
    parts: list[_Piece] = []
    start, before = piece.start, piece.border
    for mark in marks:
        end = _unbroken(text, mark, start)
        if start < end < piece.end:
            parts.append(_Piece(start, end, before, rule))
            start, before = end, _TOKEN
    if not parts:  # a single character of many code points: cut it
        start = (piece.start + piece.end) // 2
        parts.append(_Piece(piece.start, start, before, rule))
        before = _TOKEN
    parts.append(_Piece(start, piece.end, before, rule))
    return parts


def _unbroken(text: str, at: int, low: int) -> int:
    """`at`, or the nearest place before it (above `low`) that does not part a base from what is drawn onto it."""
    for end in range(at, max(low, at - 32), -1):
        if not _joins(text, end, low):
            return end
    return at


def _joins(text: str, at: int, low: int) -> bool:
    if not 0 < at < len(text):
        return False
    before, after = text[at - 1], text[at]
    if after < "\u0300":
        return False
    if before == "\u200d" or after == "\u200d" or unicodedata.category(after)[0] == "M":
        return True
    if "\U0001f3fb" <= after <= "\U0001f3ff" or "\U000e0020" <= after <= "\U000e007f":
        return True  # skin tones; tags of flags
    if _is_flag_letter(before) and _is_flag_letter(after):  # flags are pairs
        first = at
        while first > max(low, at - 64) and _is_flag_letter(text[first - 1]):
            first -= 1
        return (at - first) % 2 == 1
    return False


def _is_flag_letter(sign: str) -> bool:
    return "\U0001f1e6" <= sign <= "\U0001f1ff"


def _halves(draft: _Draft) -> tuple[_Draft, _Draft]:
    """Two drafts, parted near the middle: at a sentence, a line, a word, or between two characters."""
    text, start, end = draft.work.text, draft.start, draft.end
    middle, margin = (start + end) // 2, (end - start) // 4
    at = 0
    for pattern in (_RULE_SENTENCE, _RULE_LINE, _SPACES):
        ends = [match.end() for match in pattern.finditer(text, middle - margin, middle + margin)]
        if ends:
            at = min(ends, key=lambda place: abs(place - middle))
            break
    if not start < at < end:
        at = _unbroken(text, middle, start)
    left, right = text[start:at].rstrip(), text[at:end]
    right_start = end - len(right.lstrip())
    return (
        _Draft(draft.work, start, start + len(left), draft.path, draft.page, False),
        _Draft(draft.work, right_start, end, draft.path, draft.page, False),
    )
