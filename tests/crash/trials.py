"""One death: strike, look, repeat, compare."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.children import Counter, forked
from tests.crash.layout import files, strays
from tests.crash.readers import Look, differences, look
from tests.crash.reference import Reference, command_of, compared
from tests.crash.scenarios import SCENARIOS, Scenario, copy, ragops

BATCH = 64  # texts that a killed run may embed again
COUNTER = Counter()


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
    command = command_of(scenario, place, kb)
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
    wrong += compared(kb, scenario, reference)
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
