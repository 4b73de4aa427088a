"""The retriever of apps: threads, forks, releases that change under it, and a server's collection."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ragops import Query, Retriever
from ragops.embedders.hashed import HashEmbedder
from ragops.errors import ConfigError, RagopsError, SpaceMismatch, StoreError, UsageError
from ragops.stores.edge import EdgeStore
from ragops.types import Embedder, Release, Store
from ragops.workspace import Workspace
from tests.qdrant_stub import Stub
from tests.server_stores import over
from tests.store_contract import point, release

MODEL = HashEmbedder(64)
WORDS = ["harbour", "lantern", "copper", "meadow", "violin"]


def seal(store: Store, number: int, *, publish: bool = True, keep: int = 3) -> None:
    """A release whose every passage says its number."""
    texts = [f"{word} of release {number}" for word in WORDS]
    points = [point(number * 100 + i, text=text, title="", heading=[]) for i, text in enumerate(texts)]
    sealed = replace(release(number, len(points)), space=MODEL.space)
    store.write(sealed, base=None, delete=[], add=list(zip(points, MODEL.embed(texts), strict=True)))
    if publish:
        store.publish(number)
    for old in store.numbers()[: -keep - 1]:
        store.remove(old, timeout=0.0)


def over_store(root: Path, encoder: Any = lambda kept: MODEL, **options: Any) -> Retriever:
    return Retriever(lambda: EdgeStore(root), encoder, **options)


def test_a_workspace(ingested: Workspace) -> None:
    with Retriever.open(ingested.root) as retriever:
        results = retriever.search("penguins swim", 2, expand=1)
        assert results.hits[0].uri == "corpus:/notes.txt"
        assert results == ingested.search("penguins swim", 2, expand=1)
        assert retriever.search(Query("penguins", 1, "bm25")).mode == "bm25"
        assert retriever.search_many(["penguins", Query("prices", 1)], 3) == [
            retriever.search("penguins", 3),
            retriever.search("prices", 3),
        ]
        assert asyncio.run(retriever.asearch("penguins", 2)) == retriever.search("penguins", 2)
        assert asyncio.run(retriever.asearch_many(["a", "b"])) == retriever.search_many(["a", "b"])
        assert retriever.release().number == 1
        made = retriever.context(results, tokens=60)
        assert "Penguins" in made.text
        assert made.tokens <= 60
        assert retriever.context(results, tokens=30, count=lambda texts: [len(text) for text in texts]).text == ""
        found = retriever.document("corpus:/notes.txt")
        assert found is not None
        assert found.text.startswith("Penguins live")
        assert retriever.chunk(found.passages[0].chunk_id) is not None
        assert retriever.why("penguins", "corpus:/notes.txt").verdict == "hit"
    with pytest.raises(StoreError, match="closed"):
        retriever.search("penguins")
    with pytest.raises(UsageError, match="no workspace"):
        Retriever.open(ingested.root / "data")
    with pytest.raises(UsageError, match="workspace"):
        Retriever.open(ingested.root, model="hash:64")


def test_a_scope_holds_for_all_that_is_asked(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path)
    texts = [f"{word} {i}" for i, word in enumerate(WORDS * 4)]
    points = [point(i, text=text) for i, text in enumerate(texts)]  # even ones are globex's
    store.write(
        replace(release(1, 20), space=MODEL.space), base=None, delete=[],
        add=list(zip(points, MODEL.embed(texts), strict=True)),
    )  # fmt: skip
    store.publish(1)
    with over_store(tmp_path, scope={"tenant": "globex"}) as retriever:
        ours = {each.chunk_id for i, each in enumerate(points) if i % 2 == 0}
        for query in (Query("lantern", 50), Query("lantern", 50, scope={"tenant": "acme"}), "harbour"):
            assert {hit.chunk_id for hit in retriever.search(query, 50).hits} <= ours
        assert retriever.chunk("chunk-1", scope={"tenant": "acme"}) is None
        assert retriever.chunk("chunk-2") is not None
        document = retriever.document(points[0].payload["uri"], scope={"tenant": "acme"})
        assert document is not None
        assert {passage.chunk_id for passage in document.passages} <= ours
    with over_store(tmp_path) as open_to_all:  # as a service does
        theirs = open_to_all.search(Query("lantern", 50, scope={"tenant": "acme"})).hits
        assert theirs
        assert not {hit.chunk_id for hit in theirs} & ours


def test_it_follows_the_live_release(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path)
    with over_store(tmp_path) as retriever, pytest.raises(UsageError, match="no release"):
        retriever.search("harbour")
    seal(store, 1)
    with over_store(tmp_path) as retriever, over_store(tmp_path, release=1) as first:
        assert retriever.search("harbour").release == 1
        seal(store, 2)
        assert retriever.search("harbour").release == 2
        assert retriever.release().number == 2
        assert first.search("harbour").release == 1
        store.publish(1)
        assert retriever.search("harbour").release == 1
        (tmp_path / "main/LIVE").write_text("rubbish")
        assert retriever.search("harbour").release == 1  # what is open is sound
        with over_store(tmp_path) as another, pytest.raises(RagopsError):
            another.search("harbour")
        with over_store(tmp_path, release=9) as missing, pytest.raises(UsageError, match="no release 9"):
            missing.search("harbour")


def test_a_release_that_does_not_open(tmp_path: Path) -> None:
    """What is open goes on to answer; whoever comes new is told."""
    store = EdgeStore(tmp_path)
    seal(store, 1)
    with over_store(tmp_path) as retriever:
        assert retriever.search("harbour").release == 1
        seal(store, 2)
        next((tmp_path / "main/releases/00000002/shard").rglob("*.mmap")).unlink()
        assert retriever.search("harbour").release == 1
        with over_store(tmp_path) as another, pytest.raises(StoreError):
            another.search("harbour")
        seal(store, 3)
        assert retriever.search("harbour").release == 3


def test_threads_while_releases_change(tmp_path: Path) -> None:
    """Every answer is of one release, none fails, and releases that nobody reads are given back."""
    store = EdgeStore(tmp_path)
    seal(store, 1)
    found: list[tuple[int, set[str]]] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        try:
            while not done.is_set():
                for results in retriever.search_many(["harbour lantern", "violin"], 5):
                    assert results.release is not None
                    found.append((results.release, {hit.text.rpartition(" ")[2] for hit in results.hits}))
        except BaseException as error:
            errors.append(error)

    with over_store(tmp_path) as retriever:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(2, 8):
            seal(store, number)  # removes old ones at once, without waiting: a reader that lingers would be an error
        while not any(number == 7 for number, _ in found) and not errors:
            done.wait(0.01)
        done.set()
        for thread in threads:
            thread.join()
        assert not errors
        assert {frozenset(said) for _, said in found} == {frozenset([str(number)]) for number, _ in found}
        assert len({number for number, _ in found}) > 2


def test_forked_workers(tmp_path: Path) -> None:
    """As a web server forks: the parent has searched, then child and parent both go on."""
    seal(EdgeStore(tmp_path), 1)
    code = """
import os, sys, threading
from pathlib import Path
from tests.test_retriever import over_store
retriever = over_store(Path(sys.argv[1]))
assert retriever.search("harbour").release == 1
stop = threading.Event()
busy = threading.Thread(target=lambda: [retriever.search("copper") for _ in iter(stop.is_set, True)])
busy.start()
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        os._exit(0 if retriever.search("lantern").hits and retriever.search_many(["a", "b"]) else 1)
    children.append(child)
for child in children:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert retriever.search("meadow").hits
stop.set()
busy.join()
retriever.close()
print("well")
"""
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr


def test_forked_workers_with_the_real_encoder(tmp_path: Path) -> None:
    """onnxruntime's threads do not survive a fork: the child loads its own."""
    workspace = Workspace.create(tmp_path / "kb")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("Penguins swim well.\n")
    workspace.ingest(tmp_path / "notes")
    code = """
import os
from ragops import Retriever
retriever = Retriever.open()
first = retriever.search("which birds swim?")
child = os.fork()
if child == 0:
    os._exit(0 if retriever.search("which birds swim?") == first else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(first.hits[0].text)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "kb", capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "Penguins swim well.\n"), done.stderr


def test_a_model_of_another_space_is_refused(tmp_path: Path) -> None:
    seal(EdgeStore(tmp_path), 1)

    def other(kept: Release) -> Embedder:
        return HashEmbedder(32)

    with over_store(tmp_path, other) as retriever:
        with pytest.raises(SpaceMismatch):
            retriever.search("harbour")
        assert retriever.search("harbour", mode="bm25").hits


def test_a_collection_on_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Stub() as stub:
        seal(over(stub), 1)
        with Retriever.open(stub.url, model="hash:64") as retriever:
            stub.forget()
            results = retriever.search("harbour", 3)
            assert (results.release, len(results.hits)) == (1, 3)
            assert stub.seen["POST /collections/*/points/query/batch"] == 1  # both legs in one round trip
            assert stub.seen["POST /collections/*/points"] == 1
        with Retriever.open(stub.url, model="hash:32") as retriever, pytest.raises(SpaceMismatch):
            retriever.search("harbour")
        with pytest.raises(UsageError, match="which encodes"):
            Retriever.open(stub.url)
        with pytest.raises(ConfigError, match="collection"):
            Retriever.open(stub.url, collection="no such/name", model="hash:64")
        stub.key = "secret"
        with Retriever.open(stub.url, model="hash:64") as retriever, pytest.raises(StoreError, match="API key"):
            retriever.search("harbour")
        monkeypatch.setenv("MY_KEY", "secret")
        with Retriever.open(stub.url, model="hash:64", api_key="env:MY_KEY") as retriever:
            assert retriever.search("harbour").hits


def test_importing_it_is_light() -> None:
    code = "import sys; from ragops import Retriever, Query; print([m for m in %r if m in sys.modules])"
    heavy = ["numpy", "polars", "qdrant_client", "qdrant_edge", "onnxruntime", "torch", "tokenizers", "pydantic"]
    done = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_closing_lets_running_queries_end(tmp_path: Path) -> None:
    seal(EdgeStore(tmp_path), 1)
    retriever = over_store(tmp_path)
    with retriever.reading() as (reader, _):
        retriever.close()
        assert reader.count() == 5
    with pytest.raises(StoreError, match="closed"):
        reader.count()


def test_closing_while_another_thread_opens(tmp_path: Path) -> None:
    """What is being opened is given back: the release can be removed at once."""
    seal(EdgeStore(tmp_path), 1)

    def store() -> Store:
        retriever.close()  # as if by another thread, just now
        return EdgeStore(tmp_path)

    retriever = Retriever(store, lambda kept: MODEL)
    with pytest.raises(StoreError, match="closed"):
        retriever.search("harbour")
    seal(EdgeStore(tmp_path), 2)
    EdgeStore(tmp_path).remove(1, timeout=0.0)


class Overtaken(EdgeStore):
    """Another release is published, and the old one pruned, just after the live one was looked up."""

    def live(self) -> Release | None:
        found = super().live()
        if found is not None and found.number == 1:
            seal(EdgeStore(self.root), 2, keep=0)
        return found


def test_a_release_that_goes_while_it_is_opened(tmp_path: Path) -> None:
    seal(EdgeStore(tmp_path), 1)
    with Retriever(lambda: Overtaken(tmp_path), lambda kept: MODEL) as retriever:
        assert retriever.search("harbour").release == 2


def test_a_release_that_goes_while_a_workspace_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seal(EdgeStore(tmp_path / "store"), 1)
    monkeypatch.setattr(Workspace, "store", property(lambda self: Overtaken(tmp_path / "store")))
    with Workspace.create(tmp_path / "kb") as workspace:
        assert workspace.search("harbour", mode="bm25").release == 2


def test_nothing_is_told_where_the_store_is_gone(tmp_path: Path) -> None:
    """Its files read well as long as they are open; permissions that were changed at the new place are not known."""
    seal(EdgeStore(tmp_path / "here"), 1)
    with over_store(tmp_path / "here") as live, over_store(tmp_path / "here", release=1) as pinned:
        for retriever in (live, pinned):
            assert retriever.search("harbour").hits
        (tmp_path / "here").rename(tmp_path / "there")
        for retriever in (live, pinned):
            with pytest.raises(StoreError, match="moved"):
                retriever.search("harbour")
            with pytest.raises(StoreError, match="moved"):
                retriever.document("notes:/d.md")
        (tmp_path / "there").rename(tmp_path / "here")
        for retriever in (live, pinned):
            assert retriever.search("harbour").hits


@pytest.mark.parametrize("groups", ["sales", b"sales", 5, [5], [["sales"]]])
def test_groups_are_a_list(tmp_path: Path, groups: Any) -> None:
    Workspace.create(tmp_path)
    with pytest.raises(UsageError, match="list of names"):
        Retriever.open(tmp_path, groups=groups)


def test_one_query_is_no_list_of_letters(tmp_path: Path) -> None:
    with over_store(tmp_path) as retriever, pytest.raises(UsageError, match="list of queries"):
        retriever.search_many("harbour")
