"""What bytes are: media type and text encoding. By content first, by name only among text formats."""

from __future__ import annotations

import codecs
import json
import re
import struct
import unicodedata
from collections.abc import Iterator

HEAD = 4096  # bytes looked at where a format shows itself at its start
_LINE = 1_000_000  # bytes of JSON that are parsed to be sure
SAMPLE = 65_536  # bytes looked at where an encoding has to be guessed

WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
SLIDES = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
SHEET = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
BINARY = "application/octet-stream"

#: Text formats that a name may claim. Content says "text", the name says which.
TEXT_TYPES = {
    ".md": "text/markdown", ".markdown": "text/markdown", ".mkd": "text/markdown", ".mdown": "text/markdown",
    ".mdx": "text/markdown", ".rmd": "text/markdown", ".qmd": "text/markdown",
    ".html": "text/html", ".htm": "text/html", ".xhtml": "text/html", ".xht": "text/html",
    ".rst": "text/x-rst", ".rest": "text/x-rst", ".org": "text/x-org",
    ".csv": "text/csv", ".tsv": "text/tab-separated-values", ".tab": "text/tab-separated-values",
    ".json": "application/json", ".geojson": "application/json", ".jsonld": "application/json",
    ".ndjson": "application/x-ndjson", ".jsonl": "application/x-ndjson", ".ipynb": "application/x-ipynb+json",
    ".yaml": "application/yaml", ".yml": "application/yaml",
    ".xml": "application/xml", ".xsl": "application/xml", ".xslt": "application/xml", ".xsd": "application/xml",
    ".rss": "application/xml", ".atom": "application/xml", ".svg": "image/svg+xml", ".eml": "message/rfc822",
}  # fmt: skip

#: Program text and its like: never taken for the HTML, XML or mail that it may begin with.
PLAIN = frozenset(
    """
    .adoc .asciidoc .asm .awk .bash .bat .bib .c .cc .cfg .clj .cmake .cmd .conf .cpp .cs .css .cxx .dart .diff .ejs
    .el .env .erb .erl .ex .exs .f90 .fish .fs .go .gradle .graphql .groovy .h .hbs .hpp .hs .ini .java .jinja .j2 .jl
    .js .jsx .kt .less .lisp .lua .m .mjs .mk .ml .patch .php .pl .pm .po .properties .proto .ps1 .psm1 .py .pyi .r .rb
    .rs .sass .scala .scm .scss .sh .sql .srt .svelte .swift .tcl .tex .tf .toml .ts .tsx .vb .vim .vtt .vue .zig .zsh
    """.split()  # noqa: SIM905
)

#: Binary formats that a name may claim. Text under such a name is a broken file: its parser says so.
CLAIMED = {
    ".pdf": "application/pdf", ".docx": WORD, ".docm": WORD, ".dotx": WORD, ".pptx": SLIDES, ".pptm": SLIDES,
    ".ppsx": SLIDES, ".xlsx": SHEET, ".xlsm": SHEET, ".epub": "application/epub+zip",
    ".odt": "application/vnd.oasis.opendocument.text", ".ods": "application/vnd.oasis.opendocument.spreadsheet",
    ".odp": "application/vnd.oasis.opendocument.presentation", ".msg": "application/vnd.ms-outlook",
    ".doc": "application/msword", ".xls": "application/vnd.ms-excel", ".ppt": "application/vnd.ms-powerpoint",
    ".rtf": "application/rtf", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif",
    ".bmp": "image/bmp", ".tif": "image/tiff", ".tiff": "image/tiff", ".webp": "image/webp", ".heic": "image/heic",
    ".zip": "application/zip", ".gz": "application/gzip", ".mp3": "audio/mpeg", ".wav": "audio/wav",
    ".mp4": "video/mp4",
}  # fmt: skip
#: Old office names that real plain text, tables and pages go by.
_LOOSE = frozenset((".doc", ".xls", ".ppt", ".rtf", ".msg"))

# Signatures whose bytes text cannot begin with.
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x1f\x8b\x08", "application/gzip"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),
    (b"MM\0+", "image/tiff"),
    (b"\x1aE\xdf\xa3", "video/x-matroska"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"SQLite format 3\0", "application/vnd.sqlite3"),
    (b"\x7fELF", "application/x-executable"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"\xff\xf3", "audio/mpeg"),
    (b"\xff\xf2", "audio/mpeg"),
    (b"\xff\xf1", "audio/aac"),
    (b"\xff\xf9", "audio/aac"),
)
# Signatures that are letters: they count only where the rest is not text.
_LETTERS: tuple[tuple[bytes, str], ...] = (
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"MThd", "audio/midi"),
    (b"#!AMR", "audio/amr"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"BZh", "application/x-bzip2"),
    (b"PAR1", "application/vnd.apache.parquet"),
    (b"MZ", "application/x-executable"),
)
_FIRST = frozenset(magic[0] for magic, _ in _MAGIC) | {0xD0}

_CONTROLS = bytes(i for i in range(32) if i not in b"\t\n\r\f\b\x1a\x1b\x0e\x0f") + b"\x7f"
_BOMS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# Possessive, so that a file of a thousand comments cannot make the search explode.
_PROLOGUE = r"(?>\s|<!--.*?-->|<\?xml[^>]*\?>|<!doctype[^>]*>)*+"
_PAGE = re.compile(r"(?>\s|<!--.*?-->|<\?xml[^>]*\?>)*+(?:<!doctype\s+html|<html[\s>])", re.I | re.S)
_TAGS = re.compile(
    _PROLOGUE + r"<(?:head|body|title|meta|script|style|table|div|p|h[1-6]|br|iframe|font|ul|ol|center|a|b|main|article"
    r"|section|header|nav)[\s/>]",
    re.I | re.S,
)
_XML = re.compile(r"\s*<\?xml[\s?]", re.I)
_ROOT = re.compile(_PROLOGUE + r"<(?:[\w.-]+:)?(rss|feed|svg|urlset|sitemapindex)[\s>]", re.I | re.S)
_HEADER = re.compile(r"(?m)^(?:>?From \S+.*|([A-Za-z][A-Za-z0-9-]*):[ \t]?.*(?:\r?\n[ \t]+\S.*)*)\r?\n")
_MAIL = frozenset(("from", "to", "cc", "subject", "date", "sender", "reply-to"))
_MAIL_TRACE = frozenset(("received", "message-id", "mime-version", "return-path", "delivered-to"))

_DECLARED = re.compile(
    rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._:-]{2,40})|<meta[^>]{0,400}?charset\s*=\s*[\"']?\s*([A-Za-z0-9._:-]{2,40})",
    re.I,
)
_CHARSET = re.compile(r"cp\d|iso8859|iso2022|utf-8|utf_8|euc|gb|big5|shift|koi8|mac|johab|hz$|ascii|tis|kz1048|ptcp154")
# As browsers read a declaration: what a page calls the one is written in the other, its superset.
_SUPERSET = {
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "tis-620": "cp874", "gb2312": "gb18030",
    "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs",
}  # fmt: skip
# Never a guess: they show themselves or are not there.
_SEEN_BEFORE = ["utf_7", "utf_8", "utf_16", "utf_16_le", "utf_16_be", "utf_32", "utf_32_le", "utf_32_be"]
# What Western European languages write above ASCII.
_WESTERN = frozenset(
    ("àáâãäåæçèéêëìíîïñòóôõöøùúûüýÿœßÀÁÂÃÄÅÆÇÈÉÊËÍÎÏÑÒÓÔÕÖØÙÚÛÜŒŠšŽž€‚„…‘’“”•–—™\u00a0¡£§©ª«¬®°±²³´µ·º»¼½¾¿×÷").encode(
        "cp1252"
    )
)


def sniff(name: str, data: bytes) -> tuple[str, str | None]:
    """Media type and, for text, the encoding of `data`.

    `name` is a file name or path; its ending counts only where content leaves a choice. Anything that is neither a
    known format nor text is "application/octet-stream", unless its name claims a format: that parser can say what is
    wrong with it.
    The encoding decodes all of the data, or, where a mark or nearly all of it leaves no doubt, all but a few torn
    characters. It is None for binary formats and for mail, whose parts declare their own (unless it is in UTF-16).
    """
    dot = name.rfind(".")
    suffix = name[dot:].lower() if dot > name.rfind("/") else ""
    if not data:
        claim = TEXT_TYPES.get(suffix)
        return (claim, "utf-8") if claim else (CLAIMED[suffix], None) if suffix in CLAIMED else ("text/plain", "utf-8")
    head = data[:HEAD]
    found = _binary(suffix, data, head)
    if found:
        return found, None
    encoding = _unicode(data, head)
    if encoding is None and _controls(head) > len(head) * 0.01:
        return _lettered(data) or CLAIMED.get(suffix, BINARY), None
    start = head.decode(encoding or "latin-1", "replace") if encoding != "utf-8" else head.decode("utf-8", "ignore")
    media_type = _text(suffix, start, data, encoding)
    if media_type == "application/rtf":
        return media_type, None
    if media_type == "message/rfc822":
        return media_type, encoding if encoding and encoding.startswith(("utf-16", "utf-32")) else None
    if encoding is None or (encoding == "utf-8" and b"\x1b" in head):
        declared = _declared(head) if media_type in ("text/html", "application/xml") else None
        encoding = _legacy(data, declared, encoding)
    return media_type, encoding


# ---------------------------------------------------------------- binary formats
def _binary(suffix: str, data: bytes, head: bytes) -> str | None:
    first = data[0]
    if first == 0x50 and head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip(data)
    if first == 0x25 and head.startswith(b"%PDF-"):
        return "application/pdf"
    if first in _FIRST:
        if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
            return _ole(data) or CLAIMED.get(suffix, "application/x-ole-storage")
        for magic, media_type in _MAGIC:
            if head.startswith(magic):
                return media_type
    pdf = head.find(b"%PDF-", 0, 1029)  # readers accept a kilobyte of junk before the header
    if pdf > 0 and (suffix == ".pdf" or _controls(data[pdf : pdf + HEAD])) and b" obj" in data[pdf : pdf + 65_536]:
        return "application/pdf"
    if b"\0" in head:
        return _lettered(data)
    return None


def _lettered(data: bytes) -> str | None:
    """Formats that begin with letters, in data known not to be text."""
    brand = data[8:12]
    if data.startswith(b"RIFF"):
        return {b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo", b"WEBP": "image/webp"}.get(brand)
    if data.startswith(b"FORM") and brand in (b"AIFF", b"AIFC"):
        return "audio/aiff"
    if data[4:8] == b"ftyp":
        if brand in (b"heic", b"heix", b"mif1", b"msf1", b"hevc", b"heim"):
            return "image/heic"
        audio = brand in (b"M4A ", b"M4B ")
        return "audio/mp4" if audio else "image/avif" if brand == b"avif" else "video/mp4"
    if data[257:262] == b"ustar":
        return "application/x-tar"
    for magic, media_type in _LETTERS:
        if data.startswith(magic):
            return media_type
    return None


def _zip(data: bytes) -> str:
    if data[30:38] == b"mimetype":  # ODF and EPUB say what they are in their first, stored member
        length = struct.unpack_from("<I", data, 22)[0] or 80
        extra = struct.unpack_from("<H", data, 28)[0]
        told = data[38 + extra : 38 + extra + min(length, 80)].split(b"PK")[0].strip()
        for known in (b"application/epub+zip", b"application/vnd.oasis.opendocument."):
            if told.startswith(known):
                return told.decode("ascii", "ignore")
    folders: set[bytes] = set()
    types = False
    for name in _members(data):
        types = types or name == b"[Content_Types].xml"
        folders.add(name.split(b"/", 1)[0])
        if types and not folders.isdisjoint((b"word", b"ppt", b"xl")):
            break
        if name == b"mimetype":
            folders.add(b"mimetype")
    if b"word" in folders:
        return WORD
    if b"ppt" in folders:
        return SLIDES
    if b"xl" in folders:
        return SHEET
    if b"META-INF" in folders and (b"OEBPS" in folders or (b"mimetype" in folders and b"content.xml" not in folders)):
        return "application/epub+zip"
    if b"mimetype" in folders and b"content.xml" in folders:
        return "application/vnd.oasis.opendocument.text"
    return "application/zip"


def _members(data: bytes, most: int = 20_000) -> Iterator[bytes]:
    """Names from the central directory; from the local headers where that is torn off. Unpacks nothing."""
    end = data.rfind(b"PK\x05\x06", max(0, len(data) - 65_557))
    if end >= 0 and end + 20 <= len(data):
        size, offset = struct.unpack_from("<II", data, end + 12)
        at = end - size if end >= size and data[end - size : end - size + 4] == b"PK\x01\x02" else offset
        while most and data[at : at + 4] == b"PK\x01\x02" and at + 46 <= len(data):
            name, extra, comment = struct.unpack_from("<HHH", data, at + 28)
            yield data[at + 46 : at + 46 + name]
            at += 46 + name + extra + comment
            most -= 1
        return
    for match in re.finditer(rb"PK\x03\x04.{22}(.)(.).{2}", data, re.S):
        if not most:
            return
        most -= 1
        yield data[match.end() : match.end() + match[1][0] + 256 * match[2][0]]


def _ole(data: bytes) -> str | None:
    """By the names at the root of the compound file, so that what is embedded does not count."""
    names = set(_ole_root(data))
    if not names:  # torn: any name that can still be seen
        wanted = ("EncryptedPackage", "PowerPoint Document", "WordDocument", "Workbook", "__properties_version1.0")
        names = {name for name in wanted if name.encode("utf-16-le") in data}
    if "EncryptedPackage" in names or "EncryptionInfo" in names:
        return "application/x-ole-encrypted"
    if "WordDocument" in names:
        return "application/msword"
    if "PowerPoint Document" in names:
        return "application/vnd.ms-powerpoint"
    if "Workbook" in names or "Book" in names:
        return "application/vnd.ms-excel"
    if any(name.startswith(("__substg1.0_", "__properties_version1.0")) for name in names):
        return "application/vnd.ms-outlook"
    return None


def _ole_root(data: bytes) -> list[str]:
    """Names of the root storage's own streams and storages; empty where the file is too broken to tell."""
    if len(data) < 512:
        return []
    shift = data[30]
    if shift not in (9, 12):
        return []
    size = 1 << shift
    per = size // 4
    fat: list[int] = [sector for sector in struct.unpack_from("<109I", data, 76) if sector < 0xFFFFFFFA]
    entries: list[tuple[str, int, int, int]] = []  # name, left, right, child
    sector, seen = int(struct.unpack_from("<I", data, 48)[0]), 0
    while sector < 0xFFFFFFFA and seen < 256:  # a root's names stand early; the chain may be a circle
        seen += 1
        at = (sector + 1) * size
        for start in range(at, min(at + size, len(data)) - 127, 128):
            length = struct.unpack_from("<H", data, start + 64)[0]
            name = data[start : start + max(0, min(length, 64) - 2)].decode("utf-16-le", "ignore")
            left, right, child = struct.unpack_from("<III", data, start + 68)
            entries.append((name, left, right, child))
        table = sector // per
        if table >= len(fat):
            break
        where = (fat[table] + 1) * size + sector % per * 4
        if where + 4 > len(data):
            break
        sector = int(struct.unpack_from("<I", data, where)[0])
    if not entries:
        return []
    names, todo, done = [], [entries[0][3]], set[int]()
    while todo:
        number = todo.pop()
        if number >= len(entries) or number in done:
            continue
        done.add(number)
        name, left, right, _ = entries[number]
        names.append(name)
        todo += (left, right)
    return names


# ---------------------------------------------------------------- text formats
def _text(suffix: str, start: str, data: bytes, encoding: str | None) -> str:
    start = start.lstrip("\ufeff")
    claim = TEXT_TYPES.get(suffix)
    opening = start.lstrip()[:1]
    if opening == "{" and start.lstrip().startswith("{\\rtf"):
        return "application/rtf"
    if claim == "application/json":
        return _json(start, data, encoding)
    if claim == "application/xml" and opening == "<" and _PAGE.match(start):
        return "text/html"
    if claim:
        # A whole page saved under another text name; fragments are at home in Markdown and elsewhere.
        return "text/html" if opening == "<" and claim[:5] == "text/" and _PAGE.match(start) else claim
    if suffix in PLAIN:
        return "text/plain"
    if opening == "<":
        if _PAGE.match(start) or _TAGS.match(start):
            return "text/html"
        if _XML.match(start) or _ROOT.match(start):
            return "image/svg+xml" if re.search(r"<svg[\s>]", start) else "application/xml"
    elif opening in "{[" and opening and suffix not in (".txt", ".text", ".log"):
        found = _json(start, data, encoding)
        if found != "application/json" or _is_json(data, encoding):
            return found
    elif (opening.isalpha() or opening == ">") and _mail(start):
        return "message/rfc822"
    if suffix in CLAIMED and suffix not in _LOOSE:
        return CLAIMED[suffix]
    return "text/plain"


def _json(start: str, data: bytes, encoding: str | None) -> str:
    if '"nbformat' in start or (b'"nbformat"' in data and b'"cells"' in data):
        return "application/x-ipynb+json"
    first, _, rest = start.lstrip().partition("\n")
    if not rest and (end := data.find(b"\n", 0, _LINE)) > 0:  # a first line longer than the head
        first, rest = _decoded(data[:end], encoding), _decoded(data[end : end + HEAD], encoding)
    if rest.lstrip()[:1] == first[:1] and _loads(first):
        return "application/x-ndjson"
    return "application/json"


def _is_json(data: bytes, encoding: str | None) -> bool:
    """Of small data the proof, of large the look."""
    if len(data) <= _LINE:
        return _loads(_decoded(data, encoding))
    last = _decoded(data[-64:], encoding).rstrip()[-1:]
    return last in ("}", "]")


def _decoded(data: bytes, encoding: str | None) -> str:
    return data.decode(encoding or "utf-8", "replace")


def _loads(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _mail(start: str) -> bool:
    """At least two headers of a letter and one of its journey, before the first line that is no header."""
    seen: set[str] = set()
    at = 0
    while match := _HEADER.match(start, at):
        seen.add((match[1] or "").lower())
        at = match.end()
    return len(seen & _MAIL) >= 2 and not seen.isdisjoint(_MAIL_TRACE)


# ---------------------------------------------------------------- encodings
def _controls(head: bytes) -> int:
    return len(head) - len(head.translate(None, _CONTROLS))


def _unicode(data: bytes, head: bytes) -> str | None:
    """A Unicode encoding that the data shows; None where it shows none."""
    if data[0] in (0xEF, 0xFF, 0xFE, 0x00):
        for mark, encoding in _BOMS:
            # A mark is a promise: what does not decode is damage, and no other encoding mends it.
            if head.startswith(mark) and (mark != codecs.BOM_UTF32_LE or len(data) % 4 == 0):
                if encoding == "utf-8-sig":
                    return encoding if _controls(head) <= len(head) * 0.01 else None
                return encoding if _readable(head.decode(encoding, "replace"), 0.05) else None
    if _controls(head) <= len(head) * 0.01 and _decodes(data, "utf-8"):
        return "utf-8"
    return _wide(data, head) if b"\0" in head else None


def _wide(data: bytes, head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: zeros all on one side, and letters when read so."""
    if len(data) % 2:
        return None
    ones, others = head[0::2], head[1::2]
    even, odd = ones.count(0), others.count(0)
    breaks = min(len(part) - len(part.translate(None, b" ,\n")) for part in (ones, others))
    if (even + odd) * 5 < len(head) and breaks * 50 > len(head):
        return None  # bytes with a stray zero: in pairs, such breaks would stand on one side
    candidates: list[str] = []
    if len(data) % 4 == 0 and head[3::4].count(0) == len(head[3::4]):
        candidates.append("utf-32-le")
    if len(data) % 4 == 0 and head[0::4].count(0) == len(head[0::4]):
        candidates.append("utf-32-be")
    candidates += ["utf-16-le", "utf-16-be"] if odd >= even else ["utf-16-be", "utf-16-le"]
    for encoding in candidates:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if _readable(text[:2048], 0.01):
            return encoding
    return None


def _readable(text: str, limit: float) -> bool:
    """Hardly any control, unassigned or private characters, as random bytes read as UTF-16 would give."""
    odd = sum(unicodedata.category(c) in ("Cc", "Cn", "Co") or c == "\ufffd" for c in text if c not in "\t\n\r\f")
    return odd <= max(1, len(text) * limit)


def _declared(head: bytes) -> str | None:
    match = _DECLARED.search(head)
    if not match:
        return None
    try:
        name = codecs.lookup((match[1] or match[2]).decode("ascii")).name
    except (LookupError, ValueError):
        return None
    # Python's registry also holds rot13, punycode and their like; UTF-16 cannot be declared in ASCII bytes.
    return _SUPERSET.get(name, name) if _CHARSET.match(name) else None


def _legacy(data: bytes, declared: str | None, encoding: str | None) -> str:
    """An encoding from before Unicode: the declared one, a sure sign, a guess over a sample, or cp1252."""
    if b"\x1b$" in data or b"\x1b(" in data:  # ISO-2022 is ASCII with escapes
        for candidate in ("iso2022_jp_ext", "iso2022_kr"):
            if _decodes(data, candidate) and any(c > "\u2fff" for c in data[:SAMPLE].decode(candidate, "ignore")):
                return candidate
    if encoding:
        return encoding
    if _nearly_utf8(data):
        return "utf-8"
    if declared and declared != "utf-8" and _decodes(data, declared):
        return declared
    if _western(data[:SAMPLE]) and _decodes(data, "cp1252"):
        return "cp1252"
    guess = _guess(data)
    if guess and _decodes(data, guess):
        return guess
    return "cp1252" if _decodes(data, "cp1252") else "latin-1"


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True


def _nearly_utf8(data: bytes) -> bool:
    """One torn character in hundreds: still UTF-8, for no legacy text has that many sound sequences by chance."""
    sample = data[: 4 * SAMPLE]
    text = sample.decode("utf-8", "replace")
    torn = text.count("\ufffd")
    sound = len(sample) - sum(map(len, re.findall(rb"[\x00-\x7f]+", sample)))
    return sound > 16 and torn * 20 <= sound


def _western(sample: bytes) -> bool:
    """Few bytes above ASCII, all of them Western letters and signs: guessers go astray on so little."""
    high = sample.translate(None, bytes(range(128)))
    if not high or len(high) > max(8, len(sample) * 0.08):
        return False
    if re.search(rb"[A-Za-z][\xa1\xa3\xb1-\xb3\xb5\xb9\xbc-\xbf][A-Za-z]", sample):
        return False  # a sign amid a word is a letter of another encoding
    return all(byte in _WESTERN for byte in set(high))


def _guess(data: bytes) -> str | None:
    """charset-normalizer's word on a sample; None where it is not installed or does not know."""
    try:
        from charset_normalizer import from_bytes
    except ImportError:  # a light install: cp1252 stands in
        return None
    sample = data
    if len(data) > SAMPLE:
        cut = data.rfind(b"\n", 0, SAMPLE)  # a border where no character of several bytes is torn
        sample = data[: cut if cut > 0 else SAMPLE]
    best = from_bytes(sample, cp_exclusion=_SEEN_BEFORE).best()
    return best.encoding if best else None
