"""unstructured: the general parser, for what has no reader of its own and as a second opinion where one fails."""

from __future__ import annotations

import importlib.util
import io
import os
from functools import cache
from typing import Any

from ragops.errors import ParseError
from ragops.types import Block, BlockKind, ParserOutput
from ragops_pipelines.parsers import html

_KINDS: dict[str, BlockKind] = {
    "Title": "heading",
    "ListItem": "list",
    "Table": "table",
    "CodeSnippet": "code",
}
_MODEL = "en_core_web_sm"


def language_model() -> str:
    """The name of the sentence and word-class model that unstructured uses here. Imports nothing heavy."""
    return _MODEL if importlib.util.find_spec(_MODEL) is not None else "blank-en+sentencizer"


@cache
def prepare() -> None:
    """Import unstructured without its telemetry, and keep it from fetching a model."""
    # Read at import, so they must stand before it; the pool sets them for its workers as well.
    os.environ.update(SCARF_NO_ANALYTICS="true", DO_NOT_TRACK="true", UNSTRUCTURED_DISABLE_NOTICE="1")
    import spacy
    import unstructured.nlp.tokenize as tokenize

    if language_model() != _MODEL:
        # A private name of the pinned version: without the model it would be downloaded at the first use.
        stand_in = spacy.blank("en")
        stand_in.add_pipe("sentencizer")
        tokenize._load_spacy_model = lambda *_: stand_in


def second_opinion(data: bytes, media_type: str, encoding: str | None, first: Exception) -> ParserOutput:
    """Parse what another parser refused. Raises ParseError with the first one's reason."""
    try:
        return parse(data, media_type, encoding)
    except ParseError as error:
        if error.code not in ("damaged", "empty"):
            raise
        reason = str(first).partition("\n")[0][:300]
        raise ParseError(
            f"The file is damaged or not what it says it is: {reason}",
            "Replace it with a whole copy, then ingest again.",
        ) from first


def parse(data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
    try:
        prepare()
        from unstructured.partition.auto import partition
    except ImportError as error:
        raise ParseError(
            f"A package that this format needs is not installed: {error.name}.",
            "pip install 'ragops[ingest]'",
            code="missing_tool",
        ) from error
    try:
        # "fast": the other strategies fetch models.
        elements = partition(
            file=io.BytesIO(data),
            content_type=media_type,
            encoding=encoding,
            strategy="fast",
            detect_language_per_element=False,
        )
    except MemoryError:
        raise
    except ImportError as error:
        raise ParseError(
            f"A package that this format needs is not installed: {error}.",
            "Install it, or leave the file out with an `exclude` pattern.",
            code="missing_tool",
        ) from error
    except Exception as error:  # its parsers raise errors of two dozen libraries
        if "password" in str(error).lower() or "encrypted" in str(error).lower():
            raise ParseError("The file needs a password.", "Save a copy without one.", code="encrypted") from error
        raise ParseError(
            f"The file cannot be read: {type(error).__name__}: {str(error)[:300]}", "Replace it with a whole copy."
        ) from error
    return ParserOutput(_blocks(elements))


def _blocks(elements: list[Any]) -> list[Block]:
    blocks: list[Block] = []
    items: list[str] = []
    for element in elements:
        kind: BlockKind = _KINDS.get(type(element).__name__, "paragraph")
        page = element.metadata.page_number
        if kind == "list":
            items.append("- " + " ".join(element.text.split()))
            continue
        if items:
            blocks.append(Block("list", "\n".join(items), page=page))
            items = []
        if kind == "heading":
            blocks.append(
                Block("heading", element.text, level=min((element.metadata.category_depth or 0) + 1, 6), page=page)
            )
        elif kind == "table" and element.metadata.text_as_html:
            blocks.extend(html.parse_text(element.metadata.text_as_html, page=page).blocks)
        elif element.text.strip():
            blocks.append(Block(kind, element.text, page=page))
    if items:
        blocks.append(Block("list", "\n".join(items)))
    return blocks
