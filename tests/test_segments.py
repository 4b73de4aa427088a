"""Segments: whatever happened to a corpus, the rows are those of a clean build, and the files stay few."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ragops.workspace import Workspace
from ragops_pipelines import segments
from ragops_pipelines.segments import FEW, FULL, LIGHT, MANY, ROWS, TIMES, Segment, batches, worn
from tests.conftest import use_model, write_corpus
from tests.crash.layout import remembered, strays, whole
from tests.crash.scenarios import KEEP
from tests.versioned import holds


def segment(name: str, rows: int, size: int, dead: int = 0) -> Segment:
    return Segment(name, rows, size, (1 << dead) - 1)


# ------------------------------------------------------------------ the policy alone
@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 1 << 20), st.floats(0, 1)), max_size=60), st.randoms())
def test_files_stay_few_and_are_rarely_written_again(runs: list[tuple[int, int, float]], random: object) -> None:
    """Runs that add rows of some size and kill a share of the others."""
    there: list[Segment] = []
    added = written = 0
    for number, (rows, size, killed) in enumerate(runs):
        for each in there:  # some rows die
            for row in range(0, each.rows, max(1, round(1 / max(killed, 0.001)))):
                each.dead |= 1 << row
        old = worn(there, size)
        there = [each for each in there if each not in old]
        parts = [(each.live, each.size * each.live // each.rows) for each in old if each.live]
        merged = pack(parts)
        fresh = pack([(rows, size)])
        there += [Segment(f"{number}-{n}", *part) for n, part in enumerate(merged + fresh)]
        added += size
        written += sum(part for _, part in merged)
        total = sum(each.size for each in there)
        live_rows = sum(each.rows for each in there)
        # The small ones, and what was merged or written now; the others are at least half full.
        assert len(there) <= MANY - 1 + len(merged) + len(fresh) + 4 * total / FULL + 4 * live_rows / ROWS
        assert all(2 * each.live > each.rows for each in there)
    # Either little is merged, or many at once: each byte in every (MANY / 2)th run at most. Half dead: once more.
    assert written <= (TIMES + 2) * added + len(runs) * TIMES * LIGHT + FULL * len(runs) / (MANY // 2)


def pack(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """As the dataset merges: rows and bytes, cut where a segment is full."""
    found: list[tuple[int, int]] = []
    rows = size = 0
    for some, weight in parts:
        if rows and (size + weight > FULL or rows + some > ROWS):
            found.append((rows, size))
            rows = size = 0
        rows, size = rows + some, size + weight
    return [*found, (rows, size)] if rows else found


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, FULL * 2)), max_size=40))
def test_batches_hold_all_keys_in_order_and_are_not_too_large(sizes: list[tuple[str, int]]) -> None:
    found = list(batches(sizes))
    assert [key for batch in found for key in batch] == [key for key, _ in sizes]
    weights = iter(weight for _, weight in sizes)
    for batch in found:
        weight = [next(weights) for _ in batch]
        assert 0 < len(batch) <= ROWS
        assert sum(weight) <= FULL or len(batch) == 1


@given(st.lists(st.integers(1, FULL // 2), max_size=60), st.integers(0, FULL), st.randoms())
def test_a_run_merges_in_proportion_to_what_it_adds(sizes: list[int], added: int, random: Random) -> None:
    there = [segment(str(n), 10, size) for n, size in enumerate(sizes)]
    found = worn(there, added)
    if len(there) < MANY:
        assert sum(each.size for each in found) <= TIMES * max(added, LIGHT)
    else:
        assert len(found) >= FEW // 2
    assert len(found) != 1
    assert max((each.size for each in found), default=0) <= min(
        (each.size for each in there if each not in found), default=FULL
    )  # the lightest
    random.shuffle(there)
    assert worn(there, added) == found


@settings(max_examples=20)
@given(st.lists(st.integers(10_000, 100_000), min_size=30, max_size=30), st.integers(0, 3))
def test_no_push_of_a_month_is_far_above_the_change(changes: list[int], full: int) -> None:
    """Thirty runs that each change a little of much: none writes more than four times what it adds."""
    there = [segment(f"full {n}", ROWS, FULL) for n in range(full)]
    for number, added in enumerate(changes):
        merged = worn(there, added)
        there = [each for each in there if each not in merged]
        there += [segment(f"{number}-{n}", *part) for n, part in enumerate(pack([(1, each.size) for each in merged]))]
        there.append(segment(str(number), 3, added))
        assert sum(each.size for each in merged) <= TIMES * max(added, LIGHT)
    assert len(there) < MANY + full


def test_what_is_worn() -> None:
    few = [segment(str(n), 10, 100 * n) for n in range(1, FEW)]
    assert worn(few, FULL) == []
    eight = [*few, segment("more", 10, TIMES * LIGHT)]
    assert worn(eight, 0) == few  # one too heavy for what is added
    assert worn(eight, 2 * LIGHT) == eight
    assert worn([*few, segment("large", ROWS, FULL)], FULL) == []
    heavy = [segment(f"{n:02}", 10, FULL // 4) for n in range(MANY)]
    assert worn(heavy[1:], LIGHT) == []
    assert worn(heavy, LIGHT) == heavy[: MANY // 2]
    assert worn([segment("half", 10, 100, 5)], 0)
    assert worn([segment("less", 10, 100, 4)], 0) == []
    less = segment("less", 10, 100, 1)
    assert worn([less, segment("whole", 10, 100)], 0, compact=True) == [less]


@given(st.integers(1, 200), st.data())
def test_a_segment_says_its_dead_rows(rows: int, data: st.DataObject) -> None:
    dead = data.draw(st.integers(0, (1 << rows) - 1))
    found = Segment("x", rows, 5, dead)
    assert Segment.of(found.as_dict()) == found
    assert found.live == rows - bin(dead).count("1")


# ------------------------------------------------------------------ the whole
NAMES = st.sampled_from([f"{n}.md" for n in range(7)])
TEXTS = st.sampled_from(
    ["", "Penguins swim.", "Foxes dig.", "# A\n\nOne.\n\n# B\n\nTwo.", "---\ntenant: t\n---\nOwls."]
)
STEPS = st.lists(st.dictionaries(NAMES, st.none() | TEXTS, min_size=1, max_size=4), min_size=3, max_size=6)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that are full after four rows and merged by two, so that a few runs meet every case."""
    monkeypatch.setattr(segments, "ROWS", 4)
    monkeypatch.setattr(segments, "FEW", 2)
    monkeypatch.setattr(segments, "MANY", 4)


def made(place: Path, name: str) -> Workspace:
    Workspace.create(place / name)
    use_model(place / name)
    params = place / name / "params.yaml"
    text = params.read_text("utf-8").replace("sources: []", "sources: [{name: corpus, path: ../corpus}]")
    for old, new in (("max_delete: 0.2", "max_delete: 1"), ("keep: 5", f"keep: {KEEP}"), ("workers: 0", "workers: 1")):
        text = text.replace(old, new)
    params.write_text(text, "utf-8")
    return Workspace.open(place / name)


def apply(corpus: Path, step: dict[str, str | None]) -> None:
    write_corpus(corpus, {"always.md": "It stays."})
    for name, text in step.items():
        (corpus / name).unlink(missing_ok=True)  # another inode: another change token
        if text is not None:
            write_corpus(corpus, {name: text})


def answers(workspace: Workspace) -> list[tuple[str, str]]:
    hits = workspace.search("penguins foxes owls one two stays", 100, exact=True).hits
    workspace.close()
    return sorted((hit.uri, hit.text) for hit in hits)


@settings(
    max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, phases=(Phase.generate,)
)
@given(STEPS)
def test_any_past_gives_the_rows_of_a_clean_build(small: None, steps: list[dict[str, str | None]]) -> None:
    """Sources that do not parse keep their last content, so no step leaves one empty that had a text."""
    place = Path(tempfile.mkdtemp())
    try:
        corpus, workspace = place / "corpus", made(place, "kb")
        for step in steps:
            apply(corpus, {name: text for name, text in step.items() if text or not (corpus / name).exists()})
            workspace.ingest()
            assert whole(workspace.root) == []
        clean = made(place, "clean")
        clean.ingest()
        held = holds(clean.root)
        assert holds(workspace.root) == held
        assert answers(workspace) == answers(clean)
        workspace.gc()
        assert strays(workspace.root) == []
        assert "dead" not in (workspace.data / "dataset/documents/manifest.json").read_text()
        assert "dead" not in (workspace.data / "snapshot/snapshot.json").read_text()
        assert holds(workspace.root) == held
        assert answers(workspace) == answers(clean)
        recovered(workspace)
        assert holds(workspace.root) == held
    finally:
        shutil.rmtree(place)


TOLD = ("fingerprint", "recipe", "numerics", "dataset_sha", "snapshot_sha")


def recovered(workspace: Workspace) -> None:
    """A lost state is found again in dataset and snapshot."""

    def known() -> dict[str, object]:
        found = remembered(workspace.root)
        with workspace.state() as state:
            rows = "SELECT {} FROM {} ORDER BY 1, 2, 3"
            return {
                "points": found["points"],
                "rejects": found["rejects"],
                "sources": state.db.execute(
                    "SELECT uri, source, raw_sha, size, media_type, encoding, metadata, parse_key, rejected, kept,"
                    " document_id, doc_raw_sha, doc_parse_key, doc_metadata, version, digest, chunks"
                    " FROM sources ORDER BY 1"
                ).fetchall(),
                "stored": state.db.execute("SELECT * FROM stored ORDER BY 1").fetchall(),
                "placed": state.db.execute(rows.format("part, key, segment, row", "placed")).fetchall(),
                "permissions": state.db.execute("SELECT * FROM permissions ORDER BY 1").fetchall(),
                "told": [state.get(name) for name in TOLD],
            }

    before = known()
    for file in workspace.local.glob("*.db*"):
        file.unlink()
    summary = Workspace.open(workspace.root).ingest()
    assert summary.vectors["computed"] == 0
    after = known()
    gone = {row[0] for row in before["permissions"]} - {row[10] for row in before["sources"]}  # type: ignore
    before["permissions"] = [row for row in before["permissions"] if row[0] not in gone]  # type: ignore
    assert after == before


def test_a_stage_reads_each_segment_of_bytes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the sources of several segments stand in order."""
    workspace = made(tmp_path, "kb")
    for number in range(3):
        write_corpus(tmp_path / "corpus", {f"{n}{number}.md": f"Text {n} of {number}." for n in range(4)})
        workspace.ingest()
    held = holds(workspace.root)
    shutil.rmtree(workspace.data / "dataset/documents")
    (workspace.local / "cache.db").unlink()
    read: Counter[str] = Counter()
    read_one = segments.read

    def counted(file: Path, columns: Sequence[str] | None = None) -> Any:
        read[file.name] += file.parent.name == "objects"
        return read_one(file, columns)

    monkeypatch.setattr(segments, "read", counted)
    assert workspace.stage("parse").made == 12
    assert sorted(count for count in read.values() if count) == [2, 2, 2]  # hashes, then bytes
    for stage in ("chunk", "embed", "load"):
        workspace.stage(stage)
    assert holds(workspace.root) == held
