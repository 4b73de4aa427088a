"""Files and records: the contract, and what is theirs alone."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ragops_connectors
from ragops.errors import ConfigError, FetchError, ScanError, UsageError, Vanished
from ragops.types import Connector, Entry, Reject
from ragops_connectors.files import Files, FilesSettings, translate
from ragops_connectors.records import Records, RecordsSettings, quoted
from tests.connector_contract import GROUPS, TENANT, ConnectorContract, Listing, listing


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def bury(folder: Path) -> None:
    """Folders deeper than a path can be long: their contents cannot be listed, not even by root."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=fd)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


def files(root: Path, subtree: str = "", /, **options: Any) -> Files:
    return Files("docs", root, FilesSettings(**options), subtree)


def names(found: Listing) -> list[str]:
    """Paths of the listed entries."""
    return [entry.uri.removeprefix("docs:/") for entry in found.entries]


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


# ---------------------------------------------------------------- files: what is listed
def test_order_is_that_of_the_uris(tmp_path: Path) -> None:
    for name in ("a/x", "a.b", "a-b/c", "ab", "a/b/c", "Z", "é", "z/é/1"):
        write(tmp_path / name, name)
    found = [entry.uri for entry in listing(files(tmp_path)).entries]
    assert found == sorted(found)
    assert len(found) == 8


def test_scanning_opens_no_file(tmp_path: Path) -> None:
    """Listing costs no reads: a hook sees every file that Python opens."""
    write(tmp_path / "root" / "a" / "x.md", "x")
    opened: list[str] = []
    watching = [True]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    try:
        found = listing(files(tmp_path, path="root"))
        scanned = [path for path in opened if "x.md" in path]
        files(tmp_path, path="root").fetch(found.entries[0])
        fetched = [path for path in opened if "x.md" in path]
    finally:
        watching.clear()  # a hook cannot be taken away
    assert len(found.entries) == 1
    assert scanned == []
    assert fetched != []


@pytest.mark.parametrize(
    ("glob", "matches", "misses"),
    [
        ("*.md", ["a.md", "x/a.md", "x/y/.md"], ["a.txt", "a.md.txt"]),
        ("docs", ["docs", "docs/a", "x/docs/a/b"], ["mydocs/a", "docs2"]),
        ("docs/", ["docs/a", "x/docs/a"], ["docs2/a"]),
        ("docs/*.md", ["docs/a.md"], ["docs/x/a.md", "x/docs/a.md"]),
        ("/a.md", ["a.md"], ["x/a.md"]),
        ("docs/**/*.md", ["docs/a.md", "docs/x/y/a.md"], ["a.md"]),
        ("**/x/*.md", ["x/a.md", "y/x/a.md"], ["x/y/a.md"]),
        ("**", ["a", "a/b"], []),
        ("docs/**", ["docs/a", "docs/a/b"], ["x/docs/a"]),
        ("./docs/a?.md", ["docs/ab.md"], ["docs/a.md", "docs/a/.md"]),
        ("[ab].md", ["a.md", "x/b.md"], ["c.md"]),
        ("[!ab].md", ["c.md"], ["a.md"]),
        ("a[1.md", ["a[1.md"], ["a1.md"]),
        ("a.(b)+$", ["a.(b)+$"], ["axbbb"]),
        ("*.MD", ["a.MD"], ["a.md"]),
        ("name with space*", ["name with space.md"], ["name"]),
    ],
)
def test_globs(glob: str, matches: list[str], misses: list[str]) -> None:
    import re

    pattern = re.compile(translate(glob))
    assert [path for path in matches if not pattern.fullmatch(path)] == []
    assert [path for path in misses if pattern.fullmatch(path)] == []


@settings(max_examples=1000)
@given(st.text("ab[]!*?/-^\\.&~|", max_size=12))
def test_any_glob_compiles(glob: str) -> None:
    import re

    re.compile(translate(glob)).fullmatch("a/b.md")


def test_include_and_exclude(tmp_path: Path) -> None:
    for name in ("a.md", "a.txt", "x/b.md", "x/old/c.md", "y/d.md"):
        write(tmp_path / name, name)
    assert names(listing(files(tmp_path, include=("*.md",)))) == ["a.md", "x/b.md", "x/old/c.md", "y/d.md"]
    assert names(listing(files(tmp_path, include=("*.md",), exclude=("old", "y/*")))) == ["a.md", "x/b.md"]
    assert names(listing(files(tmp_path, include=("x",)))) == ["x/b.md", "x/old/c.md"]
    for empty in ("", "/"):
        with pytest.raises(ConfigError, match="empty glob"):
            files(tmp_path, include=(empty,))


def test_hidden(tmp_path: Path) -> None:
    for name in ("a.md", ".b.md", ".c/d.md", ".git/e", ".ragops/f", "x/.dvc/g"):
        write(tmp_path / name, name)
    assert names(listing(files(tmp_path))) == ["a.md"]
    assert names(listing(files(tmp_path, hidden=True))) == [".b.md", ".c/d.md", "a.md"]


def test_a_workspace_does_not_feed_on_itself(tmp_path: Path) -> None:
    for name in (
        "params.yaml",
        "dvc.lock",
        "data/snapshot/manifest.parquet",
        "data/dataset.dvc",
        "data/mine.md",
        "a.md",
    ):
        write(tmp_path / name, name)
    assert names(listing(files(tmp_path))) == ["a.md", "data/mine.md"]
    below = write(tmp_path / "docs" / "params.yaml", "a: 1")
    assert names(listing(files(tmp_path, path="docs"))) == [below.name]
    assert names(listing(files(tmp_path / "elsewhere", path=str(tmp_path / "data")))) == [
        "dataset.dvc",
        "mine.md",
        "snapshot/manifest.parquet",
    ]


def test_links_lead_nowhere_unless_asked(tmp_path: Path) -> None:
    secret = write(tmp_path / "outside" / "secret.txt", "secret")
    root = tmp_path / "root"
    write(root / "a" / "x.md", "x")
    (root / "in.md").symlink_to("a/x.md")
    (root / "b").symlink_to("a")
    (root / "dangling").symlink_to("nothing")
    (root / "out.txt").symlink_to(secret)
    (root / "outdir").symlink_to(tmp_path / "outside")
    found = listing(files(root))
    assert names(found) == ["a/x.md"]
    assert {(r.uri, r.code) for r in found.rejects} == {
        ("docs:/out.txt", "unsupported"),
        ("docs:/outdir", "unsupported"),
    }
    assert found.complete
    followed = files(root, follow_symlinks=True)
    assert names(listing(followed)) == ["a/x.md", "in.md", "out.txt", "outdir/secret.txt"]
    assert [followed.fetch(entry).data for entry in listing(followed).entries] == [b"x", b"x", b"secret", b"secret"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "a" / "x.md", "x")
    (root / "a" / "up").symlink_to("..")
    (root / "self").symlink_to(".")
    (root / "loop").symlink_to("loop")
    (root / "above").symlink_to(tmp_path)
    write(tmp_path / "o" / "y.md", "y")
    (tmp_path / "o" / "back").symlink_to(tmp_path / "o")
    (tmp_path / "o" / "root").symlink_to(root)
    (root / "one").symlink_to(tmp_path / "o")
    (root / "two").symlink_to(tmp_path / "o")
    assert names(listing(files(root, follow_symlinks=True))) == ["a/x.md", "one/y.md"]


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    write(tmp_path / "real" / "a.md", "a")
    (tmp_path / "link").symlink_to("real")
    connector = files(tmp_path, path="link")
    (entry,) = listing(connector).entries
    assert connector.fetch(entry).data == b"a"


@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_link_put_in_place_after_the_scan_is_not_followed(tmp_path: Path, where: str) -> None:
    write(tmp_path / "outside" / "x.md", "secret")
    root = tmp_path / "root"
    write(root / "a" / "x.md", "x")
    connector = files(root)
    (entry,) = listing(connector).entries
    if where == "file":
        (root / "a" / "x.md").unlink()
        (root / "a" / "x.md").symlink_to(tmp_path / "outside" / "x.md")
    else:
        shutil.rmtree(root / "a")
        (root / "a").symlink_to(tmp_path / "outside")
    with pytest.raises(Vanished):
        connector.fetch(entry)


@pytest.mark.parametrize("locator", ["../outside.md", "a/../../outside.md", "/etc/hostname", "a//x.md", "."])
def test_a_forged_locator_leads_nowhere(tmp_path: Path, locator: str) -> None:
    write(tmp_path / "outside.md", "secret")
    write(tmp_path / "root" / "a" / "x.md", "x")
    with pytest.raises(FetchError, match="no path below"):
        files(tmp_path / "root").fetch(Entry("docs:/x", "t", locator=locator))


def test_pipes_sockets_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path / "a.md", "a")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as unix, contextlib.chdir(tmp_path):
        unix.bind("sock")
    found = listing(files(tmp_path))
    assert names(found) == ["a.md"]
    assert [(r.uri, r.code) for r in found.rejects] == [("docs:/pipe", "unsupported"), ("docs:/sock", "unsupported")]
    for name in ("pipe", "sock"):
        with pytest.raises(Vanished):
            files(tmp_path).fetch(Entry(f"docs:/{name}", "t", locator=name))


def test_size_limit(tmp_path: Path) -> None:
    write(tmp_path / "small", "12345")
    write(tmp_path / "large", "123456")
    connector = files(tmp_path, max_bytes=5)
    found = listing(connector)
    assert names(found) == ["small"]
    assert [(r.uri, r.code, r.transient) for r in found.rejects] == [("docs:/large", "too_large", False)]
    write(tmp_path / "small", "has grown")
    with pytest.raises(FetchError) as raised:
        connector.fetch(found.entries[0])
    assert (raised.value.code, raised.value.transient) == ("too_large", False)
    with pytest.raises(ConfigError, match="max_bytes"):
        files(tmp_path, max_bytes=0)


def test_metadata_of_the_path(tmp_path: Path) -> None:
    write(tmp_path / "guide" / "intro" / "A.Note.MD", "# A")
    write(tmp_path / "Makefile", "all:")
    connector = files(tmp_path, tenant="acme", groups=("red",))
    found = {entry.uri: connector.fetch(entry) for entry in listing(connector).entries}
    deep = found["docs:/guide/intro/A.Note.MD"]
    assert deep.metadata.fields == {"folder": "guide/intro", "ext": "md"}
    assert (deep.media_type, deep.encoding, deep.metadata.tenant, deep.metadata.groups) == (
        "text/markdown", "utf-8", "acme", ("red",)
    )  # fmt: skip
    assert found["docs:/Makefile"].metadata.fields == {"folder": "", "ext": ""}


# ---------------------------------------------------------------- files: names
COMPOSED, DECOMPOSED = "caf\u00e9.md", "cafe\u0301.md"


def test_a_decomposed_name_has_a_composed_uri(tmp_path: Path) -> None:
    write(tmp_path / DECOMPOSED, "text")
    connector = files(tmp_path, include=(COMPOSED,))
    (entry,) = listing(connector).entries
    assert entry.uri == f"docs:/{COMPOSED}"
    assert connector.fetch(entry).data == b"text"


def test_unicode_twins(tmp_path: Path) -> None:
    write(tmp_path / DECOMPOSED, "decomposed")
    write(tmp_path / COMPOSED, "composed")
    connector = files(tmp_path)
    found = listing(connector)
    assert names(found) == [COMPOSED]
    assert connector.fetch(found.entries[0]).data == b"composed"
    assert [(r.uri, r.code) for r in found.rejects] == [("docs:/cafe\\u0301.md", "bad_name")]
    assert found.complete


def test_unicode_twins_among_folders_delete_nothing(tmp_path: Path) -> None:
    write(tmp_path / DECOMPOSED / "a", "a")
    write(tmp_path / COMPOSED / "b", "b")
    found = listing(files(tmp_path))
    assert names(found) == [f"{COMPOSED}/b"]
    assert [r.code for r in found.rejects] == ["bad_name"]
    assert not found.complete


def test_case_twins_are_two_sources(tmp_path: Path) -> None:
    write(tmp_path / "a.md", "a")
    write(tmp_path / "A.md", "A")
    assert names(listing(files(tmp_path))) == ["A.md", "a.md"]


@pytest.mark.parametrize(
    "name", [b"new\nline.md", b"tab\t.md", b"latin-\xe9.md", b"\x7f", b"\xc2\x85x", b"\xe2\x80\xa8"]
)
@pytest.mark.parametrize("folder", [False, True])
def test_names_without_a_uri(tmp_path: Path, name: bytes, folder: bool) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    if folder:
        os.mkdir(path)
        path = os.path.join(path, b"a.md")
    with open(path, "wb"):
        pass
    write(tmp_path / "good.md", "good")
    found = listing(files(tmp_path))
    assert names(found) == ["good.md"]
    (reject,) = found.rejects
    assert reject.code == "bad_name"
    assert reject.uri.isascii()
    assert reject.uri.isprintable()
    assert found.complete  # they never had a URI: nothing of theirs can be deleted


@pytest.mark.parametrize(
    "name", ["-rf", "a b", " a", "'\"", "$HOME", "%2e", "#1?", "a:b", "\\", "🙂", "日本", "a..", "a" * 255]
)
def test_odd_names_are_names(tmp_path: Path, name: str) -> None:
    write(tmp_path / "d" / name, name)
    connector = files(tmp_path)
    (entry,) = listing(connector).entries
    assert entry.uri == f"docs:/d/{name}"
    assert connector.fetch(entry).data.decode() == name


def test_deep_trees_and_walks_broken_off_leave_no_file_open(tmp_path: Path) -> None:
    place = tmp_path
    for depth in range(100):
        place = place / "d"
        write(place / "a.md", str(depth))
        write(place / "e.md", str(depth))
    before = os.listdir("/dev/fd")
    connector = files(tmp_path)
    found = listing(connector)
    assert len(found.entries) == 200
    assert [entry.uri for entry in found.entries] == sorted(entry.uri for entry in found.entries)
    assert connector.fetch(found.entries[-1]).data == b"0"
    walk = iter(connector.scan(lambda container: None))
    for _ in range(90):
        next(walk)
    assert len(os.listdir("/dev/fd")) < len(before) + 70
    del walk
    assert len(os.listdir("/dev/fd")) == len(before)


segment = st.binary(min_size=1, max_size=12).map(lambda b: os.fsdecode(b.replace(b"/", b"_").replace(b"\0", b"_")))
spoken = st.text(min_size=1, max_size=12).map(lambda t: t.replace("/", "_").replace("\0", "_"))
name_st = st.one_of(
    segment,
    spoken,
    st.sampled_from([COMPOSED, DECOMPOSED, "-a", "a b", "a\nb", "'", ".h", "A", "a", "\u212b", "\u00c5"]),
).filter(lambda n: n not in (".", ".."))


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.tuples(name_st) | st.tuples(name_st, name_st), st.binary(max_size=30), max_size=8), st.booleans()
)
def test_any_tree(tree: dict[tuple[str, ...], bytes], hidden: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        kept: dict[str, bytes] = {}
        for parts, data in tree.items():
            path = os.path.join(folder, *parts)
            with contextlib.suppress(OSError):  # a file where a folder should be, a name too long
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb") as out:
                    out.write(data)
                kept["/".join(parts)] = data

        def spoken_of(path: str) -> bool:
            return all(
                (hidden or not part.startswith("."))
                and not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in part)
                for part in path.split("/")
            )

        connector = files(Path(folder).parent, path=folder, hidden=hidden)  # not its own workspace
        found = listing(connector)
        uris = [entry.uri for entry in found.entries]
        assert uris == sorted(set(uris))
        wanted = {unicodedata.normalize("NFC", path) for path in kept if spoken_of(path)}
        listed = set(names(found))
        assert listed <= wanted
        if found.complete:
            assert listed == wanted
        else:  # only twins among folders do that here
            assert all(reject.code == "bad_name" for reject in found.rejects)
        for entry in found.entries:
            assert entry.uri.isascii() or unicodedata.is_normalized("NFC", entry.uri)
            assert connector.owns(entry.uri)
            assert connector.fetch(entry).data == kept[entry.locator]
        again = listing(connector)
        assert [replace(e, settled=True) for e in again.entries] == [replace(e, settled=True) for e in found.entries]


# ---------------------------------------------------------------- files: a moving world
def test_what_vanishes_during_the_scan_is_gone(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / name, name)
    scan = files(tmp_path).scan(lambda container: None)
    rows = iter(scan)
    first = next(rows)
    (tmp_path / "b").unlink()
    rest = [item.uri for item in rows if isinstance(item, Entry)]
    assert isinstance(first, Entry)
    assert [first.uri, *rest] == ["docs:/a", "docs:/c"]
    assert scan.complete


def test_a_folder_that_moves_during_the_scan_leaves_it_incomplete(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1", "1")
    write(tmp_path / "z" / "2", "2")
    scan = files(tmp_path).scan(lambda container: None)
    rows = iter(scan)
    next(rows)
    (tmp_path / "z").rename(tmp_path / "a" / "z")  # from what is still to come to what is over
    assert list(rows) == []
    assert not scan.complete


def test_a_root_that_is_replaced_deletes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "a" / "1", "1")
    write(root / "b" / "2", "2")
    connector = files(tmp_path, path="root")
    scan = connector.scan(lambda container: None)
    rows = iter(scan)
    entry = next(rows)
    assert isinstance(entry, Entry)
    root.rename(tmp_path / "away")
    (root / "b").mkdir(parents=True)  # as an unmount leaves the empty mount point
    list(rows)
    assert not scan.complete
    connector._identity = None
    with pytest.raises(Vanished):  # of this root it is gone
        connector.fetch(entry)


def test_a_root_that_is_gone_is_no_deletion(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "a", "a")
    connector = files(tmp_path, path="root")
    (entry,) = listing(connector).entries
    root.rename(tmp_path / "away")
    with pytest.raises(FetchError) as gone:
        connector.fetch(entry)
    assert not isinstance(gone.value, Vanished)
    root.mkdir()
    with pytest.raises(FetchError, match="took the place") as replaced:
        connector.fetch(entry)
    assert not isinstance(replaced.value, Vanished)
    assert replaced.value.transient


def test_a_file_is_no_root(tmp_path: Path) -> None:
    write(tmp_path / "a.md", "a")
    with pytest.raises(ScanError, match="not a folder") as raised:
        listing(files(tmp_path, path="a.md"))
    assert "'a.md'" in raised.value.hint


def test_a_file_that_changes_while_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that strikes at every read, or only at the first."""
    path = write(tmp_path / "a", "x" * 100)
    connector = files(tmp_path)
    (entry,) = listing(connector).entries
    read, strikes = os.read, [1]

    def noisy(fd: int, size: int) -> bytes:
        data = read(fd, size)
        if strikes[0]:
            strikes[0] -= 1
            with path.open("a") as out:
                out.write("y")
        return data

    monkeypatch.setattr(os, "read", noisy)
    assert connector.fetch(entry).data == b"x" * 100 + b"y"
    strikes[0] = 1000
    with pytest.raises(FetchError, match="changes while it is read") as raised:
        connector.fetch(entry)
    assert (raised.value.code, raised.value.transient) == ("unreadable", True)


def test_a_file_rewritten_all_the_time_is_never_torn(tmp_path: Path) -> None:
    """Replaced as editors do it: every read is one version or an error."""
    path = write(tmp_path / "a", "0" * 200_000)
    connector = files(tmp_path)
    (entry,) = listing(connector).entries
    stop = threading.Event()

    def writer() -> None:
        i = 0
        while not stop.is_set():
            i = (i + 1) % 10
            write(tmp_path / ".new", str(i) * 200_000)
            os.replace(tmp_path / ".new", path)

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        for _ in range(100):
            with contextlib.suppress(FetchError):
                source = connector.fetch(entry)
                assert len(set(source.data)) == 1
                assert not source.settled
    finally:
        stop.set()
        thread.join()


def test_fresh_files_are_not_settled(tmp_path: Path) -> None:
    write(tmp_path / "a", "a")
    connector = files(tmp_path)
    (entry,) = listing(connector).entries
    assert not entry.settled
    assert not connector.fetch(entry).settled
    for date in (1, 4e9):  # a date in the future is no reason to read it for ever
        os.utime(tmp_path / "a", (date, date))
        (entry,) = listing(connector).entries
        assert entry.settled
        assert connector.fetch(entry).settled


def test_a_change_that_keeps_size_and_date_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "one")
    os.utime(path, (1, 1))
    before = listing(files(tmp_path)).tokens
    time.sleep(0.02)  # a tick of the file system's clock
    path.write_text("two")
    os.utime(path, (1, 1))
    assert listing(files(tmp_path)).tokens != before


# ---------------------------------------------------------------- files: a part of it
def test_subtree(tmp_path: Path) -> None:
    for name in ("a/1", "a/b/2", "a/bc", "ab/3", "é/4", ".h/5", "x/6.tmp"):
        write(tmp_path / name, name)
    part = files(tmp_path, "a/b/")
    assert names(listing(part)) == ["a/b/2"]
    assert part.owns("docs:/a/b/2")
    assert part.owns("docs:/a/b")  # it may have been a file before
    assert not part.owns("docs:/a/bc")
    assert not part.owns("docs:/a/1")
    assert names(listing(files(tmp_path, "a/1"))) == ["a/1"]
    assert names(listing(files(tmp_path, "./a"))) == ["a/1", "a/b/2", "a/bc"]
    assert names(listing(files(tmp_path, unicodedata.normalize("NFD", "é")))) == ["é/4"]
    whole = listing(files(tmp_path))
    assert [e for e in whole.entries if e.uri.startswith("docs:/a/")] == listing(files(tmp_path, "a")).entries
    for missing in ("nothing", "a/nothing", "a/1/x", ".h", ".h/5"):
        with pytest.raises(ScanError, match="missing, hidden or excluded"):
            listing(files(tmp_path, missing))
    with pytest.raises(ScanError):
        listing(files(tmp_path, "x/6.tmp", exclude=("*.tmp",)))
    for outside in ("..", "a/../../x", "/etc"):
        with pytest.raises(UsageError, match="does not lie in it"):
            files(tmp_path, outside)


# ---------------------------------------------------------------- records
def records(root: Path, data: str | bytes | None = None, /, path: str = "rows.jsonl", **options: Any) -> Records:
    if data is not None:
        write(root / path, data)
    return Records("docs", root, RecordsSettings(path=path, **options))


def texts(connector: Records) -> dict[str, str]:
    return {e.uri.removeprefix("docs:/"): connector.fetch(e).data.decode() for e in listing(connector).entries}


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


# ---------------------------------------------------------------- CSV and Parquet
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


def test_rejects_of_many_kinds_are_whole(tmp_path: Path) -> None:
    """Every reject says what to do, and none is transient that will not mend itself."""
    lines = "\n".join(bad for bad, _, _ in BAD_ROWS if isinstance(bad, str))
    found = listing(records(tmp_path, '{"id": "1", "text": "one"}\n' + lines))
    assert len(found.rejects) == len([bad for bad, _, _ in BAD_ROWS if isinstance(bad, str)])
    for reject in found.rejects:
        assert isinstance(reject, Reject)
        assert reject.hint
        assert not reject.transient
