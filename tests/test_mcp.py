"""`ragops mcp` as an assistant meets it: the SDK's own client, and the command as a subprocess."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters, stdio_client

from ragops.workspace import Workspace
from tests.conftest import use_model, write_corpus

FILES = {
    "public/whales.md": "# Whales\n\nWhales sing songs in the deep sea.\n\n## Food\n\nWhales eat krill, tons of it.\n",
    "acme/plan.md": "# Plan\n\nThe plan of acme names the whale project.\n",
    "globex/plan.md": "# Plan\n\nThe plan of globex names the whale project too.\n",
}


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mcp") / "kb"
    Workspace.create(root)
    use_model(root)
    write_corpus(root, FILES)
    write_corpus(
        root / "public", {"long.txt": "".join(f"Sentence number {i} is of the tide.\n\n" for i in range(4000))}
    )
    params = root / "params.yaml"
    sources = "sources:\n  - {name: public, path: public}\n" + "".join(
        f"  - {{name: {name}, path: {name}, tenant: {name}}}\n" for name in ("acme", "globex")
    )
    params.write_text(params.read_text("utf-8").replace("sources: []\n", sources), "utf-8")
    Workspace.open(root).ingest()
    return root


def over_stdio(root: Path, ask: Callable[[Client], Awaitable[Any]], *options: str) -> Any:
    async def main() -> Any:
        command = StdioServerParameters(
            command=sys.executable, args=["-m", "ragops", "mcp", "-w", str(root), *options], cwd=root.parent
        )
        async with Client(stdio_client(command)) as client:
            return await ask(client)

    return asyncio.run(main())


def test_search_and_fetch(kb: Path) -> None:
    async def ask(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"search", "fetch"}
        assert tools["search"].input_schema["required"] == ["query"]
        assert tools["fetch"].input_schema["required"] == ["id"]
        for tool in tools.values():
            assert tool.annotations is not None
            assert tool.annotations.read_only_hint
            assert tool.output_schema is not None

        found = await client.call_tool("search", {"query": "what do whales eat?", "filter": {"source": "public"}})
        assert not found.is_error
        answer = found.structured_content
        assert json.loads(found.content[0].text) == answer  # the same, for clients that read text only
        best = answer["results"][0]
        assert best["url"] == "public:/whales.md"
        assert best["title"] == "Whales"
        assert "krill" in best["text"] + "".join(passage["text"] for passage in best["more"])
        assert answer["release"] == 1
        ids = [result["id"] for result in answer["results"]]
        assert len(ids) == len(set(ids))

        whole = (await client.call_tool("fetch", {"id": best["id"]})).structured_content
        assert (whole["id"], whole["title"], whole["url"]) == (best["id"], "Whales", "public:/whales.md")
        assert "sing songs" in whole["text"]
        assert "krill" in whole["text"]
        assert whole["metadata"]["source"] == "public"
        assert whole["metadata"]["release"] == 1
        assert "next" not in whole["metadata"]
        for passage in (best, *best["more"]):
            assert whole["text"][passage["start"] : passage["end"]] == passage["text"]

    over_stdio(kb, ask)


def test_a_long_document_comes_in_parts(kb: Path) -> None:
    async def ask(client: Client) -> None:
        found = await client.call_tool("search", {"query": "sentence of the tide", "k": 1})
        (best,) = found.structured_content["results"]
        parts, start = [], 0
        while start is not None:
            part = (await client.call_tool("fetch", {"id": best["id"], "start": start})).structured_content
            assert part["metadata"]["start"] == start
            assert len(part["text"]) <= 100_000
            parts.append(part["text"])
            start = part["metadata"].get("next")
        assert len(parts) == 2
        text = "".join(parts)
        assert len(text) == part["metadata"]["length"]
        assert all(f"Sentence number {i} is" in text for i in range(4000))

    over_stdio(kb, ask)


def test_a_tenant_is_kept_to_its_own(kb: Path) -> None:
    async def ids(client: Client) -> dict[str, str]:
        found = await client.call_tool("search", {"query": "the whale project", "k": 50})
        return {result["url"]: result["id"] for result in found.structured_content["results"]}

    everything = over_stdio(kb, ids)
    assert {"acme:/plan.md", "globex:/plan.md", "public:/whales.md"} <= set(everything)

    async def as_acme(client: Client) -> None:
        assert set(await ids(client)) == {"acme:/plan.md"}
        sly = {"query": "plan", "filter": {"tenant": "globex"}}
        assert (await client.call_tool("search", sly)).structured_content["results"] == []
        for name in ("globex:/plan.md", everything["globex:/plan.md"]):
            refused = await client.call_tool("fetch", {"id": name})
            assert refused.is_error
            assert "no document" in refused.content[0].text

    over_stdio(kb, as_acme, "--tenant", "acme", "--mode", "bm25")


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("search", {"query": " "}, "empty"),
        ("search", {"query": "x", "k": 0}, "greater than or equal to 1"),
        ("search", {"query": "x", "k": 10**6}, "less than or equal to 50"),
        ("search", {"query": "x", "filter": {"sauce": "a"}}, "no field 'sauce'"),
        ("search", {}, "query"),
        ("fetch", {"id": "nothing"}, "no document"),
        ("fetch", {"id": "", "start": -1}, "greater than or equal to 0"),
        ("fetch", {"id": "public:/whales.md", "start": 10**9}, "characters"),
    ],
)
def test_what_is_wrong_is_told(kb: Path, tool: str, arguments: dict[str, Any], said: str) -> None:
    from ragops import Retriever
    from ragops.mcp_server import server

    async def main() -> None:
        with Retriever.open(kb) as retriever:
            async with Client(server(retriever)) as client:
                found = await client.call_tool(tool, arguments)
                assert found.is_error
                assert said in found.content[0].text
                assert not (await client.call_tool("search", {"query": "whales"})).is_error

    asyncio.run(main())


def run(*arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ragops", "mcp", *arguments]
    return subprocess.run(command, input=said, capture_output=True, text=True, timeout=120)


def test_it_ends_with_its_client_and_says_only_what_the_protocol_says(kb: Path) -> None:
    done = run("-w", str(kb), said="this is no JSON\n")
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert json.loads(line)["jsonrpc"] == "2.0"


@pytest.mark.parametrize("options", [["--mode", "hybird"], ["-k", "0"], ["-k", "51"]], ids=" ".join)
def test_a_wrong_option_ends_it(kb: Path, options: list[str]) -> None:
    done = run("-w", str(kb), *options)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""


def test_without_a_workspace(tmp_path: Path) -> None:
    done = run("-w", str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""


def test_a_missing_package_is_named(kb: Path) -> None:
    code = "import sys; sys.modules['mcp'] = None\nfrom ragops.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "mcp", "-w", str(kb)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "pip install 'ragops[mcp]'" in done.stderr
