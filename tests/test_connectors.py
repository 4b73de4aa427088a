"""The contract over every connector, and the registry."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import ragops_connectors
from ragops.errors import UsageError
from ragops.types import Connector
from ragops_connectors.files import FilesSettings
from ragops_connectors.records import Records, RecordsSettings
from tests.connector_contract import GROUPS, TENANT, ConnectorContract, listing
from tests.connectors import bury, files, names, write


# ---------------------------------------------------------------- the contract
class FilesWorld:
    batch = 150_000

    def __init__(self, root: Path) -> None:
        self.root = root / "place"
        self.root.mkdir()

    def connector(self) -> Connector:
        return files(self.root.parent, path="place", tenant=TENANT, groups=GROUPS)

    def put(self, key: str, text: str) -> None:
        write(self.root / f"sub {key}" / f"{key}.txt", text)

    def remove(self, key: str) -> None:
        (self.root / f"sub {key}" / f"{key}.txt").unlink()

    def uri(self, key: str) -> str:
        return f"docs:/sub {key}/{key}.txt"

    def spoil(self) -> None:
        write(self.root / "two\nlines.txt", "text")

    def hide(self) -> None:
        (self.root / "deep").mkdir()
        bury(self.root / "deep")

    def unhide(self) -> None:
        shutil.rmtree(self.root / "deep")

    def fill(self, count: int, size: int) -> None:
        for i in range(count):
            write(self.root / f"{i // 100:04}" / f"{i}.txt", "x" * size)

    def destroy(self) -> None:
        shutil.rmtree(self.root)

    def settle(self) -> None:
        """Its tokens stand with the entries."""


class RecordsWorld:
    """Rows in one file, whose name says the format."""

    batch = 150_000

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name
        self.file = root / name
        self.rows: dict[str, dict[str, str]] = {}
        self.tail = b""
        self.save()

    def connector(self) -> Connector:
        return Records("docs", self.root, RecordsSettings(path=self.name, tenant=TENANT, groups=GROUPS))

    def save(self) -> None:
        self.file.write_bytes(self.encoded() + self.tail)

    def encoded(self) -> bytes:
        rows = list(self.rows.values())
        if ".csv" in self.name:
            out = io.StringIO(newline="")
            writer = csv.DictWriter(out, ["id", "title", "text"])
            writer.writeheader()
            writer.writerows(rows)
            return out.getvalue().encode()
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        return gzip.compress(data) if self.name.endswith(".gz") else data

    def put(self, key: str, text: str) -> None:
        self.rows[key] = {"id": key, "title": f"Title of {key}", "text": text}
        self.save()

    def remove(self, key: str) -> None:
        del self.rows[key]
        self.save()

    def uri(self, key: str) -> str:
        return f"docs:/{key}"

    def spoil(self) -> None:
        self.rows["empty"] = {"id": "empty", "title": "", "text": " "}
        self.save()

    def hide(self) -> None:
        broken = b'more,fields,than,columns,"\n' if ".csv" in self.name else b'{"id": "torn", "te\n'
        self.tail = gzip.compress(broken) if self.name.endswith(".gz") else broken
        self.save()

    def unhide(self) -> None:
        self.tail = b""
        self.save()

    def fill(self, count: int, size: int) -> None:
        self.rows = {str(i): {"id": str(i), "title": "", "text": "x" * size} for i in range(count)}
        self.save()
        self.rows = {}

    def destroy(self) -> None:
        self.file.unlink()

    def settle(self) -> None:
        os.utime(self.file, (1, 1))


class ParquetWorld(RecordsWorld):
    batch = 4_000_000

    def encoded(self) -> bytes:
        import polars as pl

        out = io.BytesIO()
        schema = {"id": pl.String, "title": pl.String, "text": pl.String}
        pl.DataFrame(list(self.rows.values()), schema=schema).write_parquet(out, row_group_size=1000)
        return out.getvalue()

    def hide(self) -> None:
        self.rows["\0"] = {"id": "", "title": "", "text": "a row without an id"}
        self.save()

    def unhide(self) -> None:
        del self.rows["\0"]
        self.save()


class ManyWorld(RecordsWorld):
    """A folder of files, one for each first letter."""

    def save(self) -> None:
        self.file.mkdir(exist_ok=True)
        for old in self.file.iterdir():
            key = old.name.split("-")[0]
            if key not in self.rows and old.name != "zz.jsonl":
                old.write_bytes(b"")
        for key, row in self.rows.items():
            data = json.dumps(row).encode() + b"\n"
            part = self.file / f"{key}-part.jsonl"
            if not part.exists() or part.read_bytes() != data:
                part.write_bytes(data)
        torn = self.file / "zz.jsonl"
        torn.write_bytes(self.tail) if self.tail else torn.unlink(missing_ok=True)

    def uri(self, key: str) -> str:
        return f"docs:/{key}-part.jsonl#{key}"

    def spoil(self) -> None:
        write(self.file / "b-part.jsonl", (self.file / "b-part.jsonl").read_bytes() + b'{"id": "empty", "text": ""}\n')

    def fill(self, count: int, size: int) -> None:
        self.file.mkdir(exist_ok=True)
        for old in self.file.iterdir():
            old.unlink()
        for i in range(0, count, 100):
            rows = [{"id": f"{j}", "text": "x" * size} for j in range(i, i + 100)]
            write(self.file / f"{i:05}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def destroy(self) -> None:
        shutil.rmtree(self.file)

    def settle(self) -> None:
        for part in self.file.iterdir():
            os.utime(part, (1, 1))


class TestFilesContract(ConnectorContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[FilesWorld]:
        yield FilesWorld(tmp_path)
        shutil.rmtree(tmp_path)  # what is buried is too deep for pytest's own cleaning


class TestRecordsContract(ConnectorContract):
    @pytest.fixture(params=["rows.jsonl", "rows.csv", "rows.jsonl.gz"])
    def world(self, tmp_path: Path, request: pytest.FixtureRequest) -> RecordsWorld:
        return RecordsWorld(tmp_path, request.param)


class TestParquetContract(ConnectorContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> ParquetWorld:
        return ParquetWorld(tmp_path, "rows.parquet")


class TestFolderOfRecordsContract(ConnectorContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> ManyWorld:
        return ManyWorld(tmp_path, "parts")


# ---------------------------------------------------------------- the registry
def test_registry() -> None:
    assert ragops_connectors.connector_settings("files") is FilesSettings
    assert ragops_connectors.connector_settings("records") is RecordsSettings
    assert {"files", "records"} <= set(ragops_connectors.kinds())
    with pytest.raises(UsageError, match="did you mean 'files'") as raised:
        ragops_connectors.connector_settings("file")
    assert "records" in raised.value.hint


def test_build(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.md", "x")
    write(tmp_path / "b" / "y.md", "y")
    whole = ragops_connectors.build("files", "docs", tmp_path, FilesSettings())
    assert names(listing(whole)) == ["a/x.md", "b/y.md"]
    part = ragops_connectors.build("files", "docs", tmp_path, FilesSettings(), subtree="b")
    assert names(listing(part)) == ["b/y.md"]
    with pytest.raises(UsageError, match="cannot be narrowed"):
        ragops_connectors.build("records", "docs", tmp_path, RecordsSettings(), subtree="b")
    with pytest.raises(UsageError, match="takes FilesSettings"):
        ragops_connectors.build("files", "docs", tmp_path, RecordsSettings())


@pytest.mark.parametrize("kind", ["files", "records"])
def test_settings_are_documented(kind: str) -> None:
    """Every field has a default, and a docstring that the documentation is made from."""
    import ast
    import inspect

    cls = ragops_connectors.connector_settings(kind)
    body = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(body, ast.ClassDef)
    for at, node in enumerate(body.body):
        if isinstance(node, ast.AnnAssign):
            assert isinstance(body.body[at + 1], ast.Expr), ast.unparse(node)
    assert cls() == cls()
    assert {f.name for f in fields(cls)}
