"""The stage `evaluate`: recorded by an ingest, reproduced by `dvc repro`, compared by `dvc metrics diff`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ragops.workspace import Workspace
from tests.conftest import write_corpus
from tests.versioned import clone, commit, dirty, dvc, edited, files, reproduce, run

QUESTIONS = """\
questions:
  - {id: birds, text: penguins swim and cannot fly, expect: notes.txt}
  - {id: install, text: use pip to install the package, expect: guide/install.md}
  - {id: rollback, text: go back to an older release, expect: guide/rollback.md}
"""
METRICS = "data/evaluation/metrics.json"
PLOT = "data/evaluation/questions.csv"


def ingest(root: Path) -> Any:
    with Workspace.open(root) as workspace:
        return workspace.ingest()


def metrics(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / METRICS).read_bytes())
    return found


@pytest.fixture
def asked(versioned: Path) -> Path:
    """`versioned` with a query set that params.yaml and dvc.yaml name, recorded and committed."""
    (versioned / "questions.yaml").write_text(QUESTIONS)
    edited(versioned, {"queries: null": "queries: questions.yaml", "mode: hybrid\n  rerank": "mode: bm25\n  rerank"})
    name_it(versioned)
    assert ingest(versioned).dvc["error"] is None
    commit(versioned, "asked")
    return versioned


def name_it(root: Path) -> None:
    edited(root, {"      - data/loaded.json\n": "      - data/loaded.json\n      - questions.yaml\n"}, "dvc.yaml")


def test_without_a_query_set_nothing_is_asked(versioned: Path) -> None:
    assert metrics(versioned) == {"queries": 0}
    assert (versioned / PLOT).read_text().startswith("question,nDCG@10,")
    assert dirty(versioned) == {}
    run(versioned, "ragops", "stage", "evaluate")
    assert dirty(versioned) == {}
    run(versioned, "dvc", "plots", "show", "-o", "plots")
    assert json.loads(run(versioned, "dvc", "metrics", "show", "--json"))[""]["data"][METRICS]["data"] == {"queries": 0}


def test_an_ingest_records_what_it_measured(asked: Path) -> None:
    assert dirty(asked) == {}
    assert metrics(asked)["MRR@10"] == 1.0
    assert set(metrics(asked)) == {
        "queries", "mode", "synthetic", "nDCG@10", "Recall@10", "Recall@100", "MRR@10", "MAP", "unjudged@10",
    }  # fmt: skip
    assert [line.partition(",")[0] for line in (asked / PLOT).read_text().splitlines()] == [
        "question", "birds", "install", "rollback",
    ]  # fmt: skip
    write_corpus(asked.parent / "corpus", {"notes.txt": "Nothing of the sort.\n"})
    said = ingest(asked)
    assert (said.dvc["error"], said.noop) == (None, False)
    assert dirty(asked) == {}
    diff = json.loads(run(asked, "dvc", "metrics", "diff", "--json", "HEAD"))
    assert diff[METRICS]["MRR@10"]["old"] == 1.0
    assert diff[METRICS]["MRR@10"]["diff"] < 0
    run(asked, "dvc", "plots", "diff", "HEAD", "-o", "plots")
    assert "birds" in (asked / "plots/index.html").read_text("utf-8")
    before = files(asked / "data/evaluation")
    ingest(asked)  # no news: not asked again
    assert files(asked / "data/evaluation") == before


def test_other_questions_are_asked_by_the_next_ingest_or_reproduction(asked: Path) -> None:
    (asked / "questions.yaml").write_text(QUESTIONS.replace("expect: notes.txt", "expect: data.csv"))
    assert "evaluate" in dirty(asked)
    said = ingest(asked)
    assert (said.noop, said.dvc["recorded"], said.dvc["error"]) == (True, True, None)
    assert dirty(asked) == {}
    measured = metrics(asked)
    assert measured["MRR@10"] < 1
    run(asked, "git", "checkout", "-q", ".")
    (asked / "questions.yaml").write_text(QUESTIONS.replace("expect: notes.txt", "expect: data.csv"))
    assert reproduce(asked) == ["evaluate"]
    assert metrics(asked) == measured
    assert dirty(asked) == {}


def test_a_clone_has_the_same_measures(asked: Path) -> None:
    dvc(asked, "push")
    copied = clone(asked)
    dvc(copied, "pull")
    assert reproduce(copied) == ["load"]
    assert reproduce(copied, targets=["evaluate"], force=True, single_item=True) == ["evaluate"]
    assert run(copied, "git", "status", "--porcelain") == ""
    assert dirty(copied) == {}


def test_a_workspace_without_the_stage_goes_on(asked: Path) -> None:
    text = (asked / "dvc.yaml").read_text()
    (asked / "dvc.yaml").write_text(text.partition("  evaluate:")[0])
    for name in (METRICS, PLOT):
        (asked / name).unlink()
    write_corpus(asked.parent / "corpus", {"new.md": "# New\n\nFoxes dig in the snow.\n"})
    assert ingest(asked).dvc["error"] is None
    assert dirty(asked) == {}
    assert not (asked / METRICS).exists()


def test_questions_that_cannot_be_read_leave_the_rest_recorded(asked: Path) -> None:
    (asked / "questions.yaml").write_text("questions: []\n")
    write_corpus(asked.parent / "corpus", {"new.md": "# New\n\nFoxes dig in the snow.\n"})
    said = ingest(asked)
    assert (said.noop, said.dvc["recorded"]) == (False, False)
    assert "holds no question" in said.dvc["error"]
    assert set(dirty(asked)) == {"evaluate"}
    (asked / "questions.yaml").write_text(QUESTIONS)
    assert ingest(asked).dvc["recorded"]
    assert dirty(asked) == {}


def test_a_reproduction_asks_the_gate(asked: Path) -> None:
    edited(asked, {"gate: null": "gate: {min: 0.9}"})
    ingest(asked)
    corpus = asked.parent / "corpus"
    write_corpus(corpus, {"notes.txt": "Nothing.\n", "guide/install.md": "# None\n\nOf it.\n"})
    said = ingest(asked)
    assert (said.gate["verdict"], said.gate["published"], said.dvc["error"]) == ("fail", False, None)
    assert dirty(asked) == {}  # the dataset is recorded; that it is not live is the store's affair
    assert metrics(asked)["nDCG@10"] < 0.9
    commit(asked, "refused")
    dvc(asked, "push")
    copied = clone(asked)
    dvc(copied, "pull")
    for _ in range(2):
        assert "the gate holds release 1 back" in run(copied, "ragops", "stage", "load", code=3)
        assert "load" in dirty(copied)
    with Workspace.open(copied) as workspace:
        assert workspace.store.live() is None
        workspace.publish(1, override_gate="a clone must answer")
    assert reproduce(copied) == ["load"]
    assert dirty(copied) == {}
