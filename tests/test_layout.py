"""The floors of the house: a file imports from lower floors only, and nothing imports in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"ragops": ROOT / "ragops", "ragops_connectors": ROOT / "connectors/ragops_connectors",
            "ragops_pipelines": ROOT / "pipelines/ragops_pipelines"}  # fmt: skip
FLOORS = [
    {
        "ragops.types",
        "ragops.errors",
        "ragops.ids",
        "ragops.config",
        "ragops.durable",
        "ragops.templates",
        "ragops.lock",
        "ragops.keys",
        "ragops.versioning",
    },
    {"ragops_connectors", "ragops.embedders", "ragops.stores", "ragops.drift", "ragops.sources", "ragops.params"},
    {"ragops.retrieval"},
    {"ragops.evaluation"},
    {"ragops_pipelines"},
    {
        "ragops.archive",
        "ragops.backup",
        "ragops.migration",
        "ragops.workspace",
        "ragops.doctor",
        "ragops.questions",
        "ragops.revisions",
        "ragops.retriever",
    },
    {"ragops.adapters", "ragops.mcp_server"},
    {"ragops.service"},
    {"ragops.cli", "ragops.__main__", "ragops"},
]
APART = {"ragops_connectors", "ragops.embedders", "ragops.stores", "ragops.drift"}  # never import one another


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for file in folder.rglob("*.py"):
            name = ".".join([package, *file.relative_to(folder).with_suffix("").parts])
            found[name.removesuffix(".__init__")] = file
    return found


def imports(name: str, file: Path) -> set[str]:
    found = set()
    tree = ast.parse(file.read_text("utf-8"))
    # A package's face imports its own modules when they are called for; that is its way to be light, not a circle.
    lazy = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.If) for n in ast.walk(f)}
    for node in ast.walk(tree):
        own = isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{name}.")
        if file.name == "__init__.py" and own and id(node) in lazy:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    known = modules()
    ours = {i if i in known else i.rpartition(".")[0] for i in found if i.partition(".")[0] in PACKAGES}
    return ours - {name}


def part(name: str) -> str:
    """The part of the house that a module belongs to."""
    parts = sorted((p for floor in FLOORS for p in floor if name == p or name.startswith(p + ".")), key=len)
    assert parts, f"{name} has no floor"
    return parts[-1]


def floor(name: str) -> int:
    return next(i for i, parts in enumerate(FLOORS) if part(name) in parts)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_down(name: str) -> None:
    for other in imports(name, modules()[name]):
        if other == "ragops":  # the package itself: its names are lazy
            continue
        assert floor(other) <= floor(name), f"{name} (floor {floor(name)}) imports {other} (floor {floor(other)})"
        if part(name) in APART and part(other) in APART:
            assert part(name) == part(other), f"{name} imports {other}"


def test_no_circles() -> None:
    graph = {name: imports(name, file) for name, file in modules().items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        if name != "ragops":  # lazy names
            visit(name, ())
