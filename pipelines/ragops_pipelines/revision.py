"""A release of a dataset that is no longer this workspace's: what an old revision of git and DVC answered."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from ragops.config import Settings, StoreSettings
from ragops.errors import StoreError
from ragops.stores import open_store
from ragops.types import Permission, Release, Store
from ragops_pipelines.dataset import Dataset
from ragops_pipelines.job import Job, Options, Progress
from ragops_pipelines.ledger import Ledger
from ragops_pipelines.load import load
from ragops_pipelines.recover import recover_dataset
from ragops_pipelines.snapshot import Snapshot
from ragops_pipelines.state import Cache, State

NUMBER = 1  # of the only release


def store_of(folder: Path) -> Store:
    return open_store(folder / "store")


def build(folder: Path, settings: Settings, tell: Progress) -> Release:
    """Load the dataset in `folder`/dataset into the embedded store in `folder`/store. Raises StoreError, DiskFull.

    `settings`: those of the dataset's day.
    """
    dataset = Dataset(folder / "dataset")
    manifest = dataset.manifest()
    if manifest is None:
        raise StoreError(f"there is no dataset in {dataset.folder}", "Was `ragops ingest` run before that revision?")
    store = store_of(folder)
    with contextlib.closing(State(folder)) as state, contextlib.closing(Cache(folder)) as cache:
        recover_dataset(state, cache, dataset, manifest)
        job = Job(
            settings=Settings(chunk=settings.chunk, embed=settings.embed, store=StoreSettings()),
            connectors=(), dropped=(), source_settings={}, keep_bytes={}, state=state, cache=cache,
            snapshot=Snapshot(folder / "snapshot"), dataset=dataset, store=store, models=folder / "models",
            options=Options(), tell=tell,
        )  # fmt: skip
        state.start_work()
        release = load(job, Ledger(state, tell), NUMBER, manifest, None, in_step=False)
        state.end_work()
        store.publish(NUMBER)
        return release


def permit(folder: Path, permissions: Mapping[str, Permission]) -> None:
    """Permissions are today's, whatever day is asked."""
    store = store_of(folder)
    today = store.permitted(NUMBER)
    changed = {document: found for document, found in permissions.items() if today.get(document) != found}
    if changed:
        store.permit(changed, upto=NUMBER)
