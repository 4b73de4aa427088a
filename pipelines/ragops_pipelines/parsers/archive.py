"""Zip containers (office files, books): opened safely, their XML read without entities or network."""

from __future__ import annotations

import io
import posixpath
import zipfile
import zlib
from urllib.parse import unquote

from ragops.errors import ParseError
from ragops_pipelines.parsers.tree import Element, parse_xml

_MAX_MEMBERS = 100_000


def check_unpacked(data: bytes, limit: int) -> None:
    """Raises ParseError ("too_large") for a zip whose members would unpack to more than `limit` bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
        return  # not a zip, or a broken one: its parser says so
    total = sum(member.file_size for member in members)
    if total > limit or len(members) > _MAX_MEMBERS:
        raise ParseError(
            f"Unpacks to {total:,} bytes in {len(members):,} members; the limit is {limit:,} bytes.",
            "Unpack it yourself, and ingest the parts that are needed.",
            code="too_large",
        )


class Archive:
    """The members of a zip, by path."""

    def __init__(self, data: bytes) -> None:
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
            raise ParseError(
                f"The file is damaged or cut off: {error}.", "Replace it with a whole copy, then ingest again."
            ) from error
        self.names = frozenset(self._zip.namelist())
        if any(member.flag_bits & 1 for member in self._zip.infolist()):
            raise ParseError("The file is encrypted.", "Save a copy without a password.", code="encrypted")

    def read(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except (KeyError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError) as error:
            raise ParseError(
                f"The part {name!r} is missing or damaged: {error}.", "Replace the file with a whole copy."
            ) from error

    def xml(self, name: str) -> Element:
        return read_xml(self.read(name), name)

    def relations(self, part: str) -> dict[str, tuple[str, str]]:
        """Relation id -> (last word of its type, path of its target) of an OOXML part; external ones left out."""
        folder, base = posixpath.split(part)
        name = posixpath.join(folder, "_rels", base + ".rels")
        if name not in self.names:
            return {}
        found = {}
        for relation in self.xml(name):
            if isinstance(relation.tag, str) and relation.get("TargetMode") != "External":
                target = unquote(relation.get("Target") or "")
                path = (
                    target.lstrip("/") if target.startswith("/") else posixpath.normpath(posixpath.join(folder, target))
                )
                found[relation.get("Id") or ""] = ((relation.get("Type") or "").rpartition("/")[2], path)
        return found


def read_xml(data: bytes, name: str) -> Element:
    """The root of an XML part. Entities are refused: no office format has them, attacks do."""
    if b"<!ENTITY" in data[:65536]:
        raise ParseError(f"The part {name!r} defines entities, which no office file does.", "Do not trust the file.")
    try:
        return parse_xml(data, large=True)
    except ParseError as error:
        raise ParseError(
            f"The part {name!r} is damaged: {error.message}", "Replace the file with a whole copy."
        ) from error
