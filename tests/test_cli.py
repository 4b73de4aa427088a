"""The command line as scripts use it: real processes, exactly one JSON value, exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main

from ragops import cli
from ragops.cli.options import names
from ragops.cli.search import parse_filter, passage
from ragops.errors import UsageError
from ragops.workspace import Workspace
from tests.conftest import Result, answer, settle, use_model, write_corpus

Run = Callable[..., Result]


@pytest.fixture
def kb(ingested: Workspace) -> Path:
    """A workspace with the deterministic model, after one ingest."""
    return ingested.root


def test_the_contract_of_ingest(kb: Path, ragops: Run) -> None:
    found = answer(ragops("ingest", "-w", kb, "--json"))
    assert found["release"] == 1
    assert len(found["fingerprint"]) == 64
    assert set(found["sources"]) == {"seen", "added", "changed", "removed", "unchanged", "rejected"}
    assert set(found["chunks"]) == {"total", "added", "removed"}
    assert set(found["vectors"]) == {"computed", "reused"}
    assert found["seconds"]["total"] > 0


def test_the_contract_of_search(kb: Path, ragops: Run) -> None:
    found = answer(ragops("search", "penguins swim", "-w", kb, "-k", 2, "--json"))
    assert found["release"] == 1
    assert len(found["hits"]) == 2
    names = {"score", "uri", "title", "heading", "page", "text", "start", "end", "document_id", "chunk_id"}
    assert names <= set(found["hits"][0])
    assert found["hits"][0]["uri"] == "corpus:/notes.txt"
    people = ragops("search", "penguins swim", "-w", kb, "-k", 1)
    assert people.returncode == 0
    assert "corpus:/notes.txt" in people.stdout


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("source=2024", {"source": "2024"}),
        ('source="2024"', {"source": "2024"}),
        ("title=true", {"title": "true"}),
        ("page=3", {"page": 3}),
        ("meta.year=2024", {"meta.year": 2024}),
        ('meta.year="2024"', {"meta.year": "2024"}),
        ("meta.draft=false", {"meta.draft": False}),
        ("meta.country=NaN", {"meta.country": "NaN"}),
        ("meta.id=1e999", {"meta.id": "1e999"}),
        (" uri = a=b", {"uri": " a=b"}),
        ('{"page": {"gte": 1}}', {"page": {"gte": 1}}),
    ],
)
def test_what_is_meant_by_a_filter(given: str, meant: object) -> None:
    assert parse_filter([given]) == meant


def test_names_set_apart_by_commas() -> None:
    assert names(" hr , sales,,") == ["hr", "sales"]
    assert names("") == []


def test_a_filter_that_is_too_deep() -> None:
    with pytest.raises(UsageError, match="not valid JSON"):
        parse_filter(['{"a":' * 100_000])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one\n two\t three", "one two three"),
        ("word " * 100, "word " * 79 + "word ..."),
        ("漢字" * 300, "漢字" * 200 + " ..."),  # no spaces to cut at
        ("a " + "x" * 500, "a " + "x" * 398 + " ..."),
        ("plain\x1b[2Jtext\x9b31m", "plain [2Jtext 31m"),
    ],
)
def test_what_is_shown_of_a_passage(text: str, shown: str) -> None:
    assert passage(text) == shown


def test_letters_that_the_terminal_lacks(kb: Path, ragops: Run) -> None:
    env = {"PYTHONIOENCODING": "ascii"}
    (kb.parent / "corpus/notes.txt").write_text("Pingüine, ペンギン\n", "utf-8")
    assert ragops("ingest", "-w", kb).returncode == 0
    assert "\\u30da\\u30f3" in ragops("search", "ペンギン", "-k", "1", "-w", kb, env=env).stdout
    found = answer(ragops("search", "ペンギン", "-k", "1", "-w", kb, "--json", env=env))
    assert (found["query"], found["hits"][0]["text"]) == ("ペンギン", "Pingüine, ペンギン")
    refused = ragops("search", "ペンギン \udcff", "-w", kb, "--json", env=env)
    assert (refused.returncode, "Unicode" in answer(refused)["error"]["message"]) == (2, True)


def test_filters(kb: Path, ragops: Run) -> None:
    def uris(*filters: str) -> set[str]:
        options = [part for item in filters for part in ("-f", item)]
        return {hit["uri"] for hit in answer(ragops("search", "prices", "-w", kb, "--json", *options))["hits"]}

    assert uris("uri=corpus:/data.csv") == {"corpus:/data.csv"}
    assert uris('{"uri": {"in": ["corpus:/data.csv", "corpus:/notes.txt"]}}') == {
        "corpus:/data.csv",
        "corpus:/notes.txt",
    }
    assert uris("source=nothing") == set()
    for bad in ("nonsense", "{", "colour=red", '{"page": {"gt": 1}}'):
        result = ragops("search", "x", "-w", kb, "-f", bad)
        assert result.returncode == 2, bad
        assert result.stderr.startswith("error: "), result.stderr


def test_without_any_configuration(tmp_path: Path, ragops: Run) -> None:
    """`ragops ingest ./folder` in an empty folder: the real default model, from its package, offline."""
    write_corpus(
        tmp_path / "some/folder", {"a.md": "# Tides\n\nThe moon pulls the sea.\n", "b.txt": "Bread needs yeast.\n"}
    )
    offline = {"HF_HUB_OFFLINE": "1", "no_proxy": "*"}
    result = ragops("ingest", "./some/folder", "--json", env=offline)
    assert result.returncode == 0, result.stderr
    assert answer(result)["vectors"]["computed"] == 2
    assert "made a workspace" in result.stderr
    hits = answer(ragops("search", "why is there ebb and flow?", "--json", cwd=tmp_path / "some", env=offline))["hits"]
    assert hits[0]["uri"] == "folder:/a.md"
    assert hits[0]["title"] == "Tides"


def test_rejects(kb: Path, ragops: Run) -> None:
    write_corpus(kb.parent / "corpus", {"empty.txt": "", "wrong.pdf": "not a pdf at all \x00\x01"})
    result = ragops("ingest", "-w", kb, "--strict", "--json")
    assert result.returncode == 1
    assert answer(result)["sources"]["rejected"] == 2
    rejects = answer(ragops("rejects", "list", "-w", kb, "--json"))
    assert [r["uri"] for r in rejects] == ["corpus:/empty.txt", "corpus:/wrong.pdf"]
    assert all({"uri", "stage", "reason", "hint"} <= set(r) for r in rejects)
    shown = ragops("rejects", "show", "corpus:/empty.txt", "-w", kb)
    assert "empty" in shown.stdout
    assert ragops("rejects", "show", "corpus:/emptee.txt", "-w", kb).returncode == 2
    write_corpus(kb.parent / "corpus", {"empty.txt": "mended"})
    retried = answer(ragops("rejects", "retry", "-w", kb, "--json"))
    assert (retried["sources"]["added"], retried["sources"]["rejected"]) == (1, 1)


def test_status_and_doctor(kb: Path, ragops: Run) -> None:
    status = answer(ragops("status", "-w", kb, "--json"))
    assert status["release"]["number"] == 1
    assert status["sources"][0]["documents"] == 5
    assert ragops("status", cwd=kb).stdout.startswith("workspace")
    doctor = ragops("doctor", "-w", kb, "--json")
    found = {check["name"]: check for check in answer(doctor)["checks"]}
    assert doctor.returncode == 0, doctor.stdout
    assert found["store"]["state"] == found["query encoder"]["state"] == "ok"
    manifest = kb / ".ragops/store/main/releases/00000001/points.parquet"
    manifest.write_bytes(manifest.read_bytes()[:-1])
    broken = ragops("doctor", "-w", kb)
    assert broken.returncode == 1
    assert "wrong" in broken.stdout


def test_plan_says_what_would_be_done(kb: Path, ragops: Run) -> None:
    write_corpus(kb.parent / "corpus", {"new.txt": "new"})
    (kb.parent / "corpus/data.csv").unlink()
    plan = answer(ragops("ingest", "--plan", "-w", kb, "--json"))
    assert (plan["sources"]["new"], plan["sources"]["removed"]) == (1, 1)
    assert "corpus:/data.csv" in ragops("ingest", "--plan", "-w", kb).stdout
    assert answer(ragops("status", "-w", kb, "--json"))["release"]["number"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["ingest", "nowhere"], 2, "no such file"),
        (["ingest"], 2, "no workspace"),
        (["search", "x"], 2, "no workspace"),
        (["status", "-w", "nowhere"], 2, "no workspace"),
        (["doctor", "-w", "nowhere"], 2, "no workspace"),
        (["migrate", "--plan"], 2, "no workspace"),
        (["ingest", "--wait", "-1"], 2, "--wait"),
        (["ingest", "--nonsense"], 2, "--nonsense"),
        (["serach", "x"], 2, "serach"),
        (["search"], 2, "QUERY"),
    ],
)
def test_wrong_use(ragops: Run, arguments: list[str], code: int, says: str) -> None:
    for flags in ([], ["--json"]):
        result = ragops(*arguments, *flags)
        assert result.returncode == code
        assert says.lower() in result.stderr.lower()
        assert "Traceback" not in result.stderr
        if flags:
            assert answer(result)["error"]["exit_code"] == code


def test_no_command_prints_the_help(ragops: Run) -> None:
    for arguments in ([], ["rejects"]):
        result = ragops(*arguments)
        assert "Usage" in result.stdout + result.stderr
        assert "error:" not in result.stderr


def test_a_plan_makes_no_workspace(tmp_path: Path, ragops: Run) -> None:
    write_corpus(tmp_path / "corpus")
    plan = answer(ragops("ingest", "corpus", "--plan", "--json"))
    assert plan["sources"]["new"] == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus"]


def test_every_command_has_help_with_an_example(ragops: Run) -> None:
    top = ragops("--help").stdout
    for command in (["init"], ["ingest"], ["search"], ["status"], ["rejects", "list"], ["rejects", "show"],
                    ["rejects", "retry"], ["doctor"]):  # fmt: skip
        assert command[0] in top
        text = ragops(*command, "--help").stdout
        assert "Example" in text
        assert "--json" in text
    assert ragops("--version").stdout.startswith("ragops ")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_list_of_commands_says_what_their_help_says(name: str) -> None:
    command = typer.main.get_command(cli.app).get_command(None, name)  # type: ignore[attr-defined]
    whole = " ".join(command.help.split())
    assert whole.startswith(cli.COMMANDS[name].rstrip(".")), name
    assert command.name == name


def test_the_list_of_commands_imports_none_of_them() -> None:
    code = "import sys, ragops.cli; ragops.cli.main(['--help']); print([m for m in sys.modules if 'ragops.cli.' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['ragops.cli.options']"
    files = {file.stem for file in Path(cli.__file__).parent.glob("*.py")} - {"__init__", "options", "progress", "diff"}
    assert set(cli.COMMANDS) == files


def test_a_search_before_the_first_release(tmp_path: Path, ragops: Run) -> None:
    ragops("init", "kb")
    result = ragops("search", "x", "-w", "kb")
    assert result.returncode == 2
    assert "no release yet" in result.stderr
    assert "ragops ingest" in result.stderr


def test_unknown_release_empty_query_and_bad_k(kb: Path, ragops: Run) -> None:
    for arguments, code in (
        (["x", "--release", "7"], (2,)),
        (["  "], (2,)),
        (["x", "-k", "0"], (2,)),
        (["x", "-k", "1000000"], (2,)),
    ):
        result = ragops("search", *arguments, "-w", kb)
        assert result.returncode in code
        assert "Traceback" not in result.stderr


def test_progress_goes_to_stderr_only(kb: Path, ragops: Run) -> None:
    result = ragops("ingest", "-w", kb, "--rebuild", "--json")
    json.loads(result.stdout)


def embedded(cache: Path) -> int:
    """Vectors that a running ingest has committed so far."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{cache}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT count(*) FROM vectors").fetchone()[0])
    except sqlite3.OperationalError:  # not there yet
        return 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_ingest_goes_on(tmp_path: Path, ragops: Run, how: signal.Signals) -> None:
    """Stopped in the middle of embedding: nothing published, nothing left running, and what was embedded stays."""
    corpus = write_corpus(
        tmp_path / "corpus", {f"{n}.txt": f"Number {n} has a text of its own, {n * n}." for n in range(3000)}
    )
    ragops("init", "kb")
    use_model(tmp_path / "kb")
    process = subprocess.Popen(
        [sys.executable, "-m", "ragops", "ingest", str(corpus), "-w", "kb"], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
    )  # fmt: skip
    cache = tmp_path / "kb/.ragops/cache.db"
    deadline = time.monotonic() + 60
    while not embedded(cache):
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "stopped" in err
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):  # no worker outlives it
        time.sleep(0.5)
        os.killpg(process.pid, 0)
    assert answer(ragops("status", "-w", "kb", "--json"))["release"] is None
    again = answer(ragops("ingest", "-w", "kb", "--json"))
    assert again["sources"]["added"] == 3000
    assert 0 < again["vectors"]["computed"] < 3000


HOLD = """
import fcntl, os, sys, time
lock = open(sys.argv[1], "a+")
fcntl.flock(lock, fcntl.LOCK_EX)
lock.truncate(0)
lock.write(str(os.getpid()))
lock.flush()
print("held", flush=True)
time.sleep(60)
"""


def test_two_ingests_at_once(kb: Path, ragops: Run) -> None:
    lock = kb / ".ragops/lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        result = ragops("ingest", "-w", kb)
        assert "another command works on" in result.stderr
        assert result.returncode == 3
        assert f"process {holder.pid}" in result.stderr
        assert "--wait" in result.stderr
        assert ragops("search", "penguins", "-w", kb).returncode == 0  # readers do not wait
        assert ragops("status", "-w", kb).returncode == 0
    finally:
        holder.kill()
        holder.wait()
    assert ragops("ingest", "-w", kb).returncode == 0


def test_held_back_for_consent(tmp_path: Path, ragops: Run) -> None:
    corpus = write_corpus(tmp_path / "corpus", {f"{n}.txt": f"number {n}" for n in range(25)})
    ragops("init", "kb")
    use_model(tmp_path / "kb")
    ragops("ingest", corpus, "-w", "kb")
    for n in range(20):
        (corpus / f"{n}.txt").unlink()
    held = ragops("ingest", "-w", "kb", "--json")
    assert held.returncode == 3
    assert "--allow-deletes" in answer(held)["error"]["hint"]
    assert answer(ragops("ingest", "-w", "kb", "--allow-deletes", "--json"))["sources"]["removed"] == 20


def test_a_workspace_in_the_folder_that_it_ingests(tmp_path: Path, ragops: Run) -> None:
    write_corpus(tmp_path)
    ragops("init", ".")
    use_model(tmp_path)
    for file in tmp_path.iterdir():
        settle(file)
    first = answer(ragops("ingest", ".", "--json"))
    assert first["sources"]["seen"] == 5
    assert answer(ragops("ingest", "--json"))["sources"]["seen"] == 5
