"""Records: rows of JSON lines."""

from __future__ import annotations

import gzip
import json
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragops.errors import ConfigError, ScanError
from ragops.types import Reject
from ragops_connectors.records import Records, RecordsSettings, quoted
from tests.connector_contract import listing
from tests.connectors import records, texts, write


def test_beir_rows_just_work(tmp_path: Path) -> None:
    rows = [
        {"_id": "4983", "title": "A title", "text": "The abstract.", "metadata": {}},
        {"_id": "995", "title": "", "text": "", "metadata": {}},
        {"_id": "7", "title": "Only a title", "text": "", "metadata": {"year": 1}},
    ]
    connector = records(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))
    found = listing(connector)
    assert texts(connector) == {"4983": "The abstract.", "7": "Only a title"}
    assert [(r.uri, r.code) for r in found.rejects] == [("docs:/995", "empty")]
    assert found.complete
    source = connector.fetch(found.entries[0])
    assert source.metadata.title == "A title"
    assert (source.media_type, source.encoding, source.metadata.fields) == ("text/plain", "utf-8", {})


def test_values_become_metadata(tmp_path: Path) -> None:
    row = {
        "id": 7, "text": "t", "s": "x", "i": 3, "f": 1.5, "yes": True, "none": None, "nan": float("nan"), "inf": 1e999,
        "tags": ["a", "b"], "mixed": [1, {"a": 1}], "nested": {"a": 1}, "empty": [], "big": 2**70, "": "no name",
        "lone": "\ud800!",
    }  # fmt: skip
    connector = records(tmp_path, json.dumps(row))
    (entry,) = listing(connector).entries
    assert entry.uri == "docs:/7"
    assert connector.fetch(entry).metadata.fields == {
        "s": "x", "i": 3, "f": 1.5, "yes": True, "tags": ["a", "b"], "big": str(2**70), "lone": "?!",
    }  # fmt: skip
    chosen = records(tmp_path, metadata=("i", "missing", "id"))
    assert chosen.fetch(listing(chosen).entries[0]).metadata.fields == {"i": 3, "id": 7}
    nothing = records(tmp_path, metadata=())
    assert nothing.fetch(listing(nothing).entries[0]).metadata.fields == {}


def test_told_columns(tmp_path: Path) -> None:
    row = {"key": "k", "words": "w", "head": "h", "text": "other", "id": "other"}
    connector = records(tmp_path, json.dumps(row), id="key", text="words", title="head", media_type="text/markdown")
    (entry,) = listing(connector).entries
    source = connector.fetch(entry)
    assert (source.uri, source.data, source.metadata.title, source.media_type) == (
        "docs:/k",
        b"w",
        "h",
        "text/markdown",
    )
    assert source.metadata.fields == {"text": "other", "id": "other"}


@pytest.mark.parametrize(
    ("options", "key"),
    [({}, "id"), ({"id": "nr", "text": "wrods"}, "text"), ({"id": "nr", "tenant_field": "org"}, "tenant_field")],
)
def test_a_missing_column_names_the_columns_there_are(tmp_path: Path, options: dict[str, str], key: str) -> None:
    connector = records(tmp_path, '{"nr": 1, "text": "a"}\n{"nr": 2, "text": "b"}\n', **options)
    with pytest.raises(ScanError, match="no column") as raised:
        listing(connector)
    assert raised.value.hint == f"Set '{key}' to one of its columns: nr, text"


BAD_ROWS = [
    ("{torn", "not JSON", None),
    ('["a", "list"]', "not an object", None),
    ('"text"', "not an object", None),
    ('{"text": "no id"}', "no column", None),
    ('{"id": null, "text": "x"}', "missing", None),
    ('{"id": "", "text": "x"}', "empty", None),
    ('{"id": true, "text": "x"}', "true or false", None),
    ('{"id": ["x"], "text": "x"}', "a list", None),
    ("[" * 100_000, "nested too deep", None),
    ('{"id": %s, "text": "x"}' % ("9" * 5000), "number too long", None),
    ('{"id": "bad", "text": 5}', "'text' holds a number", "bad"),
    ('{"id": "bad", "text": ["x"]}', "'text' holds a list", "bad"),
    (b'{"id": "bad", "text": "\xff\xfe"}', "not UTF-8", "bad"),
    (b'{"id": "\xff", "text": "x"}', "not UTF-8", None),
    ('{"id": "1", "text": "again"}', "stands twice", None),
]


@pytest.mark.parametrize(("bad", "reason", "row"), BAD_ROWS)
def test_a_bad_row_costs_one_reject(tmp_path: Path, bad: str | bytes, reason: str, row: str | None) -> None:
    raw = bad.encode() if isinstance(bad, str) else bad
    connector = records(tmp_path, b'{"id": "1", "text": "one"}\n' + raw + b'\n\n{"id": "2", "text": "two"}\n')
    found = listing(connector)
    assert texts(connector) == {"1": "one", "2": "two"}
    (reject,) = found.rejects
    assert reject.code == "bad_record"
    assert reject.reason.startswith("line 2: ")
    assert reason in reject.reason
    assert reject.uri == (f"docs:/{row}" if row else "docs:/rows.jsonl:2")
    # What cannot be named may be any row: then nothing may be deleted.
    assert found.complete == (row is not None or "twice" in reason)


def test_what_is_no_jsonl_is_one_error(tmp_path: Path) -> None:
    rows = json.dumps([{"id": i, "text": "x"} for i in range(3)])
    for data, hint in [
        (rows, "jq -c"),
        (json.dumps({"id": 1, "text": "x"}, indent=1), "format"),
        ('{"id": "1", "text": "x"}\n'.encode("utf-16"), "UTF-8"),
        (bytes(range(256)) * 40, "format"),
    ]:
        with pytest.raises(ScanError) as raised:
            listing(records(tmp_path, data))
        assert hint in raised.value.hint
    with pytest.raises(ScanError, match="neither its name"):
        listing(records(tmp_path, "words", path="rows"))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_marks_line_ends_and_blank_lines(tmp_path: Path, end: str) -> None:
    data = "\ufeff" + end.join(['{"id": "1", "text": "é"}', "", "  ", '{"id": "2", "text": "b"}'])
    assert texts(records(tmp_path, data)) == {"1": "é", "2": "b"}


def test_long_lines(tmp_path: Path) -> None:
    long = json.dumps({"id": "long", "text": "x" * 300})
    longer = json.dumps({"id": "longer", "text": "x" * 1_002_000})
    data = "\n".join([long, longer, '{"id": "1", "text": "é"}', long.replace("long", "last")])
    found = listing(records(tmp_path, data, max_bytes=299))
    assert [e.uri for e in found.entries] == ["docs:/1"]
    assert [(r.uri, r.code) for r in found.rejects] == [
        ("docs:/long", "too_large"), ("docs:/rows.jsonl:2", "too_large"), ("docs:/last", "too_large"),
    ]  # fmt: skip
    assert not found.complete


def test_uris_of_rows_differ_as_their_ids(tmp_path: Path) -> None:
    ids = ["a", "a b", "a%20b", "%", "a\nb", "é", "e\u0301", "\ud800", "10.1/x#y?z", "a\u2028b", "日本", "a/../b"]
    assert len({quoted(row) for row in ids}) == len(ids)
    connector = records(tmp_path, "".join(json.dumps({"id": row, "text": row}) + "\n" for row in ids))
    found = listing(connector)
    assert len(found.entries) == len(ids)
    for entry in found.entries:
        assert entry.uri.isprintable()
        assert unicodedata.is_normalized("NFC", entry.uri)
        connector.fetch(entry)
    assert "docs:/10.1/x#y?z" in {entry.uri for entry in found.entries}


@given(st.text(max_size=8), st.text(max_size=8))
def test_quoting_is_one_to_one(a: str, b: str) -> None:
    assert (quoted(a) == quoted(b)) == (a == b)


def test_tenants_and_groups_of_rows(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "text": "x", "org": "acme", "teams": ["red", "blue"]},
        {"id": "2", "text": "x", "org": "acme", "teams": "red, blue"},
        {"id": "3", "text": "x", "org": 5, "teams": []},
        {"id": "4", "text": "x", "teams": ["red"]},
        {"id": "5", "text": "x", "org": "", "teams": ["red"]},
        {"id": "6", "text": "x", "org": "acme"},
        {"id": "7", "text": "x", "org": "acme", "teams": [None]},
    ]
    data = "".join(json.dumps(row) + "\n" for row in rows)
    connector = records(tmp_path, data, tenant_field="org", groups_field="teams")
    found = listing(connector)
    got = {e.uri[-1]: connector.fetch(e).metadata for e in found.entries}
    assert {key: (m.tenant, m.groups) for key, m in got.items()} == {
        "1": ("acme", ("red", "blue")), "2": ("acme", ("red", "blue")), "3": ("5", ()),
    }  # fmt: skip
    assert got["1"].fields == {}
    assert [(r.uri[-1], r.code) for r in found.rejects] == [(n, "bad_record") for n in "4567"]  # never shown to all


def test_settings_are_part_of_unchanged(tmp_path: Path) -> None:
    row = {"id": "1", "text": "x", "body": "y"}
    first = records(tmp_path, json.dumps(row))
    os.utime(tmp_path / "rows.jsonl", (1, 1))
    before = listing(first)
    assert listing(first, before.containers.get).unchanged
    after = listing(records(tmp_path, text="body"), before.containers.get)
    assert after.unchanged == []
    assert after.tokens != before.tokens
    renamed = tmp_path / "renamed.jsonl"
    os.rename(tmp_path / "rows.jsonl", renamed)
    assert listing(records(tmp_path, path="renamed.jsonl")).tokens == before.tokens


def test_a_reformatted_or_moved_row_is_unchanged(tmp_path: Path) -> None:
    before = listing(records(tmp_path, '{"id": "1", "text": "a", "y": 2}\n{"id": "2", "text": "b"}')).tokens
    after = listing(records(tmp_path, '{"text":"b","id":"2"}\n\n{"y":2,"text":"\\u0061","id":"1"}\n')).tokens
    assert before == after


def test_a_file_that_changes_while_it_is_listed_is_incomplete(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"id": str(i), "text": "x" * 100}) + "\n" for i in range(1000))
    connector = records(tmp_path, rows)
    scan = connector.scan(lambda container: None)
    for at, _ in enumerate(scan):
        if at == 500:
            write(tmp_path / "rows.jsonl", rows[: len(rows) // 2])
    assert not scan.complete
    assert dict(scan.containers) == {"docs:/": ""}


def test_folders_and_globs(tmp_path: Path) -> None:
    one = '{"id": "1", "text": "same id, other file"}\n'
    for name in ("parts/a.jsonl", "parts/x/b.ndjson", "parts/c#1.jsonl", "parts/.h.jsonl"):
        write(tmp_path / name, one)
    write(tmp_path / "parts" / "c.csv", "id,text\n1,cell\n")
    write(tmp_path / "parts" / "README.md", "no rows")
    assert sorted(texts(records(tmp_path, path="parts"))) == ["a.jsonl#1", "c%231.jsonl#1", "c.csv#1", "x/b.ndjson#1"]
    assert sorted(texts(records(tmp_path, path="parts", format="csv"))) == ["c.csv#1"]
    assert sorted(texts(records(tmp_path, path="parts/*.jsonl"))) == ["a.jsonl#1", "c%231.jsonl#1"]
    assert sorted(texts(records(tmp_path, path="parts/**/*.ndjson"))) == ["x/b.ndjson#1"]
    with pytest.raises(ScanError, match="no file of rows"):
        listing(records(tmp_path, path="parts/*.parquet"))
    (tmp_path / "none").mkdir()
    with pytest.raises(ScanError, match="no file of rows"):
        listing(records(tmp_path, path="none"))


def test_one_broken_file_among_many(tmp_path: Path) -> None:
    write(tmp_path / "p" / "a.jsonl", '{"id": "1", "text": "a"}')
    write(tmp_path / "p" / "b.jsonl", "garbage\n")
    write(tmp_path / "p" / "c.jsonl.gz", gzip.compress(b'{"id": "1", "text": "c"}\n' * 5000)[:-30])
    write(tmp_path / "p" / "d.parquet", b"PAR1 broken PAR1")
    write(tmp_path / "p" / "e.jsonl", '{"id": "1", "text": "e"}')
    found = listing(records(tmp_path, path="p"))
    assert {"docs:/a.jsonl#1", "docs:/e.jsonl#1"} <= set(found.tokens)
    assert {"docs:/b.jsonl", "docs:/c.jsonl.gz", "docs:/d.parquet"} <= {r.uri for r in found.rejects}
    assert not found.complete
    assert all(r.hint for r in found.rejects)


def test_bad_settings(tmp_path: Path) -> None:
    for options in ({"format": "xml"}, {"max_bytes": 0}, {"media_type": "application/pdf"}, {"path": ""}):
        with pytest.raises(ConfigError):
            Records("docs", tmp_path, RecordsSettings(**options))  # type: ignore[arg-type]


def test_rejects_of_many_kinds_are_whole(tmp_path: Path) -> None:
    """Every reject says what to do, and none is transient that will not mend itself."""
    lines = "\n".join(bad for bad, _, _ in BAD_ROWS if isinstance(bad, str))
    found = listing(records(tmp_path, '{"id": "1", "text": "one"}\n' + lines))
    assert len(found.rejects) == len([bad for bad, _, _ in BAD_ROWS if isinstance(bad, str)])
    for reject in found.rejects:
        assert isinstance(reject, Reject)
        assert reject.hint
        assert not reject.transient
