"""Crashes: what is ingested, what is done to it, what must come out, for the tests and the benchmark of that name.

A trial copies a prepared workspace, runs a command in a child that dies at one step (tests/injector.py), looks at what
readers get, runs the command again, and compares everything with a clean build. Children are forked from a process
that has imported everything and used nothing, so that a trial costs what the run costs: `python -m tests.crash` is
that process; it takes trials as JSON lines and answers in kind.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import mmap
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
BATCH = 64  # texts that a killed run may embed again
KEEP = 1  # releases kept beside the live one, so that every run has one to prune
QUERIES = ("harbour copper signal", "the seventh lantern", "granite", "meadow and orchard in winter")
OLD = 1_700_000_000_000_000_000
WORDS = (
    "harbour", "copper", "signal", "lantern", "granite", "meadow", "orchard", "winter", "river", "engine", "paper",
    "window", "garden", "bridge", "silver", "train", "island", "forest", "cabinet", "letter", "market", "castle",
    "needle", "summer", "bottle", "carpet", "ladder", "mirror", "pencil", "rocket", "saddle", "tunnel",
)  # fmt: skip


# ---------------------------------------------------------------- sources
def text(seed: int, sections: int) -> str:
    """Sections of some 100 words, none like another; about one chunk each."""
    random_ = random.Random(seed)
    parts = [f"# Document {seed}\n"]
    for number in range(sections):
        words = " ".join(random_.choice(WORDS) for _ in range(100))
        parts.append(f"## Section {number}\n\nThe {WORDS[(seed + number) % len(WORDS)]} of {seed}: {words}.\n")
    return "\n".join(parts)


def put(corpus: Path, name: str, data: str | bytes) -> None:
    file = corpus / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    os.utime(file, ns=(OLD + len(data),) * 2)  # as if written long ago: its change token is trusted at once


def first_corpus(corpus: Path, documents: int = 56) -> None:
    for n in range(documents):
        put(corpus, f"part{n % 4}/doc{n:02d}.md", text(n, 1 + n % 4))
    put(corpus, "page.html", "<title>Prices</title><h1>Prices</h1><p>Basic 10, large 30</p>")
    put(corpus, "large.html", f"<script>{'x' * (1 << 20)}</script><p>A large file with little text.</p>")  # an object
    put(corpus, "broken.pdf", b"%PDF-1.4 rubbish")


def edit_corpus(corpus: Path) -> None:
    """Edited, shortened, deleted, added, moved, copied, mended; `break_corpus` follows."""
    for n in (1, 9, 17, 25):
        put(corpus, f"part{n % 4}/doc{n:02d}.md", text(n, 1 + n % 4) + text(500 + n, 2))
    for n in (3, 7):
        put(corpus, f"part{n % 4}/doc{n:02d}.md", text(n, 1))
    for n in (2, 6, 10):
        (corpus / f"part{n % 4}/doc{n:02d}.md").unlink()
    for n in range(200, 222):
        put(corpus, f"new/doc{n}.md", text(n, 3))
    (corpus / "moved").mkdir()
    for n in (4, 8):
        (corpus / f"part0/doc{n:02d}.md").rename(corpus / f"moved/doc{n:02d}.md")
    put(corpus, "copy.md", text(20, 1))
    put(corpus, "broken.pdf", text(99, 1))
    put(corpus, "large.html", f"<script>{'y' * (1 << 20)}</script><p>Another large file with little text.</p>")


def break_corpus(corpus: Path) -> None:
    for n in (5, 13):
        put(corpus, f"part1/doc{n:02d}.md", b"%PDF-1.4 no longer a document")


# ---------------------------------------------------------------- workspaces
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
    file = next((place / "template/data/dataset/documents").iterdir())
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


# ---------------------------------------------------------------- looking
@dataclass(slots=True)
class Look:
    """What readers of a release get."""

    release: tuple[str, int, str, int]  # fingerprint, points, space, avg_len
    payloads: dict[str, Any]
    vectors: dict[str, list[float]]
    dense: dict[str, dict[str, float]]  # query -> point -> score
    words: dict[str, dict[str, float]]


def look(kb: Path) -> Look | None:
    """The live release as a reader sees it, or None where none was ever published."""
    from ragops.workspace import Workspace

    with Workspace.open(kb) as workspace:
        if workspace.store.live() is None:
            return None
        reader = workspace.reader()
        release = reader.release
        payloads, vectors = {}, {}
        for point, payload, vector in reader.points():
            payloads[point] = dict(payload)
            vectors[point] = [float(x) for x in vector]
        encoder = workspace.encoder(release)
        dense, words = {}, {}
        for query in QUERIES:
            vector = encoder.embed_queries([query])[0]
            dense[query] = {hit.point_id: hit.score for hit in reader.search(vector, len(payloads), exact=True)}
            words[query] = {hit.point_id: hit.score for hit in reader.search_text(query, len(payloads))}
        return Look(
            (release.fingerprint, release.points, release.space.fingerprint, release.avg_len),
            payloads, vectors, dense, words,
        )  # fmt: skip


def differences(found: Look, wanted: Look, *, sealed: bool = True) -> list[str]:
    """Between two looks: ids, payloads, vectors (1e-5), scores of exact and of word search (1e-5).

    `sealed`: the fingerprint too, which a release with today's permissions laid over does not change.
    """
    wrong = []
    if found.release[not sealed :] != wanted.release[not sealed :]:
        wrong.append(f"release {found.release} instead of {wanted.release}")
    missing, extra = wanted.payloads.keys() - found.payloads.keys(), found.payloads.keys() - wanted.payloads.keys()
    if missing or extra:
        return [*wrong, f"{len(missing)} points missing, {len(extra)} extra"]
    if len(found.payloads) != found.release[1]:
        wrong.append(f"{len(found.payloads)} points where the manifest says {found.release[1]}")
    wrong += [f"payload of {p}" for p, payload in wanted.payloads.items() if found.payloads[p] != payload]
    for point, vector in wanted.vectors.items():
        if max(abs(a - b) for a, b in zip(found.vectors[point], vector, strict=True)) > 1e-5:
            wrong.append(f"vector of {point}")
    for kind in ("dense", "words"):
        for query, scores in getattr(wanted, kind).items():
            got = getattr(found, kind)[query]
            if got.keys() != scores.keys() or any(abs(got[p] - s) > 1e-5 for p, s in scores.items()):
                wrong.append(f"{kind} scores of {query!r}")
    return wrong


def keep(kb: Path) -> dict[str, Any]:
    """What the workspace remembers that must not depend on its past: dataset, snapshot, state."""
    import polars as pl

    from ragops_pipelines.state import State

    manifest = json.loads((kb / "data/dataset/dataset.json").read_text("utf-8"))
    state = State(kb / ".ragops")
    try:
        rows = {
            "points": state.db.execute("SELECT * FROM points ORDER BY 1, 2").fetchall(),
            "sources": [known.__repr__() for known in state.sources()],
            "rejects": [
                {name: value for name, value in reject.items() if name not in ("attempts", "first_seen")}
                for reject in state.rejects()
            ],
        }
    finally:
        state.db.close()
    return {
        **{name: manifest[name] for name in ("fingerprint", "recipe", "shards", "counts", "documents", "chunks")},
        "snapshot": pl.read_parquet(kb / "data/snapshot/manifest.parquet").rows(),
        "rejected": pl.read_parquet(kb / "data/dataset/rejects/rejects.parquet").rows(),
        **rows,
    }


def whole(kb: Path, *, newest: bool = True) -> list[str]:
    """What is wrong with the files of a workspace at rest: missing or damaged.

    `newest`: the live release must be that of the dataset.
    """
    from ragops.errors import StoreError
    from ragops.workspace import Workspace
    from ragops_pipelines.snapshot import Snapshot
    from ragops_pipelines.state import State

    wrong = []
    data, local = kb / "data", kb / ".ragops"
    manifest = json.loads((data / "dataset/dataset.json").read_text("utf-8"))
    for part in ("documents", "chunks", "vectors"):
        named = set(manifest[part] if part == "vectors" else manifest[part].values())
        there = {file.name for file in (data / "dataset" / part).iterdir()}
        wrong += [f"dataset/{part}/{name} is missing" for name in sorted(named - there)]
        for name in named & there:
            sha = _sha256(data / "dataset" / part / name)
            if not name.removesuffix(".parquet").endswith(sha[:12]):
                wrong.append(f"dataset/{part}/{name} does not have its hash")
    snapshot = Snapshot(data / "snapshot")
    for sha in _named(snapshot):
        try:
            snapshot.read(sha)
        except StoreError as error:
            wrong.append(error.message)
    with Workspace.open(kb) as workspace:
        store: Any = workspace.store
        wrong += store.check()
        live = store.live()
        if newest and (live is None or live.fingerprint != manifest["fingerprint"]):
            wrong.append("the live release is not that of the dataset")
    state = State(local)
    try:
        stored = {name for (name,) in state.db.execute("SELECT DISTINCT segment FROM stored")}
        if stored != set(manifest["vectors"]):
            wrong.append("the state names other segments than the dataset")
        lacking = "SELECT count(*) FROM points WHERE vector_key NOT IN (SELECT vector_key FROM stored)"
        if state.db.execute(lacking).fetchone()[0]:
            wrong.append("points without a stored vector")
    finally:
        state.db.close()
    return wrong


def strays(kb: Path) -> list[str]:
    """What nobody needs any more and a run that comes to its end removes: files of the dead, releases beyond `keep`."""
    import polars as pl

    from ragops.workspace import Workspace
    from ragops_pipelines.snapshot import Snapshot

    data = kb / "data"
    found = [
        file.relative_to(kb).as_posix()
        for file in kb.rglob("*")
        if file.name.endswith((".tmp", ".old", ".draft")) or file.name.startswith("work.db")
    ]
    manifest = json.loads((data / "dataset/dataset.json").read_text("utf-8"))
    for part in ("documents", "chunks", "vectors"):
        named = set(manifest[part] if part == "vectors" else manifest[part].values())
        there = {file.name for file in (data / "dataset" / part).iterdir()}
        found += [f"dataset/{part}/{name}" for name in sorted(there - named)]
    snapshot = Snapshot(data / "snapshot")
    kept: set[str] = set()
    for file in snapshot.objects.iterdir():
        kept |= set(pl.read_parquet(file)["sha"]) if file.suffix == ".parquet" else {file.name}
    found += [f"{sha[:12]} in the snapshot" for sha in sorted(kept - _named(snapshot))]
    with Workspace.open(kb) as workspace:
        numbers = [release.number for release in workspace.store.releases()]
    folders = sorted(int(folder.name) for folder in (kb / ".ragops/store/main/releases").iterdir())
    if len(numbers) > KEEP + 1:
        found.append(f"releases {numbers} where {KEEP + 1} are kept")
    if folders != numbers:
        found.append(f"release folders {folders} for releases {numbers}")
    return found


def _named(snapshot: Any) -> set[str]:
    """Hashes of the bytes that the snapshot's manifest names."""
    import polars as pl

    rows = pl.read_parquet(snapshot.folder / "manifest.parquet")
    return {sha for column in ("raw_sha", "doc_raw_sha") for sha in rows[column] if sha is not None}


def _sha256(file: Path) -> str:
    import hashlib

    return hashlib.sha256(file.read_bytes()).hexdigest()


def files(kb: Path) -> dict[str, tuple[int, int, int]]:
    """Every file of dataset, snapshot, models and store, with what shows a write."""
    found = {}
    for folder in (kb / "data", kb / ".ragops/store"):
        for file in folder.rglob("*"):
            status = file.stat()
            if file.is_file() and file.name != "edge_config.json":  # which every reader's engine rewrites
                found[file.relative_to(kb).as_posix()] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


# ---------------------------------------------------------------- children
def forked(work: Callable[[], Any], log: Path | None = None, *, group: bool = False) -> Child:
    """Run `work` in a forked child, its output in `log`."""
    used = {name for name in _threads() if name.startswith(("polars-0", "rayon", "tokio", "ort", "async"))}
    assert not used, f"thread pools were used before the fork: {used}"
    read, write = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(write)
        return Child(pid, read)
    code = 70
    try:
        os.close(read)
        if group:
            os.setpgid(0, 0)
        if log is not None:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(out, 1)
            os.dup2(out, 2)
        value = work()
        with open(write, "wb") as pipe:
            pickle.dump(value, pipe)
        code = value if isinstance(value, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _threads() -> Iterator[str]:
    for thread in os.listdir("/proc/self/task"):
        yield Path(f"/proc/self/task/{thread}/comm").read_text().strip()


@dataclass(slots=True)
class Child:
    pid: int
    pipe: int
    cpu: float = 0.0  # seconds, with its own ended children

    def wait(self) -> tuple[int, Any]:
        """(exit code, negative for a signal; what the work returned, or None)."""
        with open(self.pipe, "rb") as pipe:
            data = pipe.read()
        _, status, usage = os.wait4(self.pid, 0)
        self.cpu = usage.ru_utime + usage.ru_stime
        return os.waitstatus_to_exitcode(status), pickle.loads(data) if data else None


class Counter:
    """Texts embedded, over all processes forked since."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    def watch(self) -> None:
        from ragops.embedders.hashed import HashEmbedder

        plain = HashEmbedder.embed

        def embed(model: HashEmbedder, texts: Sequence[str]) -> Any:
            self._memory[:] = struct.pack("q", self.value + len(texts))
            return plain(model, texts)

        HashEmbedder.embed = embed  # type: ignore[method-assign, assignment]

    @property
    def value(self) -> int:
        return int(struct.unpack("q", self._memory[:])[0])

    def reset(self) -> None:
        self._memory[:] = struct.pack("q", 0)


# ---------------------------------------------------------------- preparing
@dataclass(slots=True)
class Reference:
    """What is known of a scenario before anything is killed."""

    before: Look | None
    after: Look
    kept: dict[str, Any]
    new_texts: int  # distinct texts that have no vector yet
    steps: list[tuple[str, int]] = field(default_factory=list)
    unsafe: list[str] = field(default_factory=list)  # what a loss of power could tear
    seconds: float = 0.0


def prepare(place: Path, name: str) -> dict[str, Any]:
    """Make the scenario's workspaces in `place`. Returns its steps and seconds, and what is wrong without any crash."""
    scenario = SCENARIOS[name]
    place.mkdir(parents=True)
    log = place / "log"

    def made() -> Reference:
        scenario.prepare(place)
        before, after = look(place / "template"), look(place / "clean")
        assert after is not None
        known = set() if before is None else {row[3] for row in keep(place / "template")["points"]}
        kept = keep(place / "clean")
        return Reference(before, after, kept, len({row[3] for row in kept["points"]} - known))

    code, reference = forked(made, log).wait()
    if code:
        raise RuntimeError(f"{name} could not be prepared:\n{log.read_text()}")
    reference.steps, reference.unsafe, reference.seconds, wrong = _uninterrupted(place, scenario, reference)
    (place / "reference.pickle").write_bytes(pickle.dumps(reference))
    return {
        "steps": reference.steps,
        "unsafe": reference.unsafe,
        "seconds": reference.seconds,
        "wrong": wrong,
        "texts": reference.new_texts,
    }


def _uninterrupted(
    place: Path, scenario: Scenario, reference: Reference
) -> tuple[list[tuple[str, int]], list[str], float, list[str]]:
    """One run with its steps listed, one for its time; the second's result is compared."""
    from tests.injector import Injector, Listing, PowerLoss, Step

    def listed() -> Any:
        listing, power = Listing(), PowerLoss(kb, named, ("dataset.json", "snapshot.json", "LIVE"))

        def both(step: Step) -> None:
            listing(step)
            power(step)

        Injector(kb, both).install()
        code = ragops(*command)
        return (code, listing.steps, power.end())

    kb = place / "listed"
    copy(place / "template", kb)
    command = _command(scenario, place, kb)
    log = place / "log"
    status, answer = forked(listed, log).wait()
    if status or answer[0]:
        raise RuntimeError(f"{scenario.name} fails without a crash:\n{log.read_text()}")
    _, steps, unsafe = answer
    shutil.rmtree(kb)
    kb = place / "timed"
    copy(place / "template", kb)
    command = _command(scenario, place, kb)
    start = time.perf_counter()
    code, _ = forked(lambda: ragops(*command), log).wait()
    seconds = time.perf_counter() - start
    assert code == 0, log.read_text()
    _, wrong = forked(lambda: _compared(kb, scenario, reference) + strays(kb), log).wait()
    shutil.rmtree(kb)
    return steps, unsafe, seconds, wrong if isinstance(wrong, list) else [f"no comparison:\n{log.read_text()}"]


def _command(scenario: Scenario, place: Path, kb: Path) -> list[str]:
    return [*(part.replace("{place}", str(place)) for part in scenario.act), "-w", str(kb)]


def _compared(kb: Path, scenario: Scenario, reference: Reference) -> list[str]:
    found = look(kb)
    if found is None:
        return ["nothing is published"]
    wrong = differences(found, reference.after, sealed=scenario.newest)
    if scenario.settled:
        kept = keep(kb)
        wrong += [f"{name} is not a clean build's" for name, value in reference.kept.items() if kept[name] != value]
    return wrong + whole(kb, newest=scenario.newest)


def named(content: str, name: str) -> list[str] | None:
    """What a pointer file names, absolute; None for what is no pointer. `content` is where its bytes are now."""
    folder, base = os.path.split(name)
    if base == "dataset.json":
        value = json.loads(Path(content).read_bytes())
        parts = [f"documents/{n}" for n in value["documents"].values()]
        parts += [*(f"chunks/{n}" for n in value["chunks"].values()), *(f"vectors/{n}" for n in value["vectors"])]
        return [os.path.join(folder, part) for part in parts]
    if base == "manifest.json" and "/releases/" in folder:
        return [os.path.join(folder, part) for part in json.loads(Path(content).read_bytes())["files"]]
    if base == "LIVE":
        return [os.path.join(folder, f"releases/{int(Path(content).read_text().split()[0]):08d}/manifest.json")]
    if base == "snapshot.json":
        packs = json.loads(Path(content).read_bytes())["packs"].values()
        return [os.path.join(folder, "objects", pack) for pack in packs]
    return None


# ---------------------------------------------------------------- trials
@dataclass(frozen=True, slots=True)
class Trial:
    """One death. `how`: KILL, TERM or WRITER (which dies `delay` seconds later) at a step (`label`, `nth`, `done`);
    RANDOM: the whole process group `delay` seconds after its start; FULL: a disk with `free` bytes left, to write on.
    """

    scenario: str
    how: str = "KILL"
    label: str = ""
    nth: int = 0
    done: bool = False
    delay: float = 0.0
    free: int = 0

    def __str__(self) -> str:
        when = f"{'after' if self.done else 'before'} {self.label}" + (f"#{self.nth}" if self.nth else "")
        if self.how == "RANDOM":
            when = f"at {self.delay:.3f} s"
        elif self.how == "FULL":
            when = f"with {self.free:,} bytes free"
        elif self.delay:
            when += f" + {self.delay:.3f} s"
        return f"{self.scenario}: {self.how} {when}"


@dataclass(slots=True)
class Outcome:
    ended: int = 0  # exit code of the struck run, negative for a signal
    served: str = ""  # to readers after it: "none", "old", "new"; "same" where the command changes nothing for them
    computed: int = 0  # vectors, in both runs together
    needed: int = 0
    wrong: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)  # over, after the repeated run
    cpu: float = 0.0
    wall: float = 0.0


def attempt(place: Path, trial: Trial, name: str) -> Outcome:
    """Strike, look, repeat, compare."""
    reference: Reference = pickle.loads((place / "reference.pickle").read_bytes())
    scenario = SCENARIOS[trial.scenario]
    kb, log = place / f"kb-{name}", place / f"log-{name}"
    outcome = Outcome(needed=reference.new_texts)
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        filler = None
        if trial.how == "FULL":
            kb = stack.enter_context(small_disk(place / f"disk-{name}")) / "kb"
            filler = kb.parent / "filler"
        copy(place / "template", kb)
        if filler is not None:
            fill(filler, trial.free)
        _strike(trial, scenario, reference, place, kb, log, outcome, filler)
    outcome.wall = time.perf_counter() - start
    if not outcome.wrong:
        shutil.rmtree(kb, ignore_errors=True)
        log.unlink(missing_ok=True)
    return outcome


def _strike(
    trial: Trial, scenario: Scenario, reference: Reference, place: Path, kb: Path, log: Path, outcome: Outcome,
    filler: Path | None,
) -> None:  # fmt: skip
    COUNTER.reset()
    command = _command(scenario, place, kb)
    child = forked(lambda: _struck(kb, trial, command), log, group=True)
    if trial.how == "RANDOM":
        time.sleep(trial.delay)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    outcome.ended, _ = child.wait()
    said = log.read_text() if log.exists() else ""
    again = forked(lambda: _again(kb, scenario, reference, command, filler), log)
    code, answer = again.wait()
    if answer is None:
        outcome.wrong.append(f"the look after it ended with {code}")
    else:
        outcome.served, outcome.wrong, outcome.left = answer
    outcome.wrong += _expected(trial, outcome, said)
    outcome.computed = COUNTER.value
    if outcome.computed > outcome.needed + BATCH:
        outcome.wrong.append(f"{outcome.computed} vectors computed for {outcome.needed} texts")
    outcome.cpu = child.cpu + again.cpu
    if outcome.wrong:
        outcome.wrong += [line for line in log.read_text().splitlines() if line.startswith(("error", "Trace"))]


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int = 96) -> Iterator[Path]:
    """An ext4 file system in a file: unlike in a tmpfs, reading a sparse file takes no space there."""
    image = folder.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    folder.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        image.unlink()


def fill(file: Path, free: int) -> None:
    """Write zeros until only `free` bytes are left on the disk."""
    with file.open("wb", buffering=0) as filler:
        while (left := shutil.disk_usage(file.parent).free - free) > 0:
            filler.write(bytes(min(left, 1 << 20)))


def _struck(kb: Path, trial: Trial, command: Sequence[str]) -> int:
    from tests.injector import Blow, Injector

    COUNTER.watch()
    if trial.label:
        Injector(kb, Blow(trial.label, trial.nth, trial.done, trial.how, trial.delay)).install()
    return ragops(*command)


def _expected(trial: Trial, outcome: Outcome, said: str) -> Iterator[str]:
    codes = {
        "KILL": (-signal.SIGKILL,),
        "RANDOM": (-signal.SIGKILL, 0),
        "TERM": (130, 0),
        "WRITER": (3, 0),
        "FULL": (3, 0),
    }[trial.how]
    if outcome.ended not in codes:
        yield f"it ended with {outcome.ended}:\n{said[-2000:]}"
    if trial.how == "FULL" and outcome.ended and "space" not in said:
        yield f"it did not say that the disk is full: {said[-2000:]}"
    if "othing was published" in said and outcome.served == "new":
        yield "it said that nothing was published, and something was"


def _again(
    kb: Path, scenario: Scenario, reference: Reference, command: Sequence[str], filler: Path | None
) -> tuple[str, list[str], list[str]]:
    """(what readers get after the death, what is wrong there or after the repeated run, what is left over)."""
    served, wrong = _served(look(kb), reference, sealed=scenario.newest)
    if filler is not None:
        filler.unlink()
    COUNTER.watch()
    if (code := ragops(*command)) != 0:
        return served, [*wrong, f"the run after it ended with {code}"], []
    wrong += _compared(kb, scenario, reference)
    left = strays(kb)
    before = files(kb)
    if (code := ragops(*command)) != 0:
        wrong.append(f"the third run ended with {code}")
    if scenario.act[0] == "ingest" and before != (now := files(kb)):
        changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        wrong.append(f"a run without news wrote {changed[:5]}")
    return served, wrong, left


def _served(found: Look | None, reference: Reference, *, sealed: bool) -> tuple[str, list[str]]:
    """What readers get, and what is wrong with it: it must be all of the old or all of the new."""
    if found is None:
        return "none", [] if reference.before is None else ["no release is live any more"]
    to_new = differences(found, reference.after, sealed=sealed)
    if reference.before is None:
        return "new", [f"after the death: {what}" for what in to_new]
    to_old = differences(found, reference.before, sealed=sealed)
    if not to_old:
        return "old" if to_new else "same", []
    return "new", [f"after the death: {what}" for what in min(to_old, to_new, key=len)]


COUNTER = Counter()


# ---------------------------------------------------------------- which steps
def first_and_last(scenario: str, steps: Sequence[tuple[str, int]]) -> list[Trial]:
    """Before the first and the last of every kind of step that a SIGKILL can tell from the next one: syncing, locking
    and beginning change nothing that outlives the process. After those that leave something half-made, too.
    """
    last = dict(steps)  # the last number of each label
    found = []
    for label in last:
        verb = label.split()[0]
        if verb in ("fsync", "lock", "unlock", "BEGIN"):
            continue
        found += [Trial(scenario, label=label, nth=nth) for nth in sorted({0, last[label]})]
        if verb in ("create", "spawn", "send"):
            found.append(Trial(scenario, label=label, nth=0, done=True))
    return found


def every(scenario: str, steps: Sequence[tuple[str, int]]) -> list[Trial]:
    """Before and after every step."""
    return [Trial(scenario, label=label, nth=nth, done=done) for label, nth in steps for done in (False, True)]


def random_moments(scenario: str, seconds: float, count: int, seed: int = 0) -> list[Trial]:
    """Moments spread over a run: one in each of `count` equal parts of it."""
    random_ = random.Random(f"{scenario} {seed}")
    return [Trial(scenario, "RANDOM", delay=round((n + random_.random()) * seconds / count, 4)) for n in range(count)]


def sample(trials: Sequence[T], most: int) -> list[T]:
    """At most that many, evenly."""
    step = max(1.0, len(trials) / most)
    return [trials[int(i * step)] for i in range(min(most, len(trials)))]


# ---------------------------------------------------------------- the processes that fork
class Farm:
    """A few warmed processes that run trials. Close it."""

    def __init__(self, folder: Path, processes: int = 2) -> None:
        self.folder = folder
        self.prepared: dict[str, dict[str, Any]] = {}
        self._servers = [_Server() for _ in range(processes)]
        self._number = 0

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()

    def prepare(self, *scenarios: str) -> None:
        missing = [name for name in scenarios if name not in self.prepared]
        requests = [{"prepare": name, "place": str(self.folder / name)} for name in missing]
        for name, answer in zip(missing, self._ask(requests), strict=True):
            self.prepared[name] = {**answer, "steps": [(label, nth) for label, nth in answer["steps"]]}

    def run(self, trials: Sequence[Trial]) -> list[Outcome]:
        """In the order of `trials`."""
        self.prepare(*dict.fromkeys(trial.scenario for trial in trials))
        requests: list[dict[str, Any]] = []
        for trial in trials:
            self._number += 1
            place = str(self.folder / trial.scenario)
            requests.append({"trial": asdict(trial), "place": place, "name": str(self._number)})
        return [Outcome(**answer) for answer in self._ask(requests)]

    def _ask(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        answers: list[Any] = [None] * len(requests)
        waiting = iter(enumerate(requests))
        lock = threading.Lock()
        failed: list[BaseException] = []

        def serve(server: _Server) -> None:
            while not failed:
                with lock:
                    found = next(waiting, None)
                if found is None:
                    return
                try:
                    answers[found[0]] = server.ask(found[1])
                except BaseException as error:
                    failed.append(error)

        threads = [threading.Thread(target=serve, args=(server,)) for server in self._servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        return answers


class _Server:
    def __init__(self) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash"], cwd=Path(__file__).parents[1], env={**os.environ, **threads},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that runs trials ended with {self._process.wait()} at {request}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        self._process.communicate()


def fast_folder() -> Path | None:
    """Memory to work in, where there is enough of it: what a trial costs is then not the disk's."""
    shared = Path("/dev/shm")
    with contextlib.suppress(OSError):
        if os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 2 << 30:
            return shared
    return None


def _warm() -> None:
    """Import what a run and a look import, and use nothing of it."""
    for name in (
        "numpy", "polars", "qdrant_edge", "ragops.cli", "ragops.embedders.export", "ragops.embedders.hashed",
        "ragops.retrieval.search", "ragops.stores.batches", "ragops.stores.edge", "ragops.stores.edge_process",
        "ragops.stores.edge_reader", "ragops.workspace", "ragops_connectors", "ragops_pipelines.embed",
        "ragops_pipelines.load", "ragops_pipelines.parse", "ragops_pipelines.run",
    ):  # fmt: skip
        importlib.import_module(name)


def serve(requests: Iterable[str]) -> None:
    _warm()
    for line in requests:
        request = json.loads(line)
        try:
            if "prepare" in request:
                answer = prepare(Path(request["place"]), request["prepare"])
            else:
                answer = asdict(attempt(Path(request["place"]), Trial(**request["trial"]), request["name"]))
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(sys.stdin)
