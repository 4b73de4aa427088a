"""One ingest: scan, fetch, parse, chunk, embed, write the dataset, seal a release, record, publish.

Stages are generators composed as a stream, so that parsing (worker processes) and embedding overlap and memory does
not grow with the corpus. Everything computed is cached by content as it is made. New files never take the place of old
ones: they stand beside them until one transaction of the state records the run. What the run then still owes (see
`finish`) can be done by any later run. So a crash leaves the old state of everything, or the new one.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ragops import ids
from ragops.errors import RagopsError, StoreError, UsageError
from ragops.stores.manifest import Damaged
from ragops.stores.releases import is_held, live_release, prune
from ragops.types import Permission, Release
from ragops_pipelines import rows
from ragops_pipelines.collect import collect
from ragops_pipelines.dataset import Manifest
from ragops_pipelines.fetch import groups
from ragops_pipelines.finish import acknowledge, finish
from ragops_pipelines.gate import allowed, verdict
from ragops_pipelines.job import Event, HeldBack, Job, NothingPassed, Plan, Summary
from ragops_pipelines.ledger import Ledger
from ragops_pipelines.parsers import parser_fingerprint
from ragops_pipelines.recipe import Recipe, query_encoder, recipe_token
from ragops_pipelines.recover import recover
from ragops_pipelines.scan import Changes, compare
from ragops_pipelines.state import CacheDamaged, State

if TYPE_CHECKING:
    from ragops_pipelines.dataset import Dataset
    from ragops_pipelines.snapshot import Snapshot

REPRESENTATIVE = 256  # vectors; a smaller run says little about the next one
SMALL_CORPUS = 20  # documents; up to here `max_delete` holds nothing back
OVERLAY = 1000  # documents with other permissions than sealed; more of them are sealed anew


def plan(job: Job) -> Plan:
    """Scan and compare; read, write and load nothing."""
    state = job.state
    changes, parsers_changed = _compare(job, whole=job.options.rebuild or _lost(job.snapshot, state, "snapshot"))
    recipe = ["parser"] * parsers_changed
    token = recipe_token(job)
    before = state.get("recipe_token") or token
    recipe += [part for part in token if before.get(part) != token[part]]
    rejected = len(changes.rejects)
    counts = {
        "seen": changes.seen,
        "new": changes.new,
        "to_read": len(changes.todo),
        "removed": len(changes.removed),
        "unchanged": changes.seen - len(changes.todo) - rejected,
        "rejected": rejected,
    }
    held = sum(known.size or 0 for known in state.sources())
    size = max(held, changes.bytes) if recipe or job.options.rebuild else changes.bytes
    rate = state.get("seconds_per_byte")
    documents, share = state.documents(), job.settings.release.max_delete
    return Plan(
        sources=counts,
        read_bytes=changes.bytes,
        recipe_changed=recipe,
        removed=changes.removed,
        incomplete=changes.incomplete,
        chunks=round(size * state.count("points") / held) if held else None,
        needs_consent=documents > SMALL_CORPUS and len(changes.removed) > share * documents,
        held=is_held(job.store),
        seconds=round(size * rate, 1) if rate else None,
    )


def ingest(job: Job) -> Summary:
    """Run to a published release, or find that nothing changed. Raises RagopsError; the live release then stands."""
    try:
        return _ingest(job)
    except CacheDamaged:  # everything in it can be computed again
        job.cache.discard()
        return _ingest(job)


def _ingest(job: Job) -> Summary:
    state = job.state
    ledger = Ledger(state, job.tell)
    finish(job, recovering=True)
    dataset_lost, snapshot_lost = _lost(job.dataset, state, "dataset"), _lost(job.snapshot, state, "snapshot")
    if (dataset_lost or snapshot_lost) and not job.options.rebuild:  # a clone, a checkout, a reproduction
        permits = recover(job)
        if permits is not None:
            ledger.recovered, dataset_lost, snapshot_lost = permits, False, False
    anew = job.options.rebuild or dataset_lost or snapshot_lost
    if not anew and state.get("recipe_token") is None and state.get("recipe"):
        _know_recipe(job)
    with ledger.timed("scan"):
        changes, _ = _compare(job, whole=job.options.rebuild or snapshot_lost)
    ledger.changes = changes
    if not changes.seen and not state.count("sources"):
        raise UsageError(
            "nothing to ingest: no file matches in " + ", ".join(repr(c.name) for c in job.connectors),
            "Check the folder, and `include`, `exclude` and `hidden` of the source in params.yaml.",
        )
    live, head = _releases(job)
    same_recipe = state.get("recipe_token") == recipe_token(job)
    in_step = not anew and head is not None and head.fingerprint == state.get("fingerprint")
    if in_step and head is not None and same_recipe and _searchable(job, head) and not _news(changes, ledger):
        if head != live and not is_held(job.store) and allowed(job, head.number):
            job.store.publish(head.number)
        acknowledge(job)
        if len(job.store.numbers()) > job.settings.release.keep + 1:  # a run that died did not come to it
            prune(job.store, job.settings.release.keep)
        return _summary(job, ledger, head, added=0, removed=0, noop=True)
    number = state.start_run(max(job.store.numbers(), default=0) + 1)
    state.start_work()
    try:
        if dataset_lost and not job.options.rebuild:
            _find_vectors(job)
        everything = anew or not same_recipe
        summary = _run(job, ledger, number, head, everything=everything, anew=anew, in_step=in_step)
    except BaseException as error:
        what = error.message if isinstance(error, RagopsError) else str(error)
        if number in state.dead_runs():
            state.end_run(number, f"failed: {what or type(error).__name__}"[:500])
        raise
    finally:
        state.end_work()
    if summary is None:
        state.end_run(number, "failed: no source gave any text")
        raise NothingPassed(
            f"none of the {state.count('rejects')} sources gave any text; there is nothing to release",
            "See why with `ragops rejects list`.",
        )
    state.end_run(number, "recorded", summary.as_dict())
    return summary


def _run(
    job: Job, ledger: Ledger, number: int, head: Release | None, *, everything: bool, anew: bool, in_step: bool
) -> Summary | None:
    """The summary, or None when not one source gave a document and there is nothing to release."""
    state, trusted = job.state, not job.options.rebuild
    for reject in ledger.changes.rejects:
        ledger.reject(reject)
    stream = groups(job, ledger, everything=everything, anew=anew)
    first = next(stream, None)
    recipe: Recipe | None = None
    only_touched = first is None and not everything and head is not None and _searchable(job, head)
    if not only_touched:  # else neither tokenizer nor model is needed
        from ragops_pipelines.embed import Embedding

        recipe = Recipe(job)
        embedding = Embedding(job, ledger, recipe, trusted=trusted)
        for group in itertools.chain([first] if first else [], stream):
            embedding.add(group)
        embedding.embed(all=True)
        embedding.export_query_encoder()
        recipe.unload()
    _check_deletes(job, ledger)
    base = None if job.options.rebuild else head
    written: dict[str, int] = {}
    # Until this transaction is committed nothing that counts was touched: a crash leaves strays that are swept away.
    with state.transaction():
        visible = ledger.visible()
        removed, added = ledger.record()
        if not state.documents() and head is None:
            return None  # the rejects are recorded all the same
        before = state.get("fingerprint")
        fingerprint = _put(job, ledger, recipe, anew=anew)
        same = base is not None and base.fingerprint == fingerprint and _overlay(job, ledger, base) <= OVERLAY
        due: dict[str, Any] = {}
        if visible or anew or not same or fingerprint != before:
            with ledger.timed("dataset"):
                ledger.progress("dataset", 0)
                manifest = write_data(job, due, written, fingerprint, anew=anew, trusted=trusted)
        if same and base is not None:
            release = base
        else:
            with ledger.timed("load"):
                release = _load(job, ledger, number, manifest, base, in_step=in_step)
        due["release"] = release.number
        if permits := {**ledger.recovered, **ledger.permits}:
            due["permits"] = permits
            due["upto"] = number if release is base or ledger.recovered else number - 1
        state.put("due", due)
        state.end_run(number, "recorded")
        if ledger.computed >= REPRESENTATIVE and ledger.bytes_read:
            state.put("seconds_per_byte", ledger.elapsed()["total"] / ledger.bytes_read)
    with ledger.timed("publish"):
        finish(job)
    prune(job.store, job.settings.release.keep)  # what is still read waits for a later run
    collect(job, spare=True)
    return _summary(job, ledger, release, added=added, removed=removed, written=written, noop=release is base)


def write_data(
    job: Job, due: dict[str, Any], written: dict[str, int], fingerprint: str, *, anew: bool = False,
    trusted: bool = True, compact: bool = False,
) -> Manifest:  # fmt: skip
    """Write snapshot and dataset as the state has them, beside what counts. Fills in what is then due, and bytes."""
    state = job.state
    due["snapshot"], written["snapshot"] = job.snapshot.write(state, anew=anew, compact=compact)
    manifest = Manifest(state.get("recipe"), state.get("model")["space"], state.get("numerics"), fingerprint)
    due["dataset"], written["dataset"] = job.dataset.write(
        state, job.cache, manifest, anew=anew, trusted=trusted, compact=compact
    )
    state.put("snapshot_sha", ids.sha256(due["snapshot"].encode()))
    state.put("dataset_sha", ids.sha256(due["dataset"]["dataset.json"].encode()))
    return manifest


def seal(job: Job) -> tuple[Release, bool]:
    """A release of the dataset as it is on disk, whoever made it, live unless a rollback holds; and whether it was made
    now. Raises StoreError where there is no whole dataset."""
    state = job.state
    finish(job, recovering=True)
    permits: Mapping[str, Permission] = {}
    if _lost(job.dataset, state, "dataset") or _lost(job.snapshot, state, "snapshot"):
        found = recover(job)
        if found is None:
            raise StoreError(
                f"snapshot and dataset in {job.dataset.folder.parent} are damaged, or do not belong together",
                "In a clone: dvc pull, then dvc repro. Where the sources are: ragops ingest.",
            )
        permits = found
    _, head = _releases(job)
    if head is None or head.fingerprint != state.get("fingerprint"):
        return seal_from(job, head, permits), True
    state.put("due", {"release": head.number, "permits": permits, "upto": head.number})
    finish(job)
    return head, False


def seal_from(job: Job, base: Release | None, permits: Mapping[str, Permission] | None = None) -> Release:
    """The dataset that the state knows, as a new release; as much as fits of `base`. Permissions overlay it."""
    state = job.state
    manifest = job.dataset.manifest()
    if manifest is None:
        raise StoreError(f"there is no dataset in {job.dataset.folder}", "Run `ragops ingest`.")
    number = state.start_run(max(job.store.numbers(), default=0) + 1)
    state.start_work()
    try:
        release = _load(job, Ledger(state, job.tell), number, manifest, base, in_step=False)
    except BaseException as error:
        state.end_run(number, f"failed: {error}"[:500])
        raise
    finally:
        state.end_work()
    state.put("due", {"release": release.number, "permits": dict(permits or {}), "upto": release.number})
    state.end_run(number, "recorded")
    finish(job)
    return release


def compact(job: Job) -> None:
    """Let what was deleted or replaced leave the files of snapshot and dataset. Releases stay as they are."""
    state = job.state
    finish(job, recovering=True)
    lost = _lost(job.snapshot, state, "snapshot") or _lost(job.dataset, state, "dataset")
    if lost or state.get("fingerprint") is None:
        return  # nothing was ingested, or the next ingest has to see to it first
    due: dict[str, Any] = {}
    state.start_work()
    try:
        with state.transaction():
            write_data(job, due, {}, state.get("fingerprint"), compact=True)
            state.put("due", due)
        finish(job)
    finally:
        state.end_work()


def _load(job: Job, ledger: Ledger, number: int, dataset: Manifest, base: Release | None, *, in_step: bool) -> Release:
    """A sealed release of the dataset; a damaged base is no reason not to have one."""
    from ragops_pipelines.load import load

    try:
        return load(job, ledger, number, dataset, base, in_step=in_step)
    except Damaged:
        return load(job, ledger, number, dataset, None, in_step=False)


def _lost(part: Snapshot | Dataset, state: State, name: str) -> bool:
    """Whether what is on disk is not what the last recorded run left there (or nothing was recorded).

    Raises SchemaError where a newer ragops wrote it: that is not ours to write over.
    """
    if part.digest() == state.get(f"{name}_sha"):
        return False
    with contextlib.suppress(StoreError):  # what is damaged is made again
        part.manifest()
    return True


def _know_recipe(job: Job) -> None:
    """After a recovery: whether the settings of today are the recipe of the dataset."""
    recipe = Recipe(job)
    if recipe.parts == job.state.get("recipe"):
        job.state.put("recipe_token", recipe.token)
        job.state.put("model", recipe.model)


def _find_vectors(job: Job) -> None:
    """Take the vectors of a dataset that this state did not make (a clone, a lost state) for what they are."""
    state = job.state
    with contextlib.suppress(StoreError):
        manifest = job.dataset.manifest()
        with state.transaction():
            state.forget("dataset_sha")  # until a run is recorded, the table is true of nothing else
            state.db.execute("DELETE FROM stored")
            if manifest is not None:
                state.put("recipe", manifest.recipe)
                state.put("numerics", manifest.numerics)
            found = job.dataset.stored(manifest) if manifest else ()
            state.db.executemany("INSERT OR REPLACE INTO stored VALUES (?, ?)", found)


def _overlay(job: Job, ledger: Ledger, base: Release) -> int:
    return len({*job.store.permitted(base.number), *ledger.permits})


def _searchable(job: Job, release: Release) -> bool:
    return query_encoder(job, release.space).exists()


def _releases(job: Job) -> tuple[Release | None, Release | None]:
    """The live release and the newest sealed one: the same, but after a rollback or a crash. One that the engine of
    today cannot open is nothing to build on: the dataset is loaded anew."""
    live = head = live_release(job.store)
    if live is None or live.number != max(job.store.numbers()):
        sealed = job.store.releases()
        head = sealed[-1] if sealed else None
    return live, head if head is None or job.store.opens(head.number) else None


def _compare(job: Job, *, whole: bool) -> tuple[Changes, bool]:
    """The scan against the state, and whether parsers changed since. `whole`: every source is to be read."""
    state = job.state
    before = state.get("parsers") or {}
    stale = {media for media, fingerprint in before.items() if parser_fingerprint(media) != fingerprint}
    retry = set(job.options.retry)
    if stale:
        retry.update(known.uri for known in state.sources() if known.media_type in stale)
    settings = state.get("source_settings") or {}
    everything = {name for name, digest in job.source_settings.items() if settings.get(name, digest) != digest}
    if whole or job.options.rehash:
        everything.update(job.source_settings)
    changes = compare(
        job.connectors,
        state,
        again=retry.__contains__,
        everything=everything,
        dropped=job.dropped,
        tell=lambda seen: job.tell(Event("scan", seen)),
    )
    return changes, bool(stale)


def _news(changes: Changes, ledger: Ledger) -> bool:
    if changes.todo or changes.removed:
        return True
    if not changes.rejects:
        return False
    known = {reject["uri"]: (reject["code"], reject["reason"]) for reject in ledger.state.rejects()}
    return any(known.get(reject.uri) != (reject.code, reject.reason) for reject in changes.rejects)


def _check_deletes(job: Job, ledger: Ledger) -> None:
    """Hold back a run that would delete too large a share; moved contents do not count."""
    before = job.state.documents()
    share = job.settings.release.max_delete
    if before <= SMALL_CORPUS or job.options.allow_deletes or len(ledger.changes.removed) <= share * before:
        return
    arrived = {row[0] for row in job.state.db.execute("SELECT raw_sha FROM work.updated WHERE NOT rejected")}
    lost = 0
    for uri in ledger.changes.removed:
        known = job.state.known(uri)
        lost += known is not None and known.document_id is not None and known.doc_raw_sha not in arrived
    if lost > share * before:
        raise HeldBack(
            f"{lost} of {before} documents would be deleted, more than release.max_delete ({share:.0%}) allows;"
            " nothing was published",
            "See them with `ragops ingest --plan`; if it is meant, run `ragops ingest --allow-deletes`.",
        )


def _put(job: Job, ledger: Ledger, recipe: Recipe | None, *, anew: bool) -> str:
    """Record the recipe and the dataset's fingerprint, which is returned."""
    state = job.state
    if recipe is not None:
        same = (state.get("recipe") or {}).get("space") == recipe.parts["space"]
        stay = same and (ledger.reused or not anew)  # vectors of earlier runs
        before = (state.get("numerics") or []) if stay else []
        now = [recipe.numerics] if ledger.computed else []
        found = job.cache.numerics(recipe.parts["space"]) if ledger.reused and not same else []
        state.put("numerics", sorted({*before, *found, *now}))
        state.put("recipe", recipe.parts)
        state.put("recipe_token", recipe.token)
        state.put("model", recipe.model)
    digests = state.db.execute("SELECT digest FROM sources WHERE document_id IS NOT NULL ORDER BY document_id")
    fingerprint = rows.fingerprint(state.get("recipe"), (digest for (digest,) in digests))
    state.put("fingerprint", fingerprint)
    state.put("source_settings", {**(state.get("source_settings") or {}), **job.source_settings})
    media = state.db.execute("SELECT DISTINCT media_type FROM sources WHERE media_type IS NOT NULL")
    state.put("parsers", {name: parser_fingerprint(name) for (name,) in media.fetchall()})
    return fingerprint


def _summary(
    job: Job, ledger: Ledger, release: Release, *, added: int, removed: int, written: dict[str, int] | None = None,
    noop: bool = False,
) -> Summary:  # fmt: skip
    changes = ledger.changes
    rejects = ledger.state.rejects()  # those of what was scanned: a run may be limited to a part of a source
    rejected = sum(any(connector.owns(reject["uri"]) for connector in job.connectors) for reject in rejects)
    return Summary(
        release=release.number,
        fingerprint=release.fingerprint,
        sources={
            "seen": changes.seen,
            "added": ledger.added,
            "changed": ledger.changed,
            "removed": len(changes.removed),
            "unchanged": changes.seen - ledger.added - ledger.changed - rejected,
            "rejected": rejected,
        },
        chunks={"total": release.points, "added": added, "removed": removed},
        vectors={"computed": ledger.computed, "reused": ledger.reused},
        seconds=ledger.elapsed(),
        bytes_written=written or {},
        incomplete=tuple(changes.incomplete),
        noop=noop,
        held=is_held(job.store),
        gate=verdict(job, release.number),
    )
