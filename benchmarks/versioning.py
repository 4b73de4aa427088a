"""What git and DVC give a knowledge base, and what they cost: pushes, clones, reproduction, old answers.

    python benchmarks/versioning.py --before FOLDER --after FOLDER [--every N] [--part NAME ...] [--out FILE]

The folders are a documentation tree at two revisions. Commands are fresh processes, as a user types them; the DVC
remote is a folder, and what a push brings is what that folder grows by. Four parts:

- `changes`: the tree of the first revision in a workspace in git and DVC, with hash:384 as the model (vectors of the
  real one's size). Then so many times 0.1% and then 1% of the files, drawn by chance of those that the second revision
  changed, take their later content: ingest, commit, push. Bytes pushed, by part, beside the bytes of the changed files
  and of their diff. A second workspace without git and DVC ingests the same changes in turn: the difference is what
  DVC adds.
- `noop`: runs without news in both, and whether they import DVC.
- `clones`: of that workspace: `git clone`, `dvc pull`, `dvc repro`, a first search, `ragops verify`; and the same from
  the snapshot alone, with nothing of the dataset pulled and `dataset.json` removed.
- `travel`: a tenth of the tree with the real model, at three revisions (first, a mix of both, second). Queries are
  sentences that only one of the two has. Answers are recorded right after each ingest; then asked again by
  `ragops search --rev REV --exact`: with the releases kept, after `ragops releases prune --keep 0`, and in a clone into
  which nothing was pulled.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measure

PACKAGES = ("ragops", "dvc", "polars", "qdrant-edge-py", "sentence-transformers", "torch")
PARTS = ("changes", "noop", "clones", "travel")
HASHED, MODEL = "hash:384", "all-MiniLM-L6-v2"
SHARES = (0.001, 0.01)
REVISIONS = ("first", "mixed", "second")
QUERIES = 20
PUSHED = 10  # times the bytes of the changed files, at most
WITHOUT_NEWS = """import sys
from ragops.workspace import Workspace
with Workspace.open() as workspace:
    found = workspace.ingest()
assert found.noop and found.dvc is not None
print(sum(name.partition(".")[0] == "dvc" for name in sys.modules))
"""
TIMED = """#!/bin/sh
start=$(date +%s.%N)
'{ragops}' "$@"
code=$?
{{ echo "$2 $start $(date +%s.%N)"; times; }} >> '{log}'
exit $code
"""


def main() -> None:
    arguments = _arguments()
    environment = measure.environment(PACKAGES)
    before, after = (_tree(folder) for folder in (arguments.before, arguments.after))
    result: dict[str, Any] = {}
    bars: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temp:
        root = Path(temp)
        shell = Shell(root)
        if {"changes", "noop", "clones"} & set(arguments.part):
            names = sorted(before)[:: arguments.every]
            tree = root / "tree"
            _bring(tree, {name: before[name] for name in names})
            kb, plain = _workspace(shell, root / "kb", tree, HASHED), _workspace(shell, root / "plain", tree, HASHED)
            remote = Remote(root / "remote", kb)
            _versioned(shell, kb, remote.folder)
            result["tree"], bars[len(bars) :] = changes(shell, kb, plain, remote, tree, after, arguments)
            if "noop" in arguments.part:
                result["noop"], bars[len(bars) :] = noop(shell, kb, plain, arguments.noops)
            if "clones" in arguments.part:
                result["clones"], bars[len(bars) :] = clones(shell, kb, arguments.repeats)
            for folder in (kb, plain, remote.folder, tree):
                shutil.rmtree(folder)
        if "travel" in arguments.part:
            names = sorted({*before, *after})[:: arguments.every * arguments.model_every]
            result["travel"], bars[len(bars) :] = travel(shell, *(
                {name: tree[name] for name in names if name in tree} for tree in (before, after)
            ))  # fmt: skip
    measure.show(bars)
    found = {"environment": environment, "bars": bars, **result}
    measure.write(arguments.out, found if set(arguments.part) == set(PARTS) else _beside(arguments.out, found))


def _beside(file: Path, found: dict[str, Any]) -> dict[str, Any]:
    """What was run, with what an earlier run says of the rest."""
    if not file.exists():
        return found
    earlier = json.loads(file.read_bytes())
    bars = {bar["bar"]: bar for bar in (*earlier["bars"], *found.pop("bars"))}
    environment = found.pop("environment")
    again = {**earlier.get("run_again", {}), **dict.fromkeys(found, environment)}
    return {**earlier, **found, "bars": list(bars.values()), "run_again": again}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--after", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="take every Nth file")
    parser.add_argument("--model-every", type=int, default=10, help="of those, every Nth with the real model")
    parser.add_argument("--changes", type=int, nargs=2, default=(24, 5), metavar="N", help="rounds of 0.1%% and of 1%%")
    parser.add_argument("--noops", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3, help="clones of each kind")
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "versioning.json")
    return parser.parse_args()


# ---------------------------------------------------------------- files and commands
def _tree(folder: Path) -> dict[str, Path]:
    return {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}


def _bring(tree: Path, wanted: Mapping[str, Path]) -> None:
    """Make the tree hold what is wanted; what did not change is not touched."""
    for name, file in _tree(tree).items():
        if name not in wanted:
            file.unlink()
    for name, file in wanted.items():
        place, data = tree / name, file.read_bytes()
        if not place.exists() or place.read_bytes() != data:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)


class Shell:
    """Runs commands with ours first on the path and none of this machine's settings of git and DVC."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(root / ".dvc-site"),
            "DVC_GLOBAL_CONFIG_DIR": str(root / ".dvc-global"),
            "DVC_SYSTEM_CONFIG_DIR": str(root / ".dvc-system"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": "benchmark" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        (root / ".dvc-global").mkdir()
        (root / ".dvc-global" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")

    def __call__(self, folder: Path, *command: str | Path, first: Path | None = None) -> tuple[measure.Spent, str]:
        """What a command cost and said. `first`: a folder to put before all others on the path."""
        env = self.env if first is None else {**self.env, "PATH": f"{first}{os.pathsep}{self.env['PATH']}"}
        with tempfile.TemporaryFile() as said:
            cost = measure.run(list(map(str, command)), cwd=folder, env=env, stdout=said)
            said.seek(0)
            return cost, said.read().decode()


def _workspace(shell: Shell, root: Path, tree: Path, model: str) -> Path:
    shell(shell.root, "ragops", "init", root)
    params = root / "params.yaml"
    text = params.read_text("utf-8").replace("model: all-MiniLM-L6-v2", f"model: '{model}'")
    source = f"sources:\n  - {{name: {tree.name}, connector: files, path: {tree}}}\n"
    params.write_text(text.replace("sources: []\n", source), "utf-8")
    return root


def _versioned(shell: Shell, root: Path, remote: Path) -> None:
    shell(root, "git", "init", "-q", "-b", "main")
    shell(root, "dvc", "init", "-q")
    shell(root, "dvc", "remote", "add", "-d", "here", remote)


def _commit(shell: Shell, root: Path, message: str) -> str:
    shell(root, "git", "add", "-A")
    shell(root, "git", "commit", "-q", "-m", message)
    return shell(root, "git", "rev-parse", "HEAD")[1].strip()


def _spent(costs: Iterable[measure.Spent]) -> dict[str, Any]:
    costs = list(costs)
    return {clock: measure.summary([getattr(cost, clock) for cost in costs]) for clock in ("cpu", "wall")}


# ---------------------------------------------------------------- what changes cost
@dataclass(slots=True)
class Remote:
    """The folder that a workspace pushes to."""

    folder: Path
    kb: Path
    known: set[str] = field(default_factory=set)

    def pushed(self) -> dict[str, int]:
        """Bytes that came since the last call, by the part of the workspace that they are."""
        found: dict[str, int] = {}
        parts = dict(self._parts())
        for file in (self.folder / "files" / "md5").glob("*/*"):
            name = file.parent.name + file.name
            if name not in self.known:
                self.known.add(name)
                part = "listings" if name.endswith(".dir") else parts[name]
                found[part] = found.get(part, 0) + file.stat().st_size
        return {"all": sum(found.values()), **dict(sorted(found.items()))}

    def _parts(self) -> Iterator[tuple[str, str]]:
        for place in (*(self.kb / "data/dataset").glob("*/"), self.kb / "data/snapshot", self.kb / "data/models"):
            for file in place.rglob("*"):
                if file.is_file():
                    manifest = file.suffix == ".json" and place.name != "models"
                    yield hashlib.md5(file.read_bytes()).hexdigest(), "manifests" if manifest else place.name


@dataclass(slots=True)
class Round:
    """One change: what it weighs, what was pushed, what each step cost."""

    files: int
    changed: int  # bytes of the changed files' new content
    diff: int  # bytes of the lines that left or came
    pushed: dict[str, int]
    git: int  # bytes of the commit's objects
    costs: dict[str, measure.Spent]
    dvc_seconds: float
    chunks: dict[str, int]

    @property
    def ratio(self) -> float:
        return self.pushed["all"] / self.changed


def changes(
    shell: Shell, kb: Path, plain: Path, remote: Remote, tree: Path, after: Mapping[str, Path],
    arguments: argparse.Namespace,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    files = _tree(tree)
    size = sum(file.stat().st_size for file in files.values())
    first = _ingest_both(shell, kb, plain, remote, 0)
    told: dict[str, Any] = {
        "files": len(files), "bytes": size, "model": HASHED, "first": _first(first, size),
    }  # fmt: skip
    bars: list[dict[str, Any]] = []
    edited = [name for name, file in files.items() if name in after and file.read_bytes() != after[name].read_bytes()]
    others = sorted(set(files) - set(edited))
    for names in (edited := sorted(edited), others):
        random.Random(0).shuffle(names)
    order = iter(edited + others)
    number = 0
    for share, rounds in zip(SHARES, arguments.changes, strict=True):
        found: list[Round] = []
        for _ in range(rounds):
            number += 1
            names = [name for _, name in zip(range(max(1, round(share * len(files)))), order, strict=False)]
            weight = [_edit(tree / name, after.get(name)) for name in names]
            one = _ingest_both(shell, kb, plain, remote, number)
            one.files, one.changed, one.diff = len(names), sum(a for a, _ in weight), sum(b for _, b in weight)
            found.append(one)
            print(f"{share:.1%}, round {len(found)}: {one.ratio:.2f} {one.pushed}", file=sys.stderr)
        if found:
            told[f"{share:.1%}"] = _told(found)
            bars += _bars(f"{share:.1%}", told[f"{share:.1%}"]["pushed_to_changed"])
    both = {json.loads((root / "data/dataset/dataset.json").read_bytes())["fingerprint"] for root in (kb, plain)}
    dirty = json.loads(shell(kb, "dvc", "status", "--json")[1])
    bars += [
        measure.bar("fingerprints beyond one, of the workspaces with and without DVC", len(both) - 1, 0),
        measure.bar("stages that `dvc status` finds changed after all ingests", len(dirty), 0),
    ]
    return told, bars


def _edit(file: Path, later: Path | None) -> tuple[int, int]:
    """Give a file its later content, or one more paragraph. Returns the bytes of that content and of the diff."""
    old = file.read_bytes()
    new = later.read_bytes() if later is not None else old
    if new == old:
        new = old.rstrip() + f"\n\nOne more paragraph stands at the end of {file.stem}.\n".encode()
    file.write_bytes(new)
    before, after = (data.decode("utf-8", "replace").splitlines() for data in (old, new))
    lines = list(difflib.unified_diff(before, after, lineterm="", n=0))[2:]
    return len(new), sum(len(line.encode()) for line in lines if line[:1] in "+-")


def _ingest_both(shell: Shell, kb: Path, plain: Path, remote: Remote, number: int) -> Round:
    costs: dict[str, measure.Spent] = {}
    found: dict[str, Any] = {}
    sides = [("with DVC", kb), ("without", plain)]
    for name, root in sides if number % 2 else reversed(sides):
        costs[name], said = shell(root, "ragops", "ingest", "-q", "--json")
        found[name] = json.loads(said)
    summary = found["with DVC"]
    if not summary["dvc"]["recorded"] or found["without"]["dvc"] is not None:
        sys.exit(f"DVC did not record the ingest, or where there is none: {[each['dvc'] for each in found.values()]}")
    git = _weight(kb / ".git/objects")
    _commit(shell, kb, f"change {number}")
    git = _weight(kb / ".git/objects") - git
    costs["push"], _ = shell(kb, "dvc", "push", "-q")
    return Round(0, 0, 0, remote.pushed(), git, costs, summary["dvc"]["seconds"], summary["chunks"])


def _weight(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _first(one: Round, size: int) -> dict[str, Any]:
    return {
        "chunks": one.chunks["total"],
        "pushed": one.pushed,
        "pushed_to_files": round(one.pushed["all"] / size, 3),
        "seconds": {name: {"cpu": round(cost.cpu, 2), "wall": round(cost.wall, 2)} for name, cost in one.costs.items()},
        "dvc_seconds": one.dvc_seconds,
    }


def _told(found: Sequence[Round]) -> dict[str, Any]:
    changed = sum(one.changed for one in found)
    parts = sorted({part for one in found for part in one.pushed} - {"all"})
    sums = {part: sum(one.pushed.get(part, 0) for one in found) for part in ("all", *parts)}
    costs = {name: [one.costs[name] for one in found] for name in found[0].costs}
    ours, bare = costs["with DVC"], costs["without"]
    return {
        "rounds": len(found),
        "files": found[0].files,
        "changed_bytes": measure.summary([one.changed for one in found]),
        "diff_bytes": measure.summary([one.diff for one in found]),
        "pushed_bytes": measure.summary([one.pushed["all"] for one in found]),
        "pushed_to_changed": {
            **measure.summary([one.ratio for one in found]), "mean": round(sums["all"] / changed, 3),
        },
        "by_part": {part: round(count / changed, 4) for part, count in sums.items()},
        "git_to_changed": round(sum(one.git for one in found) / changed, 4),
        "chunks_added": measure.summary([one.chunks["added"] for one in found]),
        "seconds": {name: _spent(each) for name, each in costs.items()},
        "dvc_adds": {
            "cpu": measure.summary([a.cpu - b.cpu for a, b in zip(ours, bare, strict=True)]),
            "wall": measure.summary([a.wall - b.wall for a, b in zip(ours, bare, strict=True)]),
            "cpu_ratio": measure.ratio([each.cpu for each in ours], [each.cpu for each in bare]),
            "told_by_the_run": measure.summary([one.dvc_seconds for one in found]),
        },
        "each": [
            {"changed": one.changed, "diff": one.diff, "ratio": round(one.ratio, 2), "git": one.git, **one.pushed}
            for one in found
        ],
    }  # fmt: skip


def _bars(share: str, ratio: Mapping[str, float]) -> list[dict[str, Any]]:
    said = f"bytes pushed to bytes of the changed files, {share} of the files"
    return [
        measure.bar(f"{said}: all rounds together", ratio["mean"], PUSHED),
        measure.bar(f"{said}: median", ratio["median"], PUSHED),
        measure.bar(f"{said}: the worst round", ratio["max"], PUSHED),
    ]


# ---------------------------------------------------------------- no news
def noop(shell: Shell, kb: Path, plain: Path, repeats: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    def once(root: Path) -> measure.Spent:
        cost, said = shell(root, "ragops", "ingest", "-q", "--json")
        if not json.loads(said)["noop"]:
            sys.exit("a run without news was none")
        return cost

    for root in (kb, plain):
        once(root)
    found = measure.interleave({"with DVC": lambda: once(kb), "without": lambda: once(plain)}, repeats, tell=False)
    modules = int(shell(kb, sys.executable, "-c", WITHOUT_NEWS)[1])
    ratio = measure.ratio(*([cost.cpu for cost in found[name]] for name in ("with DVC", "without")))
    told = {"seconds": {name: _spent(costs) for name, costs in found.items()}, "cpu_ratio": ratio}
    return told, [measure.bar("modules of DVC that a run without news imports", modules, 0)]


# ---------------------------------------------------------------- clones
def clones(shell: Shell, kb: Path, repeats: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    wanted = _released(shell, kb)
    query = "what happens to a file that cannot be read?"
    ways = {
        "pulled": lambda: _clone(shell, kb, query),
        "snapshot": lambda: _clone(shell, kb, query, "data/snapshot.dvc"),
    }
    found = measure.interleave(ways, repeats)
    told: dict[str, Any] = {}
    bars = []
    for way, each in found.items():
        names = {name: None for one in each for name in one["costs"]}
        told[way] = {name: _spent(one["costs"][name] for one in each if name in one["costs"]) for name in names}
        other = sum(one["fingerprint"] != wanted for one in each)
        from_what = "all that was pushed" if way == "pulled" else "the snapshot alone"
        bars += [
            measure.bar(f"clones with another fingerprint, of {from_what}", other, 0),
            measure.bar(f"clones in which `ragops verify` finds something, of {from_what}",
                        sum(not one["verified"] for one in each), 0),
        ]  # fmt: skip
    return {"fingerprint": wanted[:12], "seconds": told}, bars


def _clone(shell: Shell, kb: Path, query: str, *targets: str) -> dict[str, Any]:
    """A clone that pulls the targets (all without one), makes the rest and answers."""
    clone, tools = shell.root / "clone", shell.root / "tools"
    tools.mkdir()
    log = tools / "log"
    (tools / "ragops").write_text(TIMED.format(ragops=shutil.which("ragops", path=shell.env["PATH"]), log=log))
    (tools / "ragops").chmod(0o755)
    costs = {"clone": shell(shell.root, "git", "clone", "-q", kb, clone)[0]}
    costs["pull"], _ = shell(clone, "dvc", "pull", "-q", *targets)
    if targets:
        for name in ("dataset.json", "sources.csv"):
            (clone / "data/dataset" / name).unlink()
    costs["repro"], _ = shell(clone, "dvc", "repro", first=tools)
    costs |= {f"repro: {name}": cost for name, cost in _stages(log.read_text())}
    costs["first search"], _ = shell(clone, "ragops", "search", query)
    costs["verify"], said = shell(clone, "ragops", "verify", "--json")
    written = json.loads((clone / "data/dataset/dataset.json").read_bytes())["fingerprint"]
    released = _released(shell, clone)
    shutil.rmtree(clone)
    shutil.rmtree(tools)
    return {
        "costs": costs,
        "fingerprint": released if written == released else None,
        "verified": json.loads(said)["ok"],
    }


def _stages(log: str) -> Iterator[tuple[str, measure.Spent]]:
    """Of lines `name start end`, then what the shell's `times` says of itself and of its children."""
    lines = log.splitlines()
    for first, _, children in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        name, start, end = first.split()
        cpu = sum(60 * float(m) + float(s) for m, s in re.findall(r"(\d+)m([\d.]+)s", children))
        yield name, measure.Spent(0.0, cpu, float(end) - float(start))


def _released(shell: Shell, root: Path) -> str:
    found = json.loads(shell(root, "ragops", "releases", "list", "--json")[1])
    return next(str(release["fingerprint"]) for release in found if release["live"])


# ---------------------------------------------------------------- time travel
Answers = list[list[tuple[str, int, int, float]]]


def travel(
    shell: Shell, before: Mapping[str, Path], after: Mapping[str, Path]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    tree, root, remote = shell.root / "tree", shell.root / "travel", shell.root / "remote"
    later = sorted({*before, *after})[::2]
    mixed = {name: file for name, file in before.items() if name not in later} | {
        name: after[name] for name in later if name in after
    }
    queries = _queries(before, after)
    _bring(tree, before)
    _workspace(shell, root, tree, MODEL)
    _versioned(shell, root, remote)
    recorded: dict[str, Answers] = {}
    revisions: dict[str, str] = {}
    told: dict[str, Any] = {"model": MODEL, "queries": len(queries), "revisions": {}}
    for name, wanted in zip(REVISIONS, (before, mixed, after), strict=True):
        _bring(tree, wanted)
        cost, said = shell(root, "ragops", "ingest", "-q", "--json", "--allow-deletes")
        summary = json.loads(said)
        recorded[name] = _ask(shell, root, queries)[0]
        revisions[name] = _commit(shell, root, name)
        shell(root, "dvc", "push", "-q")
        told["revisions"][name] = {
            "files": summary["sources"]["seen"], "chunks": summary["chunks"]["total"], "cpu": round(cost.cpu, 1),
            "fingerprint": summary["fingerprint"][:12],
        }  # fmt: skip
        print(f"{name}: {told['revisions'][name]}", file=sys.stderr)
    told["queries_with_the_same_answers"] = {
        f"{a} and {b}": sum(one == other for one, other in zip(recorded[a], recorded[b], strict=True))
        for a, b in (REVISIONS[:2], REVISIONS[1:], REVISIONS[::2])
    }
    clone = shell.root / "clone"
    shell(shell.root, "git", "clone", "-q", root, clone)
    bars = []
    for situation, place in (("kept", root), ("pruned", root), ("clone", clone)):
        if situation == "pruned":
            shell(root, "ragops", "releases", "prune", "--keep", "0")
        equal, costs, kept = 0, [], {}
        for name in REVISIONS:
            found, each, kept[name] = _ask(shell, place, queries, "--rev", revisions[name])
            equal += sum(one == other for one, other in zip(found, recorded[name], strict=True))
            costs.append(each)
        told[situation] = {
            "asked": len(queries) * len(REVISIONS),
            "equal": equal,
            "from_a_kept_release": kept,
            "first_query": _spent(each[0] for each in costs),
            "later_queries": _spent(cost for each in costs for cost in each[1:]),
        }
        bars.append(measure.bar(f"answers at three revisions other than recorded: {situation}",
                                told[situation]["asked"] - equal, 0))  # fmt: skip
    same = told["queries_with_the_same_answers"]["first and second"]
    bars.append(measure.bar("queries that could not tell the first revision from the second", same, len(queries) // 2))
    return told, bars


def _queries(before: Mapping[str, Path], after: Mapping[str, Path]) -> list[str]:
    """Sentences that only the one or the other revision of a file has, in turn."""
    found: list[str] = []
    for name in sorted(before.keys() & after.keys()):
        old, new = (tree[name].read_text("utf-8", "replace").splitlines() for tree in (before, after))
        only, there = (set(old), new) if len(found) % 2 else (set(new), old)
        lines = (re.sub(r"[\[\]`*_>#|]+", " ", line).strip() for line in there if line not in only)
        line = next((" ".join(line.split()) for line in lines if 6 <= len(line.split()) <= 30), None)
        if line is not None and line[0].isalpha():
            found.append(line)
    return found[:: max(1, len(found) // QUERIES)][:QUERIES]


def _ask(shell: Shell, root: Path, queries: Sequence[str], *options: str) -> tuple[Answers, list[measure.Spent], bool]:
    """Answers, costs, and whether a kept release gave them."""
    answers, costs, kept = [], [], True
    for query in queries:
        cost, said = shell(root, "ragops", "search", "--exact", "--json", *options, "--", query)
        found = json.loads(said)
        answers.append([(hit["uri"], hit["start"], hit["end"], hit["score"]) for hit in found["hits"]])
        costs.append(cost)
        kept = kept and found["release"] is not None
    return answers, costs, kept


if __name__ == "__main__":
    main()
