"""DVC and git in every state that is not the good one: a clear error or a repair, and nothing is lost."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ragops import versioning
from ragops.workspace import Workspace
from tests.conftest import write_corpus
from tests.versioned import answers, clone, commit, dirty, dvc, edited, holds, reproduce, run

pytestmark = pytest.mark.slow


def put(root: Path, name: str, text: str) -> None:
    """Write a file of the corpus beside the workspace."""
    write_corpus(root.parent / "corpus", {name: text})


def ingest(root: Path, **options: Any) -> Any:
    with Workspace.open(root) as workspace:
        return workspace.ingest(**options)


def changed(root: Path) -> Any:
    """An ingest of one new document."""
    put(root, "new.md", "# New\n\nFoxes dig in the snow.\n")
    return ingest(root)


def unrecorded(root: Path, *says: str) -> None:
    """An ingest whose release stands, though DVC could not be told."""
    summary = changed(root)
    assert not summary.noop
    assert not summary.dvc["recorded"]
    for word in says:
        assert word in summary.dvc["error"]
    assert answers(root, ("foxes",))["foxes"][0][0] == "corpus:/new.md"


def mended(root: Path) -> None:
    """The next ingest records it, and does nothing else."""
    summary = ingest(root)
    assert summary.noop
    assert (summary.dvc["recorded"], summary.dvc["error"]) == (True, None)
    assert dirty(root) == {}
    assert ingest(root).dvc["recorded"] is False


# ------------------------------------------------------------------ what cannot be recorded
def test_a_lock_file_in_conflict(versioned: Path) -> None:
    run(versioned, "git", "checkout", "-q", "-b", "theirs")
    put(versioned, "new.md", "# New\n\nWolves howl.\n")
    ingest(versioned)
    commit(versioned, "theirs")
    run(versioned, "git", "checkout", "-q", "main")
    dvc(versioned, "checkout", force=True)
    put(versioned, "new.md", "# New\n\nFoxes dig in the snow.\n")
    ingest(versioned)
    commit(versioned, "ours")
    held = holds(versioned)
    run(versioned, "git", "merge", "-q", "theirs", code=1)
    assert "<<<<<<<" in (versioned / "dvc.lock").read_text("utf-8")
    said = run(versioned, "ragops", "ingest", "-q", "--json")
    found = json.loads(said)["dvc"]
    assert not found["recorded"]
    assert "merge conflict" in found["error"]
    assert "git checkout --ours" in found["error"]
    run(versioned, "git", "checkout", "-q", "--ours", ".")
    summary = ingest(versioned)
    assert (summary.dvc["recorded"], summary.dvc["error"]) == (True, None)
    assert dirty(versioned) == {}
    assert holds(versioned) == held


def test_settings_in_conflict_are_told(versioned: Path) -> None:
    text = (versioned / "params.yaml").read_text("utf-8")
    edited(versioned, {"k: 10": "<<<<<<< HEAD\n  k: 10\n=======\n  k: 5\n>>>>>>> theirs"})
    said = run(versioned, "ragops", "ingest", "-q", code=2)
    assert "params.yaml" in said
    assert said.startswith("error: ")
    (versioned / "params.yaml").write_text(text, "utf-8")
    assert ingest(versioned).noop


def test_a_dataset_in_conflict_is_made_again(versioned: Path) -> None:
    held = holds(versioned)
    edited(versioned, {' "counts"': '<<<<<<< HEAD\n "counts"'}, "data/dataset/dataset.json")
    assert "damaged" in run(versioned, "ragops", "stage", "load", code=3)
    assert ingest(versioned).vectors["computed"] == 0
    assert holds(versioned) == held
    assert dirty(versioned) == {}
    assert run(versioned, "git", "status", "--porcelain") == ""


HOLD = """
import sys, time
from dvc.repo import Repo
with Repo(sys.argv[1]).lock:
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_repository_that_another_dvc_command_holds(versioned: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(versioned)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        unrecorded(versioned, "lock", "ragops ingest")
    finally:
        holder.kill()
        holder.wait()
    mended(versioned)


def test_without_the_package(versioned: Path) -> None:
    put(versioned, "new.md", "# New\n\nFoxes dig in the snow.\n")
    code = "import sys; sys.modules['dvc'] = None; from ragops.cli import main; sys.exit(main(sys.argv[1:]))"
    said = json.loads(run(versioned, sys.executable, "-c", code, "ingest", "--json"))
    assert not said["noop"]
    assert "pip install" in said["dvc"]["error"]
    mended(versioned)


def test_without_a_pipeline(versioned: Path) -> None:
    text = (versioned / "dvc.yaml").read_text("utf-8")
    (versioned / "dvc.yaml").unlink()
    unrecorded(versioned, "dvc.yaml", "ragops init")
    run(versioned, "ragops", "init", ".")
    assert (versioned / "dvc.yaml").read_text("utf-8") == text
    mended(versioned)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stages:\n  train:\n    cmd: echo 1\n    outs: [model.bin]\n", "parse"),
        ("stages: [", "dvc.yaml"),
        ("", "parse"),
    ],
    ids=["other", "broken", "empty"],
)
def test_a_pipeline_of_someone_else(versioned: Path, text: str, says: str) -> None:
    ours = (versioned / "dvc.yaml").read_text("utf-8")
    (versioned / "dvc.yaml").write_text(text, "utf-8")
    unrecorded(versioned, says)
    (versioned / "dvc.yaml").write_text(ours, "utf-8")
    mended(versioned)


def test_a_pipeline_with_stages_of_the_users_own(versioned: Path) -> None:
    """They are neither run nor recorded."""
    (versioned / "data.txt").write_text("1")
    with (versioned / "dvc.yaml").open("a") as file:
        file.write("  mine:\n    cmd: cp data.txt out.txt\n    outs: [out.txt]\n")
        file.write("    deps: [data.txt, data/dataset/dataset.json]\n")
    summary = changed(versioned)
    assert (summary.dvc["recorded"], summary.dvc["error"]) == (True, None)
    assert set(dirty(versioned)) == {"mine"}
    assert reproduce(versioned) == ["mine"]
    (versioned / "data.txt").write_text("2")
    put(versioned, "newer.md", "# Newer\n\nOtters swim.\n")
    assert ingest(versioned).dvc["recorded"]
    assert set(dirty(versioned)) == {"mine"}


def test_a_missing_section_of_settings(versioned: Path) -> None:
    text = (versioned / "params.yaml").read_text("utf-8")
    head, _, rest = text.partition("store:\n")
    (versioned / "params.yaml").write_text(head + rest[rest.index("release:") :], "utf-8")
    unrecorded(versioned, "store", "params.yaml")
    (versioned / "params.yaml").write_text(head + "store: {}\n" + rest[rest.index("release:") :], "utf-8")
    summary = ingest(versioned)
    assert (summary.dvc["recorded"], summary.dvc["error"]) == (True, None)
    assert dirty(versioned) == {}


def test_dvc_without_git(tmp_path: Path, versioned: Path) -> None:
    for name in (".git", ".dvc"):
        shutil.rmtree(versioned / name)
    (versioned / "dvc.lock").unlink()
    run(versioned, "ragops", "init", "--dvc")
    summary = ingest(versioned)
    assert (summary.dvc["recorded"], summary.dvc["error"]) == (True, None)
    assert dirty(versioned) == {}
    assert reproduce(versioned) == []
    assert [what for what in versioning.lacking(versioned) if "git" in what]
    said = run(versioned, "ragops", "search", "penguins", "--rev", "first", code=2)
    assert "git" in said


def test_git_without_dvc(versioned: Path) -> None:
    for name in (".dvc", ".dvcignore"):
        target = versioned / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    summary = changed(versioned)
    assert summary.dvc is None
    assert any("ragops init --dvc" in what for what in versioning.lacking(versioned))


def test_neither(ingested: Workspace) -> None:
    assert len(versioning.lacking(ingested.root)) == 2
    assert ingested.status()["versioning"] == {"git": False, "dvc": False, "lacking": versioning.lacking(ingested.root)}


def test_a_workspace_in_a_subfolder(versioned: Path) -> None:
    """Of a git repository, with DVC at its top, and with DVC in the workspace only."""
    place = versioned.parent / "repository"
    for where in ("top", "below"):
        shutil.rmtree(place, ignore_errors=True)
        (place / "kbs").mkdir(parents=True)
        shutil.copytree(versioned.parent / "corpus", place / "kbs/corpus")
        root = place / "kbs/kb"
        Workspace.create(root)
        shutil.copy(versioned / "params.yaml", root)
        run(place, "git", "init", "-q", "-b", "main")
        if where == "top":
            run(place, "dvc", "init", "-q")
        else:
            run(root, "ragops", "init", "--dvc")
        summary = ingest(root)
        assert (summary.dvc["recorded"], summary.dvc["error"]) == (True, None)
        assert dirty(root) == {}
        assert reproduce(root) == []
        commit(place, "all")
        assert ".ragops" not in run(place, "git", "ls-files")
        first = answers(root)
        put(root, "notes.txt", "Penguins left.\n")
        assert ingest(root).dvc["recorded"]
        assert dirty(root) == {}
        shutil.rmtree(root / ".ragops/store")
        with Workspace.open(root) as workspace:
            hits = workspace.search("penguins swim", rev="HEAD", exact=True).hits
        assert [(hit.uri, hit.start) for hit in hits] == [(hit[0], hit[2]) for hit in first["penguins swim"]]


def test_a_dirty_work_tree_is_no_hindrance(versioned: Path) -> None:
    (versioned / "notes.md").write_text("mine")
    edited(versioned, {"k: 10": "k: 7"})
    run(versioned, "git", "add", "params.yaml")
    summary = changed(versioned)
    assert (summary.dvc["recorded"], summary.dvc["error"]) == (True, None)
    assert dirty(versioned) == {}
    assert (versioned / "notes.md").read_text() == "mine"


# ------------------------------------------------------------------ clones that are not whole
def test_a_remote_that_lacks_objects(versioned: Path) -> None:
    expected, held = answers(versioned), holds(versioned)
    remote = versioned.parent / "remote"
    lost = []
    for file in sorted((versioned / "data/dataset/vectors").glob("*.parquet")):
        lost += [each for each in remote.rglob("*") if each.is_file() and each.read_bytes() == file.read_bytes()]
    assert lost
    kept = [(file, file.read_bytes()) for file in lost]
    for file in lost:
        file.unlink()
    copied = clone(versioned)
    run(copied, "dvc", "pull", code=1)
    said = run(copied, "ragops", "search", "penguins", "--rev", "first", code=3)
    assert "dvc push" in said
    assert "dvc remote list" in said
    summary = ingest(copied)  # the sources are there: what lacks is made again
    assert answers(copied) == expected
    assert holds(copied) == held
    assert (summary.dvc["recorded"], summary.dvc["error"]) == (True, None)
    assert dirty(copied) == {}
    for file, data in kept:
        file.write_bytes(data)


def test_a_reproduction_makes_what_a_remote_lacks(versioned: Path) -> None:
    expected, held = answers(versioned), holds(versioned)
    copied = clone(versioned)
    dvc(copied, "pull", targets=["data/snapshot.dvc"])
    dvc(copied, "pull", targets=["parse"])
    assert not (copied / "data/models").exists()
    assert reproduce(copied) == ["chunk", "embed", "load"]
    assert holds(copied) == held
    assert answers(copied) == expected
    assert dirty(copied) == {}


def test_a_clone_in_which_nothing_was_pulled(versioned: Path) -> None:
    copied = clone(versioned)
    for stage in ("parse", "chunk", "embed", "load"):
        said = run(copied, "ragops", "stage", stage, code=3 if stage == "load" else 2)
        assert "dvc pull" in said, stage
    said = run(copied, "ragops", "search", "penguins", code=2)
    assert "ragops ingest" in said
    assert run(copied, "git", "status", "--porcelain") == ""
    summary = ingest(copied)  # the sources are there
    assert (summary.dvc["recorded"], summary.dvc["error"]) == (True, None)
    assert holds(copied) == holds(versioned)
    assert run(copied, "git", "status", "--porcelain") == ""
    assert dirty(copied) == {}


def test_a_clone_without_models(versioned: Path) -> None:
    copied = clone(versioned)
    dvc(copied, "pull")
    shutil.rmtree(copied / "data/models")
    run(copied, "ragops", "stage", "load")
    said = run(copied, "ragops", "search", "penguins", code=2)
    assert "ragops ingest" in said
    assert ingest(copied).vectors["computed"] == 0
    assert answers(copied) == answers(versioned)
    assert dirty(copied) == {}


def test_a_clone_without_the_snapshot(versioned: Path) -> None:
    copied = clone(versioned)
    dvc(copied, "pull", targets=["parse", "chunk", "embed"])
    said = run(copied, "ragops", "stage", "load", code=3)
    assert "dvc pull" in said
    assert ingest(copied).vectors["computed"] == 0
    assert answers(copied) == answers(versioned)
    assert dirty(copied) == {}
    assert run(copied, "git", "status", "--porcelain") == ""


def test_a_checkout_of_git_alone(versioned: Path) -> None:
    """dataset.json of another day than the files beside it."""
    changed(versioned)
    commit(versioned, "second")
    held = holds(versioned)
    run(versioned, "git", "checkout", "-q", "first")
    said = run(versioned, "ragops", "stage", "load", code=3)
    assert "dvc pull" in said or "dvc checkout" in said
    assert answers(versioned, ("foxes",))["foxes"][0][0] == "corpus:/new.md"  # the release stands
    assert ingest(versioned).vectors["computed"] == 0
    assert holds(versioned) == held
    assert dirty(versioned) == {}


# ------------------------------------------------------------------ damage
slow = pytest.mark.slow
PARTS = ("documents", "chunks", "vectors", "rejects")
DAMAGE = [*(f"{part}/{name}" for name in ("*.parquet", "manifest.json") for part in PARTS), "dataset.json"]


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize(
    "how",
    ["flipped", pytest.param("gone", marks=slow), pytest.param("cut", marks=slow), pytest.param("other", marks=slow)],
)
def test_a_damaged_dataset_is_reproduced(versioned: Path, what: str, how: str) -> None:
    """By the stages, as if `dvc repro` had been interrupted by a bad disk; without what is remembered."""
    held, expected = holds(versioned), answers(versioned)
    (versioned / ".ragops/cache.db").unlink()
    file = next((versioned / "data/dataset").glob(what))
    damage(file, how)
    with Workspace.open(versioned) as workspace:
        for stage in ("parse", "chunk", "embed", "load"):
            workspace.stage(stage)
    assert holds(versioned) == held
    assert answers(versioned) == expected


@pytest.mark.parametrize(
    "what", ["documents/*.parquet", "vectors/*.parquet", "rejects/*.parquet", "rejects/manifest.json", "dataset.json"]
)
def test_a_damaged_dataset_is_mended_by_verify(versioned: Path, what: str) -> None:
    held, expected = holds(versioned), answers(versioned)
    (versioned / ".ragops/cache.db").unlink()
    damage(next((versioned / "data/dataset").glob(what)), "flipped")
    with Workspace.open(versioned) as workspace:
        workspace.verify(repair=True)
        assert workspace.verify().ok
    assert holds(versioned) == held
    assert answers(versioned) == expected


def damage(file: Path, how: str) -> None:
    data = file.read_bytes()
    file.unlink()  # it may be a link into DVC's cache
    if how == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        file.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    elif how == "other":
        file.write_bytes(b"{}" if file.suffix == ".json" else b"PAR1")


@pytest.mark.parametrize("schema", [1, 99])
def test_a_dataset_of_another_schema(versioned: Path, schema: int) -> None:
    held = holds(versioned)
    edited(versioned, {'"schema": 2': f'"schema": {schema}'}, "data/dataset/dataset.json")
    if schema == 99:
        for command in (["ingest", "-q"], ["stage", "embed"], ["stage", "load"]):
            assert "newer ragops" in run(versioned, "ragops", *command, code=2)
        return
    said = run(versioned, "ragops", "stage", "load", code=3)
    assert "ragops ingest" in said
    assert ingest(versioned).vectors["computed"] == 0
    assert holds(versioned) == held
    assert dirty(versioned) == {}


# ------------------------------------------------------------------ deaths
DIE = """
import os, signal, sys
from ragops import durable
from ragops.cli import main
left = int(sys.argv[1])
def struck(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
for name in ("replace", "write_atomic", "sync"):
    setattr(durable, name, struck(getattr(durable, name)))
os.unlink = struck(os.unlink)
sys.exit(main(sys.argv[2:]))
"""


def died(root: Path, at: int, *command: str) -> bool:
    """Run it and kill it before its `at`th step on the disk; False where it came to its end."""
    code = subprocess.run([sys.executable, "-c", DIE, str(at), *command], cwd=root, capture_output=True).returncode
    assert code in (0, -signal.SIGKILL), code
    return code != 0


@pytest.mark.parametrize(
    ("stage", "steps"),
    [
        ("parse", (0, 2, 4)),
        pytest.param("chunk", (0, 2), marks=slow),
        pytest.param("embed", (0, 2, 4, 5), marks=slow),
        ("load", (0, 1)),
    ],
)
def test_a_stage_that_dies_is_repeated(versioned: Path, stage: str, steps: tuple[int, ...]) -> None:
    changed(versioned)
    commit(versioned, "second")
    held, expected = holds(versioned), answers(versioned)
    run(versioned, "git", "checkout", "-q", "first", "--", "data/dataset", "dvc.lock")
    dvc(versioned, "checkout", targets=["parse", "chunk", "embed"], force=True)  # and the snapshot stays today's
    (versioned / ".ragops/cache.db").unlink()
    order = ["parse", "chunk", "embed", "load", "evaluate"]
    with Workspace.open(versioned) as workspace:
        for before in order[: order.index(stage)]:
            workspace.stage(before)
        if stage == "load":  # else the release of that dataset is there
            shutil.rmtree(versioned / ".ragops/store")
        for step in steps:
            assert died(versioned, step, "stage", stage), step
        for after in order[order.index(stage) :]:
            workspace.stage(after)
        assert workspace.verify().ok
    assert holds(versioned) == held
    assert answers(versioned) == expected
    assert not list((versioned / "data").rglob("*.tmp"))


RECORD_AND_DIE = """
import os, signal, sys
from dvc import dvcfile
from ragops.cli import main
left = int(sys.argv[1])
def struck(write):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(*arguments, **options)
    return call
for name in ("dump_yaml", "modify_yaml"):
    setattr(dvcfile, name, struck(getattr(dvcfile, name)))
sys.exit(main(["ingest", "-q"]))
"""


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_recording_that_dies_is_repeated(versioned: Path, at: int) -> None:
    put(versioned, "new.md", "# New\n\nFoxes dig in the snow.\n")
    done = subprocess.run([sys.executable, "-c", RECORD_AND_DIE, str(at)], cwd=versioned, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert answers(versioned, ("foxes",))["foxes"][0][0] == "corpus:/new.md"
    mended(versioned)
