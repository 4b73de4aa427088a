"""Files: names and their URIs."""

from __future__ import annotations

import contextlib
import os
import tempfile
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.connector_contract import listing
from tests.connectors import files, names, write

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
