"""Killed at any step, and whatever else comes between: the live release stands, and the next run ends as a clean build.

`tests/injector.py` kills, `tests/crash/` says what is run and what must come out.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import pytest

from tests import crash
from tests.conftest import Result, answer, use_model, write_corpus
from tests.crash import INGESTS, SCENARIOS, Farm, Outcome, Trial
from tests.injector import PowerLoss, Step

pytestmark = pytest.mark.timeout(1200)  # a hundred kills count as one test: they are made side by side

Ragops = Callable[..., Result]
Struck: TypeAlias = list[tuple[Trial, Outcome]]
#: kills per scenario in the fast tests
MOST = {"first": 12, "change": 28, "rechunk": 6, "permissions": 4, "rollback": 2, "publish": 2, "prune": 3, "gc": 2}
MOST |= {"repair": 4, "damage": 4}
#: a repair that finds what the killed one mended writes nothing; the next ingest that does sweeps
SWEPT = [name for name in SCENARIOS if name != "damage"]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    shared = crash.fast_folder()
    folder = Path(tempfile.mkdtemp(prefix="ragops-crash-", dir=shared)) if shared else tmp_path_factory.mktemp("crash")
    try:
        with Farm(folder) as farm:
            yield farm
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def struck(farm: Farm) -> dict[str, Struck]:
    """Some of the kinds of steps of every scenario, evenly chosen; the slow tests have more."""
    farm.prepare(*MOST)
    chosen = {name: crash.sample(crash.first_and_last(name, steps(farm, name)), most) for name, most in MOST.items()}
    trials = [trial for found in chosen.values() for trial in found]
    outcomes = dict(zip(trials, farm.run(trials), strict=True))
    return {name: [(trial, outcomes[trial]) for trial in found] for name, found in chosen.items()}


def steps(farm: Farm, name: str) -> list[tuple[str, int]]:
    farm.prepare(name)
    found: list[tuple[str, int]] = farm.prepared[name]["steps"]
    return found


def converged(struck: Struck) -> None:
    wrong = [f"{trial}\n    " + "\n    ".join(outcome.wrong) for trial, outcome in struck if outcome.wrong]
    assert not wrong, f"{len(wrong)} of {len(struck)}:\n" + "\n".join(wrong)


def run(farm: Farm, trials: Sequence[Trial]) -> list[Outcome]:
    outcomes = farm.run(trials)
    converged(list(zip(trials, outcomes, strict=True)))
    return outcomes


# ---------------------------------------------------------------- the matrix
@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_without_a_crash_it_ends_as_a_clean_build(farm: Farm, name: str) -> None:
    farm.prepare(*SCENARIOS)  # side by side
    assert farm.prepared[name]["wrong"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_steps(struck: dict[str, Struck], name: str) -> None:
    converged(struck[name])
    assert all(outcome.ended == -signal.SIGKILL for _, outcome in struck[name])


@pytest.mark.slow
def test_the_kills_come_before_and_after_the_release(struck: dict[str, Struck]) -> None:
    assert {outcome.served for _, outcome in struck["first"]} == {"none", "new"}
    assert {outcome.served for _, outcome in struck["change"]} == {"old", "new"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEPT)
def test_nothing_of_the_dead_is_left_over(struck: dict[str, Struck], name: str) -> None:
    left = [f"{trial}: {', '.join(outcome.left)}" for trial, outcome in struck[name] if outcome.left]
    assert not left, "\n".join(left)


@pytest.mark.slow
@pytest.mark.parametrize("name", INGESTS)
def test_killed_at_more_steps(farm: Farm, name: str) -> None:
    """30 of the first and last of every kind of step, and 8 of all single steps: all 2,400 would take half an hour."""
    kinds = crash.sample(crash.first_and_last(name, steps(farm, name)), 30)
    run(farm, [*kinds, *(t for t in crash.sample(crash.every(name, steps(farm, name)), 8) if t not in kinds)])


@pytest.mark.parametrize("name", INGESTS)
def test_killed_at_random_moments(farm: Farm, name: str) -> None:
    farm.prepare(name)
    run(farm, crash.random_moments(name, farm.prepared[name]["seconds"], 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", INGESTS)
def test_killed_at_many_random_moments(farm: Farm, name: str) -> None:
    farm.prepare(name)
    run(farm, crash.random_moments(name, farm.prepared[name]["seconds"], 8, seed=1))


@pytest.mark.slow
def test_the_writing_process_alone_is_killed(farm: Farm) -> None:
    """The run says so and publishes nothing; the next one goes on."""
    kills = [("send frame A", False, 0.0), ("send frame E", False, 0.0)]
    kills += [("send frame E", True, delay) for delay in (0.0, 0.01, 0.05)]
    trials = [Trial("change", "WRITER", label, done=done, delay=delay) for label, done, delay in kills]
    outcomes = run(farm, trials)
    assert [(o.ended, o.served) for o in outcomes[:4]] == [(3, "old")] * 4  # at the last it may have been done


@pytest.mark.slow
def test_stopped_at_steps(farm: Farm) -> None:
    """SIGTERM: exit code 130, nothing lost, and `nothing was published` is said only where it is so."""
    kinds = ("create ", "rename ", "mkdir ", "send ", "remove ")
    found = [(label, nth) for label, nth in steps(farm, "change") if label.startswith(kinds)]
    chosen = crash.sample(list(dict.fromkeys(label for label, _ in found)), 8)
    trials = [Trial("change", "TERM", label) for label in chosen]
    outcomes = run(farm, trials)
    assert all(outcome.ended == 130 for outcome in outcomes), [o.ended for o in outcomes]


@pytest.mark.slow
def test_the_disk_is_full(farm: Farm, tmp_path: Path) -> None:
    """Run out of space at different points: it says so, the live release answers, and freed space lets it go on."""
    try:
        with crash.small_disk(tmp_path / "disk"):
            pass
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted here (needs root and a loop device): {error}")
    trials = [Trial("change", "FULL", free=free) for free in (0, 100_000, 1_000_000, 3_000_000, 9_000_000, 12_000_000)]
    outcomes = run(farm, trials)
    assert [o.ended for o in outcomes[:4]] == [3] * 4
    assert {o.served for o in outcomes[:4]} == {"old"}


# ---------------------------------------------------------------- loss of power, as far as it can be told
@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_counts_before_it_is_on_the_disk(farm: Farm, name: str) -> None:
    """What a pointer names is synced, bytes and name, before the pointer is renamed; that one before the next."""
    farm.prepare(name)
    assert farm.prepared[name]["unsafe"] == []


def test_what_a_loss_of_power_could_tear_is_found(tmp_path: Path) -> None:
    """The test above can fail."""

    def seen(*, bytes_synced: bool, folder_synced: bool, pointer_synced: bool) -> list[str]:
        root = Path(tempfile.mkdtemp(dir=tmp_path))
        data, draft, pointer = root / "data", root / "draft", root / "pointer"

        def names(content: str, name: str) -> list[str] | None:
            return [str(data)] if name == str(pointer) else None

        power = PowerLoss(root, names)

        def step(verb: str, path: Path, target: str = "") -> None:
            power(Step(verb, str(path), f"{verb} {path.name}", 0, True, target))

        for file in (data, draft):
            file.write_text(file.name)
            step("create", file)
        if bytes_synced:
            step("fsync", data)
        step("fsync", draft)
        if folder_synced:
            step("fsync", root)
        power(Step("rename", str(draft), "rename pointer", 0, False, str(pointer)))
        draft.rename(pointer)
        step("rename", draft, str(pointer))
        if pointer_synced:
            step("fsync", root)
        return power.end()

    assert seen(bytes_synced=True, folder_synced=True, pointer_synced=True) == []
    assert seen(bytes_synced=False, folder_synced=True, pointer_synced=True) == ["rename pointer: data was not synced"]
    assert seen(bytes_synced=True, folder_synced=False, pointer_synced=True) == [
        "rename pointer: the folder . was not synced"
    ]
    assert seen(bytes_synced=True, folder_synced=True, pointer_synced=False) == [
        "the end, after rename draft: the folder . was not synced"
    ]


# ---------------------------------------------------------------- others at work
def test_many_ingests_at_once(tmp_path: Path, ragops: Ragops) -> None:
    """Those that do not wait say who works; those that wait find their work done."""
    write_corpus(tmp_path / "corpus", {f"{n}.txt": f"Number {n} has a text of its own, {n * n}." for n in range(2000)})
    ragops("init", "kb")
    use_model(tmp_path / "kb")

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ragops", "ingest", "corpus", "-w", "kb", "--json", *arguments], cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    first = start()
    lock = tmp_path / "kb/.ragops/lock"
    deadline = time.monotonic() + 60
    while not lock.exists() or not lock.read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    waiting, refused = start("--wait", "120"), start()
    out, err = refused.communicate(timeout=120)
    assert refused.returncode == 3
    assert f"process {first.pid}" in err
    assert "--wait" in json.loads(out)["error"]["hint"]
    out, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    done = json.loads(out)
    out, err = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, err
    found = json.loads(out)
    assert (found["noop"], found["release"]) == (True, done["release"])


def test_a_folder_that_changes_while_it_is_read(tmp_path: Path, ragops: Ragops) -> None:
    """Whatever a run saw of it, the one after the last change ends as a clean build."""
    corpus = tmp_path / "corpus"
    for n in range(120):
        crash.put(corpus, f"part{n % 5}/{n}.md", crash.text(n, 1 + n % 3))
    for kb in ("kb", "clean"):
        crash.create(tmp_path / kb)
    stop = threading.Event()
    random_ = random.Random(7)

    def churn() -> None:
        number = 1000
        while not stop.is_set():
            number += 1
            files = [file for file in corpus.rglob("*") if file.is_file()]
            file = random_.choice(files)
            what = random_.randrange(6)
            if what == 0:
                crash.put(corpus, f"part{number % 7}/{number}.md", crash.text(number, 1))
            elif what == 1 and len(files) > 60:
                file.unlink()
            elif what == 2:
                file.rename(file.with_name(f"{number}.md"))
            elif what == 3:
                file.write_text(crash.text(number, 2))
            elif what == 4:  # the same size and time, other content
                times = file.stat()
                file.write_bytes(file.read_bytes().swapcase())
                os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
            else:
                folder = corpus / f"part{number % 5}"
                with contextlib.suppress(OSError):
                    folder.rename(corpus / f"renamed{number}")
            time.sleep(0.002)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(3):
            result = ragops("ingest", corpus, "-w", "kb", "--allow-deletes", "-q")
            assert result.returncode == 0, result.stderr
    finally:
        stop.set()
        thread.join()
    for kb in ("kb", "clean"):
        result = ragops("ingest", corpus, "-w", kb, "--allow-deletes", "-q")
        assert result.returncode == 0, result.stderr
    found, wanted = crash.look(tmp_path / "kb"), crash.look(tmp_path / "clean")
    assert found is not None
    assert wanted is not None
    assert crash.differences(found, wanted) == []
    assert crash.whole(tmp_path / "kb") == []


READER = """
import hashlib, json, os, sys, time
from pathlib import Path
from ragops.workspace import Workspace
kb, stop = Path(sys.argv[1]), Path(sys.argv[2])
seen, looks = {}, 0
while not stop.exists() or looks < 3:
    with Workspace.open(kb) as workspace:
        reader = workspace.store.open()
        try:
            release = reader.release
            held = hashlib.sha256()
            ids = []
            vector = None
            for point, payload, vector in reader.points():
                ids.append(point)
                held.update(json.dumps([point, payload], sort_keys=True).encode())
            hits = [[hit.point_id, round(hit.score, 5)] for hit in reader.search(vector, len(ids) + 5, exact=True)]
            words = sorted([hit.point_id, round(hit.score, 5)] for hit in reader.search_text("harbour", len(ids) + 5))
            assert len(ids) == len(set(ids)) == release.points == reader.count() == len(hits), "between"
            assert {id for id, _ in hits} == set(ids), "between"
            held.update(json.dumps(words).encode())
        finally:
            reader.close()
    seen.setdefault(release.fingerprint, set()).add(held.hexdigest())
    looks += 1
    if looks == 1:
        print("reading", flush=True)
print(json.dumps({"looks": looks, "seen": {name: sorted(each) for name, each in seen.items()}}))
"""


def test_readers_see_old_or_new(tmp_path: Path, ragops: Ragops) -> None:
    """Two processes open the live release again and again while six are published and pruned."""
    corpus, kb, stop = tmp_path / "corpus", tmp_path / "kb", tmp_path / "stop"
    for n in range(30):
        crash.put(corpus, f"{n}.md", crash.text(n, 2))
    crash.create(kb)
    assert ragops("ingest", corpus, "-w", kb).returncode == 0
    published = {answer(ragops("status", "-w", kb, "--json"))["release"]["fingerprint"]}
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(kb), str(stop)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "reading\n", reader.communicate()[1]
        for n in range(6):
            crash.put(corpus, f"{n}.md", crash.text(300 + n, 1 + n % 4))
            (corpus / f"{20 + n}.md").unlink()
            result = ragops("ingest", "-w", kb, "--allow-deletes", "--json")
            assert result.returncode == 0, result.stderr
            published.add(answer(result)["fingerprint"])
    finally:
        stop.touch()
        ends = [reader.communicate(timeout=60) for reader in readers]
    assert [reader.returncode for reader in readers] == [0, 0], [err for _, err in ends]
    found = [json.loads(out) for out, _ in ends]
    contents: dict[str, set[str]] = {}
    for each in found:
        for fingerprint, held in each["seen"].items():
            contents.setdefault(fingerprint, set()).update(held)
    assert contents.keys() <= published
    assert len(contents) > 2, "the readers saw too little to tell anything"
    assert {name: len(held) for name, held in contents.items()} == dict.fromkeys(
        contents, 1
    )  # one release, one content


# ---------------------------------------------------------------- the real model
@pytest.mark.slow
def test_killed_with_the_real_model(tmp_path: Path, ragops: Ragops) -> None:
    """One ingest killed between two batches, again at the exported encoder, again just before it is published."""
    corpus = tmp_path / "corpus"
    for n in range(40):
        crash.put(corpus, f"{n}.md", crash.text(n, 2))
    for kb in ("kb", "clean"):
        crash.create(tmp_path / kb, "all-MiniLM-L6-v2")
    command = ("ingest", corpus, "-w", tmp_path / "kb", "-q", "--json")
    listed: list[int] = []
    for step in ("COMMIT cache.db#2", "rename models/H", "rename store/LIVE"):
        killed = subprocess.run(
            [sys.executable, "-m", "tests.injector", step, "--", *map(str, command)],
            cwd=Path(__file__).parents[1], capture_output=True, text=True,
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL, f"{step}: {killed.stderr}"
        assert answer(ragops("status", "-w", tmp_path / "kb", "--json"))["release"] is None
        with contextlib.closing(sqlite3.connect(tmp_path / "kb/.ragops/cache.db")) as db:
            listed.append(db.execute("SELECT count(*) FROM vectors").fetchone()[0])
    last = ragops(*command)
    assert last.returncode == 0, last.stderr
    clean = ragops("ingest", corpus, "-w", tmp_path / "clean", "-q", "--json")
    assert clean.returncode == 0, clean.stderr
    texts = answer(clean)["vectors"]["computed"]
    assert listed == [64, texts, texts]  # what was embedded before a kill is not embedded after it
    assert answer(last)["vectors"]["computed"] == 0
    found, wanted = crash.look(tmp_path / "kb"), crash.look(tmp_path / "clean")
    assert found is not None
    assert wanted is not None
    assert crash.differences(found, wanted) == []
    assert crash.whole(tmp_path / "kb") == []
