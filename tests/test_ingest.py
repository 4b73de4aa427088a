"""The run as a whole, from Python: what changes, what stays, what is recorded. Deterministic model, real engine."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ragops import ids
from ragops.errors import Locked, RagopsError, UsageError
from ragops.workspace import Workspace
from ragops_pipelines.job import HeldBack, NothingPassed, Summary
from tests.conftest import CORPUS, settle, use_model, write_corpus
from tests.crash.layout import keep


def contents(workspace: Workspace) -> dict[str, tuple[Mapping[str, Any], list[float]]]:
    """Everything that the live release holds, by point id."""
    found = {}
    for point, payload, vector in workspace.reader().points():
        found[point] = (payload, [round(float(x), 5) for x in vector])
    workspace.close()
    return found


def put(root: Path, name: str, text: str) -> None:
    write_corpus(root, {name: text})
    file = root / name
    os.utime(file, ns=(1_700_000_000_000_000_000 + len(text),) * 2)


def clean_build(tmp_path: Path, corpus: Path, name: str = "clean") -> Workspace:
    Workspace.create(tmp_path / name)
    use_model(tmp_path / name)
    workspace = Workspace.open(tmp_path / name)
    workspace.ingest(corpus)
    return workspace


def test_first_ingest(workspace: Workspace, corpus: Path) -> None:
    summary = workspace.ingest(corpus)
    assert summary.sources == {"seen": 5, "added": 5, "changed": 0, "removed": 0, "unchanged": 0, "rejected": 0}
    assert summary.chunks["total"] == summary.chunks["added"] > 4
    assert summary.vectors == {"computed": summary.chunks["total"], "reused": 0}
    assert summary.release == 1
    assert not summary.noop
    hits = workspace.search("penguins swim").hits
    assert hits[0].uri == "corpus:/notes.txt"
    assert "Penguins" in hits[0].text


def test_every_hit_cites_its_document(workspace: Workspace, corpus: Path) -> None:
    workspace.ingest(corpus)
    documents = pl.read_parquet(workspace.data / "dataset/documents/*.parquet")
    texts = dict(zip(documents["document_id"], documents["text"], strict=True))
    for payload, _ in contents(workspace).values():
        assert texts[payload["document_id"]][payload["start"] : payload["end"]] == payload["text"]
    hit = workspace.search("go back to an older release", k=1).hits[0]
    assert (hit.uri, hit.title) == ("corpus:/guide/rollback.md", "Rolling back")


def test_nothing_changed_is_nothing_done(workspace: Workspace, corpus: Path) -> None:
    first = workspace.ingest(corpus)
    again = workspace.ingest()
    assert again.noop
    assert (again.release, again.fingerprint) == (first.release, first.fingerprint)
    assert again.sources["unchanged"] == 5
    assert [r.number for r in workspace.store.releases()] == [1]


def test_touched_is_not_changed(workspace: Workspace, corpus: Path) -> None:
    first = workspace.ingest(corpus)
    (corpus / "notes.txt").touch()
    again = workspace.ingest()
    assert again.noop
    assert again.fingerprint == first.fingerprint
    assert again.sources["changed"] == 0
    assert again.vectors["computed"] == 0


def test_an_edit_embeds_only_what_is_new(workspace: Workspace, corpus: Path, tmp_path: Path) -> None:
    workspace.ingest(corpus)
    put(corpus, "guide/install.md", CORPUS["guide/install.md"].replace("a compiler", "a fast compiler"))
    summary = workspace.ingest()
    assert (summary.sources["changed"], summary.sources["unchanged"]) == (1, 4)
    assert summary.vectors["computed"] == 1
    assert contents(workspace) == contents(clean_build(tmp_path, corpus))


def test_deleted_documents_answer_no_more(workspace: Workspace, corpus: Path, tmp_path: Path) -> None:
    workspace.ingest(corpus)
    (corpus / "notes.txt").unlink()
    summary = workspace.ingest()
    assert summary.sources["removed"] == 1
    assert summary.chunks["removed"] == 1
    assert all(hit.uri != "corpus:/notes.txt" for hit in workspace.search("penguins swim").hits)
    assert contents(workspace) == contents(clean_build(tmp_path, corpus))


def test_the_bytes_of_what_is_deleted_or_replaced_leave_the_snapshot_with_gc(
    workspace: Workspace, corpus: Path
) -> None:
    def kept() -> set[bytes]:
        packs = (workspace.data / "snapshot/objects").glob("*.parquet")
        return {data for pack in packs for data in pl.read_parquet(pack)["data"]}

    put(corpus, "large.txt", "A long story about whales. " * 50_000)
    workspace.ingest(corpus)
    assert CORPUS["notes.txt"].encode() in kept()
    (corpus / "notes.txt").unlink()
    (corpus / "large.txt").unlink()
    put(corpus, "data.csv", "city,people\nOslo,700001\n")
    workspace.ingest()
    assert not (workspace.data / "snapshot/objects" / ids.sha256(b"A long story about whales. " * 50_000)).exists()
    workspace.gc()
    assert kept() == {file.read_bytes() for file in corpus.rglob("*") if file.is_file()}
    assert all(file.suffix == ".parquet" for file in (workspace.data / "snapshot/objects").iterdir())


def test_a_moved_file_embeds_nothing(workspace: Workspace, corpus: Path, tmp_path: Path) -> None:
    workspace.ingest(corpus)
    (corpus / "notes.txt").rename(corpus / "birds.txt")
    summary = workspace.ingest()
    assert (summary.sources["added"], summary.sources["removed"]) == (1, 1)
    assert summary.vectors["computed"] == 0
    assert workspace.search("penguins swim", k=1).hits[0].uri == "corpus:/birds.txt"
    assert contents(workspace) == contents(clean_build(tmp_path, corpus))


def test_many_changes_equal_a_clean_build(workspace: Workspace, tmp_path: Path) -> None:
    """Growth through several shard counts, edits, moves and deletes."""
    corpus = tmp_path / "corpus"
    for n in range(60):
        put(
            corpus, f"d{n % 7}/f{n}.md", f"# Number {n}\n\nAbout the number {n}.\n\n## More\n\nIt is {n * n} squared.\n"
        )
        if n in (3, 20, 40):
            workspace.ingest(corpus)
    for n in range(0, 60, 9):
        put(corpus, f"d{n % 7}/f{n}.md", f"# Number {n}\n\nChanged.\n\n## More\n\nIt is {n * n} squared.\n")
    (corpus / "d1/f1.md").unlink()
    (corpus / "d2/f2.md").rename(corpus / "d2/moved.md")
    workspace.ingest()
    clean = clean_build(tmp_path, corpus)
    assert contents(workspace) == contents(clean)
    assert workspace.status()["release"]["fingerprint"] == clean.status()["release"]["fingerprint"]
    mine, theirs = keep(workspace.root), keep(clean.root)
    for part in ("documents", "chunks", "snapshot"):  # rows, whatever segments they stand in
        assert mine[part] == theirs[part]


def test_equal_corpora_give_equal_bytes(tmp_path: Path, corpus: Path) -> None:
    files = [
        {file.name: file.read_bytes() for file in sorted(clean_build(tmp_path, corpus, name).data.rglob("*.*"))}
        for name in ("a", "b")
    ]
    assert files[0] == files[1]


def test_another_chunk_size_parses_nothing_again(workspace: Workspace, corpus: Path) -> None:
    put(corpus, "long.md", "# Long\n\n" + "A sentence about many things that is not short. " * 40)
    first = workspace.ingest(corpus)
    params = workspace.root / "params.yaml"
    params.write_text(params.read_text().replace("size: null", "size: 50"))
    summary = Workspace.open(workspace.root).ingest()
    assert summary.seconds["fetch"] == 0
    assert summary.chunks["total"] > first.chunks["total"]
    assert summary.sources["changed"] == 0
    assert summary.release == first.release + 1


def test_another_model_is_another_space(workspace: Workspace, corpus: Path) -> None:
    first = workspace.ingest(corpus)
    params = workspace.root / "params.yaml"
    params.write_text(params.read_text().replace("hash:64", "hash:32"))
    changed = Workspace.open(workspace.root)
    summary = changed.ingest()
    assert summary.vectors["computed"] == summary.chunks["total"]
    assert len(next(iter(contents(changed).values()))[1]) == 32
    assert changed.search("penguins swim", k=1).hits[0].uri == "corpus:/notes.txt"
    old = changed.search("penguins swim", k=1, release=first.release)  # with the encoder of that release
    assert old.hits[0].uri == "corpus:/notes.txt"


def test_permissions_and_metadata_reach_the_hits(workspace: Workspace, tmp_path: Path) -> None:
    text = "---\ntitle: T\ntenant: acme\ngroups: [x, y]\nlang: en\n---\nText.\n"
    corpus = write_corpus(tmp_path / "corpus", {"a.md": text})
    workspace.ingest(corpus)
    payload, _ = next(iter(contents(workspace).values()))
    assert (payload["title"], payload["tenant"], payload["groups"]) == ("T", "acme", ["x", "y"])
    assert payload["meta"]["lang"] == "en"
    assert workspace.search("text", filter={"meta.lang": "en"}).hits
    assert not workspace.search("text", filter={"tenant": "other"}).hits


def test_strange_metadata_is_kept_as_far_as_it_can_be(workspace: Workspace, tmp_path: Path) -> None:
    text = "---\nbig: 99999999999999999999999\nendless: .inf\nwhen: 2024-01-01\nmany: [1, 2.5, x]\n---\nText.\n"
    corpus = write_corpus(tmp_path / "corpus", {"a.md": text})
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"_id": "1", "text": "lone \\ud800 surrogate", "n": 12345678901234567890123, "f": 1e999}\n')
    workspace.ingest(corpus)
    workspace.ingest(rows)
    meta = {payload["uri"]: payload["meta"] for payload, _ in contents(workspace).values()}
    assert meta["corpus:/a.md"]["big"] == "99999999999999999999999"
    assert meta["corpus:/a.md"]["when"] == "2024-01-01"
    assert meta["corpus:/a.md"]["many"] == [1, 2.5, "x"]
    assert meta["corpus:/a.md"]["endless"] == "inf"
    assert meta["rows:/1"]["n"] == "12345678901234567890123"


# ------------------------------------------------------------------ rejects
def test_bad_files_cost_one_reject_each(workspace: Workspace, corpus: Path) -> None:
    put(corpus, "empty.txt", "")
    (corpus / "broken.pdf").write_bytes(b"%PDF-1.4 nothing of the sort")
    (corpus / "noise.bin").write_bytes(bytes(range(256)) * 4)
    for name in ("broken.pdf", "noise.bin"):
        settle(corpus / name)
    summary = workspace.ingest(corpus)
    assert summary.sources["added"] == 5
    assert summary.sources["rejected"] == 3
    rejects = {r["uri"]: r for r in workspace.rejects()}
    assert rejects["corpus:/empty.txt"]["code"] == "empty"
    assert rejects["corpus:/broken.pdf"]["code"] == "damaged"
    assert rejects["corpus:/noise.bin"]["code"] == "unsupported"
    assert all(r["stage"] and r["reason"] and r["hint"] for r in rejects.values())
    again = workspace.ingest()
    assert again.noop
    assert again.sources["rejected"] == 3


def test_a_mended_file_leaves_the_rejects(workspace: Workspace, corpus: Path) -> None:
    put(corpus, "late.txt", "")
    workspace.ingest(corpus)
    put(corpus, "late.txt", "Now there is text about volcanoes.")
    summary = workspace.ingest()
    assert (summary.sources["added"], summary.sources["rejected"]) == (1, 0)
    assert workspace.rejects() == []


def test_content_that_does_not_parse_keeps_the_last_that_did(workspace: Workspace, corpus: Path) -> None:
    first = workspace.ingest(corpus)
    put(corpus, "notes.txt", "")
    summary = workspace.ingest()
    assert summary.sources["rejected"] == 1
    assert summary.fingerprint == first.fingerprint
    assert workspace.rejects()[0]["serves_older"]
    assert workspace.search("penguins swim", k=1).hits[0].uri == "corpus:/notes.txt"


def test_an_unreadable_file_is_tried_again(workspace: Workspace, corpus: Path) -> None:
    if os.geteuid() == 0:
        (corpus / "notes.txt").unlink()
        os.mkfifo(corpus / "notes.txt")  # root may read anything but never gets text from this
        code = "unsupported"
    else:
        (corpus / "notes.txt").chmod(0)
        code = "unreadable"
    assert workspace.ingest(corpus).sources["rejected"] == 1
    assert workspace.rejects()[0]["code"] == code
    (corpus / "notes.txt").unlink()
    put(corpus, "notes.txt", "readable now")
    assert workspace.ingest().sources["rejected"] == 0


def test_a_timeout_is_no_result_and_the_release_says_so(workspace: Workspace, corpus: Path) -> None:
    workspace.ingest(corpus)
    put(corpus, "slow.md", "# Slow\n\n" + "Penguins *swim* [well](there).\n\n" * 60_000)
    params = workspace.root / "params.yaml"
    text = params.read_text("utf-8")
    params.write_text(text.replace("timeout: 60 ", "timeout: 0.05 "), "utf-8")
    hurried = Workspace.open(workspace.root)
    put(corpus, "notes.txt", "Penguins swim well, later.")
    assert hurried.ingest().sources["rejected"] == 1
    assert [(reject["code"], reject["transient"]) for reject in hurried.rejects()] == [("timeout", True)]
    assert hurried.releases()[-1]["incomplete"] == ["corpus"]
    params.write_text(text, "utf-8")
    patient = Workspace.open(workspace.root)
    assert patient.ingest().sources["added"] == 1  # nothing touched it meanwhile
    assert patient.releases()[-1]["incomplete"] == []


# ------------------------------------------------------------------ what holds back, what is wrong
def test_many_deletes_need_consent(workspace: Workspace, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    for n in range(30):
        put(corpus, f"{n}.txt", f"number {n}")
    workspace.ingest(corpus)
    for n in range(10):
        (corpus / f"{n}.txt").unlink()
    with pytest.raises(HeldBack, match="10 of 30"):
        workspace.ingest()
    assert workspace.status()["release"]["points"] == 30
    summary = workspace.ingest(allow_deletes=True)
    assert summary.sources["removed"] == 10


def test_moves_are_not_deletes(workspace: Workspace, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    for n in range(30):
        put(corpus, f"{n}.txt", f"number {n}")
    workspace.ingest(corpus)
    for n in range(15):
        (corpus / f"{n}.txt").rename(corpus / f"moved-{n}.txt")
    assert workspace.ingest().sources["removed"] == 15


def test_a_part_of_a_source_touches_only_that_part(workspace: Workspace, corpus: Path) -> None:
    workspace.ingest(corpus)
    (corpus / "notes.txt").unlink()
    put(corpus, "guide/new.md", "# New\n\nFresh words.\n")
    put(corpus, "empty.txt", "")
    summary = workspace.ingest(corpus / "guide")
    assert (summary.sources["seen"], summary.sources["unchanged"], summary.sources["rejected"]) == (3, 2, 0)
    assert (summary.sources["added"], summary.sources["removed"]) == (1, 0)
    assert workspace.search("penguins swim", k=1).hits[0].uri == "corpus:/notes.txt"
    assert workspace.ingest().sources["removed"] == 1


def test_a_source_that_is_no_longer_configured_is_removed(workspace: Workspace, corpus: Path, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other", {"a.txt": "other things"})
    workspace.ingest(other)
    workspace.ingest(corpus)
    params = workspace.root / "params.yaml"
    text = params.read_text()
    at = text.index("  - name: other")
    params.write_text(text[:at] + text[text.index("  - name: corpus") :])
    summary = Workspace.open(workspace.root).ingest()
    assert summary.sources["removed"] == 1
    assert all(hit.source == "corpus" for hit in workspace.search("other things").hits)


def test_two_sources_with_the_same_content_share_vectors(workspace: Workspace, corpus: Path, tmp_path: Path) -> None:
    twin = write_corpus(tmp_path / "twin")
    workspace.ingest(corpus)
    summary = workspace.ingest(twin)
    assert summary.sources["added"] == 5
    assert summary.vectors["computed"] == 0


def test_rows_are_sources(workspace: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_text('{"_id": "a", "title": "First", "text": "penguins swim"}\n{"_id": "b", "title": "", "text": ""}\n'
                    '{"_id": "c", "title": "Third", "text": "volcanoes erupt", "year": 1999}\n')  # fmt: skip
    settle(file)
    summary = workspace.ingest(file)
    assert (summary.sources["added"], summary.sources["rejected"]) == (2, 1)
    hit = workspace.search("volcanoes", k=1).hits[0]
    assert (hit.title, hit.meta["year"]) == ("Third", 1999)
    assert workspace.ingest().noop


def test_missing_empty_and_unreadable_folders(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        workspace.ingest(tmp_path / "nowhere")
    (tmp_path / "void").mkdir()
    with pytest.raises(UsageError, match="nothing to ingest"):
        workspace.ingest(tmp_path / "void")
    assert Workspace.open(workspace.root).settings.sources == ()  # what cannot be ingested is not remembered
    write_corpus(tmp_path / "bad", {"a.txt": "", "b.txt": "  \n"})
    workspace = Workspace.open(workspace.root)
    with pytest.raises(NothingPassed, match="none of the 2 sources"):
        workspace.ingest(tmp_path / "bad")
    assert [reject["uri"] for reject in workspace.rejects()] == ["bad:/a.txt", "bad:/b.txt"]
    put(tmp_path / "bad", "b.txt", "Now there is text.")
    assert workspace.ingest().sources["added"] == 1


def test_a_vanished_root_deletes_nothing(workspace: Workspace, corpus: Path, tmp_path: Path) -> None:
    workspace.ingest(corpus)
    corpus.rename(tmp_path / "elsewhere")
    with pytest.raises(RagopsError, match="corpus"):
        workspace.ingest()
    assert workspace.status()["release"]["points"] > 0


def test_one_ingest_at_a_time(workspace: Workspace, corpus: Path) -> None:
    with workspace._locked(0), pytest.raises(Locked, match=f"process {os.getpid()}"):
        Workspace.open(workspace.root).ingest(corpus)


def test_a_lost_state_is_found_again(workspace: Workspace, corpus: Path) -> None:
    first = workspace.ingest(corpus)
    for file in workspace.local.glob("state.db*"):
        file.unlink()
    again = workspace.ingest()
    assert again.fingerprint == first.fingerprint
    assert again.vectors["computed"] == 0
    assert workspace.ingest().noop


def test_a_lost_cache_costs_time_only(workspace: Workspace, corpus: Path) -> None:
    first = workspace.ingest(corpus)
    for file in workspace.local.glob("cache.db*"):
        file.unlink()
    put(corpus, "notes.txt", CORPUS["notes.txt"] + "\nThey are birds.\n")
    summary = workspace.ingest()
    assert summary.release == first.release + 1
    assert summary.vectors["computed"] == 1
    params = workspace.root / "params.yaml"
    params.write_text(params.read_text().replace("size: null", "size: 20"))
    for file in workspace.local.glob("cache.db*"):
        file.unlink()
    assert Workspace.open(workspace.root).ingest().sources["rejected"] == 0


def test_a_lost_store_is_loaded_again_without_the_model(workspace: Workspace, corpus: Path) -> None:
    import shutil

    workspace.ingest(corpus)
    before = contents(workspace)
    shutil.rmtree(workspace.local / "store")
    summary = workspace.ingest()
    assert summary.vectors["computed"] == 0
    assert contents(workspace) == before


def test_a_lost_dataset_is_written_again(workspace: Workspace, corpus: Path) -> None:
    import shutil

    first = workspace.ingest(corpus)
    shutil.rmtree(workspace.data / "dataset")
    again = workspace.ingest()
    assert again.fingerprint == first.fingerprint
    assert (workspace.data / "dataset/dataset.json").exists()


def test_smaller_chunks_of_a_live_release(workspace: Workspace, corpus: Path) -> None:
    workspace.ingest(corpus)
    params = workspace.root / "params.yaml"
    params.write_text(params.read_text().replace("size: null", "size: 20"))
    summary = Workspace.open(workspace.root).ingest()
    assert summary.release == 2
    assert workspace.store.live().avg_len == 10  # type: ignore[union-attr]


def test_plan_changes_nothing(workspace: Workspace, corpus: Path) -> None:
    params = (workspace.root / "params.yaml").read_text()
    planned = workspace.plan(corpus)
    assert planned.sources["new"] == 5
    assert (workspace.root / "params.yaml").read_text() == params
    assert not (workspace.local / "store").exists()
    workspace = Workspace.open(workspace.root)
    workspace.ingest(corpus)
    put(corpus, "guide/install.md", "# Other\n\nWords.\n")
    (corpus / "data.csv").unlink()
    planned = workspace.plan()
    assert (planned.sources["to_read"], planned.sources["removed"]) == (1, 1)
    assert planned.removed == ["corpus:/data.csv"]


def test_old_releases_are_kept_and_pruned(workspace: Workspace, corpus: Path) -> None:
    params = workspace.root / "params.yaml"
    params.write_text(params.read_text().replace("keep: 5", "keep: 2"))
    workspace = Workspace.open(workspace.root)
    workspace.ingest(corpus)
    for n in range(4):
        put(corpus, "notes.txt", f"version {n} of the notes")
        workspace.ingest()
    assert [r.number for r in workspace.store.releases()] == [3, 4, 5]
    notes = {"uri": "corpus:/notes.txt"}
    assert "version 1" in workspace.search("notes version", k=1, filter=notes, release=3).hits[0].text
    with pytest.raises(UsageError, match="kept are 3, 4, 5"):
        workspace.search("notes", release=1)


def test_a_newer_state_is_refused(workspace: Workspace, corpus: Path) -> None:
    workspace.ingest(corpus)
    with sqlite3.connect(workspace.local / "state.db") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(UsageError, match="newer ragops"):
        workspace.ingest()


def test_the_summary_adds_up(workspace: Workspace, corpus: Path) -> None:
    put(corpus, "empty.txt", "")

    def check(summary: Summary) -> None:
        s = summary.sources
        assert s["seen"] == s["added"] + s["changed"] + s["unchanged"] + s["rejected"], s

    check(workspace.ingest(corpus))
    put(corpus, "guide/install.md", "# Other\n\nWords.\n")
    put(corpus, "more.txt", "more")
    (corpus / "data.csv").unlink()
    check(workspace.ingest())
    check(workspace.ingest())


def test_a_source_that_is_versioned_itself_leaves_no_bytes_in_the_snapshot(
    workspace: Workspace, corpus: Path, tmp_path: Path
) -> None:
    workspace.ingest(corpus)
    objects = workspace.data / "snapshot/objects"
    assert list(objects.iterdir())
    first = keep(workspace.root)
    params = workspace.root / "params.yaml"
    params.write_text(
        params.read_text().replace("\n    connector: files", "\n    connector: files\n    snapshot: manifest")
    )
    workspace = Workspace.open(workspace.root)
    assert workspace.ingest().vectors["computed"] == 0
    assert not list(objects.iterdir())
    assert workspace.verify().ok
    assert workspace.ingest().noop
    small_chunks = params.read_text().replace("size: null", "size: 40")
    params.write_text(small_chunks)
    shutil.rmtree(workspace.local / "store")
    (workspace.local / "cache.db").unlink()
    workspace = Workspace.open(workspace.root)
    workspace.ingest()  # texts come from the dataset
    params.write_text(small_chunks.replace("size: 40", "size: null").replace("\n    snapshot: manifest", ""))
    workspace = Workspace.open(workspace.root)
    workspace.ingest()
    again = keep(workspace.root)
    assert {name: again[name] for name in ("documents", "chunks", "snapshot", "fingerprint")} == {
        name: first[name] for name in ("documents", "chunks", "snapshot", "fingerprint")
    }
    assert workspace.verify().ok


def test_an_unknown_kind_of_snapshot_is_told(workspace: Workspace) -> None:
    params = workspace.root / "params.yaml"
    params.write_text(params.read_text().replace("sources: []", "sources: [{name: a, path: a, snapshot: none}]"))
    with pytest.raises(UsageError, match="bytes or manifest"):
        Workspace.open(workspace.root)
