"""Work follows change: one edited file and five deleted, and a run that is killed half-way.

    python benchmarks/changes.py --python PEERS/bin/python --corpus FOLDER [--every N] [--repeats 5] [--out FILE]

**One edited, five deleted.** A workspace over some 100 of FOLDER's files, all-MiniLM-L6-v2. Each round writes one new
sentence into one file, deletes five others and ingests, as a library call in a fresh process. The vectors computed must
be as many as the release's new texts (title, headings and text together). The CPU of that run is told in parts:

- `model`: importing torch, loading tokenizer and model, embedding;
- `imports`: what a run without news need not import: polars, numpy, tokenizers, our own stages;
- `start`: what the same process costs when nothing changed (interpreter, our own imports, opening, scanning), less the
  imports above;
- `spawn`: child processes (a parser worker, the store's writer) of the same kind of round over a workspace of two
  files, where there is next to nothing to parse or to write;
- `rest`: everything else, of parent and children. It is this that must stay below 0.2 CPU seconds; `rest` and `imports`
  together are told too.

**Killed half-way.** 128 generated files of 12 paragraphs, SIGKILL to the process group when half of the texts were
embedded, a second run to its end. Embedded twice: texts embedded in both runs less the texts there are. ragops with
all-MiniLM-L6-v2 (`counted:` in front of it logs what it is given), CocoIndex and LangChain with the counting model,
which is given 5 ms for each text; how they are bound: `syncing.py`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import failures
import measure
import syncing

BATCH = 64
MODEL = "all-MiniLM-L6-v2"
CRASH: dict[str, dict[str, str]] = {
    "ragops": {"MODEL": MODEL, "pause": "0"},
    "cocoindex": {},
    "langchain-incremental": {},
    "langchain-cached": {},
}  # fmt: skip
FILES = 128
IMPORTS = (
    "numpy",
    "polars",
    "tokenizers",
    *(f"ragops_pipelines.{name}" for name in ("embed", "chunk", "parse", "load")),
)


# ---------------------------------------------------------------- one run, in its own process
def one_run(root: Path) -> None:
    """Ingest, and print what it cost; the model's part is measured where the recipe loads and calls it."""
    from ragops.workspace import Workspace

    recipe: Any = importlib.import_module("ragops_pipelines.recipe")
    before = measure.now()[0]
    for name in IMPORTS:
        importlib.import_module(name)
    imports = measure.now()[0] - before
    model = [0.0]
    load, load_tokenizer = recipe.load, recipe.load_tokenizer

    class Timed:
        """Implements ragops.types.Embedder around another one."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner
            self.space, self.tokenizer, self.numerics = inner.space, inner.tokenizer, inner.numerics

        def embed(self, texts: Sequence[str]) -> Any:
            before = measure.now()[0]
            try:
                return self.inner.embed(texts)
            finally:
                model[0] += measure.now()[0] - before

    def timed(*arguments: Any, **settings: Any) -> Any:
        before = measure.now()[0]
        found = Timed(load(*arguments, **settings))
        model[0] += measure.now()[0] - before
        return found

    def timed_tokenizer(files: Any) -> Any:
        before = measure.now()[0]
        found = load_tokenizer(files)
        model[0] += measure.now()[0] - before
        return found

    recipe.load, recipe.load_tokenizer = timed, timed_tokenizer
    with Workspace.open(root) as workspace:
        summary = workspace.ingest()
    own, children, _ = measure.now()  # since the process began
    parts = {"own": own, "children": children, "model": model[0], "imports": imports}
    print(json.dumps({**parts, **summary.as_dict()}))


def run(root: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", str(root), "--corpus", "."]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"an ingest failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# ---------------------------------------------------------------- one edited, five deleted
def texts(root: Path) -> set[str]:
    """What the model reads of each point of the live release."""
    from ragops.workspace import Workspace

    with Workspace.open(root) as workspace:
        rows = [payload for _, payload, _ in workspace.reader().points()]
    return {"\n".join([row["title"], *row["heading"], row["text"]]) for row in rows}


def edit(file: Path, number: int) -> None:
    text = file.read_text("utf-8")
    middle = text.find("\n\n", len(text) // 2)
    at = middle if middle >= 0 else len(text)
    file.write_text(f"{text[:at]}\n\nIn round {number} this sentence was added, and no other.{text[at:]}", "utf-8")


def prepare(root: Path, files: Sequence[Path]) -> list[Path]:
    from ragops.workspace import Workspace

    docs = root / "docs"
    docs.mkdir(parents=True)
    copies = [Path(shutil.copyfile(file, docs / f"{n:03}-{file.name}")) for n, file in enumerate(files)]
    with Workspace.create(root / "kb"):
        (root / "kb/params.yaml").write_text(f"version: 1\nembed: {{model: '{MODEL}'}}\n")
    with Workspace.open(root / "kb") as workspace:
        workspace.ingest(docs)
    return copies


def rounds(corpus: Path, every: int, repeats: int, folder: Path) -> dict[str, Any]:
    chosen = [file for file in sorted(corpus.rglob("*.md")) if file.stat().st_size > 2_000][::every]
    chosen = chosen[: 100 + 5 * repeats]
    large, small = prepare(folder / "large", chosen), prepare(folder / "small", chosen[:2])
    kb, tiny = folder / "large/kb", folder / "small/kb"
    found: list[dict[str, Any]] = []
    for number in range(repeats):
        before = texts(kb)
        edit(large[number], number)
        for file in large[len(large) - 5 * (number + 1) :][:5]:
            file.unlink()
        edit(small[0], number)
        changed, spawned, idle = run(kb), run(tiny), run(kb)
        if not idle["noop"]:
            sys.exit("the run after the change was no no-op")
        start = idle["own"] + idle["children"] - idle["imports"]
        taken = changed["model"] + changed["imports"] + start + spawned["children"]
        new = texts(kb) - before
        parts = {
            "model": changed["model"],
            "imports": changed["imports"],
            "start": start,
            "spawn": spawned["children"],
            "rest": changed["own"] + changed["children"] - taken,
        }
        found.append(
            {
                "files": changed["sources"]["seen"],
                "removed": changed["sources"]["removed"],
                "chunks": changed["chunks"]["total"],
                "new_texts": len(new),
                "computed": changed["vectors"]["computed"],
                **{part: round(cost, 4) for part, cost in parts.items()},
                "seconds": changed["seconds"],
            }
        )
        print({key: value for key, value in found[-1].items() if key != "seconds"}, file=sys.stderr)
    summaries = {part: measure.summary([one[part] for one in found]) for part in parts}
    summaries["rest_and_imports"] = measure.summary([one["rest"] + one["imports"] for one in found])
    return {"rounds": found, "cpu_seconds": summaries}


# ---------------------------------------------------------------- killed half-way
def killed(sides: Sequence[str], python: Path, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for side in sides:
        interpreter = sys.executable if side == syncing.OURS else str(python)
        one = failures.crash(failures.Bench(side, interpreter, folder / side), FILES, **CRASH[side])
        found[side] = {**one, "twice": one["embedded"] - one["needed"]}
        print(side, found[side], file=sys.stderr)
    return found


def main() -> None:
    arguments = _arguments()
    if arguments.one:
        one_run(arguments.one)
        return
    environment = measure.environment(("ragops", "torch", "sentence-transformers", "qdrant-edge-py", "polars"))
    with tempfile.TemporaryDirectory() as temp:
        edits = rounds(arguments.corpus, arguments.every, arguments.repeats, Path(temp).resolve())
        crashes = killed(arguments.only, arguments.python, Path(temp).resolve())
    needless = max(abs(one["computed"] - one["new_texts"]) for one in edits["rounds"])
    bars = [
        measure.bar("one edited, five deleted: vectors computed that are no new text's", needless, 0),
        measure.bar(
            "one edited, five deleted: the rest of the work, CPU s", edits["cpu_seconds"]["rest"]["median"], 0.2
        ),
    ]
    if syncing.OURS in crashes:
        bars.append(measure.bar("killed half-way: texts embedded twice", crashes[syncing.OURS]["twice"], BATCH))
    measure.show(bars)
    peers = measure.versions_of(arguments.python, failures.PACKAGES)
    results = {"one_edited_five_deleted": edits, "killed_half_way": crashes}
    measure.write(arguments.out, {"environment": environment, "peers": peers, "bars": bars, **results})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="interpreter of peers-requirements.txt")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with .md files, at any depth")
    parser.add_argument("--every", type=int, default=1, help="take every so many-th file of the sorted list")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=tuple(CRASH), default=list(CRASH), help="whom to kill")
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "changes.json")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
