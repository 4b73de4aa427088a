"""Whether a release may be published: what the gate of params.yaml said of it, remembered in the state."""

from __future__ import annotations

from typing import Any

from ragops.stores.releases import live_release
from ragops_pipelines.job import Job

LETS_THROUGH = ("pass", "inconclusive")


def allowed(job: Job, number: int) -> bool:
    """Whether a sealed release may go live: yes without a gate, and where it equals the live one.

    What was said is recorded before anything is published, and asked again only where gate, questions or releases are
    others; so a run that died in between costs no second evaluation.
    """
    if job.gate is None:
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
