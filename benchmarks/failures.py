"""Failures that today's platforms are known for, tried on ragops and its peers: what is stale, lost or done twice.

    python benchmarks/failures.py --python PEERS/bin/python [--only SIDE ...] [--cases CASE ...] [--out FILE]

Each case starts from a store that is in step with a folder of 12 files of 6 paragraphs (the last three: from nothing,
with 60 files of 12), changes something, runs the side once more in a fresh process, and compares what the store then
holds with the folder. Every paragraph has a word of its own, so each chunk tells which paragraph of which file it came
from. How each side is bound: `syncing.py`.

- edit: one paragraph of one file is another.                         - move: a file is renamed.
- shrink: a file loses the last four of its six paragraphs.           - delete: two files are gone.
- touched: every file has a new date, no file another content.
- subset: only one of two subfolders is ingested, in which one paragraph was edited; the other must survive.
- fails once: the model raises at half of the texts; where the call raises, it is made again in the same process.
- crash: SIGKILL to the process group when half of the texts were embedded; then a second run.
- two at once: two processes start on the same empty store (LlamaIndex: one process with `num_workers=2`, then it once
  more: its store cannot be opened twice).

Told for each: `stale` (paragraphs in the store that the folder does not have), `lost` (the other way), `doubled`
(paragraphs that are there more than once), and `embedded` beside `needed`: texts embedded by the run, and how many
were new; where it starts from nothing, texts embedded in all runs and how many there are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import counted
import measure
import syncing

WORDS = ("release", "rollback", "chunk", "vector", "source", "folder", "snapshot", "reader", "writer", "engine",
         "index", "payload", "tenant", "group", "query", "answer", "heading", "page", "parser", "segment")  # fmt: skip
FACT = re.compile(r"fact\d+x\d+v\d+")
LONG_AGO = 1_700_000_000
PACKAGES = ("langchain-core", "langchain-classic", "langchain-qdrant", "llama-index-core",
            "llama-index-vector-stores-qdrant", "haystack-ai", "cocoindex", "lancedb", "qdrant-client")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bench:
    """One side and its place: the folder has the same path in every case, as some keep absolute paths."""

    side: str
    python: str
    place: Path

    @property
    def folder(self) -> Path:
        return self.place / "folder"

    @property
    def store(self) -> Path:
        return self.place / "store"

    def start(self, *options: str, side: str | None = None, **environment: str) -> subprocess.Popen[str]:
        script = str(Path(syncing.__file__))
        quiet = {"HAYSTACK_TELEMETRY_ENABLED": "False", "COCOINDEX_DISABLE_USAGE_TRACKING": "1", "HF_HUB_OFFLINE": "1"}
        return subprocess.Popen(
            [self.python, script, side or self.side, str(self.folder), str(self.store), *options],
            env={**os.environ, **quiet, "COUNTED": str(self.store), **environment},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, *options: str, side: str | None = None, **environment: str) -> str:
        """The last line of the error, or nothing."""
        process = self.start(*options, side=side, **environment)
        _, errors = process.communicate()
        return self.told(errors) if process.returncode else ""

    def told(self, errors: str) -> str:
        return (errors.strip().splitlines() or ["failed"])[-1].replace(str(self.place), "...")[:200]

    def embedded(self) -> list[str]:
        log = self.store / counted.LOG
        return log.read_text().split() if log.exists() else []

    def begin(self, files: int, paragraphs: int) -> None:
        """A folder, and nothing stored."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.store.mkdir(parents=True)
        for number in range(files):
            write(self.folder, number, range(paragraphs))

    def keep(self) -> None:
        shutil.copytree(self.place, self.place.with_suffix(".kept"))

    def restore(self) -> None:
        shutil.rmtree(self.place)
        shutil.copytree(self.place.with_suffix(".kept"), self.place)


def path_of(folder: Path, number: int) -> Path:
    return folder / f"part{number % 2}" / f"f{number:03}.txt"


def write(folder: Path, number: int, paragraphs: Sequence[int], edited: int | None = None, date: int = 0) -> None:
    """A file of paragraphs of 46 words; `edited`: the one that is another than before."""
    texts = []
    for n in paragraphs:
        name = f"fact{number:03}x{n:03}v{int(n == edited)}"
        words = [WORDS[byte % len(WORDS)] for byte in hashlib.shake_128(name.encode()).digest(45)]
        texts.append(" ".join([name, *words]) + ".")
    file = path_of(folder, number)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n\n".join(texts) + "\n")
    os.utime(file, (LONG_AGO + date,) * 2)


def facts(rows: syncing.Texts) -> Counter[tuple[str, str]]:
    return Counter((file, fact) for file, text in rows for fact in FACT.findall(text))


def compared(bench: Bench) -> dict[str, int]:
    """The store against the folder."""
    files = sorted(bench.folder.rglob("*.txt"))
    wanted = facts([[file.relative_to(bench.folder).as_posix(), file.read_text()] for file in files])
    dump = bench.store / syncing.DUMP
    dump.unlink(missing_ok=True)
    error = bench.run("--dump")
    if error:
        raise RuntimeError(f"{bench.side}: its store cannot be read: {error}")
    found = facts(json.loads(dump.read_text()))
    return {
        "stale": sum(n for key, n in found.items() if key not in wanted),
        "lost": len(wanted - found),
        "doubled": sum(n - 1 for key, n in found.items() if key in wanted),
    }


# ---------------------------------------------------------------- the cases
def _edit(bench: Bench) -> int:
    write(bench.folder, 4, range(6), edited=2, date=100)
    return 1


def _shrink(bench: Bench) -> int:
    write(bench.folder, 4, range(2), date=100)
    return 0


def _delete(bench: Bench) -> int:
    path_of(bench.folder, 4).unlink()
    path_of(bench.folder, 5).unlink()
    return 0


def _move(bench: Bench) -> int:
    path_of(bench.folder, 4).rename(bench.folder / "part0" / "moved.txt")
    return 0


def _touched(bench: Bench) -> int:
    for file in bench.folder.rglob("*.txt"):
        os.utime(file, (LONG_AGO + 100_000,) * 2)
    return 0


def _subset(bench: Bench) -> int:
    write(bench.folder, 5, range(6), edited=2, date=100)
    return 1


CHANGES: dict[str, Callable[[Bench], int]] = {
    "edit": _edit, "shrink": _shrink, "delete": _delete, "move": _move, "touched": _touched, "subset": _subset,
}  # fmt: skip
FILES, PARAGRAPHS = 60, 12


def after_change(bench: Bench, case: str) -> dict[str, Any]:
    bench.restore()
    before = len(bench.embedded())
    needed = CHANGES[case](bench)
    error = bench.run(*(["--only", "part1"] if case == "subset" else []))
    return {**compared(bench), "embedded": len(bench.embedded()) - before, "needed": needed, "error": error}


def fails_once(bench: Bench) -> dict[str, Any]:
    bench.begin(FILES, PARAGRAPHS)
    found = _from_nothing(bench, bench.run(FAIL=str(FILES * PARAGRAPHS // 2)))
    if not found["lost"]:
        return found
    bench.run()
    return {**found, "lost_after_one_more_run": compared(bench)["lost"]}


def crash(bench: Bench, files: int = FILES, pause: str = "0.005", **environment: str) -> dict[str, Any]:
    bench.begin(files, PARAGRAPHS)
    process = bench.start(PAUSE=pause, **environment)
    while process.poll() is None and len(bench.embedded()) < files * PARAGRAPHS // 2:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    killed = len(bench.embedded())
    return {**_from_nothing(bench, bench.run(**environment), files), "embedded_when_killed": killed}


def two_at_once(bench: Bench) -> dict[str, Any]:
    bench.begin(FILES, PARAGRAPHS)
    if bench.side.startswith("llama-index"):
        workers = f"{bench.side}-workers"
        error = bench.run(side=workers) or bench.run(side=workers)
        return _from_nothing(bench, error)
    both = [bench.start(PAUSE="0.002") for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    refused = [bench.told(lines) for lines, process in zip(errors, both, strict=True) if process.returncode]
    return _from_nothing(bench, " | ".join(refused))


def _from_nothing(bench: Bench, error: str, files: int = FILES) -> dict[str, Any]:
    return {**compared(bench), "embedded": len(bench.embedded()), "needed": files * PARAGRAPHS, "error": error}


FROM_NOTHING: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "fails once": fails_once,
    "crash": crash,
    "two at once": two_at_once,
}
CASES = (*CHANGES, *FROM_NOTHING)


# ---------------------------------------------------------------- telling
def cell(found: dict[str, Any]) -> str:
    """What went wrong, in a few words; else ok. `+n`: texts embedded that need not have been."""
    wrong = [f"{found[key]} {key}" for key in ("stale", "lost", "doubled") if found[key]]
    if found.get("lost_after_one_more_run") == 0:
        wrong[-1] += " until the next run"
    extra = found["embedded"] - found["needed"]
    return ", ".join(wrong or ["ok"]) + (f" +{extra}" if extra > 0 else "") + (" (error)" if found["error"] else "")


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    cases = [case for case in CASES if any(case in found for found in results.values())]
    rows = [["", *cases], *([side, *(cell(found[case]) for case in cases)] for side, found in results.items())]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)


def main() -> None:
    arguments = _arguments()
    environment = measure.environment(("ragops", "qdrant-edge-py"))
    names = ",".join(map(repr, PACKAGES))
    told = (
        f"import json; from importlib.metadata import version; print(json.dumps({{n: version(n) for n in [{names}]}}))"
    )
    peers = json.loads(subprocess.check_output([arguments.python, "-c", told], text=True))
    results: dict[str, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as temp:
        for side in arguments.only:
            python = sys.executable if side == syncing.OURS else str(arguments.python)
            bench = Bench(side, python, Path(temp).resolve() / side)
            found = results[side] = {}
            if any(case in CHANGES for case in arguments.cases):
                bench.begin(12, 6)
                error = bench.run()
                first = compared(bench)
                if error or any(first.values()) or len(bench.embedded()) != 72:
                    sys.exit(f"{side}: the first run went wrong: {error} {first} {len(bench.embedded())}")
                bench.keep()
            for case in arguments.cases:
                found[case] = after_change(bench, case) if case in CHANGES else FROM_NOTHING[case](bench)
                print(f"{side:24} {case:12} {cell(found[case])} {found[case]['error']}", file=sys.stderr)
    print(table(results))
    ours = results.get(syncing.OURS, {})
    wrong = sum(found[key] for found in ours.values() for key in ("stale", "lost", "doubled"))
    extra = {case: found["embedded"] - found["needed"] for case, found in ours.items()}
    bars = [measure.bar("ragops: paragraphs stale, lost or doubled, all cases", wrong, 0)]
    bars += [measure.bar(f"ragops: texts embedded needlessly, {case}", n, 64 if case in ("crash", "fails once") else 0)
             for case, n in extra.items()]  # fmt: skip
    measure.show(bars)
    measure.write(arguments.out, {"environment": environment, "peers": peers, "bars": bars,
                                  "table": table(results).splitlines(), "cases": results})  # fmt: skip


def _arguments() -> argparse.Namespace:
    sides = [side for side in syncing.SIDES if not side.endswith("-workers")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="interpreter of peers-requirements.txt")
    parser.add_argument("--only", nargs="+", choices=sides, default=sides)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "failures.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
