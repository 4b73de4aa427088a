"""What a machine or a stranger does to a workspace: a clear error with the way out, and the live release stands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ragops.workspace import Workspace
from tests.conftest import Result, answer, use_model, write_corpus

Run = Callable[..., Result]


@pytest.fixture
def kb(ingested: Workspace) -> Path:
    return ingested.root


def refused(result: Result, code: int, *says: str) -> None:
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    for part in says:
        assert part in result.stderr, result.stderr


def edit(kb: Path, before: str, after: str) -> None:
    params = kb / "params.yaml"
    text = params.read_text("utf-8")
    assert before in text
    params.write_text(text.replace(before, after), "utf-8")


def test_a_workspace_of_a_newer_version(kb: Path, ragops: Run) -> None:
    edit(kb, "version: 1", "version: 2")
    refused(ragops("ingest", "-w", kb), 2, "newer ragops", "pip install -U ragops")


def test_a_mistyped_setting(kb: Path, ragops: Run) -> None:
    edit(kb, "  overlap: 0", "  overlop: 0")
    refused(ragops("ingest", "-w", kb), 2, "params.yaml:", "did you mean 'overlap'?")


def test_an_unknown_model(kb: Path, ragops: Run) -> None:
    edit(kb, '"hash:64"', "no-such-model-anywhere")
    refused(ragops("ingest", "-w", kb, env={"HF_HUB_OFFLINE": "1"}), 2, "no-such-model-anywhere")
    assert ragops("search", "penguins", "-w", kb).returncode == 0  # the release has its own encoder


def test_a_model_whose_hash_is_wrong(kb: Path, ragops: Run) -> None:
    edit(kb, '"hash:64"', "all-MiniLM-L6-v2")
    edit(kb, "# sha256: 53aa5117...", f"sha256: {'ab' * 32} #")
    refused(ragops("ingest", "-w", kb), 2, "abababab", "53aa51172d14")


def test_a_chunk_larger_than_the_window(kb: Path, ragops: Run) -> None:
    edit(kb, "size: null", "size: 4000")
    refused(ragops("ingest", "-w", kb), 2, "4000", "chunk")


def test_a_folder_that_is_gone(kb: Path, ragops: Run) -> None:
    (kb.parent / "corpus").rename(kb.parent / "moved")
    result = ragops("ingest", "-w", kb)
    assert result.returncode in (2, 3)
    assert "corpus" in result.stderr
    assert "Traceback" not in result.stderr
    assert "corpus:/notes.txt" in ragops("search", "penguins", "-w", kb).stdout


def test_a_file_instead_of_a_folder(kb: Path, ragops: Run) -> None:
    refused(
        ragops("ingest", kb.parent / "corpus/page.html", "-w", kb.parent / "other"), 2, "is a file", "ragops ingest"
    )
    refused(ragops("status", "-w", kb.parent / "corpus/page.html"), 2, "no workspace")


def test_a_damaged_release(workspace: Workspace, corpus: Path, ragops: Run) -> None:
    workspace.ingest(corpus)
    kb = workspace.root
    release = kb / ".ragops/store/main/releases/00000001"
    for file in release.rglob("*"):
        if file.is_file() and file.stat().st_size > 64 and "shard" in file.parts and file.suffix not in (".json",):
            os.truncate(file, file.stat().st_size // 2)
    refused(ragops("search", "penguins", "-w", kb), 3, "1 is damaged", "ragops verify --repair")
    mended = ragops("verify", "--repair", "-w", kb, "--json")
    assert mended.returncode == 0, mended.stderr
    assert answer(mended)["release"] == 2
    assert "corpus:/notes.txt" in ragops("search", "penguins", "-w", kb).stdout


def test_a_live_pointer_to_nothing(kb: Path, ragops: Run) -> None:
    shutil.rmtree(kb / ".ragops/store/main/releases/00000001")
    result = ragops("search", "penguins", "-w", kb)
    assert result.returncode in (2, 3)
    assert "ragops verify --repair" in result.stderr
    assert ragops("ingest", "-w", kb).returncode == 0
    assert "corpus:/notes.txt" in ragops("search", "penguins", "-w", kb).stdout


def test_a_damaged_dataset(kb: Path, ragops: Run) -> None:
    for file in (kb / "data/dataset/documents").iterdir():
        file.write_bytes(file.read_bytes()[:-10] + b"0123456789")
    write_corpus(kb.parent / "corpus", {"more.txt": "more text"})
    refused(ragops("ingest", "-w", kb), 3, "damaged", "ragops verify --repair")
    assert "corpus:/notes.txt" in ragops("search", "penguins", "-w", kb).stdout
    assert ragops("ingest", "--rebuild", "-w", kb).returncode == 0


def test_damaged_local_state(kb: Path, ragops: Run) -> None:
    for file in (kb / ".ragops").glob("state.db*"):
        file.unlink()
    (kb / ".ragops/state.db").write_bytes(b"this is no database" * 100)
    refused(ragops("ingest", "-w", kb), 3, "state.db", "Move it away")
    assert ragops("search", "penguins", "-w", kb).returncode == 0
    (kb / ".ragops/state.db").unlink()
    assert answer(ragops("ingest", "-w", kb, "--json"))["vectors"]["computed"] == 0


def test_a_damaged_cache_is_computed_again(kb: Path, ragops: Run) -> None:
    for file in (kb / ".ragops").glob("cache.db*"):
        file.unlink()
    (kb / ".ragops/cache.db").write_bytes(b"this is no database" * 100)
    write_corpus(kb.parent / "corpus", {"more.txt": "more text"})
    assert ragops("ingest", "-w", kb).returncode == 0


def test_no_model_exported(kb: Path, ragops: Run) -> None:
    shutil.rmtree(kb / "data/models")
    result = ragops("search", "penguins", "-w", kb)
    assert result.returncode in (2, 3)
    assert "ragops ingest" in result.stderr
    assert ragops("ingest", "-w", kb).returncode == 0
    assert ragops("search", "penguins", "-w", kb).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 MB: the engine maps some 70 MB for any release, however small."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        if os.environ.get("CI"):
            pytest.fail(f"CI must be able to mount a tmpfs: {mounted.stderr.decode()}")
        pytest.skip("a small tmpfs cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk: Path, tmp_path: Path, ragops: Run) -> None:
    """In the middle of a run: an error with the way out, the live release answers, and freed space lets it go on."""
    corpus = write_corpus(tmp_path / "corpus")
    ragops("init", small_disk / "kb")
    use_model(small_disk / "kb")
    assert ragops("ingest", corpus, "-w", small_disk / "kb").returncode == 0
    write_corpus(corpus, {f"more/{n}.txt": f"{n} " + os.urandom(1500).hex() for n in range(2000)})
    failed = ragops("ingest", "-w", small_disk / "kb")
    refused(failed, 3, "space")
    assert "corpus:/notes.txt" in ragops("search", "penguins swim", "-w", small_disk / "kb").stdout
    shutil.rmtree(corpus / "more")
    for file in (small_disk / "kb/.ragops").glob("cache.db*"):  # what filled it
        file.unlink()
    write_corpus(corpus, {"last.txt": "one more"})
    assert ragops("ingest", "-w", small_disk / "kb", "--allow-deletes").returncode == 0
    assert Workspace.open(small_disk / "kb").status()["release"]["points"] > 5


def test_searching_needs_neither_torch_nor_parsers(kb: Path) -> None:
    """With every ingestion library made unimportable, a search answers."""
    blocked = [
        "torch",
        "transformers",
        "sentence_transformers",
        "unstructured",
        "dvc",
        "kreuzberg",
        "pypdfium2",
        "onnx",
    ]
    code = (
        "import sys\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        "from ragops.cli import main\n"
        f"sys.exit(main(['search', 'penguins swim', '-w', {str(kb)!r}, '--json']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "notes.txt" in result.stdout
