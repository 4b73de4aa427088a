"""What a recorded run still owes: permissions, the live release, and the pointers of dataset and snapshot.

It stands in the state under "due", written by the transaction that records the run. Each part can be repeated, so a
run that died in the middle is finished by the next.
"""

from __future__ import annotations

import contextlib
import json

from ragops import durable
from ragops.errors import DiskFull, RagopsError, StoreError
from ragops.stores.manifest import Damaged
from ragops.stores.releases import is_held, live_release
from ragops.types import Store
from ragops_pipelines.gate import allowed
from ragops_pipelines.job import Job
from ragops_pipelines.ledger import all_permissions

RECEIPT = "loaded.json"


def finish(job: Job, *, recovering: bool = False) -> None:
    """Do what is due. `recovering`: a run that died left it, so what it sealed may be gone, or nobody's."""
    due = job.state.get("due")
    if due is not None:
        if "permits" in due:
            permits = {document: (tenant, tuple(groups)) for document, (tenant, groups) in due["permits"].items()}
            job.store.permit(permits, upto=due["upto"])
        if "release" in due and not is_held(job.store) and allowed(job, due["release"]):
            _publish(job.store, due["release"], recovering=recovering)
        try:
            if "dataset" in due:
                job.snapshot.adopt(job.state, due["snapshot"])
                job.dataset.adopt(due["dataset"], job.state.rejects())
        except FileNotFoundError:  # somebody took the folders away: the run that follows finds that, and mends it
            if not recovering:
                raise
        if "release" in due and job.state.get("fingerprint"):
            acknowledge(job)
        job.state.forget("due")
    if recovering:
        _remove_orphans(job)
        _mend_permissions(job)


def acknowledge(job: Job) -> None:
    """The receipt that DVC knows the stage `load` by: which dataset stands in this machine's store."""
    file = job.dataset.folder.parent / RECEIPT
    text = json.dumps({"schema": 1, "fingerprint": job.state.get("fingerprint")}, indent=1) + "\n"
    with contextlib.suppress(FileNotFoundError):
        if file.read_text("utf-8") == text:
            return
    if file.parent.is_dir():
        durable.write_atomic(file, text.encode())


def _publish(store: Store, number: int, *, recovering: bool) -> None:
    live = live_release(store)
    if live is not None and live.number == number:
        return
    try:
        store.publish(number)
    except DiskFull:
        raise
    except StoreError:
        if not recovering:
            raise


def _mend_permissions(job: Job) -> None:
    """Where the store's record of them is damaged, and so answers nothing, today's of every document replace it."""
    numbers = job.store.numbers()
    try:
        if numbers:
            job.store.permitted(numbers[-1])
    except Damaged:
        job.store.permit(all_permissions(job.state), upto=numbers[-1])


def _remove_orphans(job: Job) -> None:
    """Releases that runs sealed and never recorded. They are newer than the live one, and were never published."""
    dead = job.state.dead_runs()
    if not dead:
        return
    live = live_release(job.store)
    for number in {*dead} & {*job.store.numbers()}:
        if live is None or number > live.number:
            with contextlib.suppress(RagopsError):  # a draft: the next write discards it
                job.store.remove(number, timeout=0)
