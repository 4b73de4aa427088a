"""Records: CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragops_connectors.records import quoted
from tests.connector_contract import listing
from tests.connectors import records, texts


def test_csv(tmp_path: Path) -> None:
    data = '\ufeffid,title,text,year\r\n1,"A, b","line one\r\nline ""two""",1999\r\n\r\n2,,short\r\n,,,\r\n'
    connector = records(tmp_path, data, path="rows.csv")
    assert texts(connector) == {"1": 'line one\r\nline "two"', "2": "short"}
    first, second = (connector.fetch(entry).metadata for entry in listing(connector).entries)
    assert (first.title, first.fields) == ("A, b", {"year": "1999"})
    assert (second.title, second.fields) == (None, {})


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_delimiters(tmp_path: Path, delimiter: str) -> None:
    data = delimiter.join(['"id"', "text"]) + "\n" + delimiter.join(["1", '"a,b;c|d\te"']) + "\n"
    assert texts(records(tmp_path, data, path="rows.csv")) == {"1": "a,b;c|d\te"}
    if delimiter == "\t":
        assert texts(records(tmp_path, data, path="rows.tsv")) == {"1": "a,b;c|d\te"}


def test_csv_in_an_old_encoding(tmp_path: Path) -> None:
    data = "id,text\n" + "".join(f"{i},größere Änderungen für später\n" for i in range(20))
    assert set(texts(records(tmp_path, data.encode("cp1252"), path="rows.csv")).values()) == {
        "größere Änderungen für später"
    }


def test_bad_rows_of_csv(tmp_path: Path) -> None:
    data = (
        b"id,text\n1,"
        + "ж".encode() * 20
        + b'\n2,a,b\n3,"it is \xff here"\n,no id\n4,four\n1,again\n5,"never closed\n6,six\n7,seven\n'
    )
    connector = records(tmp_path, data, path="rows.csv")
    found = listing(connector)
    assert [e.uri for e in found.entries] == ["docs:/1", "docs:/4", "docs:/6", "docs:/7"]
    assert [(r.uri, r.reason.split(":")[0]) for r in found.rejects] == [
        ("docs:/rows.csv:3", "line 3"), ("docs:/3", "line 4"), ("docs:/rows.csv:5", "line 5"),
        ("docs:/rows.csv:7", "line 7"), ("docs:/rows.csv:8", "line 8"),
    ]  # fmt: skip
    assert not found.complete
    assert texts(connector)["6"] == "six"


def test_csv_cells_above_pythons_own_limit(tmp_path: Path) -> None:
    connector = records(tmp_path, f"id,text\n1,{'x' * 200_000}\n2,b\n", path="rows.csv")
    assert {row: len(text) for row, text in texts(connector).items()} == {"1": 200_000, "2": 1}


cell = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(cell.filter(str.strip), st.tuples(cell, cell), max_size=8),
    st.booleans(),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
    st.sampled_from(["rows.jsonl", "rows.csv", "rows.parquet"]),
)
def test_any_rows_come_back(rows: dict[str, tuple[str, str]], escaped: bool, end: str, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if name == "rows.csv":
            out = io.StringIO(newline="")
            returns = any("\r" in value for key, values in rows.items() for value in (key, *values))
            # Python's writer leaves a lone carriage return bare.
            writer = csv.writer(out, lineterminator=end, quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
            writer.writerows([["id", "title", "text"], *([key, *values] for key, values in rows.items())])
            path.write_bytes(out.getvalue().encode())
        elif name == "rows.parquet":
            import polars as pl

            table = [{"id": key, "title": title, "text": text} for key, (title, text) in rows.items()]
            pl.DataFrame(table, schema={"id": pl.String, "title": pl.String, "text": pl.String}).write_parquet(path)
        else:
            lines = [
                json.dumps({"id": key, "title": title, "text": text}, ensure_ascii=escaped)
                for key, (title, text) in rows.items()
            ]
            path.write_bytes("".join(line + end for line in lines).encode())
        connector = records(Path(folder), path=name)
        found = listing(connector)
        assert found.complete
        wanted = {
            f"docs:/{quoted(key)}": (text if text.strip() else title.strip(), title.strip() or None)
            for key, (title, text) in rows.items()
            if text.strip() or title.strip()
        }
        got = {}
        for entry in found.entries:
            source = connector.fetch(entry)
            assert source.token == entry.token
            got[entry.uri] = (source.data.decode(), source.metadata.title)
        assert got == wanted
        assert {r.uri for r in found.rejects} == {f"docs:/{quoted(key)}" for key in rows} - set(wanted)


def test_parquet_values(tmp_path: Path) -> None:
    import datetime
    import decimal

    import polars as pl

    pl.DataFrame(
        {
            "id": [1, 2], "text": ["a", "b"], "day": [datetime.date(2024, 5, 1), None],
            "at": [datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)] * 2, "price": [decimal.Decimal("1.50")] * 2,
            "tags": [["x", "y"], []], "blob": [b"x", b"y"], "inner": [{"a": 1}, {"a": 2}], "nan": [float("nan"), 2.0],
        }
    ).write_parquet(tmp_path / "rows.parquet")  # fmt: skip
    connector = records(tmp_path, path="rows.parquet")
    first, second = (connector.fetch(entry).metadata.fields for entry in listing(connector).entries)
    at = "2024-05-01T12:00:00+00:00"
    assert first == {"day": "2024-05-01", "at": at, "price": "1.50", "tags": ["x", "y"]}
    assert second == {"at": at, "price": "1.50", "nan": 2.0}


def test_parquet_is_read_in_slices(tmp_path: Path) -> None:
    """More rows than a slice, fetched in order, backwards and by leaps."""
    import polars as pl

    count = 5000
    pl.DataFrame({"id": range(count), "text": [f"text {i}" for i in range(count)]}).write_parquet(
        tmp_path / "rows.parquet"
    )
    connector = records(tmp_path, path="rows.parquet")
    entries = listing(connector).entries
    assert [e.uri for e in entries] == [f"docs:/{i}" for i in range(count)]
    for at in [*range(0, count, 7), 4999, 0, 2500]:
        assert connector.fetch(entries[at]).data.decode() == f"text {at}"
