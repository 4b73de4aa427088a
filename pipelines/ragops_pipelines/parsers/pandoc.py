"""reStructuredText and Org by pandoc, as unstructured reads them too, but with the door to other files shut.

`.. include:: /etc/passwd` in a document would copy that file into the knowledge base: the sandbox forbids it.
"""

from __future__ import annotations

import re

from ragops.errors import ParseError
from ragops.types import Block, ParserOutput
from ragops_pipelines.parsers import html
from ragops_pipelines.parsers import text as plain
from ragops_pipelines.parsers.decode import decode

_FORMATS = {"text/x-rst": "rst", "text/x-org": "org"}
# What reads another file would end the whole document in the sandbox, so it becomes what it is to a reader: a line.
_INCLUDES = {
    "rst": (re.compile(r"^([ \t]*)\.\.[ \t]+(?=(?:include|literalinclude)::)", re.M), r"\1"),
    "org": (re.compile(r"^([ \t]*)#\+(?=INCLUDE:)", re.M | re.I), r"\1"),
}
_OPTIONS = {
    "rst": (re.compile(r"^([ \t]+):(file|url):(?=[ \t])", re.M), r"\1:x-\2:"),
    "org": (re.compile(r"^([ \t]*)#\+(?=SETUPFILE:)", re.M | re.I), r"\1"),
}
_ORG_TITLE = re.compile(r"^#\+TITLE:[ \t]*(.+)$", re.M | re.I)


def parse(data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
    import pypandoc  # type: ignore[import-untyped]

    form = _FORMATS[media_type]
    text = decode(data, encoding).replace("\r\n", "\n").replace("\r", "\n")
    safe = text
    for pattern, replacement in (_INCLUDES[form], _OPTIONS[form]):
        safe = pattern.sub(replacement, safe)
    try:
        page = pypandoc.convert_text(safe, "html", format=form, extra_args=["--sandbox", "--wrap=none", "--quiet"])
    except RuntimeError:  # a document that pandoc does not read is still plain text
        return plain.parse(text.encode("utf-8", "replace"), media_type, "utf-8")
    except OSError as error:
        raise ParseError("pandoc is not installed.", "pip install 'ragops[ingest]'", code="missing_tool") from error
    output = html.parse_text(page)
    title = output.title
    blocks = list(output.blocks)
    if form == "org" and (found := _ORG_TITLE.search(text)):
        title = found.group(1).strip()
        blocks.insert(0, Block("heading", title, level=1))
    return ParserOutput(blocks, title=title)
