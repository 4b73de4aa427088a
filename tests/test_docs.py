"""The documents say what the code does: commands, options, settings, links, snippets, messages, plug-ins."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

from ragops import config, errors
from ragops.cli import app
from ragops.types import REJECT_CODES
from ragops.workspace import Workspace
from ragops_connectors import connector_settings
from tests.conftest import use_model

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
SOURCES = [f for folder in ("ragops", "connectors", "pipelines") for f in sorted((ROOT / folder).rglob("*.py"))]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+?) \| ([^|]+?) \|", re.M)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def ids(pages: list[Path]) -> list[str]:
    return [path.name for path in pages]


def prose(text: str) -> str:
    return FENCE.sub("", text)


def inline_code(text: str) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(text).replace("\\|", "|"))]


# ---------------------------------------------------------------- commands and options
def commands() -> dict[str, set[str]]:
    """ "ingest" -> its options, "rejects list" -> its options, "" -> those of the program."""
    found: dict[str, set[str]] = {}

    def walk(command: Any, path: tuple[str, ...]) -> None:
        options = {"-h", "--help"}
        for parameter in command.params:
            options.update(o for o in (*parameter.opts, *parameter.secondary_opts) if o.startswith("-"))
        found[" ".join(path)] = options
        for name in getattr(command, "commands", {}):
            walk(command.get_command(None, name), (*path, name))

    walk(typer.main.get_command(app), ())
    return found


COMMANDS = commands()


def invocations(text: str) -> Iterator[str]:
    """Everything after `ragops` that a reader may type."""
    for kind, body in FENCE.findall(text):
        if kind in ("console", "sh", "bash", "text", ""):
            for line in body.replace("\\\n", " ").splitlines():
                for match in re.finditer(r"(?:^|[\s/])ragops (?=[a-z-])([^#|>&]*)", line):
                    yield match[1]
    for code in inline_code(text):
        if code.startswith("ragops "):
            yield code.removeprefix("ragops ")


def misused(call: str) -> str | None:
    """What is wrong with a call, or None."""
    words = re.sub(r"'[^']*'|\"[^\"]*\"", "WORD", call).split()
    path = ""
    while words and f"{path} {words[0]}".strip() in COMMANDS:
        path = f"{path} {words.pop(0)}".strip()
    choices = words[0].split("|") if words and path else []  # rejects list|show|retry
    if len(choices) > 1:
        return next((f"no command {path} {c}" for c in choices if f"{path} {c}" not in COMMANDS), None)
    if not path and (not words or not words[0].startswith("-")):
        return f"no command {call!r}"
    for word in words:
        option = word.partition("=")[0]
        if re.match(r"--?[a-z]", option) and option not in COMMANDS[path]:
            return f"{path!r} has no option {option}"
    return None


@pytest.mark.parametrize("path", PAGES, ids=ids(PAGES))
def test_commands_and_options_exist(path: Path) -> None:
    assert [problem for call in invocations(path.read_text("utf-8")) if (problem := misused(call))] == []


def test_a_wrong_call_is_noticed() -> None:
    assert misused("ingest ./docs --plan -q") is None
    assert misused("rejects list|show|retry") is None
    assert misused("--version") is None
    assert misused("ingest --plann") is not None
    assert misused("rollback 3") is not None
    assert misused("search hello --strict") is not None
    assert misused("rejects list|drop") is not None
    assert list(invocations("say `ragops x --y` or\n```console\n$ cd a && ragops z -q  # why\n```\n")) == [
        "z -q  ",
        "x --y",
    ]


@pytest.mark.parametrize("path", PAGES, ids=ids(PAGES))
def test_bare_options_exist(path: Path) -> None:
    known = set().union(*COMMANDS.values())
    found = {code.partition(" ")[0] for code in inline_code(path.read_text("utf-8")) if re.match(r"--[a-z]", code)}
    assert found <= known


@pytest.mark.parametrize("command", ["ingest", "search"])
def test_every_option_is_documented(command: str) -> None:
    text = page(f"{command}.md")
    assert {option for option in COMMANDS[command] - {"-h", "--help"} if f"`{option}" not in text} == set()


@pytest.mark.parametrize("path", SOURCES, ids=[str(p.relative_to(ROOT)) for p in SOURCES])
def test_messages_name_commands_that_exist(path: Path) -> None:
    """A hint that names a command which is not there is worse than none."""
    for text in strings(path):
        for call in re.findall(r"`ragops ([^`…]+)`", text):
            assert misused(call) is None, call


# ---------------------------------------------------------------- settings
def default_text(value: Any) -> str:
    if isinstance(value, tuple):
        value = list(value)
    return (
        f"{value:g}" if isinstance(value, float) else json.dumps(value) if not isinstance(value, str) else value or '""'
    )


def declared(cls: type[Any]) -> dict[str, str]:
    """Key -> its default as the tables write it."""
    found = {}
    for field in dataclasses.fields(cls):
        made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        found[field.name] = default_text(made)
    return found


def tabled(text: str) -> dict[str, str]:
    """Key -> default, from the tables that have a column for it."""
    found = {}
    for table in re.findall(r"^\| key \| type \| default \| effect \|\n\|[-| ]+\n((?:\|.*\n)+)", text, re.M):
        for key, _, default in ROW.findall(table):
            assert key not in found, f"{key} stands twice"
            found[key] = default.strip("`")
    return found


def test_every_key_of_params_is_documented() -> None:
    expected: dict[str, str] = {}
    for field in dataclasses.fields(config.Settings):
        if field.name == "sources":
            expected |= {"sources[].name": "required", "sources[].connector": "files", "sources[].snapshot": "bytes"}
        elif field.name == "version":
            expected["version"] = str(config.VERSION)
        else:
            cls = type(getattr(config.Settings(), field.name))
            expected |= {f"{field.name}.{key}": default for key, default in declared(cls).items()}
    assert tabled(page("configuration.md")) == expected


@pytest.mark.parametrize("kind", ["files", "records"])
def test_every_key_of_a_connector_is_documented(kind: str) -> None:
    assert tabled(page(f"connectors-{kind}.md")) == declared(connector_settings(kind))


@pytest.mark.parametrize("path", PAGES, ids=ids(PAGES))
def test_examples_of_params_are_valid(path: Path) -> None:
    for kind, body in FENCE.findall(path.read_text("utf-8")):
        if kind == "yaml":
            settings = config.parse(body)
            for source in settings.sources:
                config.bind(connector_settings(source.connector), source.options, source.where)


@pytest.mark.parametrize("path", PAGES, ids=ids(PAGES))
def test_keys_in_the_prose_exist(path: Path) -> None:
    sections = {
        field.name: type(getattr(config.Settings(), field.name)) for field in dataclasses.fields(config.Settings)
    }
    for code in inline_code(path.read_text("utf-8")):
        match = re.match(r"(parse|chunk|embed|store|release|search|serve)\.([a-z_0-9]+)(?=$|:)", code)
        if match and not code.endswith("()"):
            names = {field.name for field in dataclasses.fields(sections[match[1]])}
            known = names if match[1] != "release" else names | {"created"}  # of `ragops status --json`
            assert match[2] in known, code


# ---------------------------------------------------------------- links and snippets
def anchors(path: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", prose(path.read_text("utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=ids(PAGES))
def test_links_resolve(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text("utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        other = (path.parent / name).resolve() if name else path
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


@pytest.mark.parametrize("path", PAGES, ids=ids(PAGES))
def test_python_compiles_and_its_imports_exist(path: Path) -> None:
    for kind, body in FENCE.findall(path.read_text("utf-8")):
        if kind != "python":
            continue
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0].startswith("ragops"):
                module = importlib.import_module(node.module or "")
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("path", PAGES, ids=ids(PAGES))
def test_calls_of_a_workspace_fit(path: Path) -> None:
    """`workspace.search("...", filter=...)` in a snippet: the method and its arguments exist."""
    for kind, body in FENCE.findall(path.read_text("utf-8")):
        for node in ast.walk(ast.parse(body)) if kind == "python" else ():
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id in ("workspace", "Workspace"):
                parameters = inspect.signature(getattr(Workspace, node.func.attr)).parameters
                assert {keyword.arg for keyword in node.keywords} <= set(parameters), ast.unparse(node)


def test_every_page_can_be_reached_and_has_a_title() -> None:
    links = [link for path in PAGES for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8"))]
    linked = {link.partition("#")[0].rpartition("/")[2] for link in links}
    topics = "guide|concepts|reference|operations"
    for path in DOCS:
        text = path.read_text("utf-8")
        head = re.match(rf"---\ntitle: \"?(.+?)\"?\ntopic: (?:{topics})\n---\n\n# (.+)\n", text)
        assert head is not None, path.name
        assert head[1] == head[2]
        assert path.name in linked, f"nothing links to {path.name}"


# ---------------------------------------------------------------- names, codes, messages
def test_reject_codes_and_errors_are_documented() -> None:
    codes = set(re.findall(r"^\| `([a-z_]+)` \| [^|]+ \| [^|]+ \| [^|]+ \|$", page("rejects.md"), re.M))
    assert codes == set(REJECT_CODES)
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d) \|", page("python-api.md"), re.M))
    assert rows
    for name, code in rows.items():
        assert getattr(errors, name).exit_code == int(code)


def strings(path: Path) -> Iterator[str]:
    """Every text in a module, with … where a value is put in."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values)  # type: ignore[misc]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_messages_in_troubleshooting_are_those_of_the_code() -> None:
    texts = {text for path in SOURCES for text in strings(path) if len(text.replace("…", "").strip()) >= 12}
    patterns = [re.compile(".*?".join(map(re.escape, text.split("…"))), re.S) for text in texts]
    heads = re.findall(r"^### (.+)$", page("troubleshooting.md"), re.M)
    assert len(heads) > 30
    for quoted in (quoted for head in heads for quoted in re.findall(r"`([^`]+)`", head)):
        if quoted.startswith(("data/", "pip ", "params.yaml:12: 'chunk")):
            continue
        said = re.sub(r"^params\.yaml:12: ", "", quoted)
        pieces = [piece.strip() for piece in said.split("…") if len(piece.strip()) > 3]
        assert pieces, quoted
        known = any(all(piece in text for piece in pieces) for text in texts)
        assert known or any(p.match(said) for p in patterns), f"no message says {quoted!r}"


# ---------------------------------------------------------------- what is printed
@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The documentation as a knowledge base."""
    root = tmp_path_factory.mktemp("docs") / "kb"
    Workspace.create(root)
    use_model(root)
    workspace = Workspace.open(root)
    workspace.ingest(ROOT / "docs")
    return workspace


def documented_json(name: str) -> list[Any]:
    return [json.loads(body) for kind, body in FENCE.findall(page(name)) if kind == "json"]


def keys(value: Any) -> Any:
    """The shape of a JSON value: keys, and those of the first item of a list."""
    if isinstance(value, dict):
        return {key: keys(item) for key, item in value.items()}
    return [keys(value[0])] if isinstance(value, list) and value and isinstance(value[0], dict) else None


def test_json_is_as_documented(kb: Workspace) -> None:
    plan, summary = documented_json("ingest.md")
    assert keys(kb.plan().as_dict()) == keys(plan)
    done = kb.ingest(rebuild=True).as_dict()
    assert keys(done) == keys(summary)
    (results,) = documented_json("search.md")
    found = kb.search("which formats can be ingested?", 3).as_dict()
    for hit in found["hits"]:
        assert set(hit) == set(results["hits"][0])
    assert set(found) == set(results)


def test_all_pages_are_ingested(kb: Workspace) -> None:
    status = kb.status()
    assert status["sources"][0]["documents"] == len(DOCS)
    assert kb.rejects() == []
    for name in re.findall(r"`(\w+)`", page("python-api.md").partition("`status()` returns")[2].partition(".")[0]):
        assert name in status or name == "None", name


def test_plug_ins_of_contributing_work(tmp_path: Path) -> None:
    """The three examples, installed as a distribution would be, make a release that can be searched."""
    blocks = FENCE.findall((ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    site = tmp_path / "site"
    site.mkdir()
    for kind, body in blocks:
        if kind == "python":
            (site / body.partition("\n")[0].removeprefix("# ")).write_text(body)
    points = "\n".join(body.replace('[project.entry-points."', "[").replace('"]', "]").replace('"', "")
                       for kind, body in blocks if kind == "toml")  # fmt: skip
    info = site / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)

    root = tmp_path / "kb"
    (root / "pictures").mkdir(parents=True)
    comment = b"Comment\0A zebra in the snow"
    chunk = len(comment).to_bytes(4, "big") + b"tEXt" + comment + b"\0\0\0\0"
    (root / "pictures/zebra.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    (root / "cookies").write_bytes(b"Do not panic, whatever happens.\n%\nThe early bird catches the worm.\n")
    (root / "params.yaml").write_text(
        "sources:\n  - {name: fortunes, connector: fortunes, path: cookies}\n  - {name: pictures, path: pictures}\n"
        "embed: {model: 'letters:26'}\n"
    )

    def run(*arguments: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "ragops", *arguments, "--json"],
            cwd=root, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert run("ingest")["sources"]["added"] == 3
    assert run("search", "zebra in the snow")["hits"][0]["uri"] == "pictures:/zebra.png"
    (hit,) = run("search", "panic", "-k", "1", "-f", "meta.kind=cookie")["hits"]
    assert hit["uri"].startswith("fortunes:/")
    assert run("ingest")["noop"] is True
