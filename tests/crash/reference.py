"""A scenario made ready: what is known of it before anything is killed."""

from __future__ import annotations

import pickle
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.children import forked
from tests.crash.layout import keep, named, remembered, strays, whole
from tests.crash.readers import Look, differences, look
from tests.crash.scenarios import SCENARIOS, Scenario, copy, ragops

PROMISED = (*(f"{part}/manifest.json" for part in ("documents", "chunks", "vectors")), "snapshot.json", "LIVE")


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
        known = set() if before is None else {row[3] for row in remembered(place / "template")["points"]}
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
        listing, power = Listing(), PowerLoss(kb, named, PROMISED)

        def both(step: Step) -> None:
            listing(step)
            power(step)

        Injector(kb, both).install()
        code = ragops(*command)
        return (code, listing.steps, power.end())

    kb = place / "listed"
    copy(place / "template", kb)
    command = command_of(scenario, place, kb)
    log = place / "log"
    status, answer = forked(listed, log).wait()
    if status or answer[0]:
        raise RuntimeError(f"{scenario.name} fails without a crash:\n{log.read_text()}")
    _, steps, unsafe = answer
    shutil.rmtree(kb)
    kb = place / "timed"
    copy(place / "template", kb)
    command = command_of(scenario, place, kb)
    start = time.perf_counter()
    code, _ = forked(lambda: ragops(*command), log).wait()
    seconds = time.perf_counter() - start
    assert code == 0, log.read_text()
    _, wrong = forked(lambda: compared(kb, scenario, reference) + strays(kb), log).wait()
    shutil.rmtree(kb)
    return steps, unsafe, seconds, wrong if isinstance(wrong, list) else [f"no comparison:\n{log.read_text()}"]


def command_of(scenario: Scenario, place: Path, kb: Path) -> list[str]:
    return [*(part.replace("{place}", str(place)) for part in scenario.act), "-w", str(kb)]


def compared(kb: Path, scenario: Scenario, reference: Reference) -> list[str]:
    found = look(kb)
    if found is None:
        return ["nothing is published"]
    wrong = differences(found, reference.after, sealed=scenario.newest)
    if scenario.settled:
        kept = keep(kb)
        wrong += [f"{name} is not a clean build's" for name, value in reference.kept.items() if kept[name] != value]
    return wrong + whole(kb, newest=scenario.newest)
