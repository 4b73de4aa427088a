"""Bytes to text for the text formats: byte order marks first, then what was told, then UTF-8, then a guess."""

from __future__ import annotations

import codecs
import re

from ragops.errors import ParseError

# UTF-32 before UTF-16: its little-endian mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # no text has many of these; ESC colours terminals' logs
_SAMPLE = 200_000  # bytes that a guess looks at; detection is slow and more would not change its mind


def decode(data: bytes, encoding: str | None) -> str:
    """Text of `data`. Raises ParseError ("damaged") where it is not text in any encoding."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return _checked(data.decode(name, "replace"))
    for told in (encoding, "utf-8"):
        if told is not None:
            try:
                return _checked(data.decode(told))
            except (UnicodeError, LookupError):
                continue  # a wrong label is common; the next one decides
    text = _cut_utf8(data)
    return _checked(_guess(data) if text is None else text)


def _cut_utf8(data: bytes) -> str | None:
    """UTF-8 with a few bad bytes (a cut file, one stray byte) is still UTF-8."""
    text = data.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    non_ascii = sum(1 for c in text[:_SAMPLE] if c > "\x7f")
    return text if bad * 20 <= non_ascii else None


def _guess(data: bytes) -> str:
    from charset_normalizer import from_bytes

    best = from_bytes(data[:_SAMPLE]).best()
    # Short latin-1 texts are guessed at random, so the Western default is the better guess there.
    name = best.encoding if best is not None and len(data) > 64 else "cp1252"
    return data.decode(name, "replace")


def _checked(text: str) -> str:
    sample = text[:_SAMPLE]
    bad = len(_CONTROL.findall(sample))
    if bad * 10 > len(sample):
        raise ParseError(
            f"Not text: {bad:,} of the first {len(sample):,} characters are control characters.",
            "Give the file its right ending, or leave it out with an `exclude` pattern.",
        )
    return text
