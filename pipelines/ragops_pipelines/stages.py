"""The stages of `dvc repro`: parse, chunk, embed and load, from part to part of the artefact.

They call the functions that an ingest calls, and what they find on disk is a hint: it stays where it was made of the
same content by the same recipe. They know nothing of change tokens, so each looks at every row of what it reads; the
keys of one part are held in memory, or in a database that is thrown away.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ragops import durable, ids
from ragops.errors import ParseError, SchemaError, StoreError, UsageError
from ragops.types import Chunk, Parsed
from ragops_pipelines import dataset as datasets
from ragops_pipelines import rows, segments
from ragops_pipelines.dataset import FILE, Dataset, Manifest
from ragops_pipelines.embed import BATCH, export
from ragops_pipelines.fetch import cores
from ragops_pipelines.finish import RECEIPT
from ragops_pipelines.gate import held_back
from ragops_pipelines.job import Event, Job
from ragops_pipelines.parsers import parser_fingerprint
from ragops_pipelines.recipe import Recipe
from ragops_pipelines.recover import take_documents
from ragops_pipelines.run import seal
from ragops_pipelines.state import NOTHING_SEEN, State

if TYPE_CHECKING:
    pass

CLONE = "In a clone: dvc pull. Where the sources are: ragops ingest."
GROUP = 64  # documents chunked in one call


@dataclass(frozen=True, slots=True)
class Done:
    """What a stage did: documents (parse, chunk), vectors (embed) or points (load) that were there, made, removed."""

    stage: str
    kept: int
    made: int
    removed: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# ------------------------------------------------------------------ parse
@dataclass(frozen=True, slots=True)
class _Wanted:
    """A source of the snapshot, and the content to make its document of."""

    uri: str
    source: str
    raw_sha: str
    media_type: str
    encoding: str | None
    metadata: str
    older: tuple[str, str] | None  # hash and metadata of the last content that passed, where that is another

    def key(self, raw_sha: str) -> str:
        return ids.parse_key(raw_sha, self.media_type, self.encoding, parser_fingerprint(self.media_type))


def parse(job: Job) -> Done:
    """`data/snapshot` to `documents` and `rejects`. Raises UsageError, StoreError."""
    snapshot = job.snapshot.manifest()
    if snapshot is None:
        raise UsageError(f"there is no snapshot in {job.snapshot.folder}", CLONE)
    dataset, manifest = job.dataset, Manifest()
    dataset.make_folders()
    _hinted(lambda: dataset.read_documents(manifest), None)
    have: dict[str, tuple[str, int, str, str]] = {}  # document -> segment, row, and what it was made of
    try:
        for name, frame in dataset.documents(manifest, ["document_id", "parse_key", "seen"]):
            have.update({row[1]: (name, row[0], row[2], row[3]) for row in frame.iter_rows()})
    except StoreError:  # damaged: made anew
        have, manifest.documents = {}, {}
    rejects: dict[str, dict[str, Any]] = {}
    before = {reject["uri"]: reject for reject in _hinted(dataset.rejects, [])}
    with _scratch() as state:
        keep: set[str] = set()
        todo: list[_Wanted] = []
        for name, frame in job.snapshot.shas(snapshot):
            state.place("objects", frame["sha"].to_list(), name)
        for row in _sources(job, snapshot):
            identity = ids.document_id(row["source"], row["uri"])
            older = (row["doc_raw_sha"], row["doc_metadata"] or NOTHING_SEEN) if row["doc_raw_sha"] else None
            if row["raw_sha"] is None:  # it was never read
                if row["uri"] in before:
                    rejects[row["uri"]] = before[row["uri"]]
                if older is not None and identity in have:
                    keep.add(identity)
                continue
            metadata = row["metadata"] or NOTHING_SEEN
            wanted = _Wanted(
                row["uri"], row["source"], row["raw_sha"], row["media_type"], row["encoding"], metadata,
                older if older != (row["raw_sha"], metadata) else None,
            )  # fmt: skip
            if have.get(identity, (0, 0))[2:] == (wanted.key(wanted.raw_sha), metadata):
                keep.add(identity)
            else:
                todo.append(wanted)
        made = 0
        for wanted, document, reject in _documents(job, state, todo):
            if reject is not None:
                rejects[wanted.uri] = reject
            if document is None:
                continue
            raw_sha, parse_key, seen, found = document
            identity = ids.document_id(wanted.source, wanted.uri)
            if have.get(identity, (0, 0))[2:] == (parse_key, seen):
                keep.add(identity)
                continue
            made_of = rows.made(wanted.source, wanted.uri, raw_sha, parse_key, seen, found)
            staged = orjson.dumps(rows.document_row(made_of, parse_key, seen))
            state.db.execute("INSERT OR REPLACE INTO work.staged VALUES (?, ?, ?)", (identity, staged, b"[]"))
            made += 1
        removed = 0
        for identity, (name, place, _, _) in have.items():
            if identity not in keep:
                manifest.documents[name].dead |= 1 << place
                removed += 1
        manifest.documents = {name: segment for name, segment in manifest.documents.items() if segment.live}
        sizes = state.db.execute("SELECT document_id, length(document) FROM work.staged ORDER BY document_id")
        for batch in segments.batches(sizes.fetchall()):
            frame, _ = datasets.staged(state, batch[0], batch[-1])
            segment, _ = dataset.write_documents(frame)
            manifest.documents[segment.name] = segment
    dataset.write_rejects([rejects[uri] for uri in sorted(rejects)])
    _point(dataset, "documents", datasets.documents_text(manifest.documents), manifest.documents)
    return Done("parse", len(keep), made, removed)


def _sources(job: Job, snapshot: Any) -> Iterator[dict[str, Any]]:
    for _, frame in job.snapshot.sources(snapshot):
        yield from frame.iter_rows(named=True)


_Content = tuple[str, str, str, Parsed]  # hash, parse key, metadata, text


def _documents(
    job: Job, state: State, todo: list[_Wanted]
) -> Iterator[tuple[_Wanted, _Content | None, dict[str, Any] | None]]:
    """Each source with the content that passed, if any, and its reject, if any."""
    from ragops_pipelines.parse import Limits, ParserPool

    settings = job.settings.parse
    with ParserPool(settings.workers or cores(), Limits(settings.timeout, settings.memory_mb << 20)) as pool:
        failed: list[tuple[_Wanted, dict[str, Any]]] = []
        for wanted, result in _parsed(job, state, pool, [(each, each.raw_sha) for each in todo]):
            if isinstance(result, Parsed):
                yield wanted, (wanted.raw_sha, wanted.key(wanted.raw_sha), wanted.metadata, result), None
            else:
                failed.append((wanted, _reject(wanted, result)))
        again = [(wanted, wanted.older[0]) for wanted, _ in failed if wanted.older is not None]
        older = {wanted.uri: result for wanted, result in _parsed(job, state, pool, again)}
        for wanted, reject in failed:
            found = older.get(wanted.uri)
            if wanted.older is not None and isinstance(found, Parsed):
                raw_sha, seen = wanted.older
                yield wanted, (raw_sha, wanted.key(raw_sha), seen, found), reject
            else:
                yield wanted, None, reject


def _parsed(
    job: Job, state: State, pool: Any, contents: list[tuple[_Wanted, str]]
) -> Iterator[tuple[_Wanted, Parsed | ParseError]]:
    remembered: list[tuple[_Wanted, Parsed]] = []
    lost: list[tuple[_Wanted, ParseError]] = []
    packs = dict(state.db.execute("SELECT key, segment FROM placed WHERE part = 'objects'"))
    contents = sorted(contents, key=lambda each: packs.get(each[1], ""))  # so that each segment is read once

    def items() -> Iterator[tuple[tuple[_Wanted, str], bytes, str, str | None]]:
        for done, (wanted, raw_sha) in enumerate(contents):
            job.tell(Event("parse", done, len(contents)))
            parsed = job.cache.parse(wanted.key(raw_sha))
            if parsed is not None:
                remembered.append((wanted, parsed))
                continue
            try:
                data = job.snapshot.read(state, raw_sha)
            except StoreError as error:
                lost.append((wanted, ParseError(error.message, CLONE, code="unreadable", transient=True)))
                continue
            yield (wanted, raw_sha), data, wanted.media_type, wanted.encoding

    for (wanted, raw_sha), result in pool.parse_many(items()):
        while remembered:
            yield remembered.pop()
        if isinstance(result, Parsed):
            job.cache.save_parses([(wanted.key(raw_sha), result)])
        yield wanted, result
    yield from remembered
    yield from lost


def _reject(wanted: _Wanted, error: ParseError) -> dict[str, Any]:
    return {
        "uri": wanted.uri, "source": wanted.source, "raw_sha": wanted.raw_sha, "stage": "parse", "code": error.code,
        "reason": error.message, "hint": error.hint, "transient": error.transient,
    }  # fmt: skip


# ------------------------------------------------------------------ chunk
def chunk(job: Job) -> Done:
    """`documents` to `chunks`, a file for each of their segments. Raises UsageError, StoreError."""
    dataset, manifest = job.dataset, _documented(job.dataset, "chunks")
    recipe = Recipe(job)
    made_by = _hinted(lambda: dataset.read_chunks(manifest), None)
    before = manifest.chunks if made_by == recipe.parts["chunker"] else {}
    files = {name: file for name, file in before.items() if name in manifest.documents and _sound(dataset, file)}
    todo = sorted(set(manifest.documents) - set(files))
    for done, name in enumerate(todo):
        job.tell(Event("chunk", done, len(todo)))
        found = [row for some, _ in _chunked(dataset, manifest, recipe, [name]) for row in some]
        files[name], _ = dataset.write_chunks(rows.frame("chunks", found))
    _point(dataset, "chunks", datasets.chunks_text(recipe.parts["chunker"], files), files.values())
    live = {name: segment.live for name, segment in manifest.documents.items()}
    made = sum(live[name] for name in todo)
    return Done("chunk", sum(live.values()) - made, made, 0)


def _sound(dataset: Dataset, file: str) -> bool:
    digest = durable.digest(dataset.folder / "chunks" / file)
    return digest is not None and segments.is_named(file, digest)


def _documented(dataset: Dataset, part: str) -> Manifest:
    """What there is to make `part` of."""
    manifest = Manifest()
    if not dataset.read_documents(manifest):
        raise UsageError(f"there are no documents in {dataset.folder}", CLONE)
    durable.make_folder(dataset.folder / part)
    return manifest


def _chunked(
    dataset: Dataset, manifest: Manifest, recipe: Recipe, names: list[str]
) -> Iterator[tuple[list[dict[str, Any]], list[Chunk]]]:
    """Each document's chunks, as rows and as the chunker gives them."""
    found = dataset.rows(manifest, names)
    while group := list(itertools.islice(found, GROUP)):
        documents = [rows.document_of(row) for row in group]
        chunked = recipe.chunker.chunk_many([(document.title, document.parsed) for document in documents])
        for row, chunks in zip(group, chunked, strict=True):
            yield rows.chunk_rows(row, chunks), chunks


# ------------------------------------------------------------------ embed
def embed(job: Job) -> Done:
    """`chunks` to `vectors`, the exported query encoder and `dataset.json`. Raises UsageError, StoreError."""
    dataset, manifest = job.dataset, _documented(job.dataset, "vectors")
    recipe = Recipe(job)
    if dataset.read_chunks(manifest) != recipe.parts["chunker"]:
        raise UsageError("the chunks were not made by the chunker of params.yaml", "Run: dvc repro")
    manifest.recipe, manifest.space = recipe.parts, asdict(recipe.space)
    whole = _hinted(lambda: segments.read_manifest(dataset.file, datasets.SCHEMA), None) or {}
    same = whole.get("space") == manifest.space
    numerics = set(whole["numerics"] if same else job.cache.numerics(recipe.space.fingerprint))
    if _hinted(lambda: dataset.read_vectors(manifest), None) != recipe.space.fingerprint:
        manifest.vectors = {}
    with _scratch() as state:
        take_documents(state, dataset, manifest)
        db = state.db
        db.execute("INSERT INTO work.wanted SELECT * FROM points")
        live = db.execute("SELECT count(DISTINCT vector_key) FROM points").fetchone()[0]
        there = db.execute(
            "SELECT count(*) FROM stored WHERE vector_key IN (SELECT vector_key FROM points)"
        ).fetchone()[0]  # fmt: skip
        state.put("dead_vectors", state.count("stored") - there)
        sample = _embed(job, recipe, state, manifest)
        if recipe.numerics:
            numerics.add(recipe.numerics)
        export(job, recipe, sample)
        recipe.unload()
        stored = state.count("stored")
        dataset.add_vectors(state, job.cache, manifest, trusted=True, compact=False)
        digests = db.execute("SELECT digest FROM made ORDER BY document_id")
        manifest.fingerprint = rows.fingerprint(recipe.parts, (digest for (digest,) in digests))
        query = "SELECT source, count(*), sum(chunks) FROM made GROUP BY source ORDER BY source"
        sources = db.execute(query).fetchall()
        manifest.numerics = sorted(numerics)
        manifest.counts = {
            "documents": sum(segment.live for segment in manifest.documents.values()),
            "chunks": state.count("points"), "vectors": state.count("stored"),
        }  # fmt: skip
    durable.sync(dataset.folder / "vectors")
    texts = manifest.texts() | {datasets.PLOT: datasets.sources_csv(sources)}
    dataset.point(texts)
    return Done("embed", there, live - there, stored + live - there - manifest.counts["vectors"])


def _embed(job: Job, recipe: Recipe, state: State, manifest: Manifest) -> list[str]:
    """Vectors of the chunks that have none, into the cache. Returns some texts to check a query encoder with."""
    lacking = {
        key for (key,) in state.db.execute(
            "SELECT DISTINCT vector_key FROM points WHERE vector_key NOT IN (SELECT vector_key FROM stored)"
        )
    }  # fmt: skip
    lacking &= job.cache.missing_vectors(list(lacking))
    total = len(lacking)
    pending: dict[str, str] = {}
    sample: list[str] = []
    # A chunk's text for the model is made again by the chunker, which is what made its hash.
    for found_rows, chunks in _chunked(job.dataset, manifest, recipe, sorted(manifest.documents)):
        if len(sample) >= 16 and not lacking:
            break
        for found, each in zip(found_rows, chunks, strict=True):
            key = ids.vector_key(found["embed_sha"], recipe.space.fingerprint)
            sample += [each.embed_text] * (len(sample) < 16)
            if key in lacking:
                pending[key] = each.embed_text
                lacking.discard(key)
        if len(pending) >= BATCH["cpu"] or not lacking:
            _embed_batch(job, recipe, pending)
            job.tell(Event("embed", total - len(lacking), total))
    return sample


def _embed_batch(job: Job, recipe: Recipe, pending: dict[str, str]) -> None:
    if pending:
        vectors = recipe.embedder.embed(list(pending.values()))
        job.cache.save_vectors(list(pending), vectors, recipe.space.fingerprint, [recipe.numerics])
        pending.clear()


# ------------------------------------------------------------------ load
def load(job: Job) -> Done:
    """The dataset into the store, live unless a rollback holds. Raises UsageError, StoreError; GateRefused where the
    release is sealed and the gate holds it back."""
    release, made = seal(job)
    said = held_back(job, release.number)
    if said is not None:
        from ragops.evaluation.gate import refused

        (job.dataset.folder.parent / RECEIPT).unlink(missing_ok=True)  # the next one asks again
        raise refused(said)
    return Done("load", 0 if made else release.points, release.points if made else 0, 0)


# ------------------------------------------------------------------ what is on disk
def _hinted(read: Any, otherwise: Any) -> Any:
    """What can be read of an earlier run; what is damaged is made anew."""
    try:
        return read()
    except SchemaError:
        raise
    except (StoreError, KeyError, TypeError):
        return otherwise


def _point(dataset: Dataset, part: str, text: str, names: Any) -> None:
    """Make the files of one part count, and remove the others."""
    durable.sync(dataset.folder / part)
    durable.write_atomic(dataset.folder / part / FILE, text.encode())
    segments.sweep(dataset.folder / part, {*names, FILE})


@contextlib.contextmanager
def _scratch() -> Iterator[State]:
    with tempfile.TemporaryDirectory() as folder:
        state = State(Path(folder))
        try:
            state.start_work()
            with state.transaction():  # else sqlite ends one for each row
                yield state
        finally:
            state.close()
