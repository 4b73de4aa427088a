"""The parsers, by media type. This table is cheap to read: a parser's module is imported when a file needs it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from ragops import ids
from ragops.errors import ParseError, UsageError
from ragops.types import Parser, ParserOutput

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "ragops.parsers"
STAGE_REVISION = 1  # of `parse.assemble`: part of every parser's fingerprint

_OOXML = "application/vnd.openxmlformats-officedocument."
_OPEN = "application/vnd.oasis.opendocument."


@dataclass(frozen=True, slots=True)
class Spec:
    """One built-in parser: `module.parse(data, media_type, encoding)` in this package."""

    name: str
    media_types: tuple[str, ...]
    packages: tuple[str, ...] = ()  # distributions whose version may change the text
    imports: tuple[str, ...] = ()  # modules that a worker imports before the limits of a file begin
    revision: int = 1  # raised whenever our own code gives another text
    language_model: bool = False  # uses the model that unstructured classifies sentences with

    def fingerprint(self) -> str:
        versions = {package: _version(package) for package in self.packages}
        model = ""
        if self.language_model:
            from ragops_pipelines.parsers import general

            model = general.language_model()
        return ids.composite("parser", [self.name, self.revision, versions, model])

    def parse(self, data: bytes, media_type: str, encoding: str | None) -> ParserOutput:
        module = importlib.import_module(f".{self.name}", __name__)
        output: ParserOutput = module.parse(data, media_type, encoding)
        return output

    def load(self) -> None:
        """Import what a parse needs. Raises ParseError ("missing_tool") with the install."""
        for name in (f"{__name__}.{self.name}", *self.imports):
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise ParseError(
                    f"The {self.name} parser needs the package {error.name!r}, which is not installed.",
                    "pip install 'ragops[ingest]'",
                    code="missing_tool",
                ) from error


_HTML = ("lxml", "charset-normalizer")
_GENERAL = ("unstructured", "lxml", "charset-normalizer")

BUILT_IN = (
    Spec("text", ("text/plain", "application/yaml", "text/yaml"), ("charset-normalizer",)),
    Spec("markdown", ("text/markdown",), ("markdown-it-py", "pyyaml", *_HTML), ("markdown_it", "yaml", "lxml.etree")),
    Spec("html", ("text/html", "application/xhtml+xml"), _HTML, ("lxml.etree",)),
    Spec("xml", ("application/xml", "text/xml", "image/svg+xml"), _HTML, ("lxml.etree",)),
    Spec("table", ("text/csv", "text/tab-separated-values"), ("charset-normalizer",)),
    Spec("data", ("application/json", "application/x-ndjson"), ("charset-normalizer",)),
    Spec("notebook", ("application/x-ipynb+json",), ("markdown-it-py", *_HTML), ("markdown_it", "lxml.etree")),
    Spec("pandoc", ("text/x-rst", "text/x-org"), ("pypandoc-binary", *_HTML), ("pypandoc", "lxml.etree")),
    Spec("pdf", ("application/pdf",), ("pypdfium2",), ("pypdfium2",)),
    Spec("docx", (_OOXML + "wordprocessingml.document",), ("lxml",), ("lxml.etree",)),
    Spec("pptx", (_OOXML + "presentationml.presentation",), ("lxml",), ("lxml.etree",)),
    Spec(
        "opendocument",
        (_OPEN + "text", _OPEN + "spreadsheet", _OPEN + "presentation"),
        ("lxml",),
        ("lxml.etree",),
    ),
    Spec("epub", ("application/epub+zip",), _HTML, ("lxml.etree",)),
    Spec("mail", ("message/rfc822",), _HTML, ("lxml.etree",)),
    Spec(
        "kreuzberg",
        (
            _OOXML + "spreadsheetml.sheet",
            "application/msword",
            "application/vnd.ms-excel",
            "application/vnd.ms-powerpoint",
            "application/vnd.ms-outlook",
            "application/rtf",
            "text/rtf",
        ),
        ("kreuzberg", *_GENERAL),
        ("kreuzberg",),
        language_model=True,  # by way of the second opinion
    ),
    Spec("general", (), _GENERAL, ("unstructured.partition.auto",), language_model=True),
)
_BY_TYPE = {media_type: spec for spec in BUILT_IN for media_type in spec.media_types}

_OCR = (
    "Text in images needs OCR, which is off: run one first (for example `ocrmypdf`), or leave images out by `exclude`."
)


def find(media_type: str) -> Spec | Parser:
    """The parser for a media type: a plug-in that names it, else a built-in. Raises ParseError where there is none."""
    plugged = _plugins().get(media_type)
    if plugged is not None:
        return plugged
    spec = _BY_TYPE.get(media_type) or (_BY_TYPE["text/plain"] if media_type.startswith("text/") else None)
    if spec is None:
        raise _refusal(media_type)
    return spec


def parser_fingerprint(media_type: str) -> str:
    """Changes whenever the same bytes of this type may give another text. Imports no parser."""
    try:
        own = find(media_type).fingerprint()
    except ParseError:
        own = ids.composite("parser", ["none", media_type])
    return ids.composite("parse_stage", [STAGE_REVISION, own])


def _refusal(media_type: str) -> ParseError:
    exclude = "Leave it out with an `exclude` pattern, or plug in a parser (entry point group `ragops.parsers`)."
    if media_type == "application/x-ole-encrypted":
        return ParseError("The office file needs a password.", "Save a copy without one.", code="encrypted")
    kind = media_type.partition("/")[0]
    if kind == "image":
        return ParseError(f"An image ({media_type}) has no text of its own.", _OCR, code="unsupported")
    if media_type in ("application/zip", "application/gzip", "application/x-tar", "application/x-7z-compressed"):
        return ParseError(
            f"An archive ({media_type}) is not opened.", "Unpack it and ingest the folder.", code="unsupported"
        )
    if kind in ("audio", "video"):
        return ParseError(f"No parser for {media_type}.", "Transcribe it and ingest the text.", code="unsupported")
    return ParseError(f"No parser for {media_type}.", exclude, code="unsupported")


@cache
def has_plugins() -> bool:
    from importlib.metadata import entry_points

    return bool(entry_points(group=ENTRY_POINTS))


def expect_no_plugins() -> None:
    """For a process whose parent has looked: to look takes half of the time in which a worker starts."""
    global _expected
    _expected = False


_expected = True


@cache
def _plugins() -> dict[str, Parser]:
    if not _expected:
        return {}
    from importlib.metadata import entry_points

    found: dict[str, Parser] = {}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: (point.name, point.value)):
        parser = _loaded(point)
        for media_type in parser.media_types:
            found.setdefault(media_type, parser)
    return found


def _loaded(point: EntryPoint) -> Parser:
    try:
        value = point.load()
    except Exception as error:  # a stranger's module may raise anything
        raise UsageError(
            f"The parser plug-in {point.name!r} ({point.value}) cannot be loaded: {error}.",
            "Repair or uninstall the package that brings it.",
        ) from error
    parser: Parser = value() if isinstance(value, type) else value
    return parser


def names() -> Sequence[str]:
    """Every media type that has a parser, sorted."""
    return sorted({*_BY_TYPE, *_plugins()})


@cache
def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
