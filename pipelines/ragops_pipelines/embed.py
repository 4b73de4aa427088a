"""From parsed sources to staged documents, chunks and vectors: the recipe at work."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ragops import ids
from ragops.embedders import export_query_encoder
from ragops.types import Document
from ragops_pipelines.job import Job
from ragops_pipelines.ledger import Ledger, permission_to_json
from ragops_pipelines.recipe import Recipe, query_encoder
from ragops_pipelines.rows import chunk_rows, document_digest, document_row
from ragops_pipelines.state import Known

BATCH = {"cpu": 64, "gpu": 1024}  # texts embedded and committed at once: what a killed run may do twice


class Embedding:
    """Chunks groups of documents, stages them for the dataset, and embeds each distinct new text once."""

    def __init__(self, job: Job, ledger: Ledger, recipe: Recipe, *, trusted: bool) -> None:
        self.job, self.ledger, self.recipe = job, ledger, recipe
        self.trusted = trusted  # the dataset's own vectors need not be made again
        self.pending: dict[str, str] = {}  # vector key -> text
        self.sample: list[str] = []  # real texts to check the query encoder with

    def add(self, group: Sequence[tuple[Known, Document]]) -> None:
        with self.ledger.timed("chunk"):
            documents = [document for _, document in group]
            chunked = self.recipe.chunker.chunk_many([(d.title, d.parsed) for d in documents])
            texts: dict[str, str] = {}
            space = self.recipe.space.fingerprint
            staged: list[tuple[str, bytes, bytes]] = []
            points: list[tuple[str, int, str, str]] = []
            for (known, document), chunks in zip(group, chunked, strict=True):
                row = document_row(document, *known.served[1:])
                rows = chunk_rows(row, chunks)
                identity = document.document_id
                staged.append((identity, orjson.dumps(row), orjson.dumps(rows)))
                for chunk, found in zip(chunks, rows, strict=True):
                    key = ids.vector_key(found["embed_sha"], space)
                    texts[key] = chunk.embed_text
                    points.append((identity, found["nth"], found["point_id"], key))
                self._record(known, document, rows)
            db = self.job.state.db
            permissions = [(d.document_id, permission_to_json(d.metadata)) for d in documents]
            db.execute("BEGIN")
            db.executemany("INSERT OR REPLACE INTO work.staged VALUES (?, ?, ?)", staged)
            db.executemany("INSERT OR IGNORE INTO work.gone VALUES (?)", [(row[0],) for row in staged])
            db.executemany("INSERT INTO work.wanted VALUES (?, ?, ?, ?)", points)
            db.executemany("INSERT OR REPLACE INTO work.permissions VALUES (?, ?)", permissions)
            db.execute("COMMIT")
            new = self._missing([key for key in texts if key not in self.pending])
            self.ledger.reused += sum(1 for key in texts if key not in new and key not in self.pending)
            self.pending.update((key, texts[key]) for key in texts if key in new)
            self.sample += list(texts.values())[: 16 - len(self.sample)]
        self.embed()

    def embed(self, *, all: bool = False) -> None:
        """Embed what is queued, in full batches, or `all` of it; each batch is in the cache before the next begins."""
        while self.pending:
            on_gpu = self.recipe.numerics and not self.recipe.numerics.endswith("cpu")
            size = BATCH["gpu" if on_gpu else "cpu"]
            if len(self.pending) < size and not all:
                return
            with self.ledger.timed("embed"):
                keys = list(self.pending)[:size]
                vectors = self.recipe.embedder.embed([self.pending[key] for key in keys])
                space = self.recipe.space.fingerprint
                self.job.cache.save_vectors(keys, vectors, space, [self.recipe.numerics])
            for key in keys:
                del self.pending[key]
            self.ledger.computed += len(keys)
            self.ledger.progress("embed", self.ledger.computed)

    def export_query_encoder(self) -> None:
        """Queries must not pay for torch: the model is exported once, checked against the original."""
        if query_encoder(self.job, self.recipe.space).exists():
            return
        manifest = None if self.sample else self.job.dataset.manifest()
        points = self.job.dataset.points(manifest) if manifest else iter(())
        self.ledger.progress("export", 0)
        with self.ledger.timed("embed"):
            export(self.job, self.recipe, self.sample or [p.payload["text"] for p in itertools.islice(points, 16)])

    def _missing(self, keys: Sequence[str]) -> set[str]:
        missing = self.job.cache.missing_vectors(keys)
        return missing - self.job.state.stored_vectors(missing) if self.trusted else missing

    def _record(self, known: Known, document: Document, rows: Sequence[Mapping[str, Any]]) -> None:
        digest = document_digest(document.document_id, document.version, rows)
        if known.document_id is None:
            self.ledger.added += 1
        elif not known.rejected and (known.raw_sha, known.metadata) != (known.doc_raw_sha, known.doc_metadata):
            self.ledger.changed += 1
        if not known.rejected:
            known.doc_raw_sha, known.doc_parse_key, known.doc_metadata = known.raw_sha, known.parse_key, known.metadata
        known.document_id, known.version, known.digest = document.document_id, document.version, digest
        known.chunks = len(rows)
        self.ledger.read(known)


def export(job: Job, recipe: Recipe, sample: Sequence[str]) -> None:
    """The query encoder of the recipe's space, checked on some texts, where there is none yet."""
    folder = query_encoder(job, recipe.space)
    if sample and not folder.exists():
        export_query_encoder(recipe.embedder, sample, folder)
