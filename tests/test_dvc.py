"""An ingest in a DVC workspace and `dvc repro` agree: what is recorded, cloned, reproduced, had again of old days."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from ragops.workspace import Workspace
from tests.conftest import copy, settle, write_corpus
from tests.versioned import (
    QUERIES,
    answers,
    clone,
    commit,
    dirty,
    dvc,
    edited,
    environment,
    files,
    fingerprint,
    holds,
    reproduce,
    run,
    told,
)

STAGES = ["parse", "chunk", "embed", "load", "evaluate"]


def ingest(root: Path, **options: Any) -> Any:
    with Workspace.open(root) as workspace:
        return workspace.ingest(**options)


def recorded(root: Path, **options: Any) -> Any:
    """An ingest that DVC was told of."""
    summary = ingest(root, **options)
    assert summary.dvc is not None
    assert (summary.dvc["recorded"], summary.dvc["error"]) == (True, None)
    return summary


def put(root: Path, name: str, text: str) -> None:
    """Write a file of the corpus beside the workspace."""
    write_corpus(root.parent / "corpus", {name: text})


@pytest.fixture(scope="module")
def _mixed(_versioned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`versioned` with all that a source can be: rejected, served from its last content that passed, larger than a pack
    holds, under permissions, a row of a file, twice the same; and a past of several ingests."""
    place = tmp_path_factory.mktemp("mixed")
    copy(_versioned, place)
    root, corpus = place / "kb", place / "corpus"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(place).items():
            patch.setenv(name, value)
        write_corpus(corpus, {
            "served.md": "# Served\n\nThe harbour opens at nine.\n",
            "edited.md": "# Edited\n\nThe first text of the day.\n",
            "gone.md": "# Gone\n\nNobody reads this for long.\n",
            "same.txt": "Penguins live in the southern hemisphere.\n\nThey swim well and cannot fly.\n",
            "secret.md": "---\ntenant: acme\ngroups: [staff, board]\nlang: en\n---\n# Secret\n\nSalaries rise.\n",
            "large.html": f"<html><!-- {'x' * (1 << 20)} --><h1>Whales</h1><p>They dive deep.</p></html>",
            "empty.txt": "",
            "kb.jsonl": "".join(
                json.dumps({"_id": n, "title": f"Row {n}", "text": f"Row {n} speaks of rivers.", "rank": n}) + "\n"
                for n in range(5)
            ),
        })  # fmt: skip
        (corpus / "broken.pdf").write_bytes(b"%PDF-1.4 nothing of the sort")
        (corpus / "noise.bin").write_bytes(bytes(range(256)) * 4)
        for name in ("broken.pdf", "noise.bin"):
            settle(corpus / name)
        edited(root, {"    path: ../corpus": "    path: ../corpus\n    exclude: ['*.jsonl']\n"
                      "  - {name: rows, connector: records, path: ../corpus/kb.jsonl, tenant: rows}\n"})  # fmt: skip
        recorded(root)
        put(root, "served.md", "")
        put(root, "edited.md", "# Edited\n\nThe second text of the day.\n")
        (corpus / "gone.md").unlink()
        assert recorded(root).sources["rejected"] == 4
        commit(root, "mixed")
        dvc(root, "push")
    return place


@pytest.fixture
def mixed(_mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy(_mixed, tmp_path)
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return tmp_path / "kb"


# ------------------------------------------------------------------ an ingest records itself
def test_an_ingest_leaves_dvc_nothing_to_do(versioned: Path) -> None:
    put(versioned, "new.md", "# New\n\nFoxes dig in the snow.\n")
    said = json.loads(run(versioned, "ragops", "ingest", "--json"))
    assert (said["dvc"]["recorded"], said["dvc"]["error"]) == (True, None)
    assert dirty(versioned) == {}
    before = files(versioned, ".dvc/tmp", ".git")
    assert run(versioned, "dvc", "status") == "Data and pipelines are up to date.\n"
    assert "Running" not in run(versioned, "dvc", "repro")
    assert files(versioned, ".dvc/tmp", ".git") == before
    assert run(versioned, "git", "status", "--porcelain").split() == [
        "M", "data/dataset/dataset.json", "M", "data/dataset/sources.csv", "M", "data/snapshot.dvc", "M", "dvc.lock",
    ]  # fmt: skip


def test_what_dvc_tracks_knows_neither_days_nor_releases(versioned: Path, tmp_path: Path) -> None:
    """The same content and recipe with another past and at another time: the same files for git."""
    other = tmp_path / "elsewhere/kb"
    other.mkdir(parents=True)
    shutil.copytree(tmp_path / "corpus", other.parent / "corpus")
    shutil.copy(versioned / "params.yaml", other / "params.yaml")
    Workspace.create(other)
    run(other, "git", "init", "-q")
    run(other, "dvc", "init", "-q")
    write_corpus(other.parent / "corpus", {"later.txt": "not yet"})
    recorded(other)
    (other.parent / "corpus/later.txt").unlink()
    recorded(other)
    assert recorded(other, rebuild=True).release == 3
    for name in ("dvc.lock", "data/snapshot.dvc", "data/dataset/dataset.json", "data/dataset/sources.csv"):
        assert (other / name).read_bytes() == (versioned / name).read_bytes(), name


NO_OP = """
import sys
from ragops.cli import main
code = main(["ingest", "-q"])
print(sorted({name.split(".")[0] for name in sys.modules} & {"dvc", "dvc_data", "dvc_objects", "torch", "git"}))
sys.exit(code)
"""


def test_a_no_op_starts_no_dvc_and_touches_nothing(versioned: Path) -> None:
    ingest(versioned)  # the corpus is a copy, with change tokens of its own
    before = files(versioned, ".ragops/store")  # where every reader's engine rewrites a file
    assert run(versioned, sys.executable, "-c", NO_OP).splitlines()[-1] == "[]"
    after = files(versioned, ".ragops/store")
    assert {name for name in before | after if before.get(name) != after.get(name)} <= {".ragops/lock"}


def test_a_touched_file_is_no_news_for_dvc(versioned: Path) -> None:
    (versioned.parent / "corpus/notes.txt").touch()
    summary = ingest(versioned)
    assert summary.noop
    assert summary.dvc == {"recorded": False, "seconds": 0.0, "error": None}


def test_settings_that_no_stage_reads_are_recorded_without_a_run(versioned: Path) -> None:
    edited(versioned, {"timeout: 60 ": "timeout: 50 "})
    assert recorded(versioned).noop
    assert dirty(versioned) == {}
    assert reproduce(versioned) == []


# ------------------------------------------------------------------ clones
def rejects(root: Path) -> list[dict[str, Any]]:
    """As `ragops rejects list` tells them, without the days."""
    with Workspace.open(root) as workspace:
        return [{k: v for k, v in r.items() if k not in ("first_seen", "attempts")} for r in workspace.rejects()]


def test_a_clone_pulls_and_answers_the_same(mixed: Path) -> None:
    expected, held = answers(mixed), holds(mixed)
    copied = clone(mixed)
    run(copied, "dvc", "pull")
    said = run(copied, "dvc", "repro")
    assert [line for line in said.splitlines() if line.startswith("Running")] == ["Running stage 'load':"]
    assert fingerprint(copied) == fingerprint(mixed)
    assert answers(copied) == expected
    assert holds(copied) == held
    run(copied, "ragops", "verify")
    assert rejects(copied) == rejects(mixed)
    assert len(rejects(copied)) == 4
    assert dirty(copied) == {}
    lock = (copied / "dvc.lock").read_bytes()
    said = json.loads(run(copied, "ragops", "ingest", "--json"))
    assert said["noop"]
    assert said["vectors"]["computed"] == 0
    assert said["seconds"]["fetch"] > 0  # the change tokens are another machine's
    assert (copied / "dvc.lock").read_bytes() == lock
    assert run(copied, "git", "status", "--porcelain") == ""
    assert dirty(copied) == {}
    assert json.loads(run(copied, "ragops", "ingest", "--json"))["dvc"]["recorded"] is False


def test_a_clone_ingests_without_a_reproduction(mixed: Path) -> None:
    copied = clone(mixed)
    dvc(copied, "pull")
    summary = recorded(copied)
    assert summary.vectors["computed"] == 0
    assert answers(copied) == answers(mixed)
    assert run(copied, "git", "status", "--porcelain") == ""
    assert dirty(copied) == {}
    assert reproduce(copied) == []


# ------------------------------------------------------------------ ingest and reproduction agree
def test_a_snapshot_alone_reproduces_the_dataset(mixed: Path) -> None:
    """All stages from the bytes, with nothing remembered."""
    expected, held = answers(mixed), holds(mixed)
    copied = clone(mixed)
    dvc(copied, "pull", targets=["data/snapshot.dvc"])
    assert reproduce(copied) == STAGES
    assert holds(copied) == held
    assert answers(copied) == expected
    assert dirty(copied) == {}
    run(copied, "ragops", "verify")
    before = (copied / "dvc.lock").read_bytes()
    summary = recorded(copied)
    assert (summary.noop, summary.vectors["computed"]) == (True, 0)
    assert (copied / "dvc.lock").read_bytes() == before


@pytest.mark.slow
def test_what_was_deleted_is_reproduced(mixed: Path) -> None:
    expected, held = answers(mixed), holds(mixed)
    for name in ("dataset", "models"):
        shutil.rmtree(mixed / "data" / name)
    (mixed / ".ragops/cache.db").unlink()
    assert reproduce(mixed) == STAGES
    assert holds(mixed) == held
    assert answers(mixed) == expected
    assert dirty(mixed) == {}
    summary = recorded(mixed)
    assert summary.noop
    assert summary.vectors["computed"] == 0
    assert dirty(mixed) == {}


def test_a_forced_reproduction_keeps_what_is_there(mixed: Path) -> None:
    before = files(mixed / "data")
    lock = (mixed / "dvc.lock").read_bytes()
    assert reproduce(mixed, force=True) == STAGES
    assert (mixed / "dvc.lock").read_bytes() == lock
    after = files(mixed / "data")
    assert set(before) == set(after)
    assert all(before[name][1] == after[name][1] for name in before)
    assert ingest(mixed).noop


@pytest.mark.slow
def test_a_reproduction_of_another_snapshot_follows_the_change(mixed: Path) -> None:
    """`dvc repro` in a clone that pulled only the snapshot of a later day: as the ingest of that day."""
    copied = clone(mixed)
    dvc(copied, "pull")
    reproduce(copied)
    put(mixed, "edited.md", "# Edited\n\nThe third text of the day.\n")
    put(mixed, "served.md", "# Served\n\nThe harbour opens at ten.\n")
    put(mixed, "new.md", "# New\n\nFoxes dig in the snow.\n")
    (mixed.parent / "corpus/secret.md").unlink()
    (mixed.parent / "corpus/broken.pdf").unlink()
    recorded(mixed)
    commit(mixed, "later")
    dvc(mixed, "push")
    shutil.copy(mixed / "data/snapshot.dvc", copied / "data/snapshot.dvc")
    dvc(copied, "pull", targets=["data/snapshot.dvc"])
    assert reproduce(copied) == STAGES
    assert holds(copied) == holds(mixed)
    assert answers(copied) == answers(mixed)
    assert dirty(copied) == {}


# ------------------------------------------------------------------ settings
def test_another_chunk_size_parses_nothing_again(mixed: Path) -> None:
    documents = files(mixed / "data/dataset/documents", "manifest")
    edited(mixed, {"size: null": "size: 12"})
    assert reproduce(mixed) == ["chunk", "embed", "load", "evaluate"]
    assert files(mixed / "data/dataset/documents", "manifest") == documents
    reproduced, found = holds(mixed), answers(mixed)
    assert reproduced["counts"]["chunks"] > 0
    assert dirty(mixed) == {}
    before = (mixed / "dvc.lock").read_bytes()
    assert recorded(mixed).vectors["computed"] == 0
    assert (mixed / "dvc.lock").read_bytes() == before
    run(mixed, "git", "checkout", "-q", "dvc.lock", "data/dataset")  # and by an ingest
    dvc(mixed, "checkout", force=True)
    ingest(mixed)
    assert holds(mixed) == reproduced
    assert answers(mixed) == found


def test_another_model_keeps_the_documents(versioned: Path) -> None:
    documents = files(versioned / "data/dataset/documents", "manifest")
    edited(versioned, {"hash:64": "hash:32"})
    assert reproduce(versioned) == ["chunk", "embed", "load", "evaluate"]
    assert files(versioned / "data/dataset/documents", "manifest") == documents
    assert dirty(versioned) == {}
    found = answers(versioned)
    summary = recorded(versioned)
    assert summary.noop
    assert summary.vectors["computed"] == 0
    assert answers(versioned) == found
    commit(versioned, "another model")
    diff = json.loads(run(versioned, "dvc", "params", "diff", "--json", "first", "HEAD"))
    assert diff == {"params.yaml": {"embed.model": {"old": "hash:64", "new": "hash:32"}}}


def test_metrics_and_plots(versioned: Path) -> None:
    put(versioned, "new.md", "# New\n\nFoxes dig in the snow.\n")
    recorded(versioned)
    commit(versioned, "second")
    diff = json.loads(run(versioned, "dvc", "metrics", "diff", "--json", "first", "HEAD"))
    counts = diff["data/dataset/dataset.json"]
    assert counts["counts.documents"] == {"old": 5, "new": 6, "diff": 1}
    assert counts["counts.chunks"]["diff"] == 1
    run(versioned, "dvc", "plots", "show", "-o", "plots")
    page = (versioned / "plots/index.html").read_text("utf-8")
    assert "corpus" in page
    shown = json.loads(run(versioned, "dvc", "plots", "show", "--json"))
    assert "data/dataset/sources.csv" in json.dumps(shown)


# ------------------------------------------------------------------ old days
@pytest.fixture
def aged(versioned: Path) -> tuple[Path, dict[str, Any]]:
    """A workspace with three committed days; what was answered on each."""
    days = {"first": answers(versioned)}
    put(versioned, "notes.txt", "Penguins moved to the north.\n\nThey still swim well.\n")
    put(versioned, "new.md", "---\ntenant: acme\ngroups: [staff]\n---\n# New\n\nFoxes and penguins dig in the snow.\n")
    recorded(versioned)
    commit(versioned, "second")
    run(versioned, "git", "tag", "second")
    dvc(versioned, "push")  # for `push --all-commits` a remote below `.` is one below `/`
    days["second"] = answers(versioned)
    (versioned.parent / "corpus/data.csv").unlink()
    edited(versioned, {"size: null": "size: 10"})
    recorded(versioned)
    commit(versioned, "third")
    run(versioned, "git", "tag", "third")
    days["third"] = answers(versioned)
    dvc(versioned, "push")
    assert len({repr(found) for found in days.values()}) == 3
    return versioned, days


def test_an_old_revision_answers_as_it_did(aged: tuple[Path, dict[str, Any]]) -> None:
    root, days = aged
    for day in ("first", "second", "third"):
        run(root, "git", "checkout", "-q", day)
        dvc(root, "checkout", force=True)
        assert reproduce(root) == ["load"]
        assert answers(root) == days[day]
        assert dirty(root) == {}
        assert run(root, "git", "status", "--porcelain") == ""
    run(root, "git", "checkout", "-q", "first")
    dvc(root, "checkout", force=True)
    summary = recorded(root)  # no reproduction first: the live sources of today by the recipe of that day
    assert summary.sources["seen"] == 5
    assert fingerprint(root) != json.loads(run(root, "git", "show", "first:data/dataset/dataset.json"))["fingerprint"]
    run(root, "git", "checkout", "-q", "-f", "third")
    dvc(root, "checkout", force=True)
    summary = recorded(root)
    assert summary.vectors["computed"] == 0
    assert answers(root) == days["third"]
    assert run(root, "git", "status", "--porcelain") == ""
    assert dirty(root) == {}


@pytest.mark.slow
def test_a_fresh_clone_of_an_old_revision(aged: tuple[Path, dict[str, Any]]) -> None:
    root, days = aged
    copied = clone(root)
    run(copied, "git", "checkout", "-q", "first")
    dvc(copied, "pull")
    assert reproduce(copied) == ["load"]
    assert answers(copied) == days["first"]


def uris(root: Path, **filter: Any) -> set[str]:
    with Workspace.open(root) as workspace:
        return {hit.uri for hit in workspace.search("penguins foxes snow", 50, filter=filter or None).hits}


def test_permissions_stay_todays_in_an_old_dataset(versioned: Path) -> None:
    text = "---\ntenant: {}\ngroups: [{}]\n---\n# New\n\nFoxes dig in the snow.\n"
    put(versioned, "new.md", text.format("acme", "staff"))
    recorded(versioned)
    commit(versioned, "open")
    put(versioned, "new.md", text.format("acme", "board"))
    recorded(versioned)
    commit(versioned, "closed")
    run(versioned, "git", "checkout", "-q", "HEAD~1")
    dvc(versioned, "checkout", force=True)
    reproduce(versioned)
    assert "corpus:/new.md" not in uris(versioned, groups="staff")
    assert "corpus:/new.md" in uris(versioned, groups="board")
    ingest(versioned)  # the source says the same as it did
    assert "corpus:/new.md" not in uris(versioned, groups="staff")
    assert "corpus:/new.md" in uris(versioned, groups="board")
    run(versioned, "git", "checkout", "-q", "-f", "main")
    dvc(versioned, "checkout", force=True)
    reproduce(versioned)
    assert "corpus:/new.md" not in uris(versioned, groups="staff")
    assert "corpus:/new.md" in uris(versioned, groups="board")
    assert dirty(versioned) == {}


# ------------------------------------------------------------------ asking an old revision
def asked(root: Path, rev: str) -> dict[str, list[tuple[Any, ...]]]:
    with Workspace.open(root) as workspace:
        return {query: told(workspace.search(query, rev=rev, exact=True).hits) for query in QUERIES}


def test_revisions_answer_as_they_did(aged: tuple[Path, dict[str, Any]]) -> None:
    """From kept releases, from DVC's cache, and in a clone that has neither, from the remote."""
    root, days = aged
    for day, found in days.items():
        assert asked(root, day) == found
    shutil.rmtree(root / ".ragops/store")
    assert {day: asked(root, day) for day in days} == days
    copied = clone(root)
    for day, found in days.items():
        assert asked(copied, day) == found
    said = json.loads(run(copied, "ragops", "search", QUERIES[0], "--rev", "second", "--json"))
    assert said["hits"][0]["uri"] == days["second"][QUERIES[0]][0][0]
    assert run(copied, "git", "status", "--porcelain") == ""
    for rev in ("nothing", "HEAD~9", "--all"):
        assert "revision" in run(copied, "ragops", "search", "x", f"--rev={rev}", code=2)


def test_a_revision_from_before_the_first_ingest(versioned: Path) -> None:
    put(versioned, "new.md", "# New\n\nFoxes.\n")
    run(versioned, "git", "rm", "-q", "--cached", "data/dataset/dataset.json")
    run(versioned, "git", "commit", "-q", "-m", "without")
    said = run(versioned, "ragops", "search", "x", "--rev", "HEAD", code=2)
    assert "git add data/dataset/dataset.json" in said


def test_permissions_stay_todays_at_an_old_revision(versioned: Path) -> None:
    text = "---\ntenant: acme\ngroups: [{}]\n---\n# New\n\nFoxes dig in the snow.\n"
    for groups in ("staff", "board"):
        put(versioned, "new.md", text.format(groups))
        recorded(versioned)
        commit(versioned, groups)
    shutil.rmtree(versioned / ".ragops/store")
    with Workspace.open(versioned) as workspace:
        assert not workspace.search("foxes", rev="HEAD~1", filter={"groups": "staff"}).hits
        assert workspace.search("foxes", rev="HEAD~1", filter={"groups": "board"}).hits
