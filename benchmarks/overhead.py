"""Everything around the model: CPU per chunk from plain text to a sealed release, with a model that returns instantly.

    python benchmarks/overhead.py --corpus FOLDER [--every N] [--repeats N] [--as-is] [--out FILE]

Plain text: every file of the corpus is read as UTF-8 and staged as .txt (`--as-is` keeps names, so that Markdown is
parsed as such; the tokenisation is then that of the raw files). Each round is a fresh process: one ingest of one file
to warm up (imports), a second one of another file for what every run costs once (spawning workers and the store's
writer), then the corpus, and one tokenisation (the median of three) of the same text by the same tokenizer in the same
batches. All CPU counts: this process, its threads, its children. The bar is (corpus - one-off - tokenisation) / chunks;
the one-off costs are told beside it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import instant
import measure

PACKAGES = ("ragops", "tokenizers", "polars", "qdrant-edge-py", "numpy")
LIMIT = 0.4  # ms of CPU per chunk
GROUP = 1 << 18  # characters per tokenizer call, as the run does
PHASES = ("scan to embed", "dataset", "store")  # what can be told apart by CPU, as none overlaps the next
WARM = "# Warm\n\nA page to warm up with.\n"


def once(folder: Path) -> dict[str, Any]:
    """One round, in this process; `folder` holds `corpus/` and room for a workspace."""
    import tokenizers

    from ragops.embedders import find_model, models
    from ragops.workspace import Workspace

    model = instant.register(folder / "plugin")
    with Workspace.create(folder / "kb"):
        (folder / "kb" / "params.yaml").write_text(f"version: 1\nembed: {{model: '{model}'}}\n")
    for name in ("warm", "single"):
        (folder / name).mkdir()
        (folder / name / "page.txt").write_text(WARM + name)
    _ingest(folder, "warm")
    _, single, _ = _ingest(folder, "single")
    summary, total, phases = _ingest(folder, "corpus")
    # By the tokenizers package itself: our own counting remembers words, so it would be no measure.
    definition = models.load_tokenizer(find_model(model.partition(":")[2])).definition()
    tokenizer = tokenizers.Tokenizer.from_str(definition.decode())
    texts = [file.read_text("utf-8") for file in sorted((folder / "corpus").iterdir())]

    def tokenise() -> int:
        encode = tokenizer.encode_batch_fast
        return sum(len(found) for group in _groups(texts) for found in encode(group, add_special_tokens=False))

    tokenisation = sorted((measure.spent(tokenise) for _ in range(3)), key=lambda spent: spent.cpu)[1]
    with Workspace.open(folder / "kb") as workspace:
        chunks = next(source["chunks"] for source in workspace.status()["sources"] if source["name"] == "corpus")
    return {
        "chunks": chunks,
        "bytes": sum(len(text.encode()) for text in texts),
        "tokens": tokenise(),
        "total": total.as_dict(),
        "one_off": single.as_dict(),
        "tokenisation": tokenisation.as_dict(),
        "phases": {name: cost.as_dict() for name, cost in phases.items()},
        "stages_wall": dict(summary.seconds),
        "vectors": dict(summary.vectors),
        "bytes_written": dict(summary.bytes_written),
    }


def _ingest(folder: Path, source: str) -> tuple[Any, measure.Spent, dict[str, measure.Spent]]:
    from ragops.workspace import Workspace

    marks: dict[str, tuple[float, float, float]] = {}
    begin = {"dataset": "dataset", "load": "store"}

    def progress(event: Any) -> None:
        if event.stage in begin:
            marks.setdefault(begin[event.stage], measure.now())

    found: list[Any] = []

    def work() -> None:
        with Workspace.open(folder / "kb") as workspace:
            found.append(workspace.ingest(folder / source, progress=progress))

    start = measure.now()
    cost = measure.spent(work)
    edges = [start, *(marks[name] for name in PHASES[1:]), measure.now()]
    phases = {
        name: measure.Spent(*(b - a for a, b in zip(edges[place], edges[place + 1], strict=True)))
        for place, name in enumerate(PHASES)
    }
    return found[0], cost, phases


def _groups(texts: Sequence[str]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def main() -> None:
    arguments = _arguments()
    if arguments.once:
        print(json.dumps(once(arguments.once)))
        return
    environment = measure.environment(PACKAGES)
    rounds = []
    with tempfile.TemporaryDirectory() as temp:
        files = _stage(arguments.corpus, arguments.every, Path(temp) / "corpus", as_is=arguments.as_is)
        for number in range(arguments.repeats):
            folder = Path(temp) / f"round-{number}"
            folder.mkdir()
            (Path(temp) / "corpus").rename(folder / "corpus")
            started = time.perf_counter()
            done = subprocess.run([sys.executable, __file__, "--once", str(folder)], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            rounds.append(json.loads(done.stdout.splitlines()[-1]))
            (folder / "corpus").rename(Path(temp) / "corpus")
            shutil.rmtree(folder)
            print(f"round {number + 1} of {arguments.repeats}: {_net(rounds[-1]):.3f} ms of CPU per chunk beyond one "
                  f"tokenisation ({time.perf_counter() - started:.0f} s)", file=sys.stderr)  # fmt: skip
    result = {
        "environment": environment,
        "corpus": {"folder": arguments.corpus.name, "every": arguments.every, "files": files, "as_is": arguments.as_is,
                   **{name: rounds[0][name] for name in ("bytes", "chunks", "tokens", "vectors", "bytes_written")}},
        "bars": [measure.bar("ms of CPU per chunk around the model, beyond one tokenisation",
                             measure.summary([_net(r) for r in rounds])["median"], LIMIT)],
        **_report(rounds),
    }  # fmt: skip
    measure.show(result["bars"])
    for name, value in result["ms_per_chunk"].items():
        print(f"  {value['median']:7.3f}  ms per chunk: {name}")
    measure.write(arguments.out, result)


def _net(one: dict[str, Any]) -> float:
    spent = one["total"]["cpu"] - one["one_off"]["cpu"] - one["tokenisation"]["cpu"]
    return float(1000 * spent / one["chunks"])


def _report(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def each(pick: Any) -> dict[str, Any]:
        return measure.summary([1000 * pick(one) / one["chunks"] for one in rounds])

    per_chunk = {
        "net (the bar)": measure.summary([_net(one) for one in rounds]),
        "all, this process": each(lambda one: one["total"]["own"]),
        "all, children": each(lambda one: one["total"]["children"]),
        "one tokenisation": each(lambda one: one["tokenisation"]["cpu"]),
    }
    for phase in PHASES:
        for part in ("own", "children"):
            per_chunk[f"{phase}, {part}"] = each(lambda one, phase=phase, part=part: one["phases"][phase][part])
    for stage in rounds[0]["stages_wall"]:
        per_chunk[f"{stage}, wall"] = each(lambda one, stage=stage: one["stages_wall"][stage])
    return {
        "ms_per_chunk": per_chunk,
        "mb_per_cpu_second": measure.summary([one["bytes"] / 1e6 / one["total"]["cpu"] for one in rounds]),
        "mb_per_wall_second": measure.summary([one["bytes"] / 1e6 / one["total"]["wall"] for one in rounds]),
        "one_off_seconds": {
            clock: measure.summary([one["one_off"][clock] for one in rounds]) for clock in ("cpu", "children", "wall")
        },
    }


def _stage(corpus: Path, every: int, folder: Path, *, as_is: bool) -> int:
    """Flat copies; files that are not UTF-8 text are left out."""
    folder.mkdir()
    count = 0
    for file in sorted(path for path in corpus.rglob("*") if path.is_file())[::every]:
        try:
            text = file.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        (folder / f"{count:05}-{file.name if as_is else file.stem + '.txt'}").write_text(text, "utf-8")
        count += 1
    return count


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every so many-th file of the sorted list")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--as-is", action="store_true")
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "overhead.json")
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.corpus is None and arguments.once is None:
        parser.error("--corpus FOLDER is needed: any folder of text files")
    return arguments


if __name__ == "__main__":
    main()
