"""Files of rows: JSONL, CSV, TSV and Parquet, read row by row, and one row again by its place."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from ragops.errors import MissingExtra
from ragops_connectors.media import sniff

SUFFIXES = {
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"),
    "csv": (".csv", ".csv.gz"),
    "tsv": (".tsv", ".tab", ".tsv.gz"),
    "parquet": (".parquet", ".pq"),
}
BATCH_BYTES = 8_000_000  # of Parquet rows in memory at a time


class BadRow(Exception):
    """A row that is no source; `row` is its id where that much could be read."""

    def __init__(self, reason: str, code: str = "bad_record", row: str | None = None, hint: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.row = row
        # Without an id it may be any of the rows that were there before.
        self.hint = hint or ("Mend the row." if row else "Mend the row; nothing of this source is deleted meanwhile.")


class BadFile(Exception):
    """A file that is not rows."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Row:
    """`place` finds it again; `values` is None where the row cannot be read at all."""

    line: int  # counted from 1
    place: str
    values: Mapping[str, Any] | None
    broken: str = ""  # what is wrong with it
    code: str = field(default="bad_record")


class Rows(Protocol):
    """An open file of rows."""

    lines: bool  # whether `Row.line` counts lines of text

    def __iter__(self) -> Iterator[Row]: ...

    def at(self, place: str) -> Mapping[str, Any]:
        """The row at a place. Raises BadRow where there is none any more, OSError."""
        ...

    def close(self) -> None: ...


def open_rows(path: str, name: str, kind: str, max_bytes: int) -> Rows:
    """`kind`: one of SUFFIXES, or "auto"; rows have at most `max_bytes` each. Raises BadFile, OSError."""
    if kind == "auto":
        kind = next((k for k, suffixes in SUFFIXES.items() if name.lower().endswith(suffixes)), "auto")
    if kind == "parquet":
        return ParquetRows(path)
    stream: IO[bytes] = open(path, "rb")  # noqa: SIM115 (the rows close it)
    try:
        if stream.read(2) == b"\x1f\x8b":
            stream.close()
            stream = gzip.open(path)  # type: ignore[assignment]  # noqa: SIM115
        stream.seek(0)
        head = stream.read(65_536)
    except BaseException:
        stream.close()
        raise
    if kind == "auto" and head.startswith(b"PAR1"):
        stream.close()
        return ParquetRows(path)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if kind == "auto" and text.startswith(b"{"):
        kind = "jsonl"
    wide = head.startswith((b"\xff\xfe", b"\xfe\xff")) or head.count(0) > len(head) // 5
    if kind == "auto" or wide or (kind == "jsonl" and text.startswith(b"[")):
        stream.close()
        if wide:
            raise BadFile("it is UTF-16 or no text", "Save it as UTF-8, or name its 'format'.")
        if text.startswith(b"["):
            raise BadFile(
                "it is one JSON array, not one object per line", "Convert it: jq -c '.[]' file.json > file.jsonl"
            )
        raise BadFile(
            "neither its name nor its content tells its format", f"Set 'format' to one of {', '.join(SUFFIXES)}."
        )
    if kind == "jsonl":
        return JsonRows(stream, max_bytes)
    encoding = sniff("rows.csv", head[: head.rfind(b"\n") + 1] or head)[1] or "utf-8"
    return CsvRows(stream, max_bytes, encoding, "\t" if kind == "tsv" else None)


class _Lines:
    """Lines of a binary stream with their offsets, none longer than a limit in memory."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self.stream = stream
        self.limit = limit
        self.offset = 0
        self.line = 0

    def read(self) -> bytes | None:
        """The next line with its end; b"" at the end of the file; None for one that is too long."""
        raw = self.stream.readline(self.limit)
        self.offset += len(raw)
        self.line += bool(raw)
        if len(raw) < self.limit or raw.endswith(b"\n"):
            return raw
        while part := self.stream.readline(self.limit):
            self.offset += len(part)
            if part.endswith(b"\n"):
                break
        return None


class JsonRows:
    """One JSON object per line, UTF-8. A place is `<offset>:<length>`."""

    lines = True

    def __init__(self, stream: IO[bytes], max_bytes: int) -> None:
        self.stream = stream
        self.limit = 6 * max_bytes + 1_000_000  # JSON may spell a character in six
        self.max_bytes = max_bytes

    def __iter__(self) -> Iterator[Row]:
        self.stream.seek(0)
        lines = _Lines(self.stream, self.limit)
        while True:
            start = lines.offset
            raw = lines.read()
            if raw == b"":
                return
            if raw is None:
                yield Row(
                    lines.line, "", None, f"a line of {lines.offset - start:,} bytes, above max_bytes", "too_large"
                )
                continue
            stripped = (raw.removeprefix(b"\xef\xbb\xbf") if start == 0 else raw).strip()
            if not stripped:
                continue
            place = f"{start}:{len(raw)}"
            try:
                values, broken = _json_row(stripped)
            except BadRow as bad:
                yield Row(lines.line, place, None, str(bad))
                continue
            yield Row(lines.line, place, values, broken)

    def at(self, place: str) -> Mapping[str, Any]:
        values, broken = _json_row(_cut(self.stream, place).removeprefix(b"\xef\xbb\xbf").strip())
        if broken:
            raise BadRow(broken)
        return values

    def close(self) -> None:
        self.stream.close()


def _json_row(line: bytes) -> tuple[dict[str, Any], str]:
    """The object, and what is wrong with it though it could be read."""
    broken = ""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        broken = f"not UTF-8 at byte {error.start + 1} of the line"
        text = line.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        told = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep or a number too long"
        raise BadRow(broken or f"not JSON: {told}") from None
    if not isinstance(value, dict):
        raise BadRow(f"it is {kind_of(value)}, not an object")
    return value, broken


def _cut(stream: IO[bytes], place: str) -> bytes:
    start, _, length = place.partition(":")
    stream.seek(int(start))
    raw = stream.read(int(length))
    if len(raw) < int(length):
        raise BadRow("the file is shorter than it was")
    return raw


class CsvRows:
    """Delimited text with a header. A place is `<offset>:<length>`, for a row may span lines."""

    lines = True

    def __init__(self, stream: IO[bytes], max_bytes: int, encoding: str, delimiter: str | None) -> None:
        self.stream = stream
        self.encoding = "utf-8" if encoding == "utf-8-sig" else encoding
        self.limit = 2 * max_bytes + 1_000_000  # quotes are doubled
        self.delimiter = delimiter or ","
        self.told = delimiter is not None
        self.header: list[str] = []
        # Python's own limit (128 KiB) is for the whole process and can only be raised.
        csv.field_size_limit(max(csv.field_size_limit(), self.limit))
        stream.seek(0)
        lines = _Lines(stream, self.limit)
        while not self.header:
            raw = lines.read()
            if raw == b"":
                return
            line = (raw or b"").removeprefix(b"\xef\xbb\xbf").decode(self.encoding, "replace")
            if line.strip():
                if not self.told:
                    self.delimiter = _delimiter(line)
                self.header = [name.strip() for name in next(csv.reader([line], delimiter=self.delimiter))]
        self.first = (lines.offset, lines.line)

    def __iter__(self) -> Iterator[Row]:
        if not self.header:
            return
        self.stream.seek(self.first[0])
        lines = _Lines(self.stream, self.limit)
        lines.offset, lines.line = self.first
        again = 0  # how often a quote that is never closed made us start again behind its line
        while True:
            feed = _Feed(lines, self.encoding)
            start, first = lines.offset, lines.line + 1
            try:
                cells = next(csv.reader(feed, delimiter=self.delimiter))
                lost = feed.ended and len(feed.raw) > 1 and b"".join(feed.raw).count(b'"') % 2 == 1
                problem = "a quote that opens here is never closed" if lost else ""
            except StopIteration:
                return
            except (csv.Error, BadRow) as error:
                cells, problem = [], str(error)
            if problem:
                yield Row(first, "", None, problem)
                again += len(feed.raw) > 1
                if again > 100:
                    raise BadFile(f"line {first}: quotes do not match in too many rows", "Is 'format' right?")
                if len(feed.raw) > 1:
                    lines.offset, lines.line = start + len(feed.raw[0]), first
                    self.stream.seek(lines.offset)
                continue
            if not cells or not any(cells):
                continue
            place = f"{start}:{lines.offset - start}"
            if len(cells) > len(self.header):
                told = f"{len(cells)} fields under {len(self.header)} column names"
                yield Row(first, place, None, told)
            else:
                yield Row(first, place, self._values(cells), feed.broken)

    def at(self, place: str) -> Mapping[str, Any]:
        try:
            text = _cut(self.stream, place).decode(self.encoding)
            cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise BadRow(str(error)) from error
        if len(cells) > len(self.header):
            raise BadRow("more fields than columns")
        return self._values(cells)

    def _values(self, cells: list[str]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, cell in zip(self.header, cells, strict=False):
            values.setdefault(name, cell)  # of two columns of one name the first
        return values

    def close(self) -> None:
        self.stream.close()


class _Feed:
    """The lines of one CSV record, as `csv.reader` asks for them."""

    def __init__(self, lines: _Lines, encoding: str) -> None:
        self.lines = lines
        self.encoding = encoding
        self.raw: list[bytes] = []
        self.size = 0
        self.ended = False
        self.broken = ""

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        raw = self.lines.read()
        if raw == b"":
            self.ended = True
            raise StopIteration
        if raw is None:
            raise BadRow("a line above max_bytes", "too_large")
        self.raw.append(raw)
        self.size += len(raw)
        if self.size > self.lines.limit:
            raise BadRow("a quote that opens here is not closed within max_bytes")
        try:
            return raw.decode(self.encoding)
        except UnicodeDecodeError:
            self.broken = f"line {self.lines.line} is not {self.encoding.upper()}"
            return raw.decode(self.encoding, "replace")


def _delimiter(header: str) -> str:
    bare = "".join(header.split('"')[::2])  # what stands outside of quotes
    return max(",;\t|", key=bare.count)


class ParquetRows:
    """A Parquet file, read in slices. A place is a row's number, counted from 0."""

    lines = False

    def __init__(self, path: str) -> None:
        self.path = path
        self._start = 0
        self._batch: list[dict[str, Any]] = []
        self._size = 64  # rows in a slice, adapted to their weight

    def __iter__(self) -> Iterator[Row]:
        number = 0
        while batch := self._slice(number):
            for values in batch:
                yield Row(number + 1, str(number), values)
                number += 1

    def at(self, place: str) -> Mapping[str, Any]:
        number = int(place)
        if not self._start <= number < self._start + len(self._batch):
            try:
                self._batch, self._start = self._slice(number), number
            except BadFile as error:
                raise BadRow(str(error)) from error
        if not self._batch:
            raise BadRow("the file has fewer rows than it had")
        return self._batch[number - self._start]

    def _slice(self, start: int) -> list[dict[str, Any]]:
        try:
            import polars as pl
        except ImportError as error:
            raise MissingExtra("Parquet needs the package polars", "pip install polars") from error
        try:
            frame = pl.scan_parquet(self.path, glob=False).slice(start, self._size).collect()
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise BadFile(
                f"not readable as Parquet: {str(error).splitlines()[0]}", "Is it whole? Write it again."
            ) from error
        if frame.height:
            heavy = max(1, int(frame.estimated_size()) // frame.height)
            self._size = max(1, min(512, BATCH_BYTES // heavy))
        return frame.to_dicts()

    def close(self) -> None:
        self._batch = []


def kind_of(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, str):
        return "empty" if not value.strip() else "text"
    if isinstance(value, bool):
        return "true or false"
    return {int: "a number", float: "a number", list: "a list", dict: "an object"}.get(
        type(value), type(value).__name__
    )
