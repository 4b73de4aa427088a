"""Plain text and source code: paragraphs as they stand."""

from __future__ import annotations

import re

from ragops.types import Block, ParserOutput
from ragops_pipelines.parsers.decode import decode

_GAP = re.compile(r"\n(?:[ \t\f\v]*\n)+")


def parse(data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
    text = decode(data, encoding).replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n")
    return ParserOutput([Block("paragraph", part) for part in _GAP.split(text) if part.strip()])
