"""Rows of JSONL, CSV, TSV and Parquet files: each row is a source."""

from __future__ import annotations

import datetime
import decimal
import itertools
import json
import math
import os
import sqlite3
import stat
import threading
import unicodedata
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, ClassVar

from ragops.errors import ConfigError, FetchError, ScanError, Vanished
from ragops.ids import composite, sha256_text, short
from ragops.types import Entry, Fields, Metadata, Reject, Scalar, Source, Unchanged
from ragops_connectors.files import Files, FilesSettings, settled, token
from ragops_connectors.rows import SUFFIXES, BadFile, BadRow, Row, Rows, kind_of, open_rows

IDS = ("_id", "id", "doc_id", "docid", "document_id", "uuid")
TEXTS = ("text", "content", "contents", "body", "passage")
TITLES = ("title",)
PEEK = 20  # rows looked at before a file counts as rows at all


@dataclass(frozen=True, slots=True)
class RecordsSettings:
    """Settings of the connector `records`."""

    path: str = ""
    """Must be given: a file, a folder of files or a glob (`data/*.jsonl.gz`), absolute or from the workspace. Rows of
    one file have the URI `<source>:/<id>`, which a renamed file keeps; rows of several `<source>:/<file>#<id>`."""
    format: str = "auto"
    """`jsonl`, `csv`, `tsv` or `parquet`; `auto` goes by name, then by content. The first three may be gzipped."""
    id: str | None = None
    """The column that names a row. Found by itself: `_id`, `id`, `doc_id`, `docid`, `document_id`, `uuid`."""
    text: str | None = None
    """The column of the text. Found by itself: `text`, `content`, `contents`, `body`, `passage`. Rows without text are
    their title."""
    title: str | None = None
    """The column of the title. Found by itself: `title`."""
    metadata: tuple[str, ...] | None = None
    """Columns that become `meta.<column>`; by default every other one that holds text, numbers, true or false, dates,
    or lists of them. CSV values stay text."""
    media_type: str = "text/plain"
    """What the text is: `text/plain`, `text/markdown`, `text/html`."""
    tenant: str = ""
    """Whose rows these are; searches of other tenants do not see them."""
    groups: tuple[str, ...] = ()
    """Groups that may see them."""
    tenant_field: str | None = None
    """The column of the tenant instead; a row without it is rejected, never shown to all."""
    groups_field: str | None = None
    """The column of the groups instead (a list, or text with commas); a row without it is rejected."""
    max_bytes: int = 10_000_000
    """Rows with a longer text are rejected."""
    follow_symlinks: bool = False
    """In folders and globs: follow symbolic links, also to places outside."""


class Records:
    """Every row is a source; its bytes are its text in UTF-8."""

    Settings: ClassVar[type] = RecordsSettings

    def __init__(self, name: str, root: Path, settings: RecordsSettings) -> None:
        """`root`: the workspace, that `settings.path` starts from. Raises ConfigError."""
        if settings.format != "auto" and settings.format not in SUFFIXES:
            valid = ", ".join(("auto", *SUFFIXES))
            raise ConfigError(f"source '{name}': there is no format {settings.format!r}", f"Valid formats: {valid}")
        if settings.max_bytes <= 0:
            raise ConfigError(f"source '{name}': 'max_bytes' takes a number of bytes above 0, not {settings.max_bytes}")
        if not settings.media_type.startswith("text/"):
            raise ConfigError(f"source '{name}': 'media_type' takes a text type, not {settings.media_type!r}")
        if not settings.path:
            raise ConfigError(f"source '{name}': 'path' is empty", "Write the path of a file, a folder or a glob.")
        self.name = name
        self.settings = settings
        self.workspace = root
        self.path = os.path.abspath(os.path.join(root, os.path.expanduser(settings.path)))
        # A changed setting may change every row, so it is a part of what "unchanged" means.
        self.fingerprint = short(composite("records", [1, *(repr(value) for value in astuple(settings)[1:])]))
        self._lock = threading.Lock()
        self._rows: tuple[str, str, Rows] | None = None  # path, token and rows of the file fetched from last

    def scan(self, known: Callable[[str], str | None]) -> RecordsScan:
        """List rows in the order of their files. A file whose token is as `known` is not read.

        Raises ScanError where there is no file, or none of its first rows has an id and a text.
        """
        self.close()
        return RecordsScan(self, known)

    def owns(self, uri: str) -> bool:
        return uri.startswith(f"{self.name}:/")

    def fetch(self, entry: Entry) -> Source:
        """Read one row. Raises FetchError (transient) where the file is not as it was listed; Vanished where it is
        gone. Fetching in the order of the scan reads a file once."""
        place, _, relative = entry.locator.partition(" ")
        with self._lock:
            try:
                values = self._opened(entry.uri, relative).at(place)
                record = read_record(values, self.settings)
            except (OSError, EOFError, zlib.error, BadRow, BadFile) as error:
                raise FetchError(f"{entry.uri}: {error}", "Its file changed; it is read again next run.") from error
        # A place in a file that was written anew may hold another row, or half of one.
        if self.uri(relative, record.id) != entry.uri or self.token(record) != entry.token:
            raise FetchError(f"{entry.uri}: its file changed since it was listed", "It is read again at the next run.")
        metadata = Metadata(record.title, record.tenant, record.groups, record.fields)
        data = (record.text or record.title or "").encode("utf-8", "replace")
        return Source(entry.uri, data, self.settings.media_type, "utf-8", metadata, entry.token)

    def close(self) -> None:
        """Close the file that was fetched from last."""
        with self._lock:
            if self._rows:
                self._rows[2].close()
            self._rows = None

    def _opened(self, uri: str, relative: str) -> Rows:
        path = os.path.join(self.folder()[0], relative) if relative else self.path
        try:
            found = os.stat(path)
        except FileNotFoundError as error:
            raise Vanished(f"{uri}: its file is gone") from error
        if not stat.S_ISREG(found.st_mode):
            raise Vanished(f"{uri}: its file is no plain file any more")
        now = token(found)
        if self._rows and self._rows[:2] == (path, now):
            return self._rows[2]
        if self._rows:
            self._rows[2].close()
            self._rows = None
        rows = self.open(path, relative)
        self._rows = (path, now, rows)
        return rows

    def open(self, path: str, relative: str) -> Rows:
        """Raises BadFile, OSError."""
        return open_rows(path, relative or os.path.basename(path), self.settings.format, self.settings.max_bytes)

    def folder(self) -> tuple[str, tuple[str, ...]]:
        """The folder and the globs of a source of several files."""
        if os.path.isdir(self.path):
            kinds = list(SUFFIXES) if self.settings.format == "auto" else [self.settings.format]
            return self.path, tuple(f"*{suffix}" for kind in kinds for suffix in SUFFIXES[kind])
        parts = self.path.split("/")
        first = next(i for i, part in enumerate(parts) if _wild(part))
        return "/".join(parts[:first]) or "/", ("/" + "/".join(parts[first:]),)

    def many(self) -> bool:
        return os.path.isdir(self.path) or (_wild(self.path) and not os.path.exists(self.path))

    def uri(self, relative: str, row: str) -> str:
        """`relative`: the file's path, empty where the source is one file."""
        if not relative:
            return f"{self.name}:/{quoted(row)}"
        return f"{self.name}:/{quoted(_nfc(relative)).replace('#', '%23')}#{quoted(row)}"

    def token(self, record: Record) -> str:
        """A row's change token: all that `fetch` gives, so that a moved or reformatted row is unchanged."""
        value = [record.text, record.title, record.tenant, record.groups, dict(record.fields), self.settings.media_type]
        return sha256_text(json.dumps(value, sort_keys=True))


class RecordsScan:
    """One pass over the rows. `containers` holds "" for a file that must be read again: it is fresh, or has rows that
    cannot be told apart, which also leaves the scan incomplete, since any row may be among them."""

    def __init__(self, records: Records, known: Callable[[str], str | None]) -> None:
        self.records = records
        self.known = known
        self.complete = True
        self.containers: dict[str, str] = {}

    def __iter__(self) -> Iterator[Entry | Unchanged | Reject]:
        records = self.records
        if not records.many():
            yield from self._file(records.path, "")
            return
        folder, globs = records.folder()
        wanted = FilesSettings(
            path=folder, include=globs, follow_symlinks=records.settings.follow_symlinks, max_bytes=2**62
        )
        listing = Files(records.name, records.workspace, wanted).scan(self.known)
        count = 0
        for item in listing:
            if isinstance(item, Entry):
                count += 1
                yield from self._file(os.path.join(folder, item.locator), item.locator)
            else:
                yield item
        if not listing.complete:
            self.complete = False
        if not count and self.complete:
            raise ScanError(
                f"source '{records.name}': no file of rows at {records.path}",
                f"Looked for {', '.join(globs)}. Correct 'path'; nothing is deleted because of this.",
            )

    def _file(self, path: str, relative: str) -> Iterator[Entry | Unchanged | Reject]:
        records = self.records
        name = records.name
        container = f"{name}:/{quoted(_nfc(relative)).replace('#', '%23')}"
        self.containers[container] = ""
        try:
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):
                raise ScanError(f"source '{name}': {path} is no file", "Correct the source's 'path'.")
            now = f"{token(found)}-{records.fingerprint}"
            if self.known(container) == now:
                self.containers[container] = now
                yield Unchanged(container, now)
                return
            rows = records.open(path, relative)
            try:
                sound = yield from self._rows(container, relative, rows)
            finally:
                rows.close()
            after = os.stat(path)
        except (OSError, EOFError, zlib.error, BadFile) as error:
            self.complete = False
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            hint = error.hint if isinstance(error, BadFile) else "Mend it; nothing of this source is deleted meanwhile."
            if not relative:
                raise ScanError(f"source '{name}': {path}: {reason}", hint) from error
            code = "unreadable" if isinstance(error, OSError) else "bad_record"
            yield Reject(container, name, "scan", code, reason, hint, None, isinstance(error, OSError))
            return
        if token(found) != token(after) or not sound:
            self.complete = False
        elif settled(after):
            self.containers[container] = now

    def _rows(self, container: str, relative: str, rows: Rows) -> Generator[Entry | Reject, None, bool]:
        """Rows of a file as entries; returns whether every row could at least be named."""
        records = self.records
        settings = records.settings
        sound = True
        file = relative or os.path.basename(records.path)
        seen = _Seen()
        try:
            for row in _checked(rows, settings):
                where = f"{records.name}:/{file}:{row.line}"
                try:
                    if row.values is None:
                        raise BadRow(row.broken, row.code)
                    record = read_record(row.values, settings, row.broken)
                except BadRow as bad:
                    if bad.row is None:
                        sound = False
                    uri = where if bad.row is None else records.uri(relative, bad.row)
                    if bad.row is not None and not seen.add(bad.row):
                        uri = where
                    reason = f"line {row.line}: {bad}" if rows.lines else f"row {row.line}: {bad}"
                    yield Reject(uri, records.name, "scan", bad.code, reason, bad.hint)
                    continue
                if not seen.add(record.id):
                    reason = f"{'line' if rows.lines else 'row'} {row.line}: the id {record.id!r} stands twice"
                    yield Reject(where, records.name, "scan", "bad_record", reason, "Give every row an id of its own.")
                    continue
                yield Entry(
                    uri=records.uri(relative, record.id),
                    token=records.token(record),
                    size=_size(record.text or record.title or ""),
                    locator=f"{row.place} {relative}",
                    container=container,
                )
        finally:
            seen.close()
        return sound


# ---------------------------------------------------------------- one row
@dataclass(frozen=True, slots=True)
class Record:
    """A row's own words: `text` or `title` is not empty."""

    id: str
    text: str
    title: str | None
    tenant: str
    groups: tuple[str, ...]
    fields: Fields


def read_record(values: Mapping[str, Any], settings: RecordsSettings, broken: str = "") -> Record:
    """A row by its columns. `broken`: what is wrong with it beside, once its id is known. Raises BadRow."""
    id_column = _column(values, settings.id, IDS)
    row = _id(values, id_column, settings)
    if broken:
        raise BadRow(broken, row=None if "\ufffd" in row else row)
    text_column = _column(values, settings.text, TEXTS)
    title_column = _column(values, settings.title, TITLES)
    text = values.get(text_column) if text_column else None
    if text is not None and not isinstance(text, str):
        raise BadRow(f"'{text_column}' holds {kind_of(text)}, not text", row=row)
    title = values.get(title_column) if title_column else None
    if isinstance(title, (int, float)) and not isinstance(title, bool):
        title = str(title)
    title = title.strip() if isinstance(title, str) else None
    text = text or ""
    if not text.strip() and not title:
        raise BadRow("it has neither text nor title", "empty", row, "Nothing to do, unless its text is in a column "
                     "that the setting 'text' should name.")  # fmt: skip
    if _size(text) > settings.max_bytes:
        hint = f"Raise 'max_bytes' (now {settings.max_bytes:,}) or split it."
        raise BadRow(f"{len(text):,} characters of text, above max_bytes", "too_large", row, hint)
    tenant, groups = settings.tenant, settings.groups
    if settings.tenant_field:
        tenant = _tenant(values.get(settings.tenant_field), settings.tenant_field, row)
    if settings.groups_field:
        groups = _groups(values.get(settings.groups_field), settings.groups_field, row)
    names: Iterable[str] = values if settings.metadata is None else settings.metadata
    taken = {id_column, text_column, title_column, settings.tenant_field, settings.groups_field}
    if settings.metadata is not None:
        taken = set()
    fields: dict[str, Scalar | list[Scalar]] = {}
    for name in names:
        if name and name not in taken and (value := _field(values.get(name))) is not None:
            fields[_sound(name)] = value
    return Record(row, text if text.strip() else "", _sound(title) if title else None, tenant, groups, fields)


def quoted(text: str) -> str:
    """A row's id as it stands in its URI: percent signs and what cannot stand in a line are percent-encoded, and
    letters that are not in NFC, so that different ids stay different."""
    if text.isascii() and text.isprintable() and "%" not in text:
        return text
    keep = _nfc(text) == text
    return "".join(
        c
        if c != "%" and (c.isascii() or keep) and unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp")
        else "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "surrogatepass"))
        for c in text
    )


def _column(values: Mapping[str, Any], told: str | None, candidates: Sequence[str]) -> str | None:
    if told is not None:
        return told
    return next((name for name in candidates if name in values), None)


def _id(values: Mapping[str, Any], column: str | None, settings: RecordsSettings) -> str:
    if column is None or column not in values:
        missing = f"'{column}'" if column else f"for an id ({', '.join(IDS)})"
        raise BadRow(f"it has no column {missing}", hint="Name the column in the setting 'id'.")
    value = values[column]
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, (float, decimal.Decimal)) and math.isfinite(value):
        return str(int(value)) if value == int(value) else str(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    raise BadRow(f"its id in '{column}' is {kind_of(value)}", hint="Give every row an id of its own.")


def _tenant(value: Any, column: str, row: str) -> str:
    if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
        return str(value).strip()
    raise BadRow(f"its tenant in '{column}' is {kind_of(value)}", row=row, hint="Without it anyone could see the row.")


def _groups(value: Any, column: str, row: str) -> tuple[str, ...]:
    if isinstance(value, str) and value.strip(", \t"):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, list) and all(isinstance(item, (str, int)) for item in value):
        return tuple(str(item) for item in value)
    raise BadRow(
        f"its groups in '{column}' are {kind_of(value)}", row=row, hint="Without them anyone could see the row."
    )


def _field(value: Any) -> Scalar | list[Scalar] | None:
    """A value that can be filtered by, or None."""
    if isinstance(value, str):
        return _sound(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, list):
        items = [_field(item) for item in value if item is not None]
        plain = [item for item in items if isinstance(item, (str, int, float))]
        return plain if plain and len(plain) == len(items) else None
    return None


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _sound(text: str) -> str:
    """Lone surrogates, which JSON can spell and UTF-8 cannot, become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _wild(path: str) -> bool:
    return any(c in path for c in "*?[")


def _checked(rows: Rows, settings: RecordsSettings) -> Iterator[Row]:
    """The rows, once one of the first has an id and something to read: else all would be rejected one by one."""
    every = iter(rows)
    first = list(itertools.islice(every, PEEK))
    columns = list(dict.fromkeys(name for row in first if row.values is not None for name in row.values))
    if first and not columns:
        raise BadFile(f"no row can be read: line {first[0].line}: {first[0].broken}", "Is 'format' right?")
    wanted = [
        ("id", settings.id, IDS),
        ("text", settings.text or (settings.title if settings.title in columns else None), (*TEXTS, *TITLES)),
        ("title", settings.title, ()),
        ("tenant_field", settings.tenant_field, ()),
        ("groups_field", settings.groups_field, ()),
    ]
    for key, told, candidates in wanted:
        names = (told,) if told else candidates
        if first and names and not any(name in columns for name in names):
            have = ", ".join(columns[:30]) + (", ..." if len(columns) > 30 else "")
            raise BadFile(
                f"there is no column {' or '.join(map(repr, names))} in the first rows",
                f"Set '{key}' to one of its columns: {have}",
            )
    return itertools.chain(first, every)


class _Seen:
    """Ids of a file's rows, in a temporary database: a million of them cost no memory to speak of."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def add(self, row: str) -> bool:
        """False where it was there before."""
        key = quoted(row)
        return self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount == 1

    def close(self) -> None:
        self._db.close()
