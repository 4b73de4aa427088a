"""The words of a query in a text, as the keyword leg matches them: by stem, without stop words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache

from ragops.stores.bm25 import Bm25

LONG = 40  # letters of a word that is not remembered
Piece = tuple[str, bool]  # text, and whether it is one of the query's words
_BLANK = re.compile(r"\n[^\S\n]*\n\s*")
_WORD = re.compile(r"\w+")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]{2,}")  # scripts that set no space between words


@cache
def _tokens() -> Bm25:
    return Bm25(100)


def _terms(text: str) -> tuple[int, ...]:
    return tuple(_tokens().query(text)[0])


_terms_of_word = lru_cache(50_000)(_terms)  # texts repeat their words


class Marker:
    """Marks the words of one query."""

    def __init__(self, query: str) -> None:
        self._terms = frozenset(_terms(query))
        self._parts = sorted(set(_UNSPACED.findall(query)), key=len, reverse=True)

    def paragraphs(self, text: str) -> list[list[Piece]]:
        """A text as it is read: by blank lines, and each part cut where a mark begins or ends."""
        return [self.pieces(part) for part in _BLANK.split(text) if part.strip()]

    def pieces(self, text: str) -> list[Piece]:
        """The whole text, cut where a mark begins or ends."""
        found: list[Piece] = []
        at = 0
        for start, end in self._spans(text):
            if start > at:
                found.append((text[at:start], False))
            found.append((text[start:end], True))
            at = end
        if at < len(text):
            found.append((text[at:], False))
        return found

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        if not self._terms:
            return
        parts = re.compile("|".join(map(re.escape, self._parts))) if self._parts else None
        for word in _WORD.finditer(text):
            said = word[0]
            if self._terms.intersection(_terms_of_word(said) if len(said) <= LONG else _terms(said)):
                yield word.span()
            elif parts is not None:
                yield from (part.span() for part in parts.finditer(text, word.start(), word.end()))
