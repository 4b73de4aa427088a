"""The gate: what is worse than the live release is sealed and does not go live, whatever dies in between."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ragops.cli import main
from ragops.errors import ConfigError, UsageError
from ragops.evaluation.gate import GateRefused
from ragops.workspace import Workspace
from tests.conftest import copy, use_model, write_corpus
from tests.versioned import edited

WORDS = ("penguin", "harbour", "invoice", "garden", "compiler", "mountain", "window", "river")
PAGES = {
    f"{word}.md": f"# {word.title()}\n\nThe {word} is described on this page and nowhere else.\n" for word in WORDS
}
GATE = "gate: {queries: questions.yaml, mode: bm25}"


def questions(root: Path, words: tuple[str, ...] = WORDS) -> None:
    rows = "".join(f"  - {{text: where is the {word} described, expect: {word}.md}}\n" for word in words)
    (root / "questions.yaml").write_text(f"questions:\n{rows}", "utf-8")


def worse(corpus: Path, *words: str) -> None:
    write_corpus(corpus, {f"{word}.md": "# Gone\n\nNothing.\n" for word in words})


def live(workspace: Workspace) -> int | None:
    found = workspace.store.live()
    return None if found is None else found.number


@pytest.fixture(scope="module")
def _gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("gated")
    write_corpus(place / "corpus", PAGES)
    Workspace.create(place / "kb")
    use_model(place / "kb")
    questions(place / "kb")
    edited(place / "kb", {"sources: []": "sources: [{name: corpus, path: ../corpus}]", "gate: null": GATE})
    with Workspace.open(place / "kb") as workspace:
        summary = workspace.ingest()
        assert summary.gate is not None
        assert (summary.gate["verdict"], summary.gate["published"]) == ("pass", True)
        assert summary.gate["reason"] == "there is no live release to compare it with"
    return place


@pytest.fixture
def gated(_gated: Path, tmp_path: Path) -> Workspace:
    """A workspace with a gate and a live release 1, over the folder `corpus` beside it."""
    copy(_gated, tmp_path)
    return Workspace.open(tmp_path / "kb")


def test_a_worse_release_is_sealed_and_not_published(
    gated: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worse(tmp_path / "corpus", *WORDS[:6])
    assert main(["ingest", "--json", "-w", str(gated.root)]) == 3
    out, err = capsys.readouterr()
    said = json.loads(out)["gate"]
    assert (said["verdict"], said["published"], said["release"], said["against"]) == ("fail", False, 2, 1)
    assert said["value"] == 0.25
    assert said["live_value"] == 1.0
    assert "nDCG@10 lost 0.7500" in said["reason"]
    assert "ragops releases publish 2 --override-gate" in said["hint"]
    assert "the gate holds release 2 back" in err
    assert live(gated) == 1
    assert [release["number"] for release in gated.releases()] == [1, 2]
    assert gated.verify().ok
    evaluations = sorted((gated.local / "evaluations").iterdir())
    before = [file.stat().st_mtime_ns for file in evaluations]
    again = gated.ingest()  # nothing new: it stays refused, and is not asked again
    assert (again.noop, again.gate, live(gated)) == (True, said | {"changed": again.gate["changed"]}, 1)  # type: ignore[index]
    assert [file.stat().st_mtime_ns for file in evaluations] == before
    assert main(["eval", "compare", "1", "2", "-w", str(gated.root)]) == 1
    assert "verdict     fail" in capsys.readouterr().out

    assert main(["releases", "publish", "-w", str(gated.root)]) == 3
    assert live(gated) == 1
    with pytest.raises(UsageError, match="takes a reason"):
        gated.publish(2, override_gate=" ")
    assert main(["releases", "publish", "2", "--override-gate", "they were wrong", "-w", str(gated.root)]) == 0
    assert live(gated) == 2
    (line,) = (gated.local / "log/overrides.jsonl").read_text().splitlines()
    logged = json.loads(line)
    assert (logged["release"], logged["live"], logged["reason"]) == (2, 1, "they were wrong")
    assert (logged["verdict"], logged["gate"]) == ("fail", said["reason"])
    assert logged["user"]
    done = gated.ingest()
    assert done.gate is not None
    assert (done.noop, done.gate["published"], done.gate["overridden"]) == (True, True, "they were wrong")
    assert not gated.store.held()


def test_what_does_no_harm_is_published(gated: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_corpus(tmp_path / "corpus", {"more.md": "# More\n\nAnother page.\n"})
    assert main(["ingest", "-q", "-w", str(gated.root)]) == 0
    assert "gate     pass: no question's nDCG@10 differs" in capsys.readouterr().out
    assert live(gated) == 2
    worse(tmp_path / "corpus", WORDS[0])
    summary = gated.ingest()
    assert summary.gate is not None
    assert (summary.gate["verdict"], summary.gate["published"]) == ("inconclusive", True)
    assert live(gated) == 3


def test_a_floor(gated: Workspace, tmp_path: Path) -> None:
    edited(gated.root, {"mode: bm25}": "mode: bm25, metric: Recall@5, min: 0.9}"})
    worse(tmp_path / "corpus", WORDS[0])
    summary = gated.ingest()
    assert summary.gate is not None
    assert "Recall@5 is 0.8750, below release.gate.min (0.9)" in summary.gate["reason"]
    assert live(gated) == 1


def test_a_floor_without_a_live_release(gated: Workspace, tmp_path: Path) -> None:
    shutil.rmtree(gated.local)
    edited(gated.root, {"mode: bm25}": "mode: bm25, min: 0.9}"})
    worse(tmp_path / "corpus", *WORDS[:3])
    summary = gated.ingest()
    assert summary.gate is not None
    assert (summary.gate["verdict"], summary.gate["against"], live(gated)) == ("fail", None, None)
    write_corpus(tmp_path / "corpus", PAGES)
    assert gated.ingest().gate["published"]  # type: ignore[index]
    assert live(gated) == 2


def test_it_is_asked_again_when_gate_or_questions_change(gated: Workspace, tmp_path: Path) -> None:
    worse(tmp_path / "corpus", *WORDS[:6])
    assert not gated.ingest().gate["published"]  # type: ignore[index]
    questions(gated.root, WORDS[6:])
    summary = gated.ingest()
    assert summary.gate is not None
    assert (summary.noop, summary.gate["verdict"], live(gated)) == (True, "pass", 2)


def test_without_the_gate_the_next_ingest_publishes(gated: Workspace, tmp_path: Path) -> None:
    worse(tmp_path / "corpus", *WORDS[:6])
    gated.ingest()
    edited(gated.root, {GATE: "gate: null"})
    summary = gated.ingest()
    assert (summary.noop, summary.gate, live(gated)) == (True, None, 2)


def test_a_refused_release_is_built_on(gated: Workspace, tmp_path: Path) -> None:
    worse(tmp_path / "corpus", *WORDS[:6])
    gated.ingest()
    write_corpus(tmp_path / "corpus", PAGES)
    summary = gated.ingest()
    assert summary.gate is None or summary.gate["published"]
    assert (summary.release, live(gated)) == (3, 3)
    assert summary.fingerprint == gated.releases()[0]["fingerprint"]


def test_a_rollback_comes_before_the_gate(gated: Workspace, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", {"more.md": "# More\n\nAnother page.\n"})
    gated.ingest()
    gated.rollback()
    worse(tmp_path / "corpus", *WORDS[:6])
    summary = gated.ingest()
    assert (summary.held, summary.gate) == (True, None)
    with pytest.raises(GateRefused, match="release 3 back"):
        gated.publish()
    assert (live(gated), gated.store.held()) == (1, True)
    gated.publish(2)
    gated.publish(1)  # going back is never gated
    assert live(gated) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("questions: []\n", "holds no question"),
        ("questions:\n  - text: a\n", "questions.yaml:2"),
        (None, "no such file"),
    ],
)
def test_a_broken_query_set_stops_an_ingest_before_it_begins(
    gated: Workspace, tmp_path: Path, text: str | None, says: str
) -> None:
    file = gated.root / "questions.yaml"
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    worse(tmp_path / "corpus", WORDS[0])
    with pytest.raises(UsageError, match=says):
        gated.ingest()
    assert [release["number"] for release in gated.releases()] == [1]
    assert gated.verify().ok


def test_documents_that_are_all_gone(gated: Workspace, tmp_path: Path) -> None:
    for word in WORDS:
        (tmp_path / f"corpus/{word}.md").unlink()
    write_corpus(tmp_path / "corpus", {"other.md": "# Other\n\nNothing that anybody asked for.\n"})
    summary = gated.ingest()
    assert summary.gate is not None
    assert (summary.gate["verdict"], summary.gate["published"], live(gated)) == ("error", False, 1)
    assert "none of the 8 documents that are expected is in release 2" in summary.gate["reason"]


def test_a_backup_holds_evaluations_and_overrides(gated: Workspace, tmp_path: Path) -> None:
    worse(tmp_path / "corpus", *WORDS[:6])
    gated.ingest()
    gated.publish(2, override_gate="they were wrong")
    gated.backup(tmp_path / "backup.tar")
    Workspace.restore(tmp_path / "backup.tar", tmp_path / "again")
    for name in (
        "log/overrides.jsonl",
        *(f"evaluations/{file.name}" for file in (gated.local / "evaluations").iterdir()),
    ):
        assert (tmp_path / "again/.ragops" / name).read_bytes() == (gated.local / name).read_bytes()
    with Workspace.open(tmp_path / "again") as again:
        assert again.compare(1, 2).verdict == "fail"
        status = again.status()
    assert (status["release"]["number"], status["gate"]["release"], status["gate"]["verdict"]) == (2, 2, "fail")
    Workspace.restore(tmp_path / "backup.tar", tmp_path / "again", replace=True)
    assert (tmp_path / "again/.ragops/log/overrides.jsonl").is_file()


def test_a_damaged_live_release_stands_in_nobodys_way(gated: Workspace, tmp_path: Path) -> None:
    folder = gated.local / "store/main/releases/00000001/shard"
    shutil.rmtree(folder)
    worse(tmp_path / "corpus", *WORDS[:6])
    summary = gated.ingest()
    assert summary.gate is not None
    assert (summary.gate["verdict"], live(gated)) == ("inconclusive", 2)
    assert "the live release could not be asked" in summary.gate["reason"]


@pytest.mark.parametrize(
    "text",
    ["gate: {}", "gate: {queries: 3}", "gate: {queries: a, metric: P@10}", "gate: {queries: a, margin: -1}",
     "gate: {queries: a, min: 2}", "gate: {queries: a, mode: both}", "gate: [a]", "gate: {querys: a}"],
)  # fmt: skip
def test_settings_that_cannot_be(gated: Workspace, text: str) -> None:
    edited(gated.root, {GATE: text})
    with pytest.raises(ConfigError, match=r"params\.yaml:\d+"):
        Workspace.open(gated.root)


DIE = """
import os, sys
from ragops.workspace import Workspace
import {module} as module
before = {where}
def die(*arguments, **options):
    if {after}:
        before(*arguments, **options)
    os._exit(9)
{where} = die
Workspace.open(sys.argv[1]).ingest()
"""
PLACES = {
    "before it is asked": ("ragops.evaluation.gate", "module.Gate.judge", False),
    "before it is published": ("ragops.stores.edge", "module.EdgeStore.publish", False),
    "after it was published": ("ragops.stores.edge", "module.EdgeStore.publish", True),
}


@pytest.mark.parametrize(
    ("place", "good"), [*((place, True) for place in PLACES), ("before it is asked", False)]
)  # what is refused is not published
def test_a_run_that_dies_around_the_gate_is_finished_by_the_next(
    gated: Workspace, tmp_path: Path, place: str, good: bool
) -> None:
    module, where, after = PLACES[place]
    if good:
        write_corpus(tmp_path / "corpus", {"more.md": "# More\n\nAnother page.\n"})
    else:
        worse(tmp_path / "corpus", *WORDS[:6])
    code = DIE.format(module=module, where=where, after=after)
    assert subprocess.run([sys.executable, "-c", code, str(gated.root)], check=False, timeout=120).returncode == 9
    assert live(gated) == (2 if after else 1)
    summary = gated.ingest()
    assert summary.release == 2
    assert live(gated) == (2 if good else 1)
    said: Any = summary.gate
    assert said["verdict"] == ("pass" if good else "fail")
    assert gated.verify().ok
