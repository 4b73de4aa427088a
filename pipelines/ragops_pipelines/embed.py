"""From parsed sources to staged documents, chunks and vectors: the recipe at work."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ragops import ids
from ragops.embedders import export_query_encoder, find_model, identify, load, load_tokenizer
from ragops.types import Document, Embedder, Parsed, Space
from ragops_pipelines import shards
from ragops_pipelines.chunk import VERSION as CHUNKER_VERSION
from ragops_pipelines.chunk import Chunker
from ragops_pipelines.dataset import chunk_rows, document_row, merge_metadata
from ragops_pipelines.job import Job
from ragops_pipelines.ledger import Ledger
from ragops_pipelines.state import Known, metadata_from_json, metadata_to_json

if TYPE_CHECKING:
    from ragops.embedders.models import ModelFiles

BATCH = {"cpu": 64, "gpu": 1024}  # texts embedded and committed at once: what a killed run may do twice


class Recipe:
    """Chunker and embedder with their fingerprints. The model itself loads when something must be embedded."""

    def __init__(self, job: Job) -> None:
        embed, chunk = job.settings.embed, job.settings.chunk
        self._embed = embed
        self.loaded: Embedder | None = None
        files = find_model(embed.model)
        self.token = _token(job, files)
        identity = f"{embed.model} {embed.sha256} {files.stat_token()}"
        remembered = job.state.get("model")
        if remembered and remembered["token"] == identity:
            self.space = Space(**remembered["space"])
        else:
            self.space = identify(files, embed.sha256)
        self.model: Mapping[str, Any] = {"token": identity, "space": asdict(self.space)}
        tokenizer = load_tokenizer(files)
        self.chunker = Chunker(tokenizer, self.space.max_tokens, size=chunk.size, overlap=chunk.overlap)
        self.parts = {"chunker": self.chunker.fingerprint, "space": self.space.fingerprint}

    @property
    def embedder(self) -> Embedder:
        if self.loaded is None:
            self.loaded = load(self._embed.model, device=self._embed.device, expected_sha=self._embed.sha256)
        return self.loaded


def recipe_token(job: Job) -> str:
    """Equal tokens mean an equal recipe, told without loading anything: settings and the model files' identity."""
    return _token(job, find_model(job.settings.embed.model))


def _token(job: Job, files: ModelFiles) -> str:
    embed, chunk = job.settings.embed, job.settings.chunk
    return ids.composite(
        "recipe_token", [embed.model, embed.sha256, files.stat_token(), chunk.size, chunk.overlap, CHUNKER_VERSION]
    )


def query_encoder(job: Job, space: Space) -> Path:
    """Where the exported query encoder of a space stands."""
    return job.models / ids.short(space.fingerprint)


class Embedding:
    """Chunks groups of documents, stages them for the dataset, and embeds each distinct new text once."""

    def __init__(self, job: Job, ledger: Ledger, recipe: Recipe, *, rebuild: bool) -> None:
        self.job, self.ledger, self.recipe = job, ledger, recipe
        self.rebuild = rebuild  # the dataset's own vectors are not to be trusted
        self.pending: dict[str, str] = {}  # vector key -> text
        self.sample: list[str] = []  # real texts to check the query encoder with

    def add(self, group: Sequence[tuple[Known, Parsed]]) -> None:
        with self.ledger.timed("chunk"):
            documents = [_document(known, parsed) for known, parsed in group]
            chunked = self.recipe.chunker.chunk_many([(d.title, d.parsed) for d in documents])
            texts: dict[str, str] = {}
            staged: list[tuple[str, int, bytes, bytes]] = []
            points: list[tuple[str, int, str, str]] = []
            for (known, _), document, chunks in zip(group, documents, chunked, strict=True):
                row = document_row(document)
                rows = chunk_rows(row, chunks, self.recipe.space.fingerprint)
                texts.update((found["vector_key"], chunk.embed_text) for chunk, found in zip(chunks, rows, strict=True))
                identity = document.document_id
                staged.append((identity, shards.prefix(identity), orjson.dumps(row), orjson.dumps(rows)))
                points += [(identity, found["nth"], found["point_id"], found["vector_key"]) for found in rows]
                self._record(known, document, rows)
            db = self.job.state.db
            db.execute("BEGIN")
            db.executemany("INSERT OR REPLACE INTO work.staged VALUES (?, ?, ?, ?)", staged)
            db.executemany("INSERT OR IGNORE INTO work.gone VALUES (?)", [(row[0],) for row in staged])
            db.executemany("INSERT INTO work.wanted VALUES (?, ?, ?, ?)", points)
            db.execute("COMMIT")
            new = self._missing([key for key in texts if key not in self.pending])
            self.ledger.reused += sum(1 for key in texts if key not in new and key not in self.pending)
            self.pending.update((key, texts[key]) for key in texts if key in new)
            self.sample += list(texts.values())[: 16 - len(self.sample)]
        self.embed()

    def embed(self, *, all: bool = False) -> None:
        """Embed what is queued, in full batches, or `all` of it; each batch is in the cache before the next begins."""
        while self.pending:
            size = BATCH["cpu"]
            if self.recipe.loaded is not None and not self.recipe.loaded.numerics.endswith("cpu"):
                size = BATCH["gpu"]
            if len(self.pending) < size and not all:
                return
            with self.ledger.timed("embed"):
                keys = list(self.pending)[:size]
                vectors = self.recipe.embedder.embed([self.pending[key] for key in keys])
                self.job.cache.save_vectors(keys, vectors)
            for key in keys:
                del self.pending[key]
            self.ledger.computed += len(keys)
            self.ledger.progress("embed", self.ledger.computed)

    def export_query_encoder(self) -> None:
        """Queries must not pay for torch: the model is exported once, checked against the original."""
        folder = query_encoder(self.job, self.recipe.space)
        if folder.exists():
            return
        sample = self.sample or [point.payload["text"] for point in itertools.islice(self.job.dataset.points(), 16)]
        if sample:
            self.ledger.progress("export", 0)
            with self.ledger.timed("embed"):
                export_query_encoder(self.recipe.embedder, sample, folder)

    def _missing(self, keys: Sequence[str]) -> set[str]:
        missing = self.job.cache.missing_vectors(keys)
        return missing if self.rebuild else missing - self.job.state.stored_vectors(missing)

    def _record(self, known: Known, document: Document, rows: Sequence[Mapping[str, Any]]) -> None:
        digest = ids.composite(
            "document_state",
            [document.document_id, document.version, [[row["chunk_id"], row["payload_sha"]] for row in rows]],
        )
        if known.document_id is None:
            self.ledger.added += 1
        elif not known.rejected and (known.raw_sha, known.metadata) != (known.doc_raw_sha, known.doc_metadata):
            self.ledger.changed += 1
        if not known.rejected:
            known.doc_raw_sha, known.doc_parse_key, known.doc_metadata = known.raw_sha, known.parse_key, known.metadata
        known.document_id, known.version, known.digest = document.document_id, document.version, digest
        known.chunks = len(rows)
        self.ledger.read(known)


def _document(known: Known, parsed: Parsed) -> Document:
    """The document of a source: of its content as read, or after a reject of the last that passed."""
    raw_sha, key, seen = (
        (known.doc_raw_sha, known.doc_parse_key, known.doc_metadata)
        if known.rejected
        else (known.raw_sha, known.parse_key, known.metadata)
    )
    metadata = merge_metadata(metadata_from_json(seen or '[null,"",[],{}]'), parsed.fields)
    version = ids.document_version(raw_sha or "", key or "", ids.sha256_text(metadata_to_json(metadata)))
    identity = ids.document_id(known.source, known.uri)
    title = metadata.title or parsed.title or ""
    return Document(identity, known.uri, known.source, raw_sha or "", version, title, parsed, metadata)
