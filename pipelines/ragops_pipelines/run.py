"""One ingest: scan, fetch, parse, chunk, embed, write the dataset, load a release, publish, record.

Stages are generators composed as a stream, so that parsing (worker processes) and embedding overlap and memory does
not grow with the corpus. Everything computed is cached by content as it is made; the state changes in one transaction
at the very end, after the release is live. A run that dies anywhere is repeated from the cache.
"""

from __future__ import annotations

import contextlib
import itertools

from ragops import ids
from ragops.errors import RagopsError, StoreError, UsageError
from ragops.types import Release, Space
from ragops_pipelines.fetch import groups
from ragops_pipelines.job import Event, HeldBack, Job, NothingPassed, Plan, Summary
from ragops_pipelines.ledger import Ledger
from ragops_pipelines.parsers import parser_fingerprint
from ragops_pipelines.recipe import Recipe, query_encoder, recipe_token
from ragops_pipelines.scan import Changes, compare

REPRESENTATIVE = 256  # vectors; a smaller run says little about the next one
SMALL_CORPUS = 20  # documents; up to here `max_delete` holds nothing back


def plan(job: Job) -> Plan:
    """Scan and compare; read, write and load nothing."""
    changes, parsers_changed = _compare(job)
    token = job.state.get("recipe_token")
    recipe = ["parser"] * parsers_changed + ["chunker or model"] * (token is not None and token != recipe_token(job))
    rejected = len(changes.rejects)
    counts = {
        "seen": changes.seen,
        "new": changes.new,
        "to_read": len(changes.todo),
        "removed": len(changes.removed),
        "unchanged": changes.seen - len(changes.todo) - rejected,
        "rejected": rejected,
    }
    size = sum(known.size or 0 for known in job.state.sources()) if recipe else changes.bytes
    rate = job.state.get("seconds_per_byte")
    estimate = round(size * rate, 1) if rate else None
    return Plan(counts, changes.bytes, recipe, changes.removed, changes.incomplete, estimate)


def ingest(job: Job) -> Summary:
    """Run to a published release, or find that nothing changed. Raises RagopsError; the live release then stands."""
    state = job.state
    ledger = Ledger(state, job.tell)
    with ledger.timed("scan"):
        changes, _ = _compare(job)
    ledger.changes = changes
    if not changes.seen and not state.count("sources"):
        raise UsageError(
            "nothing to ingest: no file matches in " + ", ".join(repr(c.name) for c in job.connectors),
            "Check the folder, and `include`, `exclude` and `hidden` of the source in params.yaml.",
        )
    live = _live(job)
    manifest = job.dataset.manifest()
    recorded = state.get("fingerprint")
    # A run that died between writing and recording left the dataset ahead of the state: write it all again.
    rebuild = job.options.rebuild or recorded != (manifest["fingerprint"] if manifest else None)
    in_step = not rebuild and live is not None and live.fingerprint == recorded
    recipe = recipe_token(job)
    same_recipe = state.get("recipe_token") == recipe
    if in_step and live is not None and same_recipe and _searchable(job, live) and not _news(changes, ledger):
        return _summary(job, ledger, live, added=0, removed=0, noop=True)
    number = state.start_run(max((release.number for release in job.store.releases()), default=0) + 1)
    state.start_work()
    try:
        everything = rebuild or not same_recipe
        summary = _run(job, ledger, number, live, everything=everything, rebuild=rebuild, in_step=in_step)
    except BaseException as error:
        what = error.message if isinstance(error, RagopsError) else str(error)
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
    job: Job, ledger: Ledger, number: int, live: Release | None, *, everything: bool, rebuild: bool, in_step: bool
) -> Summary | None:
    """The summary, or None when not one source gave a document and there is nothing to release."""
    state = job.state
    for reject in ledger.changes.rejects:
        ledger.reject(reject)
    stream = groups(job, ledger, everything=everything)
    first = next(stream, None)
    recipe: Recipe | None = None
    only_touched = first is None and not everything and live is not None and _searchable(job, live)
    if not only_touched:  # else neither tokenizer nor model is needed
        from ragops_pipelines.embed import Embedding

        recipe = Recipe(job)
        embedding = Embedding(job, ledger, recipe, rebuild=rebuild)
        for group in itertools.chain([first] if first else [], stream):
            embedding.add(group)
        embedding.embed(all=True)
        embedding.export_query_encoder()
        recipe.unload()
    _check_deletes(job, ledger)
    # From here on the state says what it will be; a crash rolls it back and the next run repeats from the cache.
    with state.transaction():
        visible = ledger.visible()
        removed, added = ledger.record()
        if not state.documents() and live is None:
            return None  # the rejects are recorded all the same
        fingerprint = _put(job, ledger, recipe, rebuild=rebuild)
        same = in_step and live is not None and live.fingerprint == fingerprint
        written: dict[str, int] = {}
        if visible or not same:
            with ledger.timed("dataset"):
                ledger.progress("dataset", 0)
                written["snapshot"] = job.snapshot.write(state)
                written["dataset"] = job.dataset.write(
                    state, job.cache, state.get("recipe"), fingerprint, rebuild=rebuild
                )
        if same and live is not None:
            release = live
        else:
            space = Space(**state.get("model")["space"])
            from ragops_pipelines.load import load

            release = load(job, ledger, number, None if rebuild else live, space, in_step=in_step)
            with ledger.timed("publish"):
                job.store.publish(release.number)
        if ledger.computed >= REPRESENTATIVE and ledger.bytes_read:
            state.put("seconds_per_byte", ledger.elapsed()["total"] / ledger.bytes_read)
    _prune(job)
    return _summary(job, ledger, release, added=added, removed=removed, written=written, noop=same)


def _searchable(job: Job, live: Release) -> bool:
    return query_encoder(job, live.space).exists()


def _live(job: Job) -> Release | None:
    """The live release; None where its pointer leads nowhere, which the run then mends from the dataset."""
    try:
        return job.store.live()
    except StoreError:
        return None


def _compare(job: Job) -> tuple[Changes, bool]:
    """The scan against the state, and whether parsers changed since."""
    state = job.state
    before = state.get("parsers") or {}
    stale = {media for media, fingerprint in before.items() if parser_fingerprint(media) != fingerprint}
    retry = set(job.options.retry)
    if stale:
        retry.update(known.uri for known in state.sources() if known.media_type in stale)
    settings = state.get("source_settings") or {}
    everything = {name for name, digest in job.source_settings.items() if settings.get(name, digest) != digest}
    if job.options.rebuild or job.options.rehash:
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


def _put(job: Job, ledger: Ledger, recipe: Recipe | None, *, rebuild: bool) -> str:
    """Record the recipe and the dataset's fingerprint, which is returned."""
    state = job.state
    if recipe is not None:
        state.put("recipe", recipe.parts)
        state.put("recipe_token", recipe.token)
        state.put("model", recipe.model)
        before = [] if rebuild else state.get("numerics") or []
        now = [recipe.numerics] if ledger.computed else []
        state.put("numerics", sorted({*before, *now}))
    digests = state.db.execute("SELECT digest FROM sources WHERE document_id IS NOT NULL ORDER BY document_id")
    documents = ids.sha256("\n".join(row[0] for row in digests).encode())
    fingerprint = ids.composite("dataset", {"recipe": state.get("recipe"), "documents": documents})
    state.put("fingerprint", fingerprint)
    state.put("source_settings", {**(state.get("source_settings") or {}), **job.source_settings})
    media = state.db.execute("SELECT DISTINCT media_type FROM sources WHERE media_type IS NOT NULL")
    state.put("parsers", {name: parser_fingerprint(name) for (name,) in media.fetchall()})
    return fingerprint


def _prune(job: Job) -> None:
    for release in job.store.releases()[: -(job.settings.release.keep + 1)]:
        with contextlib.suppress(RagopsError):  # still read by somebody: a later run tries again
            job.store.remove(release.number)


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
    )
