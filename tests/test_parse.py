"""The pool: limits, crashes and hangs cost one reject each, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ragops.errors import ParseError
from ragops.types import Parsed
from ragops_pipelines.parse import Limits, ParserPool, language_model
from ragops_pipelines.parsers import has_plugins, parser_fingerprint
from tests import documents as make

HOSTILE = "application/x-hostile"

#: A third-party parser that does what its file says. It comes as real ones do: by an entry point.
PLUG_IN = """
import ctypes, os, socket, subprocess, sys, time
from ragops.errors import ParseError
from ragops.types import Block, ParserOutput

class Hostile:
    name = "hostile"
    media_types = ("application/x-hostile", "text/x-overridden")
    def fingerprint(self):
        return "hostile-1"
    def parse(self, data, media_type, encoding):
        what, _, argument = data.decode().partition(":")
        if what == "sleep":
            time.sleep(3600)
        elif what == "spin":
            while True:
                pass
        elif what == "child":
            subprocess.run(["sleep", "3600"])
        elif what == "exit":
            os._exit(3)
        elif what == "segfault":
            ctypes.string_at(0)
        elif what == "allocate":
            pieces = [1 << 40] if argument == "at once" else [1 << 20] * (1 << 20)
            held = [bytearray(b"x" * size) for size in pieces]
        elif what == "recurse":
            def deeper(n):
                return deeper(n + 1)
            deeper(0)
        elif what == "raise":
            raise KeyError("what a library raises")
        elif what == "refuse":
            raise ParseError("Refused.", "Do this.", code="unsupported")
        elif what == "connect":
            socket.create_connection((argument, 80), timeout=5)
        elif what == "talk":
            print("x" * 100_000)
            os.write(1, b"noise")
        facts = {"environment": dict(os.environ), "pid": os.getpid(), "modules": sorted(sys.modules)}
        text = str(facts.get(what, data.decode()))
        return ParserOutput([Block("paragraph", text)])
"""


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "plug-in"
    info = folder / "hostile-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "hostile_parser.py").write_text(PLUG_IN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ragops.parsers]\nhostile = hostile_parser:Hostile\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))  # of the workers; this process looked before
    monkeypatch.setattr("ragops_pipelines.parse.has_plugins", lambda: True)
    return folder


def run(pool: ParserPool, *files: str | bytes, media_type: str = HOSTILE) -> list[Parsed | ParseError]:
    """Outcomes in the order of the files."""
    items = [(n, file.encode() if isinstance(file, str) else file, media_type, None) for n, file in enumerate(files)]
    outcomes = dict(pool.parse_many(items))
    assert sorted(outcomes) == list(range(len(files)))
    return [outcomes[n] for n in range(len(files))]


def summary(outcomes: list[Parsed | ParseError]) -> list[str]:
    return [outcome.text if isinstance(outcome, Parsed) else outcome.code for outcome in outcomes]


# ---------------------------------------------------------------- one bad file costs one reject
def test_bad_files_cost_one_reject_each(plugged: Path) -> None:
    files = ["a", "exit", "b", "segfault", "c", "recurse", "d", "raise", "e", "refuse", "f", "talk", "g"]
    with ParserPool(1, Limits(seconds=20, memory=512 << 20)) as pool:
        outcomes = run(pool, *files)  # one batch: the worker dies twice in it
    expected = ["a", "crashed", "b", "crashed", "c", "damaged", "d", "damaged", "e", "unsupported", "f", "talk", "g"]
    assert summary(outcomes) == expected
    errors = {file: outcome for file, outcome in zip(files, outcomes, strict=True) if isinstance(outcome, ParseError)}
    assert {file for file, error in errors.items() if error.transient} == {"exit", "segfault"}
    assert "exit status 3" in errors["exit"].message
    assert "SIGSEGV" in errors["segfault"].message
    assert "KeyError: 'what a library raises'" in errors["raise"].message
    assert (errors["refuse"].message, errors["refuse"].hint) == ("Refused.", "Do this.")
    assert all(error.hint for error in errors.values())


@pytest.mark.parametrize("how", ["at once", "bit by bit"])
def test_memory(plugged: Path, how: str) -> None:
    with ParserPool(1, Limits(seconds=30, memory=200 << 20)) as pool:
        outcomes = run(pool, "a", f"allocate:{how}", "b")
    assert summary(outcomes) == ["a", "memory", "b"]
    assert isinstance(outcomes[1], ParseError)
    assert outcomes[1].transient
    assert "200 MiB" in outcomes[1].message


def test_time(plugged: Path) -> None:
    with ParserPool(2, Limits(seconds=1)) as pool:
        outcomes = run(pool, "a", "spin", "b", "sleep", "c", "child", "d")
    assert summary(outcomes) == ["a", "timeout", "b", "timeout", "c", "timeout", "d"]
    assert all(outcome.transient for outcome in outcomes if isinstance(outcome, ParseError))
    if sys.platform == "linux":  # what a killed parser started is gone as well
        assert not [pid for pid, command in processes() if command == ["sleep", "3600"]]


@pytest.mark.slow
def test_time_is_cpu_time_first(plugged: Path) -> None:
    with ParserPool(1, Limits(seconds=5)) as pool:
        [outcome] = run(pool, "spin")
    assert isinstance(outcome, ParseError)
    assert outcome.message == "Parsing took more than 5 s of CPU time."


def processes() -> Iterator[tuple[int, list[str]]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                yield int(folder.name), (folder / "cmdline").read_text().split("\0")[:-1]
            except OSError:
                continue


def test_a_zip_bomb_and_too_much_text() -> None:
    bomb = make.docx(make.paragraph("x" * 300_000))
    fine = make.docx(make.paragraph("fine"))
    with ParserPool(1, Limits(unpacked=200_000, text=1_000)) as pool:
        outcomes = run(pool, bomb, fine, media_type=make.WORD)
        outcomes += run(pool, "x" * 2_000, "y" * 1_000, media_type="text/plain")
    assert summary(outcomes) == ["too_large", "fine", "too_large", "y" * 1_000]


@pytest.mark.parametrize(
    ("data", "media_type", "code"),
    [
        (b"", "text/plain", "empty"),
        (b" \n\t \r\n", "text/markdown", "empty"),
        (b"\xef\xbb\xbf\n", "text/html", "empty"),
        (b"<html><script>1</script></html>", "text/html", "empty"),
        (b"", "application/pdf", "empty"),
        (make.docx(""), make.WORD, "empty"),
        (make.xlsx({"S": []}), make.SHEET, "empty"),
        (b"{}", "application/json", "empty"),
        (b"\x00\x01\x02\x03" * 30, "text/plain", "damaged"),
        (b"not a zip", make.WORD, "damaged"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "application/x-ole-encrypted", "encrypted"),
        (b"PK\x03\x04", "application/zip", "unsupported"),
    ],
)
def test_nothing_comes_out_in_silence(pool: ParserPool, data: bytes, media_type: str, code: str) -> None:
    [outcome] = run(pool, data, media_type=media_type)
    assert isinstance(outcome, ParseError)
    assert (outcome.code, outcome.transient) == (code, False)
    assert outcome.message
    assert outcome.hint


@pytest.fixture(scope="module")
def pool() -> Iterator[ParserPool]:
    with ParserPool(1) as opened:
        yield opened


# ---------------------------------------------------------------- the flow
def test_many_files_keep_their_keys_and_are_the_same_every_time() -> None:
    items = [
        (("key", n), f"# Title {n}\n\ntext {n}\n".encode() * (1 + n % 7), "text/markdown", None) for n in range(500)
    ]
    with ParserPool(2) as opened:
        first = dict(opened.parse_many(items))
        second = dict(opened.parse_many(iter(items)))
    assert first == second
    assert {key: parsed.title for key, parsed in first.items() if isinstance(parsed, Parsed)} == {
        ("key", n): f"Title {n}" for n in range(500)
    }
    one = first[("key", 1)]
    assert isinstance(one, Parsed)
    assert [one.text[span.start : span.end] for span in one.spans] == ["Title 1", "text 1"] * 2
    assert one.parser == "markdown"


def test_pulls_no_further_than_needed(pool: ParserPool) -> None:
    pulled = 0

    def endless() -> Iterator[tuple[int, bytes, str, None]]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled, b"some text " * 100_000, "text/plain", None  # 1 MB each

    for seen, (_, outcome) in enumerate(pool.parse_many(endless()), 1):
        assert isinstance(outcome, Parsed)
        assert pulled - seen <= 68  # 64 MiB
        if seen == 100:
            break


def test_goes_on_after_an_abandoned_or_failed_run(pool: ParserPool) -> None:
    def breaks() -> Iterator[tuple[int, bytes, str, None]]:
        yield 0, b"text", "text/plain", None
        raise ValueError("the source failed")

    with pytest.raises(ValueError, match="the source failed"):
        list(pool.parse_many(breaks()))
    for _ in pool.parse_many([(n, b"old", "text/plain", None) for n in range(300)]):
        break
    assert summary(run(pool, "new", "newer", media_type="text/plain")) == ["new", "newer"]


def test_a_closed_pool_says_so() -> None:
    closed = ParserPool(1)
    with pytest.raises(RuntimeError, match="not open"):
        list(closed.parse_many([]))


def test_leaving_the_pool_does_not_wait_for_a_hang(plugged: Path) -> None:
    with ParserPool(1, Limits(seconds=3600)) as opened:
        for _, outcome in opened.parse_many([(0, b"pid", HOSTILE, None), (1, b"sleep", HOSTILE, None)]):
            assert isinstance(outcome, Parsed)
            pid = int(outcome.text)
            break
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_workers_are_kept_and_replaced(plugged: Path) -> None:
    with ParserPool(1) as opened:
        first, second = summary(run(opened, "pid", "pid"))
        crash, third = summary(run(opened, "exit", "pid"))
    assert first == second != third
    assert crash == "crashed"


# ---------------------------------------------------------------- isolation
def test_workers_die_with_their_parent(plugged: Path) -> None:
    script = (
        "from ragops_pipelines.parse import *\n"
        "with ParserPool(1, Limits(seconds=3600)) as pool:\n"
        "    for _, parsed in pool.parse_many([(0, b'pid', 'application/x-hostile', None),"
        " (1, b'sleep', 'application/x-hostile', None)]):\n"
        "        print(parsed.text, flush=True)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    os.kill(worker, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for _ in range(600):
        if not alive(worker):
            return
        time.sleep(0.05)
    raise AssertionError("the worker outlived its parent by half a minute")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_no_secret_and_no_stranger_module_reaches_a_worker(
    plugged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = tmp_path / "documents"
    strange.mkdir()
    for name in ("json", "lxml", "yaml", "struct"):
        (strange / f"{name}.py").write_text("raise SystemExit('a document was run')")
    monkeypatch.chdir(strange)
    monkeypatch.setenv("QDRANT_API_KEY", "hush")
    with ParserPool(1) as opened:
        [outcome] = run(opened, "environment")
        assert isinstance(outcome, Parsed)
        assert "hush" not in outcome.text
        assert "SCARF_NO_ANALYTICS" in outcome.text
        assert summary(run(opened, "<p>text", media_type="text/html")) == ["text"]


def test_heavy_libraries_wait_for_a_file_that_needs_them(plugged: Path) -> None:
    heavy = ("unstructured", "kreuzberg", "pypdfium2", "lxml", "markdown_it", "spacy", "numpy")
    with ParserPool(1) as opened:
        [before] = run(opened, "modules")
        run(opened, "# md", media_type="text/markdown")
        [after] = run(opened, "modules")
    assert isinstance(before, Parsed)
    assert isinstance(after, Parsed)
    assert [name for name in heavy if f"'{name}'" in before.text] == []
    assert [name for name in heavy if f"'{name}'" in after.text] == ["lxml", "markdown_it"]


def test_stage_and_fingerprints_import_nothing_heavy() -> None:
    script = (
        "import sys, ragops_pipelines.parse as p\nfrom ragops_pipelines.parsers import parser_fingerprint\n"
        "[parser_fingerprint(t) for t in ('text/html', 'application/pdf', 'application/rtf', 'image/png')]\n"
        "p.language_model()\n"
        "heavy = ('unstructured', 'kreuzberg', 'pypdfium2', 'lxml', 'markdown_it', 'spacy', 'numpy', 'yaml')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---------------------------------------------------------------- the network
@pytest.mark.parametrize("target", ["127.0.0.1", "192.0.2.1", "example.org"])
def test_a_parser_that_tries_the_network_is_refused(plugged: Path, target: str) -> None:
    with ParserPool(1) as opened:
        [outcome] = run(opened, f"connect:{target}")
    assert isinstance(outcome, ParseError)
    assert "may not use the network" in outcome.message


def every_format() -> list[tuple[str, bytes, str, str | None]]:
    """A file for each parser, and broken ones that reach unstructured's door."""
    return [
        ("text", b"plain words", "text/plain", None),
        ("markdown", b"# head\n\nwords", "text/markdown", None),
        (
            "html",
            b"<link rel=stylesheet href=http://192.0.2.1/x.css><img src=http://192.0.2.1/x><p>words",
            "text/html",
            None,
        ),
        ("xml", b'<!DOCTYPE a SYSTEM "http://192.0.2.1/a.dtd"><a>words</a>', "application/xml", None),
        ("csv", b"a,b\n1,2", "text/csv", None),
        ("json", b'{"a": "words"}', "application/json", None),
        ("rst", b"head\n====\n\n.. image:: http://192.0.2.1/x.png\n\nwords", "text/x-rst", None),
        ("org", b"* head\nwords", "text/x-org", None),
        ("pdf", make.pdf([(50, 700, 12, "words")]), make.PDF, None),
        ("docx", make.docx(make.paragraph("words")), make.WORD, None),
        ("pptx", make.pptx(make.shape("words")), make.SLIDES, None),
        ("xlsx", make.xlsx({"S": [["words"]]}), make.SHEET, None),
        ("odt", make.odt("<text:p>words</text:p>"), make.OPEN_TEXT, None),
        ("epub", make.epub("<html><body>words</body></html>"), make.EPUB, None),
        ("mail", b"Subject: words\n\nbody", "message/rfc822", None),
        ("rtf", rb"{\rtf1 words}", "application/rtf", None),
        ("doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000), "application/msword", None),
        ("msg", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000), "application/vnd.ms-outlook", None),
    ]


def outcomes_of_every_format() -> dict[str, Any]:
    with ParserPool(1) as opened:
        outcomes = dict(opened.parse_many(every_format()))
    return {
        key: outcome.text if isinstance(outcome, Parsed) else [outcome.code, outcome.message]
        for key, outcome in sorted(outcomes.items())
    }


def test_every_format_parses_the_same_with_the_network_cut_off() -> None:
    script = "import json, tests.test_parse as t; print(json.dumps(t.outcomes_of_every_format()))"
    cut = ["unshare", "--map-root-user", "--net", "--"] if may_unshare() else []
    done = subprocess.run(
        [*cut, sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    offline = json.loads(done.stdout)
    assert offline == outcomes_of_every_format()
    readable = {key: outcome for key, outcome in offline.items() if key not in ("doc", "msg")}
    assert all("words" in outcome or key == "csv" for key, outcome in readable.items())
    assert [offline[key][0] for key in ("doc", "msg")] == ["damaged", "damaged"]
    assert not [key for key, outcome in offline.items() if "network" in str(outcome)]  # nor did any try


def may_unshare() -> bool:
    """Without the right to a network of its own, the worker's refusal of connections stands alone."""
    tool = shutil.which("unshare")
    return (
        tool is not None
        and subprocess.run([tool, "--map-root-user", "--net", "--", "true"], check=False).returncode == 0
    )


# ---------------------------------------------------------------- fingerprints and plug-ins
def test_fingerprints_tell_parsers_and_versions_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from ragops_pipelines import parsers

    types = ("text/plain", "text/markdown", "text/html", "application/pdf", make.WORD, make.SHEET, "image/png")
    before = {media_type: parser_fingerprint(media_type) for media_type in types}
    assert len(set(before.values())) == len(types)
    version = parsers._version
    monkeypatch.setattr(parsers, "_version", lambda package: "99" if package == "pypdfium2" else version(package))
    after = {media_type: parser_fingerprint(media_type) for media_type in types}
    assert [media_type for media_type in types if before[media_type] != after[media_type]] == ["application/pdf"]


def test_the_language_model_is_part_of_what_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from ragops_pipelines.parsers import general

    types = ("text/html", "application/pdf", "application/rtf", "application/msword")
    before = [parser_fingerprint(media_type) for media_type in types]
    assert language_model() == general.language_model()
    monkeypatch.setattr(general, "language_model", lambda: "another model")
    changed = [now != then for now, then in zip(map(parser_fingerprint, types), before, strict=True)]
    assert changed == [False, False, True, True]


def test_plug_ins_win_over_built_ins(plugged: Path) -> None:
    code = (plugged / "hostile_parser.py").read_text()
    (plugged / "hostile_parser.py").write_text(code.replace("text/x-overridden", "text/html"))
    script = (
        "from ragops_pipelines.parsers import has_plugins, parser_fingerprint as f\n"
        "print(f('text/html'), f('text/plain'), has_plugins())"
    )
    theirs, plain, plugged_in = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert plugged_in == "True"
    assert not has_plugins()
    assert theirs != parser_fingerprint("text/html")
    assert plain == parser_fingerprint("text/plain")
    with ParserPool(1) as opened:
        [outcome] = run(opened, "<p>as it is", media_type="text/html")
    assert isinstance(outcome, Parsed)
    assert (outcome.text, outcome.parser) == ("<p>as it is", "hostile")
