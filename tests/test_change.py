"""What goes stale, missing or twice elsewhere when sources change: the cases of benchmarks/failures.py, as tests.

Those that test_ingest.py holds already (edit, delete, move, a part of a source) are not repeated here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from ragops.workspace import Workspace
from tests.conftest import Result, answer, use_model, write_corpus

BATCH = 64  # texts embedded and kept at once
LATER = 1_800_000_000


def paragraphs(count: int, edited: int | None = None) -> str:
    """Paragraphs of 40 words, each with a word of its own and a chunk to itself."""
    texts = [f"Fact{n}v{int(n == edited)} " + " ".join(f"word{n}of{w}" for w in range(39)) + "." for n in range(count)]
    return "\n\n".join(texts) + "\n"


def put(root: Path, name: str, text: str, date: int = LATER) -> None:
    write_corpus(root, {name: text})
    os.utime(root / name, (date, date))


def held(workspace: Workspace) -> Counter[tuple[str, str]]:
    """(uri, text) of every point of the live release."""
    found = Counter((str(payload["uri"]), str(payload["text"])) for _, payload, _ in workspace.reader().points())
    workspace.close()
    return found


def clean_build(tmp_path: Path, corpus: Path, chunk: int | None = None) -> Counter[tuple[str, str]]:
    Workspace.create(tmp_path / "clean")
    use_model(tmp_path / "clean")
    if chunk:
        small_chunks(tmp_path / "clean", chunk)
    with Workspace.open(tmp_path / "clean") as workspace:
        workspace.ingest(corpus)
        return held(workspace)


def small_chunks(root: Path, size: int) -> None:
    params = root / "params.yaml"
    params.write_text(params.read_text("utf-8").replace("size: null", f"size: {size}"), "utf-8")


# ---------------------------------------------------------------- what changes
def test_a_shorter_document_leaves_no_tail(workspace: Workspace, tmp_path: Path) -> None:
    small_chunks(workspace.root, 60)
    put(tmp_path / "corpus", "long.txt", paragraphs(6))
    put(tmp_path / "corpus", "other.txt", "Penguins swim.\n")
    workspace.ingest(tmp_path / "corpus")
    assert sum(held(workspace).values()) == 7
    put(tmp_path / "corpus", "long.txt", paragraphs(2), LATER + 1)
    summary = workspace.ingest()
    assert (summary.vectors["computed"], summary.chunks["removed"]) == (0, 4)
    assert not any("Fact5v0" in hit.text for hit in workspace.search("Fact5v0 word5of1").hits)
    assert held(workspace) == clean_build(tmp_path, tmp_path / "corpus", 60)


def test_one_edit_in_a_source_of_many_batches_embeds_one_chunk(workspace: Workspace, tmp_path: Path) -> None:
    small_chunks(workspace.root, 60)
    put(tmp_path / "corpus", "long.txt", paragraphs(150))
    assert workspace.ingest(tmp_path / "corpus").vectors["computed"] == 150
    put(tmp_path / "corpus", "long.txt", paragraphs(150, edited=120), LATER + 1)
    summary = workspace.ingest()
    assert summary.vectors == {"computed": 1, "reused": 149}
    assert (summary.chunks["added"], summary.chunks["removed"]) == (1, 1)
    assert held(workspace) == clean_build(tmp_path, tmp_path / "corpus", 60)


def test_dates_alone_change_nothing(workspace: Workspace, corpus: Path) -> None:
    first = workspace.ingest(corpus)
    before = held(workspace)
    for date in (LATER, 1_000_000_000, 0):  # also backwards
        for file in corpus.rglob("*.*"):
            os.utime(file, (date, date))
        again = workspace.ingest()
        assert again.noop
        assert (again.fingerprint, again.release) == (first.fingerprint, first.release)
        assert again.vectors == {"computed": 0, "reused": 0}
        assert again.sources["changed"] == again.sources["removed"] == 0
    assert held(workspace) == before


def test_copies_embed_nothing_and_outlive_the_original(workspace: Workspace, corpus: Path) -> None:
    workspace.ingest(corpus)
    put(corpus, "copy.txt", (corpus / "notes.txt").read_text())
    assert workspace.ingest().vectors["computed"] == 0
    (corpus / "notes.txt").unlink()
    assert workspace.ingest().vectors["computed"] == 0
    assert [hit.uri for hit in workspace.search("penguins swim", k=1).hits] == ["corpus:/copy.txt"]


def test_what_comes_back_is_not_embedded_again(workspace: Workspace, corpus: Path) -> None:
    workspace.ingest(corpus)
    before = held(workspace)
    old = (corpus / "notes.txt").read_text()
    put(corpus, "notes.txt", "Volcanoes erupt.\n")
    workspace.ingest()
    put(corpus, "notes.txt", old, LATER + 1)
    assert workspace.ingest().vectors["computed"] == 0
    assert held(workspace) == before
    (corpus / "notes.txt").unlink()
    workspace.ingest()
    put(corpus, "notes.txt", old, LATER + 2)
    assert workspace.ingest().vectors["computed"] == 0
    assert held(workspace) == before


def test_a_file_that_leaves_the_part_that_is_ingested(workspace: Workspace, corpus: Path, tmp_path: Path) -> None:
    workspace.ingest(corpus)
    others = {key: n for key, n in held(workspace).items() if "/guide/" not in key[0]}
    (corpus / "guide/install.md").rename(corpus / "install.md")
    assert workspace.ingest(corpus / "guide").sources["removed"] == 1
    assert {key: n for key, n in held(workspace).items() if "/guide/" not in key[0]} == others
    summary = workspace.ingest()
    assert (summary.sources["added"], summary.vectors["computed"]) == (1, 0)
    assert held(workspace) == clean_build(tmp_path, corpus)


# ---------------------------------------------------------------- what dies
PLUGIN = '''
import dataclasses, os, signal
from ragops import embedders, ids

class Counted:
    """Logs each text; at the n-th, once, it raises or kills the process."""

    def __init__(self, inner, space):
        self.inner, self.space, self.tokenizer, self.numerics = inner, space, inner.tokenizer, inner.numerics

    def embed(self, texts):
        folder = os.environ["COUNTED"]
        with open(f"{folder}/log", "a") as log:
            for text in texts:
                log.write(str(hash(text)) + "\\n")
        at, how = os.environ["AT"].split()
        if sum(1 for _ in open(f"{folder}/log")) >= int(at) and not os.path.exists(f"{folder}/done"):
            open(f"{folder}/done", "w").close()
            if how == "raise":
                raise ConnectionError("out of reach")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.embed(texts)

    def embed_queries(self, texts):
        return self.inner.embed_queries(texts)

def build(name, device="auto"):
    inner = embedders.load(name, device=device)
    fingerprint = ids.composite("space", {"counted": inner.space.fingerprint})
    return Counted(inner, dataclasses.replace(inner.space, model=f"counted:{name}", fingerprint=fingerprint))
'''


@pytest.fixture
def plugin(tmp_path: Path) -> dict[str, str]:
    """The environment in which `counted:<model>` is a model."""
    folder = tmp_path / "plugin"
    metadata = folder / "counted-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: counted\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text("[ragops.embedders]\ncounted = counted_plugin:build\n")
    (folder / "counted_plugin.py").write_text(PLUGIN)
    return {"PYTHONPATH": str(folder), "COUNTED": str(folder), "PYTHONHASHSEED": "0"}


@pytest.mark.parametrize("how", ["raise", "kill"])
def test_a_run_that_ends_half_way_embeds_one_batch_twice_at_most(
    how: str, tmp_path: Path, plugin: dict[str, str], ragops: Callable[..., Result]
) -> None:
    corpus = tmp_path / "corpus"
    for n in range(30):
        put(corpus, f"{n}.txt", paragraphs(10).replace("Fact", f"Doc{n}fact"))
    Workspace.create(tmp_path / "kb")
    use_model(tmp_path / "kb", "counted:hash:64")
    small_chunks(tmp_path / "kb", 60)
    environment = {**plugin, "AT": f"150 {how}"}
    first = ragops("ingest", corpus, "-w", "kb", "--json", env=environment)
    assert first.returncode == (3 if how == "raise" else -9), first.stderr
    summary = answer(ragops("ingest", corpus, "-w", "kb", "--json", env=environment))
    embedded = (tmp_path / "plugin/log").read_text().split()
    assert len(set(embedded)) == 300
    assert len(embedded) <= 300 + BATCH
    assert summary["chunks"]["total"] == 300


# ---------------------------------------------------------------- two at once
def test_an_ingest_that_waits_knows_what_the_other_added(workspace: Workspace, corpus: Path, tmp_path: Path) -> None:
    """Both were opened before either had a source: the second adds none twice and drops none of the first."""
    late = Workspace.open(workspace.root)
    other = write_corpus(tmp_path / "other", {"a.txt": "Volcanoes erupt."})
    workspace.ingest(corpus)
    assert late.ingest(corpus).noop
    third = Workspace.open(workspace.root)
    late.ingest(other)
    assert third.ingest().noop
    assert [source.name for source in Workspace.open(workspace.root).settings.sources] == ["corpus", "other"]
    assert any(uri == "other:/a.txt" for uri, _ in held(workspace))


def test_two_first_ingests_at_once(tmp_path: Path, corpus: Path) -> None:
    Workspace.create(tmp_path / "kb")
    use_model(tmp_path / "kb")
    command = [sys.executable, "-m", "ragops", "ingest", str(corpus), "-w", str(tmp_path / "kb"), "--wait", "100"]
    both = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    with Workspace.open(tmp_path / "kb") as workspace:
        assert [release.number for release in workspace.store.releases()] == [1]
        assert held(workspace) == clean_build(tmp_path, corpus)


@pytest.mark.parametrize("by", ["ingest", "stages"])
def test_a_model_that_comes_back_is_known_by_its_numerics(workspace: Workspace, corpus: Path, by: str) -> None:
    """Nothing is embedded then: all of its vectors are in the cache."""
    workspace.ingest(corpus)
    first = workspace.store.live()
    assert first is not None
    assert first.numerics.startswith("float32/")
    for old, new in (("hash:64", "hash:32"), ("hash:32", "hash:64")):
        params = workspace.root / "params.yaml"
        params.write_text(params.read_text("utf-8").replace(old, new), "utf-8")
        workspace = Workspace.open(workspace.root)
        if by == "ingest":
            assert (workspace.ingest().vectors["computed"] == 0) is (new == "hash:64")
        else:
            for stage in ("parse", "chunk", "embed", "load"):
                workspace.stage(stage)
    live = workspace.store.live()
    assert live is not None
    assert (live.fingerprint, live.numerics) == (first.fingerprint, first.numerics)
    assert live.number != first.number
