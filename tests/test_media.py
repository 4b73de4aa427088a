"""Media types and encodings, by small files made here."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragops_connectors.media import BINARY, SHEET, SLIDES, WORD, sniff


def decode(data: bytes, encoding: str | None) -> str:
    return data.decode(encoding or "utf-8", "replace")


def zipped(*names: str, **contents: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, contents.get(name, b"<x/>"))
    return out.getvalue()


def compound(*names: str, inner: tuple[str, ...] = ()) -> bytes:
    """An OLE2 file: names at its root, and `inner` in a storage below the root."""
    entries = [("Root Entry", 5, 1)] + [(name, 2, 0xFFFFFFFF) for name in names]
    if inner:
        entries.append(("Inner", 1, len(entries) + 1))
        first = len(entries)
        entries += [(name, 2, 0xFFFFFFFF) for name in inner]
    at_root = len(names) + bool(inner)
    raw = b""
    for i, (name, kind, child) in enumerate(entries):
        sibling = i + 1 if 0 < i < at_root or (inner and first <= i < len(entries) - 1) else 0xFFFFFFFF
        spelled = name.encode("utf-16-le") + b"\0\0"
        raw += spelled.ljust(64, b"\0") + struct.pack("<HBBIII", len(spelled), kind, 1, 0xFFFFFFFF, sibling, child)
        raw += bytes(48)
    raw = raw.ljust(-(-len(raw) // 512) * 512, b"\0")
    count = len(raw) // 512
    fat = [0xFFFFFFFD, *range(2, count + 1), 0xFFFFFFFE]
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 62, 3, 0xFFFE, 9, 6)
    header += bytes(10) + struct.pack("<III", 1, 1, 0) + struct.pack("<II", 4096, 0xFFFFFFFE)
    header += bytes(76 - len(header)) + struct.pack("<109I", 0, *[0xFFFFFFFF] * 108)
    return header + struct.pack(f"<{len(fat)}I", *fat).ljust(512, b"\xff") + raw


OFFICE = ("[Content_Types].xml", "_rels/.rels")
MAIL = b"Received: from a\r\nFrom: a@example.com\r\nTo: b@example.com\r\nSubject: Hi\r\n\r\nHello\r\n"
NOTEBOOK = json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()
PDF = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n%%EOF\n"
NOISE = bytes(range(256)) * 8

CASES = [
    # text, by name
    ("a.txt", b"plain words", "text/plain", "utf-8"),
    ("a", b"plain words", "text/plain", "utf-8"),
    ("README", b"# words", "text/plain", "utf-8"),
    ("a.md", b"# Title", "text/markdown", "utf-8"),
    ("A.MD", b"# Title", "text/markdown", "utf-8"),
    ("a.md", b"<div align=center>\n\n# Title</div>", "text/markdown", "utf-8"),
    ("a.md", b"<!-- hidden -->\n<!doctype html><html><body>x</body></html>", "text/html", "utf-8"),
    ("a.rst", b"Title\n=====\n", "text/x-rst", "utf-8"),
    ("a.org", b"* Title", "text/x-org", "utf-8"),
    ("a.csv", b"a,b\n1,2\n", "text/csv", "utf-8"),
    ("a.tsv", b"a\tb\n1\t2\n", "text/tab-separated-values", "utf-8"),
    ("a.yaml", b"a: 1\n", "application/yaml", "utf-8"),
    ("a.py", b"from x import y\n", "text/plain", "utf-8"),
    ("a.php", b"<html><?php echo 1 ?></html>", "text/plain", "utf-8"),
    ("a.jsonl", b'{"a": 1}\n{"a": 2}\n', "application/x-ndjson", "utf-8"),
    ("a.json", b'{"a": 1}\n{"a": 2}\n', "application/x-ndjson", "utf-8"),
    ("a.json", b'{\n  "a": 1\n}\n', "application/json", "utf-8"),
    ("a.json", b'[\n  {"a": 1},\n  {"a": 2}\n]', "application/json", "utf-8"),
    ("a.json", b'{"a": ', "application/json", "utf-8"),
    ("a.json", b'{"a": "%s"}\n{"a": 2}\n' % (b"x" * 9000), "application/x-ndjson", "utf-8"),
    ("a.json", b'{"a": "%s"}\n' % (b"x" * 9000), "application/json", "utf-8"),
    ("a", b'{"a": "%s"}\n' % (b"x" * 2_000_000), "application/json", "utf-8"),
    ("a", b"{ %s" % (b"x" * 2_000_000), "text/plain", "utf-8"),
    ("a.ipynb", NOTEBOOK, "application/x-ipynb+json", "utf-8"),
    ("a.json", NOTEBOOK, "application/x-ipynb+json", "utf-8"),
    ("a", b'{"a": [1, 2]}', "application/json", "utf-8"),
    ("a", b"{braces} begin this text", "text/plain", "utf-8"),
    ("a.txt", b'{"a": 1}', "text/plain", "utf-8"),
    ("dir.html/file", b"plain words", "text/plain", "utf-8"),
    # text, by content
    ("a.txt", b"\n <!DOCTYPE HTML>\n<html>", "text/html", "utf-8"),
    ("a", b"<p>words</p>", "text/html", "utf-8"),
    ("a.html", b"words without tags", "text/html", "utf-8"),
    ("a.html", b'<?xml version="1.0"?><html/>', "text/html", "utf-8"),
    ("a.xml", b'<?xml version="1.0"?><html xmlns="x"><body/></html>', "text/html", "utf-8"),
    ("a.xml", b'<?xml version="1.0"?><page><html/></page>', "application/xml", "utf-8"),
    ("a.txt", b'<?xml version="1.0"?><page/>', "application/xml", "utf-8"),
    ("a", b"<rss version='2.0'></rss>", "application/xml", "utf-8"),
    ("a", b"<svg xmlns='x'></svg>", "image/svg+xml", "utf-8"),
    ("a.txt", b"a < b and b > c", "text/plain", "utf-8"),
    ("a.doc", b"<html><body>saved as Word</body></html>", "text/html", "utf-8"),
    ("a.doc", b"{\\rtf1\\ansi words}", "application/rtf", None),
    ("a.doc", b"an old text file", "text/plain", "utf-8"),
    ("a.xls", b"a\tb\n1\t2\n", "text/plain", "utf-8"),
    ("a.txt", b"{\\rtf1\\ansi words}", "application/rtf", None),
    ("a.eml", MAIL, "message/rfc822", None),
    ("a.eml", b"no headers", "message/rfc822", None),
    ("a", MAIL, "message/rfc822", None),
    ("a.txt", MAIL, "message/rfc822", None),
    ("a.txt", b"From: me\nTo: you\nSubject: a memo\n\nWords.\n", "text/plain", "utf-8"),
    ("a.eml", MAIL.decode().encode("utf-16"), "message/rfc822", "utf-16"),
    # binary
    ("a.txt", PDF, "application/pdf", None),
    ("a.pdf", b"\n\njunk before\n" + PDF, "application/pdf", None),
    ("a.bin", b"\0\1\2\3" + PDF + NOISE, "application/pdf", None),
    ("a.md", b"A file begins with `%PDF-1.4` and has `1 0 obj`.\n", "text/markdown", "utf-8"),
    ("a.bin", zipped(*OFFICE, "word/document.xml"), WORD, None),
    ("a.docx", zipped(*OFFICE, "word/document.xml", "word/embeddings/xl/a.xlsx"), WORD, None),
    ("a.docx", zipped("word/document.xml", *OFFICE), WORD, None),
    ("a.zip", zipped(*OFFICE, "ppt/presentation.xml"), SLIDES, None),
    ("a.xls", zipped(*OFFICE, "xl/workbook.xml"), SHEET, None),
    ("a.docx", zipped(*OFFICE, "word/document.xml")[:150], WORD, None),  # torn off before the directory
    ("a", zipped("mimetype", mimetype=b"application/epub+zip"), "application/epub+zip", None),
    ("a.epub", zipped("META-INF/container.xml", "OEBPS/a.opf"), "application/epub+zip", None),
    (
        "a",
        zipped("mimetype", "content.xml", mimetype=b"application/vnd.oasis.opendocument.text"),
        "application/vnd.oasis.opendocument.text",
        None,
    ),
    ("a.docx", zipped("a.txt"), "application/zip", None),
    ("a.zip", zipped(), "application/zip", None),
    ("a", compound("WordDocument", "1Table"), "application/msword", None),
    ("a", compound("Workbook"), "application/vnd.ms-excel", None),
    ("a", compound("Book"), "application/vnd.ms-excel", None),
    ("a", compound("PowerPoint Document"), "application/vnd.ms-powerpoint", None),
    ("a", compound("__substg1.0_0037001F"), "application/vnd.ms-outlook", None),
    ("a.docx", compound("EncryptionInfo", "EncryptedPackage"), "application/x-ole-encrypted", None),
    ("a.xls", compound("Workbook", inner=("WordDocument", "1Table")), "application/vnd.ms-excel", None),
    ("a.doc", compound("1Table", "WordDocument", inner=("Workbook",)), "application/msword", None),
    ("a.doc", compound("WordDocument")[:700], "application/msword", None),
    ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + NOISE, "application/msword", None),
    ("a", gzip.compress(b"words", mtime=0), "application/gzip", None),
    ("a", b"\x89PNG\r\n\x1a\n\0\0", "image/png", None),
    ("a", b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg", None),
    ("a", b"GIF89a\1\0\1\0\0\0", "image/gif", None),
    ("a.txt", b"GIF89a is what such a file begins with", "text/plain", "utf-8"),
    ("a", b"BM\x76\0\0\0\0\0\0\0\x36\0", "image/bmp", None),
    ("a.txt", b"BMW builds cars", "text/plain", "utf-8"),
    ("a", b"II*\0\x08\0\0\0", "image/tiff", None),
    ("a", b"RIFF\x10\0\0\0WEBPVP8 \0\0", "image/webp", None),
    ("a", b"RIFF\x10\0\0\0WAVEfmt \0\0", "audio/wav", None),
    ("a", b"\0\0\0\x18ftypheic\0\0\0\0", "image/heic", None),
    ("a", b"\0\0\0\x18ftypisom\0\0\0\0", "video/mp4", None),
    ("a", b"ID3\x03\0\0\0\0\0\0" + NOISE, "audio/mpeg", None),
    ("a.bin", NOISE, BINARY, None),
    ("a", NOISE, BINARY, None),
    ("a.txt", NOISE, BINARY, None),
    ("a.pdf", NOISE, "application/pdf", None),  # its parser says what is wrong
    ("a.pdf", b"this is no PDF", "application/pdf", "utf-8"),
    ("a.docx", b"this is no document", WORD, "utf-8"),
    ("a.docx", b"<html><body>an error page</body></html>", "text/html", "utf-8"),
    # nothing
    ("a.txt", b"", "text/plain", "utf-8"),
    ("a.md", b"", "text/markdown", "utf-8"),
    ("a.pdf", b"", "application/pdf", None),
    ("a.bin", b"", "text/plain", "utf-8"),
    ("a.txt", b" \n\n", "text/plain", "utf-8"),
]


@pytest.mark.parametrize(("name", "data", "media_type", "encoding"), CASES)
def test_sniff(name: str, data: bytes, media_type: str, encoding: str | None) -> None:
    assert sniff(name, data) == (media_type, encoding)


GERMAN = "Größere Änderungen müssen überprüft werden – „sofort“, nicht später. " * 4
POLISH = "Zażółć gęślą jaźń, a potem połóż się spać, bo jutro może być głośno i wesoło w całej wsi. " * 4
RUSSIAN = "Все люди рождаются свободными и равными в своём достоинстве и правах. " * 2
JAPANESE = "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。" * 2
CHINESE = "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。" * 2
KOREAN = "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. " * 2


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain", "ascii"),
        (GERMAN, "utf-8"),
        (GERMAN, "utf-8-sig"),
        (GERMAN, "utf-16"),
        (GERMAN, "utf-16-le"),
        (GERMAN, "utf-16-be"),
        (GERMAN, "utf-32"),
        (GERMAN, "utf-32-le"),
        (GERMAN, "utf-32-be"),
        (GERMAN, "cp1252"),
        ("Über Öl", "cp1252"),
        (POLISH, "cp1250"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (RUSSIAN, "utf-16-le"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc-jp"),
        (JAPANESE, "iso2022_jp"),
        (JAPANESE + "\n", "utf-16-le"),
        (CHINESE + "\n", "utf-16-be"),
        (CHINESE, "gb18030"),
        (KOREAN, "euc-kr"),
    ],
)
def test_encodings_are_found(text: str, written: str) -> None:
    media_type, encoding = sniff("a.txt", text.encode(written))
    assert media_type == "text/plain"
    assert decode(text.encode(written), encoding).removeprefix("\ufeff") == text


@pytest.mark.parametrize(
    ("name", "head", "written", "encoding"),
    [
        ("a.html", '<html><meta charset="iso-8859-2">', "iso-8859-2", "iso8859-2"),
        (
            "a.html",
            "<html><meta http-equiv=Content-Type content='text/html; charset=windows-1250'>",
            "cp1250",
            "cp1250",
        ),
        ("a.xml", "<?xml version='1.0' encoding='ISO-8859-2'?>", "iso-8859-2", "iso8859-2"),
        ("a.html", '<html><meta charset="iso-8859-2">', "utf-8", "utf-8"),  # a lie: the bytes know better
        ("a.html", '<html><meta charset="utf-8">', "cp1250", "cp1250"),
        ("a.html", '<html><meta charset="punycode">', "cp1250", "cp1250"),
    ],
)
def test_declared_encodings(name: str, head: str, written: str, encoding: str) -> None:
    data = (head + POLISH).encode(written)
    found = sniff(name, data)[1]
    assert decode(data, found) == head + POLISH
    assert found == encoding


def test_a_torn_character_does_not_garble_the_rest() -> None:
    data = RUSSIAN.encode() * 3
    for torn in (data[:-3], data[:40] + b"\xff" + data[40:]):
        assert sniff("a.txt", torn) == ("text/plain", "utf-8")
        assert decode(torn, "utf-8").count("\ufffd") <= 3


def test_a_stray_control_character_is_still_text() -> None:
    for more in (b"", b"."):  # of an even and an odd length
        assert sniff("a.txt", b"words " * 100 + b"\0" + b" words" * 100 + more) == ("text/plain", "utf-8")
        latin = GERMAN.encode("cp1252") + b"\0" + more
        media_type, encoding = sniff("a.txt", latin)
        assert (media_type, decode(latin, encoding)) == ("text/plain", latin.decode("cp1252"))
    assert sniff("a.log", b"\x1b[31mred\x1b[0m\x1b(B words " * 20) == ("text/plain", "utf-8")


@pytest.mark.parametrize(
    "data",
    [
        b"<!-- -->" * 500 + b"x",
        b"<!--" * 1000,
        b"<?xml ?>" * 500,
        b"<meta " * 1000 + b"\xe9",
        b"a: b\n " * 800,
        b"[" * 100_000,
        b'{"a":' * 20_000,
        b"PK\x03\x04" * 5000,
        b"\x1b$" * 5000,
    ],
)
@pytest.mark.timeout(20)  # a search that explodes would take minutes
def test_hostile_text_costs_no_time(data: bytes) -> None:
    for name in ("a", "a.txt", "a.html", "a.json", "a.eml", "a.xml", "a.zip"):
        assert sniff(name, data)[0]


@given(st.text(), st.sampled_from(["utf-8", "utf-8-sig"]), st.sampled_from(["a", "a.txt", "a.md", "a.json", "a.html"]))
def test_any_text_in_utf8_is_read_exactly(text: str, written: str, name: str) -> None:
    data = text.encode(written)
    media_type, encoding = sniff(name, data)
    if media_type != BINARY and encoding is not None and encoding.startswith("utf-8"):
        assert decode(data, encoding) == text.removeprefix("\ufeff" if encoding == "utf-8-sig" else "")


@given(
    st.binary(max_size=3000), st.sampled_from(["a", "a.txt", "a.pdf", "a.docx", "a.doc", "a.eml", "a.json", "a.x/y"])
)
def test_any_bytes_have_a_type_and_decode(data: bytes, name: str) -> None:
    media_type, encoding = sniff(name, data)
    assert "/" in media_type
    if encoding is not None:
        decode(data, encoding)


@given(
    st.binary(max_size=2000), st.sampled_from([b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"%PDF-", b"RIFF"])
)
def test_broken_containers_do_not_crash(data: bytes, magic: bytes) -> None:
    assert sniff("a.bin", magic + data)[0]


@given(st.integers(0, 1500), st.binary(max_size=40))
def test_a_damaged_compound_file_does_not_crash(at: int, junk: bytes) -> None:
    whole = compound("WordDocument", "1Table")
    assert sniff("a.doc", whole[:at] + junk + whole[at + len(junk) :])[0]
