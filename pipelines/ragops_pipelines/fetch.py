"""From what a scan found to parsed sources: read, recognise what is unchanged or already parsed, parse the rest."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ragops import ids
from ragops.errors import FetchError, ParseError, StoreError, Vanished
from ragops.types import Connector, Document, Entry, Parsed, Reject, Source
from ragops_pipelines.job import Job
from ragops_pipelines.ledger import Ledger
from ragops_pipelines.parsers import parser_fingerprint
from ragops_pipelines.rows import document_of, made
from ragops_pipelines.state import Known, metadata_to_json

if TYPE_CHECKING:
    from ragops_pipelines.parse import ParserPool

GROUP_TEXT = 1 << 18  # characters that are worth one tokenizer call
SERVED = ("document_id", "doc_raw_sha", "doc_parse_key", "doc_metadata", "version", "digest", "chunks")


def groups(job: Job, ledger: Ledger, *, everything: bool, anew: bool) -> Iterator[list[tuple[Known, Document]]]:
    """Documents of parsed sources, in groups that are worth one tokenizer call. `everything`: unchanged ones too, as
    they are remembered (after a change of chunker or model); `anew`: not as the dataset has them."""
    group: list[tuple[Known, Document]] = []
    fresh: list[tuple[str, Parsed]] = []
    size = 0
    for known, found, new in _parsed(job, ledger, everything, anew):
        document = made(known.source, known.uri, *known.served, found) if isinstance(found, Parsed) else found
        group.append((known, document))
        if new and isinstance(found, Parsed):
            fresh.append((known.parse_key or "", found))
        size += len(document.parsed.text)
        if size >= GROUP_TEXT or len(group) >= 64:
            job.cache.save_parses(fresh)
            yield group
            group, fresh, size = [], [], 0
    if group:
        job.cache.save_parses(fresh)
        yield group


def _parsed(job: Job, ledger: Ledger, everything: bool, anew: bool) -> Iterator[tuple[Known, Parsed | Document, bool]]:
    """Sources with their text or their document, and whether it was parsed only now."""
    from ragops_pipelines.parse import Limits, ParserPool  # what starts processes is not for a run that parses nothing

    parse = job.settings.parse
    limits = Limits(seconds=parse.timeout, memory=parse.memory_mb << 20)
    remembered: deque[Known] = deque()  # read, and parsed by an earlier run
    todo = ledger.changes.todo
    with ParserPool(parse.workers or cores(), limits) as pool:
        results = pool.parse_many(_fetched(job, ledger, remembered, everything))
        while True:
            with ledger.timed("parse"):
                item = next(results, None)
            while remembered:
                known = remembered.popleft()
                yield known, _remembered(job, known.parse_key), False
            if item is None:
                break
            known, result = item
            if isinstance(result, ParseError):
                reason = Reject(
                    known.uri, known.source, "parse", result.code, result.message, result.hint, known.raw_sha,
                    result.transient,
                )  # fmt: skip
                ledger.reject(reason, known)
            else:
                yield known, result, True
        if everything:
            for known, found in _unread(job, ledger, pool, {entry.uri for _, entry in todo}, anew):
                yield known, found, False


def _fetched(
    job: Job, ledger: Ledger, remembered: deque[Known], everything: bool
) -> Iterator[tuple[Known, bytes, str, str | None]]:
    """Read; hand on what must be parsed and put what is already parsed into `remembered`."""
    for done, (connector, entry) in enumerate(ledger.changes.todo):
        ledger.progress("sources", done, len(ledger.changes.todo))
        before = job.state.known(entry.uri)
        try:
            with ledger.timed("fetch"):
                source = connector.fetch(entry)
        except Vanished:
            if before is None:
                ledger.changes.seen -= 1
            else:  # it leaves with the next scan that does not see it
                before.settled = False
                ledger.read(before)
            continue
        except FetchError as error:
            reason = Reject(
                entry.uri, connector.name, "fetch", error.code, error.message, error.hint, None, error.transient
            )
            ledger.reject(reason, before, entry)
            continue
        ledger.bytes_read += len(source.data)
        known = _known(connector, entry, source, before, kept=job.keep_bytes[connector.name])
        if before is not None and not everything and _same(before, known) and entry.uri not in job.options.retry:
            before.token, before.settled, before.container = known.token, known.settled, known.container
            if known.kept and not before.kept:
                job.snapshot.stage(job.state, known.raw_sha or "", source.data)
            before.kept = known.kept
            ledger.read(before)  # touched only
            continue
        if known.kept:
            job.snapshot.stage(job.state, known.raw_sha or "", source.data)
        if job.cache.has_parse(known.parse_key or ""):
            remembered.append(known)
        else:
            yield known, source.data, source.media_type, source.encoding


def _known(connector: Connector, entry: Entry, source: Source, before: Known | None, *, kept: bool) -> Known:
    raw_sha = ids.sha256(source.data)
    key = ids.parse_key(raw_sha, source.media_type, source.encoding, parser_fingerprint(source.media_type))
    known = Known(
        entry.uri, connector.name, source.token, source.settled, entry.container, raw_sha, len(source.data),
        source.media_type, source.encoding, metadata_to_json(source.metadata), key, False, kept,
    )  # fmt: skip
    if before is not None:  # what it serves until the new content has passed
        for name in SERVED:
            setattr(known, name, getattr(before, name))
    return known


def _same(before: Known, known: Known) -> bool:
    """The same content under the same parser; a transient reject is never taken for a result."""
    unchanged = (before.raw_sha, before.parse_key, before.metadata) == (known.raw_sha, known.parse_key, known.metadata)
    return unchanged and (before.settled if before.rejected else before.document_id is not None)


def _remembered(job: Job, key: str | None) -> Parsed:
    parsed = job.cache.parse(key or "")
    if parsed is None:
        raise StoreError("the cache lost a parse while it was in use", "Run `ragops ingest` again.")
    return parsed


def _unread(
    job: Job, ledger: Ledger, pool: ParserPool, read: set[str], anew: bool
) -> Iterator[tuple[Known, Parsed | Document]]:
    """Documents that this run did not read: from the remembered parse, from the dataset, or from the snapshot."""
    gone = set(ledger.changes.removed)
    forgotten: dict[str, Known] = {}  # by document id
    for known in list(job.state.sources()):
        if known.document_id is None or known.uri in gone:
            continue
        current = ledger.updated(known.uri) or known
        if known.uri in read and not current.rejected:
            continue
        parsed = job.cache.parse(known.doc_parse_key or "")
        if parsed is not None:
            yield current, parsed
        elif anew and known.kept:
            yield current, _parsed_again(job, pool, known)
        else:
            forgotten[known.document_id] = current
    manifest = job.dataset.manifest() if forgotten else None
    if manifest is not None:
        for row in job.dataset.rows(manifest, job.state.segments_of("documents", forgotten)):
            if row["document_id"] in forgotten:
                yield forgotten[row["document_id"]], document_of(row)


def _parsed_again(job: Job, pool: ParserPool, known: Known) -> Parsed:
    data = job.snapshot.read(job.state, known.doc_raw_sha or "")
    _, result = next(pool.parse_many([(known, data, known.media_type or "", known.encoding)]))
    if isinstance(result, ParseError):
        raise result
    return result


def cores() -> int:
    import os

    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
