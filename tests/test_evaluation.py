"""Query sets, measures, comparisons: what is read, what is counted, what is refused."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragops.cli import main
from ragops.errors import MissingExtra, UsageError
from ragops.evaluation import documents, measures, queries, results, run, statistics, synthetic
from ragops.evaluation.compare import compare
from ragops.evaluation.documents import Move
from ragops.evaluation.results import Answer, Evaluation
from ragops.workspace import Workspace
from tests.conftest import write_corpus

QUESTIONS = {"1": "penguins swim and cannot fly", "2": "go back to an older release", "3": "people in Oslo"}


def jsonl(folder: Path, questions: dict[str, str] = QUESTIONS, name: str = "queries.jsonl") -> Path:
    file = folder / name
    rows = [{"_id": key, "text": text, "metadata": {"kind": "odd" if int(key) % 2 else "even"}}
            for key, text in questions.items()]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def qrels(folder: Path, text: str, name: str = "qrels.tsv") -> Path:
    file = folder / name
    file.write_bytes(text.encode())
    return file


BEIR = "query-id\tcorpus-id\tscore\n1\tnotes.txt\t1\n2\tcorpus:/guide/rollback.md\t2\n2\tnotes.txt\t0\n3\tdata.csv\t1\n"
TREC = "1 0 notes.txt 1\n2 0 corpus:/guide/rollback.md 2\n2 0 notes.txt 0\n3 0 data.csv 1\n"


# ---------------------------------------------------------------- reading
@pytest.mark.parametrize("text", [BEIR, TREC, "\ufeff" + BEIR, BEIR.replace("\n", "\r\n"), BEIR + "\n\n",
                                  TREC.replace(" ", "\t"), BEIR.partition("\n")[2],
                                  "score\tquery-id\tcorpus-id\n1\t1\tnotes.txt\n2\t2\tcorpus:/guide/rollback.md\n"
                                  "0\t2\tnotes.txt\n1\t3\tdata.csv\n"])  # fmt: skip
def test_forms_of_judgements(tmp_path: Path, text: str) -> None:
    found = queries.read(jsonl(tmp_path), qrels(tmp_path, text))
    assert found.warnings == ()
    assert [question.id for question in found.questions] == ["1", "2", "3"]
    assert [(each.document, each.relevance) for each in found.questions[1].expected] == [
        ("corpus:/guide/rollback.md", 2), ("notes.txt", 0),
    ]  # fmt: skip
    assert found.questions[0].meta == {"kind": "odd"}


def test_forms_of_questions(tmp_path: Path) -> None:
    expected = queries.read_queries(jsonl(tmp_path))
    tsv = tmp_path / "topics.tsv"
    tsv.write_bytes(b"\xef\xbb\xbfqid\tquery\r\n" + "".join(f"{k}\t{v}\r\n" for k, v in QUESTIONS.items()).encode())
    assert {key: each.text for key, each in queries.read_queries(tsv).items()} == QUESTIONS
    assert {key: each.text for key, each in expected.items()} == QUESTIONS


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no judgement"),
        ("query-id\tcorpus-id\tscore\n", "holds no judgement"),
        ("query-id\tcorpus-id\n1\ta\n", "qrels.tsv:1: the header has no column 'score'"),
        ("a b\n", "qrels.tsv:1: 2 columns"),
        (BEIR + "1\tx\n", "qrels.tsv:6: 2 columns, where 3 are needed"),
        (BEIR + "1\tx\thigh\n", "qrels.tsv:6: the field 'score' is 'high'; it takes a whole number"),
        (BEIR + "1\tx\t0.5\n", "qrels.tsv:6: the field 'score' is '0.5'"),
        (BEIR + "1\tx\tnan\n", "qrels.tsv:6: the field 'score' is 'nan'"),
        (BEIR + "1\tx\t99999999\n", "qrels.tsv:6: the field 'score' is 99999999"),
        (BEIR + "1\t\t1\n", "qrels.tsv:6: the field 'corpus-id' is empty"),
        (BEIR + "1\tnotes.txt\t2\n", "qrels.tsv:6: 'notes.txt' is judged 2 for question '1', and 1 in line 2"),
        (BEIR + "1\t\0x\t2\n", "qrels.tsv:6: a zero byte"),
        (BEIR.replace("1\t", "9\t").replace("2\t", "8\t").replace("3\t", "7\t"), "has a judgement in"),
    ],
)
def test_malformed_judgements(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        queries.read(jsonl(tmp_path), qrels(tmp_path, text))
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("q.jsonl", b"", "holds no question"),
        ("q.jsonl", b"{\n", "q.jsonl:1: not JSON"),
        ("q.jsonl", b"[1]\n", "q.jsonl:1: not a JSON object"),
        ("q.jsonl", b'{"text": "a"}\n', "q.jsonl:1: the field '_id' is missing"),
        ("q.jsonl", b'{"_id": "1"}\n', "q.jsonl:1: the field 'text' is missing"),
        ("q.jsonl", b'{"_id": "1", "text": 3}\n', "the field 'text' is int, not text"),
        ("q.jsonl", b'{"_id": "1", "text": " "}\n', "the question '1' is empty"),
        ("q.jsonl", b'{"_id": null, "text": "a"}\n', "the field '_id' is missing"),
        ("q.jsonl", b'{"_id": "1", "text": "a"}\n{"_id": 1, "text": "b"}\n', "q.jsonl:2: the id '1' stands in line 1"),
        ("q.jsonl", b'{"_id": "1", "text": "a"}\n\xff\n', "q.jsonl:2: not UTF-8"),
        ("q.jsonl", b"[" * 100_000, "q.jsonl:1: not"),
        ("q.jsonl", b'{"_id": "1", "text": "a\\ud800"}\n', "q.jsonl:1: the field 'text' is not valid Unicode"),
        ("q.tsv", b"1\ta\n2\n", "q.tsv:2: one column"),
        ("q.yaml", b"questions: []\n", "holds no question"),
        ("q.yaml", b"- a\n", "the key 'questions' is missing"),
        ("q.yaml", b"questions:\n  - text: a\n", "q.yaml:2: the key 'expect' takes documents"),
        ("q.yaml", b"questions:\n  - text: a\n    expects: [b]\n", "unknown key 'expects' (did you mean 'expect'?)"),
        ("q.yaml", b"questions:\n  - {text: a, expect: [{document: b, quote: ''}]}\n", "q.yaml:2: the field 'quote'"),
        ("q.yaml", b"questions:\n  - {text: a, expect: [{quote: b}]}\n", "the field 'document' is None"),
        ("q.yaml", b"questions:\n  - {text: a, expect: b}\n  - {text: a, expect: c}\n", "q.yaml:3: the question"),
        ("q.yaml", b"questions: [\n", "not valid YAML"),
        ("q.yaml", b"synthetic: maybe\nquestions: [{text: a, expect: b}]\n", "'synthetic' is true or false"),
    ],
)  # fmt: skip
def test_malformed_questions(tmp_path: Path, name: str, text: bytes, says: str) -> None:
    file = tmp_path / name
    file.write_bytes(text)
    with pytest.raises(UsageError) as error:
        queries.read(file, None if name.endswith(".yaml") else qrels(tmp_path, BEIR))
    assert says in str(error.value)


def test_no_file(tmp_path: Path) -> None:
    for file, says in ((tmp_path, "is a folder"), (tmp_path / "none.yaml", "no such file")):
        with pytest.raises(UsageError, match=says):
            queries.read(file)
    with pytest.raises(UsageError, match="no such file"):
        queries.read(jsonl(tmp_path), tmp_path / "none.tsv")


def test_what_is_counted_and_told(tmp_path: Path) -> None:
    text = BEIR.replace("3\tdata.csv\t1\n", "") + "1\tnotes.txt\t1\n77\tx\t1\n77\ty\t1\n"
    found = queries.read(jsonl(tmp_path), qrels(tmp_path, text))
    assert [question.id for question in found.questions] == ["1", "2"]
    twice, unasked, idle = found.warnings
    assert "1 judgement said twice (line 5): counted once" in twice
    assert "2 judgements are of 1 question" in unasked
    assert "77" in unasked
    assert "1 question without judgements (3): left out" in idle


@given(st.text(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    for name in ("a.jsonl", "a.tsv", "a.yaml"):
        (folder / name).write_bytes(text.encode("utf-8", "replace"))
        try:
            queries.read(folder / name, None if name.endswith("yaml") else folder / "a.tsv")
        except UsageError as error:
            assert str(folder / name)[:-5] in error.message or "stands twice" in error.message  # noqa: PT017


# ---------------------------------------------------------------- which document is meant
URIS = ["docs:/guide/a.md", "docs:/b.md", "rows:/17", "many:/x.jsonl#17a", "rows:/50%25"]


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("docs:/b.md", "docs:/b.md"),
        ("guide/a.md", "docs:/guide/a.md"),
        ("./b.md", "docs:/b.md"),
        ("17", "rows:/17"),
        ("17a", "many:/x.jsonl#17a"),
        ("50%", "rows:/50%25"),
        ("a.md", None),
        ("", None),
    ],
)
def test_names_of_documents(name: str, uri: str | None) -> None:
    assert documents.find([name], URIS).uris.get(name) == uri


def test_a_name_of_several_documents_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'a\.md' names 2 documents: x:/a\.md, y:/a\.md"):
        documents.find(["a.md"], ["x:/a.md", "y:/a.md", "x:/a.md"])
    assert documents.find(["x:/a.md"], ["x:/a.md", "y:/a.md"]).uris == {"x:/a.md": "x:/a.md"}


def test_names_from_before_a_move() -> None:
    moves = [Move(1, "d:/a", "d:/b"), Move(2, "d:/b", "d:/c"), Move(3, "d:/x", "d:/b")]
    for name in ("a", "d:/a"):
        found = documents.find([name], ["d:/c", "d:/b"], moves)
        assert found.uris == found.moved == {name: "d:/c"}  # along the chain; another is called b now
    assert documents.find(["c"], ["d:/a"], moves).uris == {"c": "d:/a"}  # an older release
    assert documents.find(["b"], ["d:/b", "d:/c"], moves).moved == {}  # what has the name now is meant
    assert documents.find(["c"], ["d:/z"], moves).uris == {}


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("fghij")), max_size=12))
def test_a_chain_of_moves_ends_where_the_document_is(steps: list[tuple[str, str]]) -> None:
    """One document wanders; any name that it alone ever had leads to it."""
    at, moves, had = "d:/start", [], {"start"}
    for number, pair in enumerate(steps, 1):
        to = f"d:/{''.join(pair)}{number}"
        moves.append(Move(number, at, to))
        at = to
        had.add(to.partition("/")[2])
    for name in had:
        assert documents.find([name], [at], moves).uris == {name: at}


# ---------------------------------------------------------------- the measures
def test_a_hand_computed_example() -> None:
    judged = {"q": {"a": 2, "b": 1, "c": 1, "n": 0}, "none": {"a": 1}, "worse": {"n": 0, "m": -1}}
    found = measures.per_question(measures.names(), judged, {"q": ["b", "x", "a"], "none": [], "worse": ["m"]})
    ideal = 2 + 1 / math.log2(3) + 1 / math.log2(4)
    assert found["q"] == pytest.approx({
        "nDCG@10": (1 + 2 / math.log2(4)) / ideal, "Recall@10": 2 / 3, "Recall@100": 2 / 3, "MRR@10": 1.0,
        "MAP": (1 / 1 + 2 / 3) / 3, "unjudged@10": 1 / 3,
    })  # fmt: skip
    assert set(found["none"].values()) == {0.0}
    assert set(found["worse"].values()) == {0.0}


def test_any_names_can_be_measured() -> None:
    """ids with a zero byte, blanks, or nothing but digits."""
    found = measures.per_question(
        ["MRR@10"], {"a\0b": {"x\0y": 1, "x\0z": 0}, " ": {"7": 1}}, {"a\0b": ["x\0z", "x\0y"]}
    )
    assert found == {"a\0b": {"MRR@10": 0.5}, " ": {"MRR@10": 0.0}}


RUNS = st.dictionaries(st.sampled_from("qrs"), st.lists(st.sampled_from("abcdefghij"), unique=True), min_size=1)
QRELS = st.dictionaries(
    st.sampled_from("qrs"), st.dictionaries(st.sampled_from("abcdefghij"), st.integers(0, 3), min_size=1), min_size=1
)


@given(RUNS, QRELS)
@settings(max_examples=60, deadline=None)
def test_measures_are_those_of_ir_measures(found: dict[str, list[str]], judged: dict[str, dict[str, int]]) -> None:
    import ir_measures
    from ir_measures import AP, RR, R, nDCG

    ours = measures.per_question(measures.names((3, 10)), judged, found)
    theirs: dict[str, dict[str, float]] = {}
    scored = [ir_measures.ScoredDoc(q, d, -rank) for q, ranked in found.items() for rank, d in enumerate(ranked)]
    listed = [ir_measures.Qrel(q, d, relevance) for q, each in judged.items() for d, relevance in each.items()]
    names = {nDCG @ 3: "nDCG@3", nDCG @ 10: "nDCG@10", R @ 10: "Recall@10", RR @ 10: "MRR@10", AP: "MAP"}
    for each in ir_measures.iter_calc(list(names), listed, scored):
        theirs.setdefault(each.query_id, {})[names[each.measure]] = each.value
    assert set(ours) == set(judged)
    for query, values in theirs.items():
        assert {name: ours[query][name] for name in values} == pytest.approx(values)
    for query, ranked in found.items():
        if query in judged and ranked:
            known = sum(document in judged[query] for document in ranked[:3])
            assert ours[query]["unjudged@3"] == pytest.approx(1 - known / len(ranked[:3]))


# ---------------------------------------------------------------- statistics
def test_a_randomisation_by_hand() -> None:
    assert statistics.randomisation([1.0, 1.0, 1.0]) == statistics.Significance(0.25, 1.0, True)
    assert statistics.randomisation([-1.0, -1.0, 0.0, -1.0]) == statistics.Significance(0.25, 0.125, True)
    assert statistics.randomisation([0.0, 0.0]) == statistics.Significance(1.0, 1.0, True)
    assert statistics.randomisation([]).p == 1.0
    half = statistics.randomisation([0.5, -0.5])
    assert half.p == 1.0  # every flip gives 0 or more
    assert half.p_worse == 0.75


@given(st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=1, max_size=12), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_randomisation_is_exact_or_near_it(values: list[float], seed: int) -> None:
    exact = statistics.randomisation(values)
    total = sum(values)
    flips = [[]]
    for value in (each for each in values if each):
        flips = [[*flip, sign * value] for flip in flips for sign in (1, -1)]
    sums = [sum(flip) for flip in flips]
    assert exact.exact
    assert exact.p == pytest.approx(sum(abs(each) >= abs(total) - 1e-9 for each in sums) / len(sums))
    assert exact.p_worse == pytest.approx(sum(each <= total + 1e-9 for each in sums) / len(sums))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "EXACT", 0)
        guessed = statistics.randomisation(values, seed=seed, rounds=4000)
    if any(values):
        assert not guessed.exact
        assert guessed.p == pytest.approx(exact.p, abs=0.05)
        assert guessed.p_worse == pytest.approx(exact.p_worse, abs=0.05)


def test_p_values_are_not_anticonservative() -> None:
    """Without a difference, p is at most x in x of all cases."""
    random.seed(7)
    for size in (8, 30):
        found = []
        for _ in range(300):
            values = [random.choice((0.0, 0.0, random.gauss(0, 0.3))) for _ in range(size)]
            found.append(statistics.randomisation(values, rounds=500))
        for level in (0.05, 0.1, 0.3):
            slack = 3 * math.sqrt(level * (1 - level) / len(found))
            assert sum(each.p <= level for each in found) / len(found) <= level + slack
            assert sum(each.p_worse <= level for each in found) / len(found) <= level + slack


def test_the_interval_is_that_of_scipy() -> None:
    import numpy as np
    from scipy.stats import bootstrap

    values = np.random.default_rng(5).exponential(0.2, 60) - 0.1  # skewed: BCa differs from plain percentiles
    low, high = statistics.interval(list(values))
    theirs = bootstrap((values,), np.mean, method="BCa", n_resamples=20_000, rng=1).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.003)
    assert statistics.interval([0.2, 0.2, 0.2]) == (pytest.approx(0.2), pytest.approx(0.2))
    assert statistics.interval([0.3]) == (0.3, 0.3)


def test_an_interval_covers_the_mean_as_often_as_it_says() -> None:
    random.seed(11)
    covered = 0
    for seed in range(200):
        low, high = statistics.interval([random.gauss(0.1, 0.3) for _ in range(40)], seed=seed, rounds=500)
        covered += low <= 0.1 <= high
    assert covered >= 180  # 95% less three standard errors


def test_the_smallest_detectable_loss() -> None:
    assert statistics.detectable([0.1, 0.1]) is None
    assert statistics.detectable([0.1]) is None
    values = [0.1, -0.1] * 50
    deviation = math.sqrt(100 * 0.01 / 99)
    assert statistics.detectable(values) == pytest.approx((1.6449 + 0.8416) * deviation / 10, rel=1e-3)


@given(st.lists(st.floats(-1, 1), max_size=40))
@settings(max_examples=60, deadline=None)
def test_statistics_stay_within_bounds(values: list[float]) -> None:
    found = statistics.randomisation(values, rounds=200)
    assert 0 < found.p <= 1
    assert 0 < found.p_worse <= 1
    if values:
        low, high = statistics.interval(values, rounds=200)
        assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


# ---------------------------------------------------------------- comparing
def evaluation(values: list[float], release: int = 1, **more: Any) -> Evaluation:
    answers = [
        Answer(
            str(n), f"question {n}", f"digest{n}", {"nDCG@10": value}, slices={"source": ["odd" if n % 2 else "even"]}
        )
        for n, value in enumerate(values)
    ]  # fmt: skip
    fixed: dict[str, Any] = {
        "metrics": {"nDCG@10": measures.mean(values)}, "queries": len(values), "release": release, "fingerprint": "f",
        "mode": "hybrid", "model": "m", "space": "s", "rerank": None, "exact": False, "questions": "q", "files": (),
        "synthetic": False, "latency": {}, "slices": {}, "warnings": (), "answers": answers, "created": "2026",
    }  # fmt: skip
    return Evaluation(**(fixed | more))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_equal_runs_pass_with_no_difference(values: list[float]) -> None:
    found = compare(evaluation(values), evaluation(values, 2), margin=0)
    assert (found.verdict, found.difference, found.p, found.interval) == ("pass", 0.0, 1.0, (0.0, 0.0))
    assert (found.better, found.worse, found.same) == (0, 0, len(values))
    assert found.changed == ()


def test_verdicts() -> None:
    good = [0.8] * 30
    found = compare(evaluation(good), evaluation([0.5] * 8 + [0.8] * 22, 2))
    assert found.verdict == "fail"
    assert found.difference == pytest.approx(-0.08)
    assert found.p_worse == 1 / 256
    assert "lost 0.0800, more than the margin of 0.01" in found.reason
    assert [each.id for each in found.changed] == [str(n) for n in range(8)]
    assert found.slices["source"]["odd"]["queries"] == 15
    assert compare(evaluation([0.5] * 8 + [0.8] * 22), evaluation(good)).verdict == "pass"
    assert compare(evaluation(good), evaluation([0.5] * 2 + [0.8] * 28)).verdict == "inconclusive"
    assert compare(evaluation(good), evaluation([0.5] * 8 + [0.8] * 22), margin=0.2).verdict == "pass"
    few = compare(evaluation([1.0] * 4), evaluation([0.0] * 4))
    assert (few.verdict, few.difference) == ("inconclusive", -1.0)
    assert compare(evaluation([1.0] * 5), evaluation([0.0] * 5)).verdict == "fail"


def test_what_cannot_be_compared() -> None:
    a = evaluation([0.5] * 6)
    with pytest.raises(UsageError, match="no measure 'unjudged@10' to compare"):
        compare(a, a, metric="unjudged@10")
    with pytest.raises(UsageError, match="has no MAP"):
        compare(a, a, metric="MAP")
    with pytest.raises(UsageError, match="margin is 2"):
        compare(a, a, margin=2)
    with pytest.raises(UsageError, match="margin is nan"):
        compare(a, a, margin=math.nan)
    strange = evaluation([0.5], answers=[Answer("0", "", "another", {"nDCG@10": 0.5})])
    with pytest.raises(UsageError, match="no question in common"):
        compare(a, strange)
    more = compare(a, evaluation([0.5] * 8, mode="dense", synthetic=True))
    assert more.queries == 6
    assert [warning.partition(" ")[0] for warning in more.warnings] == ["the", "2", "mode"]


def test_an_evaluation_is_kept_by_its_content(tmp_path: Path) -> None:
    one, same = evaluation([0.5, 0.25]), evaluation([0.5, 0.25], latency={"p50": 3.0}, created="2027")
    other = evaluation([0.5, 0.5], release=2)
    assert one.id == same.id != other.id
    file = results.save(tmp_path, one)
    assert results.save(tmp_path, same) == file
    results.save(tmp_path, other)
    read = results.load(file)
    assert (read.id, read.as_dict() | {"files": (), "warnings": ()}) == (one.id, same.as_dict())
    assert [answer.metrics for answer in read.answers] == [answer.metrics for answer in one.answers]
    for a, b in ((one.id, other.id), (one.id[:6], "2"), ("1", "2"), (str(file), other.id)):
        left, right = results.pair(tmp_path, a, b)
        assert (left.id, right.id) == (one.id, other.id)
    for a, says in (("zz", "no evaluations with the id 'zz'"), ("7", "release 7 has no evaluation"),
                    ("", "with the id ''"), ("x/y.json", "cannot be read")):  # fmt: skip
        with pytest.raises(UsageError, match=says):
            results.pair(tmp_path, a, "2")
    for text, says in (("{", "is not JSON"), ("{}", "is no evaluation"),
                       (json.dumps({"kind": results.KIND, "schema": 1}), "is damaged"),
                       (json.dumps({"kind": results.KIND, "schema": 9}), "newer ragops")):  # fmt: skip
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UsageError, match=says):
            results.load(tmp_path / "bad.json")
    assert len(results.kept(tmp_path)) == 2


# ---------------------------------------------------------------- on a release
def test_an_evaluation_of_the_live_release(
    ingested: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(jsonl(tmp_path)), "--qrels", str(qrels(tmp_path, BEIR + "3\tgone.md\t1\n"))]
    said = {}
    for mode in ("dense", "bm25", "hybrid"):
        arguments = ["--mode", mode, "--slice", "query.kind", "--slice", "source", "--json", "-w", str(ingested.root)]
        assert main(["eval", "run", "--queries", *files, *arguments]) == 0
        said[mode] = json.loads(capsys.readouterr().out)
    found = said["bm25"]
    assert found["metrics"]["MRR@10"] == 1.0
    assert found["metrics"]["Recall@10"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert found["queries"] == 3
    assert (found["release"], found["mode"], found["synthetic"]) == (1, "bm25", False)
    assert set(found["latency"]) == {"p50", "p99"}
    assert found["warnings"] == [
        "1 of 5 judgements name 1 document that release 1 does not have (gone.md): counted as not found"
    ]
    assert {value: each["queries"] for value, each in found["slices"]["query.kind"].items()} == {"even": 1, "odd": 2}
    assert found["slices"]["source"]["corpus"]["queries"] == 3
    assert found["fingerprint"] == ingested.release()["fingerprint"]
    kept = results.load(Path(found["file"]))
    assert kept.id == found["id"]
    assert [answer.metrics["MRR@10"] for answer in kept.answers] == [1.0, 1.0, 1.0]
    assert kept.answers[0].found[0] == "corpus:/notes.txt"
    assert main(["eval", "compare", said["dense"]["id"], found["id"], "--json", "-w", str(ingested.root)]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] in ("pass", "inconclusive")
    again = ingested.evaluate(files[0], files[2], mode="bm25", slices=("query.kind", "source"))
    assert again.id == found["id"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--slice", "lang"], "there is no field 'lang'"),
        (["-k", "0"], "-k is 0; it takes 1 to 1000"),
        (["--release", "9"], "there is no release 9"),
        (["--rerank", "./nothing-of-the-sort"], "nothing-of-the-sort"),
    ],
)
def test_wrong_calls(
    ingested: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    files = ["--queries", str(jsonl(tmp_path)), "--qrels", str(qrels(tmp_path, BEIR))]
    assert main(["eval", "run", *files, *arguments, "-w", str(ingested.root)]) == 2
    assert says in capsys.readouterr().err


def test_judgements_of_another_corpus(ingested: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none of the 1 documents that are expected is in release 1: 4983"):
        ingested.evaluate(jsonl(tmp_path), qrels(tmp_path, "query-id\tcorpus-id\tscore\n1\t4983\t1\n"))
    with pytest.raises(UsageError, match="no query set"):
        ingested.evaluate()
    with pytest.raises(UsageError, match="what they should find is missing"):
        ingested.evaluate(jsonl(tmp_path))


def test_without_ir_measures(ingested: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(MissingExtra, match=r"pip install 'ragops\[eval\]'"):
        ingested.evaluate(jsonl(tmp_path), qrels(tmp_path, BEIR))


def test_rows_by_their_own_ids(workspace: Workspace, tmp_path: Path) -> None:
    rows = [("a 1", "Penguins swim well."), ("b/2%", "The harbour opens at nine."), ("3", "Invoices are kept.")]
    text = "".join(json.dumps({"_id": key, "text": value, "words": len(value.split())}) + "\n" for key, value in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    workspace.ingest(tmp_path / "rows.jsonl")
    judged = "query-id\tcorpus-id\tscore\n" + "".join(f"{n}\t{key}\t1\n" for n, (key, _) in enumerate(rows))
    found = workspace.evaluate(
        jsonl(tmp_path, {str(n): value for n, (_, value) in enumerate(rows)}), qrels(tmp_path, judged), mode="bm25",
        slices=["meta.words", "meta.nothing"],
    )  # fmt: skip
    assert found.metrics["MRR@10"] == 1.0
    assert found.warnings == ()
    assert {value: each["queries"] for value, each in found.slices["meta.words"].items()} == {"3": 2, "5": 1}
    assert set(found.slices["meta.nothing"]) == {run.NO_VALUE}


def test_judgements_survive_moves(ingested: Workspace, tmp_path: Path) -> None:
    """Of a file, of a folder, of one that is edited on the way; in old releases under their old names."""
    files = jsonl(tmp_path), qrels(tmp_path, BEIR)
    before = ingested.evaluate(*files, mode="bm25")
    corpus = tmp_path / "corpus"
    long = "".join(f"# Part {n}\n\n" + f"The harbour number {n} opens at {n}. " * 30 + "\n\n" for n in range(8))
    write_corpus(corpus, {"long.md": long})
    ingested.ingest()
    (corpus / "archive").mkdir()
    (corpus / "notes.txt").rename(corpus / "archive/penguins.txt")
    (corpus / "guide").rename(corpus / "manual")
    (corpus / "long.md").unlink()
    write_corpus(corpus, {"archive/edited.md": long + "One more line.\n"})
    ingested.ingest()
    (corpus / "archive/penguins.txt").rename(corpus / "archive/birds.txt")
    summary = ingested.ingest()
    assert summary.release == 4
    with ingested.state() as state:
        assert {old: new for _, old, new in state.moves()} == {
            "corpus:/notes.txt": "corpus:/archive/penguins.txt",
            "corpus:/guide/install.md": "corpus:/manual/install.md",
            "corpus:/guide/rollback.md": "corpus:/manual/rollback.md",
            "corpus:/long.md": "corpus:/archive/edited.md",
            "corpus:/archive/penguins.txt": "corpus:/archive/birds.txt",
        }
    after = ingested.evaluate(*files, mode="bm25")
    assert after.metrics == before.metrics
    assert "2 of the judged documents moved since" in after.warnings[0]
    assert "notes.txt -> corpus:/archive/birds.txt" in after.warnings[0]
    new = qrels(tmp_path, BEIR.replace("notes.txt", "archive/birds.txt"), "new.tsv")
    assert ingested.evaluate(files[0], new, mode="bm25").metrics == before.metrics
    assert ingested.evaluate(files[0], new, mode="bm25", release=1).metrics == before.metrics


def test_near_copies_move_side_by_side(workspace: Workspace, tmp_path: Path) -> None:
    """A folder with a near copy of each page in three versions is renamed, and its pages are edited on the way."""
    corpus = tmp_path / "corpus"

    def page(version: str, name: int, line: str = "") -> str:
        parts = (f"## Part {n}\n\n" + f"Page {name} tells of part {n} at length. " * 12 for n in range(6))
        return f"# Page {name}\n\n" + "\n\n".join(parts) + f"\n\n## Version\n\nOf {version}. {line}\n"

    write_corpus(corpus, {f"old/{v}/{n}.md": page(v, n) for v in "abc" for n in range(3)})
    workspace.ingest(corpus)
    for file in sorted(corpus.rglob("*.md")):
        file.unlink()
    write_corpus(corpus, {f"new/{v}/{n}.md": page(v, n, "Edited.") for v in "abc" for n in range(3)})
    workspace.ingest(allow_deletes=True)
    with workspace.state() as state:
        moves = {old: new for _, old, new in state.moves()}
    assert moves == {f"corpus:/old/{v}/{n}.md": f"corpus:/new/{v}/{n}.md" for v in "abc" for n in range(3)}


def test_a_deleted_document_and_a_new_one_are_no_move(ingested: Workspace, tmp_path: Path) -> None:
    (tmp_path / "corpus/notes.txt").unlink()
    write_corpus(tmp_path / "corpus", {"other.txt": "Foxes dig in the snow.\n"})
    ingested.ingest()
    with ingested.state() as state:
        assert state.moves() == []


# ---------------------------------------------------------------- passages
def test_questions_for_passages(workspace: Workspace, tmp_path: Path) -> None:
    parts = [f"## Part {n}\n\n" + f"The {word} of chapter {n} is described here at length. " * 12
             for n, word in enumerate(("penguin", "harbour", "invoice", "garden"))]  # fmt: skip
    write_corpus(
        tmp_path / "corpus", {"book.md": "# Book\n\n" + "\n\n".join(parts), "other.md": "# Other\n\nNothing.\n"}
    )
    workspace.ingest(tmp_path / "corpus")
    file = tmp_path / "q.yaml"
    file.write_text("""
questions:
  - id: whole
    text: the harbour of chapter
    expect: book.md
    meta: {lang: en}
  - id: passage
    text: the harbour of chapter 1
    expect:
      - document: book.md
        quote: |
          The harbour of chapter 1
          is described here
  - id: elsewhere
    text: the invoice of chapter 2
    expect: [{document: corpus:/book.md, quote: The penguin of chapter 0 is described}]
  - id: lost
    text: the garden
    expect: [{document: book.md, quote: no such words}]
""")
    found = workspace.evaluate(file, mode="bm25", slices=["query.lang"])
    by_id = {answer.id: answer.metrics["MRR@10"] for answer in found.answers}
    assert (by_id["whole"], by_id["passage"], by_id["lost"]) == (1.0, 1.0, 0.0)
    assert 0 < by_id["elsewhere"] < 1
    assert found.warnings == (
        "1 quote is not in the document ('no such words' in corpus:/book.md): counted as not found",
    )
    assert set(found.slices["query.lang"]) == {"en", run.NO_VALUE}


@pytest.mark.parametrize(
    ("passage", "quote", "held"),
    [
        ("a b c d", "b c", True),
        ("b c", "b c", True),
        ("x y one two", "one two three", True),
        ("two three x", "one two three", True),
        ("x one", "one two three four", False),
        ("two three", "one two three four", True),
        ("two", "one two three four", False),
        ("nothing", "one", False),
        ("", "one", False),
    ],
)
def test_a_passage_holds_a_quote(passage: str, quote: str, held: bool) -> None:
    assert run.holds(passage, quote) is held


@given(st.text("abc ", max_size=12), st.text("abc", min_size=1, max_size=6), st.text("abc ", max_size=12))
def test_a_passage_around_a_quote_holds_it(before: str, quote: str, after: str) -> None:
    assert run.holds(before + quote + after, quote)


# ---------------------------------------------------------------- synthetic questions
def test_a_first_query_set(ingested: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sets/first.yaml"
    arguments = ["eval", "bootstrap", "-o", str(file), "--size", "6", "-w", str(ingested.root)]
    assert main([*arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["synthetic"]
    text = file.read_text("utf-8")
    assert "SYNTHETIC" in text.splitlines()[0]
    found = queries.read(file)
    assert found.synthetic
    assert len(found.questions) == said["queries"] > 2
    assert {question.meta["kind"] for question in found.questions} == {"heading", "sentence"}
    assert len({question.text.lower() for question in found.questions}) == len(found.questions)
    done = ingested.evaluate(file, mode="bm25")
    assert done.synthetic
    assert done.warnings == (results.SYNTHETIC,)
    assert done.metrics["Recall@10"] == 1.0
    assert compare(done, done).warnings == (results.SYNTHETIC,)
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*arguments, "--replace"]) == 0
    assert file.read_text("utf-8") == text
    other = synthetic.text(synthetic.make(ingested.reader(), 3, seed=1))
    assert other != synthetic.text(synthetic.make(ingested.reader(), 3))


def test_what_several_documents_say_is_not_asked(workspace: Workspace, tmp_path: Path) -> None:
    same = "# Same\n\nEvery page of this corpus begins with these words.\n\n"
    pages = {f"p{n}.md": same + f"## Own {n}\n\nNumber {n}.\n" for n in range(3)}
    pages["other.md"] = "# Another\n\nThis page says what no other page says.\n"
    write_corpus(tmp_path / "corpus", pages)
    workspace.ingest(tmp_path / "corpus")
    made = synthetic.make(workspace.reader(), 20)
    assert [(each.kind, each.text) for each in made] == [
        ("heading", "Another"), ("sentence", "This page says what no other page says."),
    ]  # fmt: skip
