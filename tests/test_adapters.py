"""The adapters, in the real frameworks: documents, citations, scores by leg; async; what is refused; no telemetry."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ragops import Retriever
from ragops.errors import UsageError
from ragops.workspace import Workspace

QUESTION = "penguins in the southern hemisphere"
FRAMEWORKS = ["langchain", "llama_index", "haystack"]
EXTRAS = {"langchain": "langchain_core", "llama_index": "llama_index", "haystack": "haystack"}


def made(framework: str, retriever: Any, **options: Any) -> Any:
    if framework == "langchain":
        from ragops.adapters.langchain import RagopsRetriever as LangChain

        return LangChain(retriever=retriever, **options)
    if framework == "llama_index":
        from ragops.adapters.llama_index import RagopsRetriever as LlamaIndex

        return LlamaIndex(retriever, **options)
    from ragops.adapters.haystack import RagopsRetriever as Haystack

    return Haystack(retriever, **options)


Answer = list[tuple[str, str, dict[str, Any]]]  # id, text, metadata


def asked(framework: str, adapter: Any, text: str = QUESTION) -> Answer:
    if framework == "langchain":
        return [(found.id, found.page_content, found.metadata) for found in adapter.invoke(text)]
    if framework == "llama_index":
        return [(found.node.node_id, found.node.text, found.node.metadata) for found in adapter.retrieve(text)]
    return [(found.id, found.content, found.meta) for found in adapter.run(text)["documents"]]


async def awaited(framework: str, adapter: Any, text: str = QUESTION) -> Answer:
    if framework == "langchain":
        return [(found.id, found.page_content, found.metadata) for found in await adapter.ainvoke(text)]
    if framework == "llama_index":
        return [(found.node.node_id, found.node.text, found.node.metadata) for found in await adapter.aretrieve(text)]
    return [(found.id, found.content, found.meta) for found in (await adapter.run_async(text))["documents"]]


def same(answer: Answer, results: Any) -> None:
    """Text, citation, scores and release are those of a search without the adapter."""
    assert [id for id, _, _ in answer] == [hit.chunk_id for hit in results.hits]
    assert [text for _, text, _ in answer] == [hit.text for hit in results.hits]
    for (_, _, cited), hit in zip(answer, results.hits, strict=True):
        assert json.loads(json.dumps(cited)) == cited
        for name in ("uri", "title", "page", "start", "end", "source", "document_id", "chunk_id", "score"):
            assert cited[name] == getattr(hit, name)
        assert cited["heading"] == list(hit.heading)
        assert (cited["scores"], cited["ranks"], cited["meta"]) == (hit.scores, hit.ranks, hit.meta)
        assert cited["release"] == results.release == 1


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_answers_are_those_of_a_search(framework: str, ingested: Workspace) -> None:
    expected = ingested.search(QUESTION, 3, mode="hybrid")
    assert expected.hits[0].uri == "corpus:/notes.txt"
    assert set(expected.hits[0].scores) == {"dense", "bm25"}
    with Retriever.open(ingested.root) as retriever:
        adapter = made(framework, retriever, k=3)
        same(asked(framework, adapter), expected)
        same(asyncio.run(awaited(framework, adapter)), expected)
    same(asked(framework, made(framework, str(ingested.root), k=3)), expected)
    same(asked(framework, made(framework, ingested.root, k=3)), expected)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_options_reach_the_search(framework: str, ingested: Workspace, tmp_path: Path) -> None:
    tide = "".join(f"The tide of day {day} comes and goes with the moon, and nobody minds.\n\n" for day in range(60))
    (tmp_path / "corpus/tide.txt").write_text(tide)
    ingested.ingest()
    with Retriever.open(ingested.root) as retriever:

        def uris(**options: Any) -> list[str]:
            return [cited["uri"] for _, _, cited in asked(framework, made(framework, retriever, **options))]

        page = {"uri": "corpus:/page.html"}
        assert set(uris(filter=page)) == {"corpus:/page.html"}
        assert uris(mode="bm25", k=1) == ["corpus:/notes.txt"]
        assert set(uris(mode="bm25")) != set(uris(mode="dense"))
        assert uris(k=2, offset=1) == uris(k=3)[1:]
        by_words = asked(framework, made(framework, retriever, mode="bm25", k=1, expand=1))
        assert set(by_words[0][2]["scores"]) == {"bm25"}
        _, text, cited = asked(framework, made(framework, retriever, expand=1), "the tide of day 30")[0]
        neighbours = "".join((*cited["before"], *cited["after"]))
        assert "The tide of day" in neighbours
        assert neighbours not in text


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_tenant_sees_its_own(framework: str, tenants: Path) -> None:
    def sources(**scope: Any) -> set[str]:
        adapter = made(framework, tenants, mode="hybrid", **scope)
        return {cited["source"] for _, _, cited in asked(framework, adapter, "the plan")}

    assert sources() == {"acme", "globex"}
    assert sources(tenant="acme") == {"acme"}
    assert sources(tenant="globex", groups=[]) == {"globex"}
    assert sources(tenant="nobody") == set()
    with Retriever.open(tenants, tenant="acme") as acme:
        assert {cited["source"] for _, _, cited in asked(framework, made(framework, acme), "the plan")} == {"acme"}
        with pytest.raises(UsageError, match="beside an open Retriever"):
            made(framework, acme, tenant="globex")


@pytest.fixture
def tenants(tmp_path: Path) -> Path:
    from tests.conftest import use_model, write_corpus

    root = tmp_path / "shared"
    Workspace.create(root)
    use_model(root)
    params = root / "params.yaml"
    names = ("acme", "globex")
    for name in names:
        write_corpus(root / name, {"plan.md": f"# Plan\n\nThe plan of {name} is secret.\n"})
    sources = "".join(f"  - {{name: {name}, path: {name}, tenant: {name}}}\n" for name in names)
    params.write_text(params.read_text("utf-8").replace("sources: []\n", f"sources:\n{sources}"), "utf-8")
    Workspace.open(root).ingest()
    return root


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    "options",
    [{"k": 0}, {"mode": "hybird"}, {"filter": {"sauce": 1}}, {"expand": -1}, {"diversity": 2.0}, {"tennant": "a"}],
    ids=lambda options: next(iter(options)),
)
def test_what_is_wrong_is_refused_when_it_is_made(framework: str, options: dict[str, Any], ingested: Workspace) -> None:
    """Also what is misspelt: a `tennant` that is passed over would show everything."""
    with pytest.raises((UsageError, ValueError), match=next(iter(options)) + "|sauce"):
        made(framework, ingested.root, **options)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_errors_are_those_of_a_search(framework: str, ingested: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="empty"):
        asked(framework, made(framework, ingested.root), "  ")
    with pytest.raises(UsageError):
        asked(framework, made(framework, tmp_path / "nothing"))


def test_a_new_release_is_followed(ingested: Workspace, tmp_path: Path) -> None:
    adapter = made("langchain", ingested.root, k=1)
    assert adapter.invoke(QUESTION)[0].metadata["release"] == 1
    (tmp_path / "corpus/new.txt").write_text("Penguins in the southern hemisphere, again.")
    ingested.ingest()
    found = adapter.invoke("Penguins in the southern hemisphere, again.")[0]
    assert (found.metadata["release"], found.metadata["uri"]) == (2, "corpus:/new.txt")


# ---------------------------------------------------------------- what belongs to one framework
def test_langchain_composes(ingested: Workspace) -> None:
    from langchain_core.runnables import RunnableLambda

    adapter = made("langchain", ingested.root, k=1)
    chain = adapter | RunnableLambda(lambda documents: [document.metadata["uri"] for document in documents])
    assert chain.invoke(QUESTION) == ["corpus:/notes.txt"]
    assert chain.batch([QUESTION, "prices of basic and large"]) == [["corpus:/notes.txt"], ["corpus:/page.html"]]


def test_a_language_model_is_shown_the_citation_only(ingested: Workspace) -> None:
    from llama_index.core.schema import MetadataMode, NodeRelationship

    found = made("llama_index", ingested.root, k=1, filter={"uri": "corpus:/guide/install.md"}).retrieve("compiler")[0]
    shown = found.node.get_content(MetadataMode.LLM)
    assert "uri: corpus:/guide/install.md" in shown
    assert found.node.metadata["document_id"] not in shown
    assert "scores" not in shown
    assert found.node.relationships[NodeRelationship.SOURCE].node_id == found.node.metadata["document_id"]
    assert found.score == found.node.metadata["score"]


def test_haystack_runs_and_keeps_a_pipeline(ingested: Workspace) -> None:
    from haystack import Pipeline

    pipeline = Pipeline()
    pipeline.add_component("retriever", made("haystack", ingested.root, k=2, mode="bm25", groups=["staff"]))
    text = pipeline.dumps()
    again = Pipeline.loads(text, allowed_modules=["ragops.adapters.haystack"])
    assert again.dumps() == text
    for each in (pipeline, again):
        found = each.run({"retriever": {"query": QUESTION}})["retriever"]["documents"]
        assert found[0].meta["uri"] == "corpus:/notes.txt"
    one = {"retriever": {"query": "penguins", "top_k": 1, "filter": {"uri": "corpus:/notes.txt"}}}
    assert len(again.run(one)["retriever"]["documents"]) == 1
    with Retriever.open(ingested.root) as retriever, pytest.raises(UsageError, match="cannot be written down"):
        made("haystack", retriever).to_dict()


# ---------------------------------------------------------------- offline, and without the packages
OFFLINE = """
import os, socket, sys
def refused(*a, **k): raise AssertionError(f"a connection was tried: {a[1:]}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refused
"""

LANGCHAIN = "from ragops.adapters.langchain import RagopsRetriever as R"
LLAMA_INDEX = "from ragops.adapters.llama_index import RagopsRetriever as R"
HAYSTACK = "from ragops.adapters.haystack import RagopsRetriever as R"
QUIET = {
    "langchain": f"{LANGCHAIN}\nR(retriever=sys.argv[1]).invoke('penguins')",
    "llama_index": f"{LLAMA_INDEX}\nR(sys.argv[1]).retrieve('penguins')",
    "haystack": f"{HAYSTACK}\nfrom haystack import Pipeline",
    "haystack first": f"from haystack import Pipeline\n{HAYSTACK}",
}
RUN = """
p = Pipeline(); p.add_component('r', R(sys.argv[1])); p.run({'r': {'query': 'penguins'}})
from haystack.telemetry import _telemetry
assert _telemetry.telemetry is None
"""


def python(code: str, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "HAYSTACK_TELEMETRY_ENABLED"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env={**kept, **env}, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("order", QUIET)
def test_nothing_phones_home(order: str, ingested: Workspace, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code = OFFLINE + QUIET[order] + (RUN if "haystack" in order else "")
    done = python(code, ingested.root, HOME=str(home))
    assert done.returncode == 0, done.stderr
    left = [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
    assert order == "haystack first" or left == []  # Haystack alone writes down an id when it is imported


def test_who_wants_telemetry_keeps_it(tmp_path: Path) -> None:
    code = "from ragops.adapters import haystack; from haystack.telemetry import _telemetry as t; assert t.telemetry"
    done = python(code, HOME=str(tmp_path), HAYSTACK_TELEMETRY_ENABLED="true")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_missing_package_is_named(framework: str) -> None:
    extra = framework.replace("_", "-")
    code = f"import sys; sys.modules[{EXTRAS[framework]!r}] = None\nimport ragops.adapters.{framework}"
    done = python(code)
    assert done.returncode == 1
    assert "MissingExtra: the adapter for" in done.stderr
    assert f"pip install 'ragops[{extra}]'" in done.stderr
