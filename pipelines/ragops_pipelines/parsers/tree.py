"""The typed border around lxml: HTML and XML to elements, with no entity, DTD or network in reach."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Protocol

from ragops.errors import ParseError

_NO_MEMORY = 2  # libxml2's XML_ERR_NO_MEMORY


class Element(Protocol):
    """What the parsers use of an lxml element."""

    @property
    def tag(self) -> object: ...  # a string, or a function for comments and instructions
    @property
    def text(self) -> str | None: ...
    @property
    def tail(self) -> str | None: ...
    @property
    def attrib(self) -> MutableMapping[str, str]: ...
    def get(self, key: str, /) -> str | None: ...
    def iter(self, *tags: str) -> Iterator[Element]: ...
    def iterdescendants(self, *tags: str) -> Iterator[Element]: ...
    def iterancestors(self, *tags: str) -> Iterator[Element]: ...
    def itertext(self) -> Iterator[str]: ...
    def __iter__(self) -> Iterator[Element]: ...
    def __len__(self) -> int: ...


def local(element: Element) -> str:
    """The tag without its namespace; "" for a comment or an instruction."""
    tag = element.tag
    if not isinstance(tag, str):
        return ""
    return tag.rpartition("}")[2] if tag[:1] == "{" else tag


def attribute(element: Element, name: str) -> str | None:
    """An attribute by its name without namespace."""
    for key, value in element.attrib.items():
        if key.rpartition("}")[2] == name:
            return value
    return None


def parse_html(text: str) -> tuple[Element | None, bool]:
    """(root, whether libxml2 gave up at its limit of depth). The root is None where there is no element."""
    from lxml import etree  # type: ignore[import-untyped]

    parser = etree.HTMLParser(
        encoding="utf-8", huge_tree=True, no_network=True, remove_comments=True, remove_pis=True, collect_ids=False
    )
    try:
        root: Element | None = etree.fromstring(text.encode("utf-8", "replace"), parser)
    except etree.XMLSyntaxError as error:
        _raise_memory(error)
        return None, False  # nothing but comments
    return root, any(entry.type_name == "ERR_RESOURCE_LIMIT" for entry in parser.error_log)


def deeper_than(root: Element, limit: int) -> bool:
    """Whether elements are nested more than `limit` deep."""
    from lxml import etree

    return bool(etree.XPath("boolean(." + "/*" * limit + ")")(root))  # one step a level, all of it in C


def parse_xml(data: bytes, *, entities: bool = False, large: bool = False, recover: bool = False) -> Element:
    """The root of an XML document, comments and instructions left out. Raises ParseError.

    `entities` expands those that the document itself defines, within libxml2's bounds; `large` lifts the bounds of size
    and depth, so never both.
    """
    from lxml import etree

    parser = etree.XMLParser(
        resolve_entities="internal" if entities and not large else False,
        no_network=True,
        load_dtd=False,
        huge_tree=large,
        recover=recover,
        remove_comments=True,
        remove_pis=True,
        collect_ids=False,
    )
    try:
        root: Element | None = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        _raise_memory(error)
        raise ParseError(f"The XML is damaged: {error}.", "Check it with `xmllint --noout`.") from error
    bomb = next((e.message for e in parser.error_log if e.type_name in ("ERR_ENTITY_LOOP", "ERR_RESOURCE_LIMIT")), None)
    if root is None or bomb is not None:
        raise ParseError(f"The XML is damaged: {bomb or 'it has no element'}.", "Do not trust the file.")
    return root


def _raise_memory(error: Exception) -> None:
    if getattr(error, "code", None) == _NO_MEMORY:
        raise MemoryError(str(error)) from error
