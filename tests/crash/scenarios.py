"""The commands that are killed, each with a workspace to run it in and a clean build to compare with."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.crash.sources import break_corpus, edit_corpus, first_corpus, put

KEEP = 1  # releases kept beside the live one, so that every run has one to prune


def create(kb: Path, model: str = "hash:64") -> None:
    from ragops.workspace import Workspace

    Workspace.create(kb)
    edit_params(kb, "model: all-MiniLM-L6-v2 ", f'model: "{model}"')
    edit_params(kb, "workers: 0 ", "workers: 1 ")
    edit_params(kb, "keep: 5 ", f"keep: {KEEP} ")


def edit_params(kb: Path, before: str, after: str) -> None:
    params = kb / "params.yaml"
    text = params.read_text("utf-8")
    assert text.count(before) == 1, before
    params.write_text(text.replace(before, after), "utf-8")


def ingest(kb: Path, *arguments: str) -> None:
    code = ragops("ingest", *arguments, "-w", str(kb), "-q")
    assert code == 0, code


def ragops(*arguments: str) -> int:
    from ragops.cli import main

    return main(list(arguments))


def copy(source: Path, target: Path) -> None:
    """With its holes: the engine's files are sparse."""
    subprocess.run(["cp", "-a", "--sparse=always", "--reflink=auto", str(source), str(target)], check=True)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`prepare` makes `template` in a place, and `clean`: what must come out, built without a crash and without a past.
    `act` is the command line that is killed and repeated.
    """

    name: str
    prepare: Callable[[Path], None]
    act: tuple[str, ...]
    newest: bool = True  # afterwards the live release is that of the dataset
    settled: bool = True  # afterwards the dataset is that of `clean`


def _prepare_first(place: Path) -> None:
    first_corpus(place / "corpus")
    create(place / "template")
    create(place / "clean")
    ingest(place / "clean", str(place / "corpus"))


def _prepare_change(place: Path) -> None:
    corpus = place / "corpus"
    first_corpus(corpus)
    create(place / "template")
    ingest(place / "template", str(corpus))
    put(corpus, "page.html", "<title>Prices</title><h1>Prices</h1><p>Basic 11, large 33</p>")
    ingest(place / "template")  # a second release, so that the next run prunes one
    edit_corpus(corpus)
    create(place / "clean")
    ingest(place / "clean", str(corpus))
    break_corpus(corpus)  # what no longer parses keeps its last content that did
    ingest(place / "clean")


def _prepare_rechunk(place: Path) -> None:
    first_corpus(place / "corpus")
    create(place / "template")
    create(place / "clean")
    ingest(place / "template", str(place / "corpus"))
    for kb in ("template", "clean"):
        edit_params(place / kb, "size: null ", "size: 60 ")
    ingest(place / "clean", str(place / "corpus"))


def _prepare_permissions(place: Path) -> None:
    """Every document gets a tenant: seen at once in every release, without a new one."""
    first_corpus(place / "corpus")
    for kb in ("template", "clean"):
        create(place / kb)
        ingest(place / kb, str(place / "corpus"))
        edit_params(place / kb, "\n    connector: files", "\n    connector: files\n    tenant: acme")
    ingest(place / "clean", "--rebuild")


def _two_releases(place: Path) -> None:
    """`template` holds the first corpus and then the edited one, `clean` only the latter."""
    first_corpus(place / "corpus")
    create(place / "template")
    create(place / "clean")
    ingest(place / "template", str(place / "corpus"))
    edit_corpus(place / "corpus")
    ingest(place / "template")
    ingest(place / "clean", str(place / "corpus"))


def _prepare_rollback(place: Path) -> None:
    first_corpus(place / "corpus")
    for kb in ("template", "clean"):
        create(place / kb)
        ingest(place / kb, str(place / "corpus"))
    edit_corpus(place / "corpus")
    ingest(place / "template")


def _prepare_publish(place: Path) -> None:
    _two_releases(place)
    assert ragops("releases", "rollback", "1", "-w", str(place / "template")) == 0


def _prepare_prune(place: Path) -> None:
    first_corpus(place / "corpus")
    for kb in ("template", "clean"):
        create(place / kb)
        edit_params(place / kb, f"keep: {KEEP} ", "keep: 9 ")
    for n in range(4):
        put(place / "corpus", "page.html", f"<p>Basic {n}, large 30</p>")
        ingest(place / "template", str(place / "corpus"))
    ingest(place / "clean", str(place / "corpus"))


def _prepare_gc(place: Path) -> None:
    _two_releases(place)
    for kb in ("template", "clean"):
        edit_params(place / kb, '"hash:64"', '"hash:32"')
        ingest(place / kb)


def _prepare_repair(place: Path) -> None:
    """The newest release is gone, and the one before it is live."""
    _two_releases(place)
    store = place / "template/.ragops/store/main"
    shutil.rmtree(store / "releases/00000002")
    (store / "LIVE").write_text("1\n")


def _prepare_damage(place: Path) -> None:
    """A file of the dataset is damaged."""
    _two_releases(place)
    file = next((place / "template/data/dataset/documents").glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-10] + bytes(10))


SCENARIOS = {
    found.name: found
    for found in (
        Scenario("first", _prepare_first, ("ingest", "{place}/corpus")),
        Scenario("change", _prepare_change, ("ingest",)),
        Scenario("rechunk", _prepare_rechunk, ("ingest",)),
        Scenario("permissions", _prepare_permissions, ("ingest",), newest=False),
        Scenario("rollback", _prepare_rollback, ("releases", "rollback", "1"), newest=False, settled=False),
        Scenario("publish", _prepare_publish, ("releases", "publish")),
        Scenario("prune", _prepare_prune, ("releases", "prune", "--keep", "0")),
        Scenario("gc", _prepare_gc, ("gc",)),
        Scenario("repair", _prepare_repair, ("verify", "--repair")),
        Scenario("damage", _prepare_damage, ("verify", "--repair")),
    )
}
INGESTS = ("first", "change", "rechunk")  # those that take every way
