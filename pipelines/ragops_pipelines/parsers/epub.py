"""Books: the chapters of the spine in order, each read as HTML."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

from ragops.errors import ParseError
from ragops.types import Block, ParserOutput, Scalar
from ragops_pipelines.parsers import html
from ragops_pipelines.parsers.archive import Archive
from ragops_pipelines.parsers.decode import decode
from ragops_pipelines.parsers.tree import local


def parse(data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
    archive = Archive(data)
    package = next(
        ((e.get("full-path") or "") for e in archive.xml("META-INF/container.xml").iter() if local(e) == "rootfile"), ""
    )
    root = archive.xml(package)
    folder = posixpath.dirname(package)
    paths: dict[str, str] = {}
    title: str | None = None
    fields: dict[str, Scalar | list[Scalar]] = {}
    spine: list[str] = []
    for element in root.iter():
        name = local(element)
        if name == "item":
            href = unquote((element.get("href") or "").partition("#")[0])
            paths[(element.get("id") or "")] = posixpath.normpath(posixpath.join(folder, href))
        elif name == "itemref":
            spine.append(element.get("idref") or "")
        elif name == "title" and title is None and element.text:
            title = " ".join(element.text.split())
        elif name == "creator" and element.text:
            fields.setdefault("author", " ".join(element.text.split()))
    chapters = [path for item in spine if (path := paths.get(item, "")) in archive.names]
    _refuse_locked(archive, chapters)
    blocks: list[Block] = []
    for path in chapters:
        chapter = archive.read(path)
        blocks.extend(html.parse_text(decode(chapter, html.declared_encoding(chapter))).blocks)
    return ParserOutput(blocks, title=title, fields=fields)


def _refuse_locked(archive: Archive, chapters: list[str]) -> None:
    if "META-INF/encryption.xml" not in archive.names:
        return
    locked = {
        unquote(e.get("URI") or "")
        for e in archive.xml("META-INF/encryption.xml").iter()
        if local(e) == "CipherReference"
    }
    if locked.intersection(chapters):  # fonts may be obscured in a book that is free
        raise ParseError("The book is encrypted (DRM).", "Ingest a copy without DRM.", code="encrypted")
