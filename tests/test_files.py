"""Files: what is listed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragops.errors import ConfigError, FetchError, Vanished
from ragops.types import Entry
from ragops_connectors.files import translate
from tests.connector_contract import listing
from tests.connectors import files, names, write


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
        "data/snapshot/snapshot.json",
        "data/loaded.json",
        "data/mine.md",
        "a.md",
    ):
        write(tmp_path / name, name)
    assert names(listing(files(tmp_path))) == ["a.md", "data/mine.md"]
    below = write(tmp_path / "docs" / "params.yaml", "a: 1")
    assert names(listing(files(tmp_path, path="docs"))) == [below.name]
    assert names(listing(files(tmp_path / "elsewhere", path=str(tmp_path / "data")))) == [
        "loaded.json",
        "mine.md",
        "snapshot/snapshot.json",
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
