"""CSV and TSV: each record one readable line."""

from __future__ import annotations

import csv
import io
from typing import Literal

from ragops.types import ParserOutput
from ragops_pipelines.parsers import text as plain
from ragops_pipelines.parsers.decode import decode
from ragops_pipelines.parsers.rows import table_blocks

_SAMPLE = 64 * 1024
_DELIMITERS = ",;\t|"


def parse(data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
    text = decode(data, encoding).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").lstrip("\ufeff")
    delimiter = "\t" if media_type == "text/tab-separated-values" else None
    if text[:4].lower() == "sep=":  # Excel's own way to name it
        delimiter, text = text[4:5], text[5:].lstrip("\n")
    delimiter = delimiter or sniff(text)
    rows = _rows(text, delimiter, csv.QUOTE_MINIMAL)
    if rows is None or any(cell.count("\n") > 50 for row in rows for cell in row):  # one lost quote eats the rest
        rows = _rows(text, delimiter, csv.QUOTE_NONE)
    if rows is None:
        return plain.parse(text.encode("utf-8", "replace"), "text/plain", "utf-8")
    return ParserOutput(table_blocks(rows))


def sniff(text: str) -> str:
    """The delimiter that cuts most of the first lines into the same number of cells, more than one."""
    lines = [line for line in text[:_SAMPLE].split("\n")[:50] if line.strip()]
    best, score = ",", 0.0
    for delimiter in _DELIMITERS:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter)]
        usual = max(set(widths), key=lambda width: (widths.count(width), width), default=1)
        if usual > 1:
            agreed = widths.count(usual) / len(widths)
            if agreed > score + 1e-9:
                best, score = delimiter, agreed
    return best


def _rows(text: str, delimiter: str, quoting: Literal[0, 3]) -> list[list[str]] | None:
    csv.field_size_limit(max(len(text), 131_072))
    try:
        return list(csv.reader(io.StringIO(text), delimiter=delimiter, quoting=quoting))
    except csv.Error:
        return None
