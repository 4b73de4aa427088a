"""Documents, chunks, vectors and rejects as parquet: the artefact that a release is loaded from.

Documents and chunks stand in hash-prefix shards whose file names carry their content's hash, vectors in immutable
segments. `dataset.json` names the files that count and is replaced last, in one step: a crash leaves the old dataset
or the new one. A chunk's text is not written twice: it is `document.text[start:end]`.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ragops import durable, ids
from ragops.errors import StoreError
from ragops.types import Chunk, Document, Metadata, Point
from ragops_pipelines import shards
from ragops_pipelines.state import Cache, State, storable

if TYPE_CHECKING:
    import polars as pl

    from ragops.types import Vectors

SCHEMA = 1
PARTS = ("documents", "chunks", "vectors", "rejects")
SEGMENT_ROWS = 8192


class Dataset:
    """`data/dataset` of a workspace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "dataset.json"

    def manifest(self) -> dict[str, Any] | None:
        """What `dataset.json` says, or None where there is no dataset. Raises SchemaError, StoreError."""
        return shards.read_manifest(self.file, SCHEMA)

    # ------------------------------------------------------------------ writing
    def write(
        self, state: State, cache: Cache, recipe: Mapping[str, str], fingerprint: str, *, anew: bool, trusted: bool
    ) -> tuple[str, int]:
        """Merge the staged documents of this run with the dataset on disk, in new files beside those that count.

        `state` already says what the dataset must hold; `work.gone` names the documents that left or changed. `anew`:
        every document is staged; `trusted`: stored vectors may be kept. Returns what `adopt` puts into dataset.json
        to make the files count, and the bytes written.
        """
        for part in PARTS:
            durable.make_folder(self.folder / part)
        old = None if anew else self.manifest()
        old_count = old["shards"] if old else 1
        count = shards.shard_count(state.documents())
        gone = {row[0] for row in state.db.execute("SELECT document_id FROM work.gone")}
        staged: dict[int, list[str]] = {}
        for document, prefix in state.db.execute("SELECT document_id, prefix FROM work.staged ORDER BY document_id"):
            staged.setdefault(prefix % count, []).append(document)
        everything = old is None or count != old_count
        touched = range(count) if everything else sorted({*staged, *(shards.prefix(d) % count for d in gone)})
        files: dict[str, dict[str, str]] = {
            part: {} if old is None or everything else dict(old[part]) for part in ("documents", "chunks")
        }
        written = 0
        for shard in touched:
            new = [_staged(state, document) for document in staged.get(shard, ())]
            for part, rows in (
                ("documents", [document for document, _ in new]),
                ("chunks", [chunk for _, chunks in new for chunk in chunks]),
            ):
                frame = _frame(part, [*rows, *self._kept(part, old, shard, count, gone)])
                files[part].pop(f"{shard:03x}", None)
                if not frame.is_empty():
                    name, size = shards.write_named(frame, self.folder / part, f"{shard:03x}")
                    files[part][f"{shard:03x}"] = name
                    written += size
        segments, size = self._write_vectors(state, cache, trusted=trusted)
        manifest = {
            "schema": SCHEMA,
            "fingerprint": fingerprint,
            "recipe": dict(recipe),
            "shards": count,
            "counts": {"documents": state.documents(), "chunks": state.count("points")},
            **files,
            "vectors": segments,
        }
        for part in PARTS:
            durable.sync(self.folder / part)
        return json.dumps(manifest, indent=1, sort_keys=True) + "\n", written + size

    def adopt(self, state: State, text: str) -> None:
        """Make what `write` wrote count, and remove what no longer does. May be repeated."""
        self._write_rejects(state)
        durable.write_atomic(self.file, text.encode())
        manifest = json.loads(text)
        for part in ("documents", "chunks", "vectors"):
            wanted = set(manifest[part] if part == "vectors" else manifest[part].values())
            shards.sweep(self.folder / part, wanted)

    def digest(self) -> str | None:
        """Of what `dataset.json` says, or None where there is none: tells whether it is still the recorded one."""
        return durable.digest(self.file)

    def _kept(
        self, part: str, old: Mapping[str, Any] | None, shard: int, count: int, gone: set[str]
    ) -> Iterator[dict[str, Any]]:
        """Rows of the dataset on disk that belong to `shard` and stay."""
        if old is None:
            return
        for source in shards.sources_of(shard, count, old["shards"]):
            if (name := old[part].get(f"{source:03x}")) is not None:
                for row in self._read(part, name).to_dicts():
                    if shards.prefix(row["document_id"]) % count == shard and row["document_id"] not in gone:
                        yield row

    def _write_vectors(self, state: State, cache: Cache, *, trusted: bool) -> tuple[list[str], int]:
        """New vectors to new segments; all of them again when a quarter of what is stored is dead."""
        db = state.db
        new = "SELECT DISTINCT vector_key FROM work.wanted WHERE vector_key NOT IN (SELECT vector_key FROM stored)"
        keys = [key for (key,) in db.execute(f"{new} ORDER BY vector_key")]
        stored = state.count("stored")
        # Every point that left may have been the last to need its vector. They are counted out, which takes time in
        # proportion to the dataset, only where that could come to a quarter.
        dead = (state.get("dead_vectors") or 0) + state.count("work.old")
        if dead > stored // 4:
            live = db.execute("SELECT count(DISTINCT vector_key) FROM points").fetchone()[0]
            dead = stored + len(keys) - live
        rebuild = not trusted or dead > stored // 4
        names = set() if rebuild else {row[0] for row in db.execute("SELECT DISTINCT segment FROM stored")}
        if rebuild:
            dead = 0
            keys = [key for (key,) in db.execute("SELECT DISTINCT vector_key FROM points ORDER BY vector_key")]
        state.put("dead_vectors", dead)
        found: list[tuple[str, str]] = []
        written = 0
        for i in range(0, len(keys), SEGMENT_ROWS):
            some = keys[i : i + SEGMENT_ROWS]
            vectors = self.vectors(state, cache, some)
            frame = _vector_frame(some, [vectors[k] for k in some])
            # vectors do not compress
            name, size = shards.write_named(frame, self.folder / "vectors", "segment", "uncompressed")
            found += [(key, name) for key in some]
            names.add(name)
            written += size
        if rebuild:
            db.execute("DELETE FROM stored")
        db.executemany("INSERT OR REPLACE INTO stored VALUES (?, ?)", found)
        return sorted(names), written

    def _write_rejects(self, state: State) -> None:
        import polars as pl

        names = ["uri", "source", "raw_sha", "stage", "code", "reason", "hint", "transient"]
        schema = {name: pl.Boolean if name == "transient" else pl.String for name in names}
        rows = [[reject[name] for name in names] for reject in state.rejects()]
        shards.write_parquet(
            pl.DataFrame(rows, schema=schema, orient="row"), self.folder / "rejects" / "rejects.parquet"
        )

    # ------------------------------------------------------------------ reading
    def _read(self, part: str, name: str) -> pl.DataFrame:
        import polars as pl

        file = self.folder / part / name
        try:
            data = file.read_bytes()
            if not shards.is_named(name, ids.sha256(data)):
                raise StoreError(f"{file} is damaged: its content does not match its name", shards.MEND)
            return pl.read_parquet(data)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise StoreError(f"{file} cannot be read: {error}", shards.MEND) from error

    def points(self, manifest: Mapping[str, Any], wanted: Mapping[str, set[str]] | None = None) -> Iterator[Point]:
        """Points as a store keeps them, shard by shard; `wanted`: document id -> point ids, None for all."""
        import polars as pl

        chosen = None if wanted is None else {f"{shards.prefix(d) % manifest['shards']:03x}" for d in wanted}
        for shard, name in sorted(manifest["documents"].items()):
            if (chosen is not None and shard not in chosen) or shard not in manifest["chunks"]:
                continue
            documents = self._read("documents", name).drop("spans", "raw_sha", "version", "parser")
            chunks = self._read("chunks", manifest["chunks"][shard]).drop("embed_sha", "nth")
            if wanted is not None:
                documents = documents.filter(pl.col("document_id").is_in(list(wanted)))
            texts = {
                row["document_id"]: (row, orjson.loads(row["fields"]), row["text"]) for row in documents.to_dicts()
            }
            for row in chunks.to_dicts():
                found = texts.get(row["document_id"])
                if found is None or (wanted is not None and row["point_id"] not in wanted[row["document_id"]]):
                    continue
                document, meta, text = found
                body = payload(document, meta, row, text[row["start"] : row["end"]])
                body["payload_sha"] = row["payload_sha"]
                yield Point(row["point_id"], row["chunk_id"], row["document_id"], row["vector_key"], body)

    def segments(self, manifest: Mapping[str, Any]) -> Iterator[tuple[list[str], Vectors]]:
        """Keys and vectors, float32 (keys, dim), segment by segment. Raises StoreError for a damaged one."""
        for name in manifest["vectors"]:
            frame = self._read("vectors", name)
            yield frame["vector_key"].to_list(), frame["vector"].to_numpy()

    def stored(self, manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """(vector key, segment) of every vector that stands in a sound segment; damaged ones are passed over."""
        for name in manifest["vectors"]:
            try:
                keys = self._read("vectors", name)["vector_key"].to_list()
            except StoreError:
                continue
            yield from ((key, name) for key in keys)

    def prime(self, manifest: Mapping[str, Any], cache: Cache) -> None:
        """Put the vectors that the cache lacks into it: many are then found without reading segments over and over."""
        for keys, vectors in self.segments(manifest):
            missing = cache.missing_vectors(keys)
            rows = [i for i, key in enumerate(keys) if key in missing]
            if rows:
                cache.save_vectors([keys[i] for i in rows], vectors[rows])

    def vectors(self, state: State, cache: Cache, keys: Sequence[str]) -> dict[str, array[float]]:
        """key -> float32 (dim,), from the cache or else from the segments. Raises StoreError when one is nowhere."""
        found = cache.vectors(keys)
        missing = [key for key in keys if key not in found]
        if missing:
            import polars as pl

            marks = ",".join("?" * len(missing))
            names = state.db.execute(f"SELECT DISTINCT segment FROM stored WHERE vector_key IN ({marks})", missing)
            for (name,) in list(names):
                rows = self._read("vectors", name).filter(pl.col("vector_key").is_in(missing))
                for key, vector in rows.iter_rows():
                    found[key] = array("f", vector)
        lost = next((key for key in keys if key not in found), None)
        if lost is not None:
            raise StoreError(f"the vector {ids.short(lost)} is missing", shards.MEND)
        return found


def payload(document: Mapping[str, Any], meta: Any, chunk: Mapping[str, Any], text: str) -> dict[str, Any]:
    """What the store keeps of a chunk (see CONVENTIONS), without its own hash. `meta`: the document's fields."""
    return {
        "chunk_id": chunk["chunk_id"],
        "document_id": document["document_id"],
        "uri": document["uri"],
        "source": document["source"],
        "title": document["title"],
        "heading": chunk["heading"],
        "page": chunk["page"],
        "start": chunk["start"],
        "end": chunk["end"],
        "text": text,
        "tenant": document["tenant"],
        "groups": document["groups"],
        "meta": meta,
    }


def document_row(document: Document) -> dict[str, Any]:
    """A document as the dataset writes it."""
    parsed, metadata = document.parsed, document.metadata
    return {
        "document_id": document.document_id,
        "uri": document.uri,
        "source": document.source,
        "raw_sha": document.raw_sha,
        "version": document.version,
        "title": document.title,
        "text": parsed.text,
        "spans": orjson.dumps([[s.kind, s.start, s.end, s.level, s.page] for s in parsed.spans]).decode(),
        "tenant": metadata.tenant,
        "groups": list(metadata.groups),
        "fields": orjson.dumps(dict(metadata.fields), option=orjson.OPT_SORT_KEYS).decode(),
        "parser": parsed.parser,
    }


def chunk_rows(document: Mapping[str, Any], chunks: Iterable[Chunk], space: str) -> list[dict[str, Any]]:
    """Chunks under their identities. Equal texts in one document are told apart by their order."""
    rows: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for nth, chunk in enumerate(chunks):
        embed_sha = ids.sha256_text(chunk.embed_text)
        again = seen[embed_sha] = seen.get(embed_sha, -1) + 1
        chunk_id = ids.chunk_id(document["document_id"], embed_sha, again)
        row: dict[str, Any] = {
            "document_id": document["document_id"],
            "nth": nth,
            "chunk_id": chunk_id,
            "start": chunk.start,
            "end": chunk.end,
            "heading": list(chunk.heading),
            "page": chunk.page,
            "embed_sha": embed_sha,
            "vector_key": ids.vector_key(embed_sha, space),
        }
        row["payload_sha"] = ids.payload_sha(payload(document, None, row, chunk.text), document["fields"])
        row["point_id"] = ids.point_id(chunk_id, row["payload_sha"])
        rows.append(row)
    return rows


def merge_metadata(seen: Metadata, inside: Mapping[str, Any]) -> Metadata:
    """What the connector says wins over what the document says of itself (its front matter)."""
    fields = dict(inside)
    title, tenant, groups = fields.pop("title", None), fields.pop("tenant", None), fields.pop("groups", None)
    if isinstance(groups, str):
        groups = [groups]
    return Metadata(
        seen.title or (title if isinstance(title, str) else None),
        seen.tenant or (tenant if isinstance(tenant, str) else ""),
        seen.groups or (tuple(str(g) for g in groups) if isinstance(groups, list) else ()),
        storable({**fields, **seen.fields}),
    )


def _staged(state: State, document: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    row = state.db.execute("SELECT document, chunks FROM work.staged WHERE document_id = ?", (document,)).fetchone()
    return orjson.loads(row[0]), orjson.loads(row[1])


def _frame(part: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    import polars as pl

    text, number, texts = pl.String, pl.Int64, pl.List(pl.String)
    schemas: dict[str, dict[str, Any]] = {
        "documents": {
            "document_id": text, "uri": text, "source": text, "raw_sha": text, "version": text, "title": text,
            "text": text, "spans": text, "tenant": text, "groups": texts, "fields": text, "parser": text,
        },
        "chunks": {
            "document_id": text, "nth": number, "chunk_id": text, "point_id": text, "start": number, "end": number,
            "heading": texts, "page": number, "embed_sha": text, "vector_key": text, "payload_sha": text,
        },
    }  # fmt: skip
    key = (lambda r: r["document_id"]) if part == "documents" else (lambda r: (r["document_id"], r["nth"]))
    rows = sorted(rows, key=key)

    def column(name: str, kind: Any) -> pl.Series:
        if kind != texts:
            return pl.Series(name, [row[name] for row in rows], dtype=kind)
        # through JSON: a list in a row would become a series of its own first
        return pl.Series(name, [orjson.dumps(row[name]).decode() for row in rows], dtype=text).str.json_decode(kind)

    return pl.DataFrame([column(name, kind) for name, kind in schemas[part].items()])


def _vector_frame(keys: Sequence[str], vectors: Sequence[array[float]]) -> pl.DataFrame:
    import numpy as np
    import polars as pl

    matrix = np.array(vectors, dtype=np.float32)
    return pl.DataFrame(
        {"vector_key": keys, "vector": pl.Series(matrix, dtype=pl.Array(pl.Float32, matrix.shape[1]))},
    )
