"""What a plain `pip install ragops` gives: searching a workspace, without torch and without any parser."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Result, answer, write_corpus

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_clean_environment_searches_with_the_real_model(tmp_path: Path, ragops: Callable[..., Result]) -> None:
    files = {"tides.md": "# Tides\n\nThe moon pulls the sea.\n", "bread.txt": "Bread needs yeast.\n"}
    corpus = write_corpus(tmp_path / "corpus", files)
    first = ragops("ingest", corpus, "-w", "kb", "--json")
    assert first.returncode == 0, first.stderr
    here = answer(ragops("search", "ebb and flow", "-w", "kb", "--json"))

    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", str(bare)], check=True)
    pip = [str(bare / "bin/python"), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), str(ROOT)]
    subprocess.run(pip, check=True, capture_output=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}

    def run(*arguments: str) -> Result:
        return subprocess.run(
            [str(bare / "bin/ragops"), *arguments], cwd=tmp_path, env=clean, capture_output=True, text=True
        )

    installed = subprocess.run([*pip[:3], "list", "--format", "json"], check=True, capture_output=True, text=True)
    names = {package["name"].lower() for package in json.loads(installed.stdout)}
    assert not names & {"torch", "sentence-transformers", "transformers", "unstructured", "dvc", "onnx"}
    found = run("search", "ebb and flow", "-w", "kb", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == here
    assert run("status", "-w", "kb").returncode == 0
    missing = run("ingest", "-w", "kb", "--rehash")
    assert missing.returncode == 2
    assert "pip install 'ragops[ingest]'" in missing.stderr


@pytest.mark.slow
def test_dvc_keeps_what_an_ingest_made(tmp_path: Path, ragops: Callable[..., Result]) -> None:
    """With the dvc.yaml of `ragops init` an ingest records itself, and its outputs come back by `dvc checkout`."""
    from tests.conftest import use_model

    kb = tmp_path / "kb"
    ragops("init", "kb")
    use_model(kb)
    assert ragops("ingest", write_corpus(kb / "docs"), "-w", "kb").returncode == 0
    (kb / "docs/new.txt").write_text("fresh words")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}

    def dvc(*arguments: str) -> None:
        command = [sys.executable, "-m", "dvc", *arguments]
        done = subprocess.run(command, cwd=kb, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    dvc("init", "--no-scm", "-q")
    assert answer(ragops("ingest", "-w", kb, "--json"))["dvc"]["recorded"]
    status = answer(ragops("status", "-w", kb, "--json"))
    assert status["release"]["number"] == 2
    manifest = (kb / "data/dataset/documents/manifest.json").read_bytes()
    shutil.rmtree(kb / "data/dataset/documents")
    dvc("checkout", "--force")
    assert (kb / "data/dataset/documents/manifest.json").read_bytes() == manifest
    dvc("repro")
    assert answer(ragops("status", "-w", kb, "--json"))["release"]["number"] == 2
