"""Whether a release may be published: what the gate of params.yaml said of it, remembered in the state."""

from __future__ import annotations

import getpass
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ragops import durable
from ragops.stores.releases import is_held, live_release
from ragops.types import Release
from ragops_pipelines.job import Job

LETS_THROUGH = ("pass", "inconclusive")


def allowed(job: Job, number: int) -> bool:
    """Whether a sealed release may go live: yes without a gate, and where it equals the live one.

    What was said is recorded before anything is published, and asked again only where gate, questions or releases are
    others; so a run that died in between costs no second evaluation.
    """
    if job.gate is None:
        if job.state.get("gate") is not None:
            job.state.forget("gate")
        return True
    live = live_release(job.store)
    candidate = next((release for release in job.store.releases() if release.number == number), None)
    if candidate is None or (live is not None and live.fingerprint == candidate.fingerprint):
        return True
    said: dict[str, Any] | None = job.state.get("gate")
    key = job.gate.key(candidate, live)
    if said is None or said["key"] != key or said["verdict"] == "error":
        said = {**job.gate.judge(candidate, live), "key": key}
        job.state.put("gate", said)
    return said["verdict"] in LETS_THROUGH


def verdict(job: Job, number: int) -> dict[str, Any] | None:
    """What the gate said of a release when it was last asked, and whether that release is live now."""
    said: dict[str, Any] | None = job.state.get("gate")
    if said is None or said["release"] != number:
        return None
    live = live_release(job.store)
    published = live is not None and live.number == number
    return {name: value for name, value in said.items() if name != "key"} | {"published": published}


def held_back(job: Job, number: int) -> dict[str, Any] | None:
    """What the gate said of a release, where that is why it is not live."""
    said = verdict(job, number)
    back = said is not None and not said["published"] and said["verdict"] not in LETS_THROUGH
    return said if back and not is_held(job.store) else None


def override(job: Job, log: Path, release: Release, live: Release | None, reason: str) -> None:
    """Write into the log, which only ever grows, who publishes a release whatever the gate says, and why."""
    said = verdict(job, release.number)
    try:
        who = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        who = str(os.getuid())
    line = {
        "schema": 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "user": who,
        "host": socket.gethostname(),
        "release": release.number,
        "fingerprint": release.fingerprint,
        "live": None if live is None else live.number,
        "verdict": None if said is None else said["verdict"],
        "gate": None if said is None else said["reason"],
        "reason": reason,
    }
    durable.make_folder(log.parent)
    with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    durable.sync(log.parent)
    before = job.state.get("gate")
    if before is not None and before["release"] == release.number:
        job.state.put("gate", before | {"overridden": reason})
