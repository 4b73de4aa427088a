"""Documents, chunks, vectors and rejects as parquet: the artefact that a release is loaded from.

Each part is a folder of immutable segments (see `segments`) with a `manifest.json` that names those that count. The
chunks of a segment of documents stand in a file of their own. `dataset.json` binds the parts together by their
manifests' hashes and is replaced last, so a crash leaves the old dataset or the new one. A chunk's text is not written
twice: it is `document.text[start:end]`.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ragops import durable, ids
from ragops.errors import StoreError
from ragops.types import Point
from ragops_pipelines import rows, segments
from ragops_pipelines.segments import Segment
from ragops_pipelines.state import Cache, State

if TYPE_CHECKING:
    import polars as pl

    from ragops.types import Vectors

SCHEMA = 2
TABLES = ("documents", "chunks", "vectors")
PARTS = (*TABLES, "rejects")
FILE = "manifest.json"
PLOT = "sources.csv"
FLOAT32 = 4  # bytes
REJECTS = ("uri", "source", "raw_sha", "stage", "code", "reason", "hint", "transient")


@dataclass(slots=True)
class Manifest:
    """What a dataset says of itself: `dataset.json` and the manifests of its parts."""

    recipe: Mapping[str, str] = field(default_factory=dict)  # chunker and space, by their fingerprints
    space: Mapping[str, Any] = field(default_factory=dict)  # the vector space in full
    numerics: Sequence[str] = ()  # of the runs that embedded
    fingerprint: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    documents: dict[str, Segment] = field(default_factory=dict)  # by name
    chunks: dict[str, str] = field(default_factory=dict)  # segment of documents -> file of its chunks
    vectors: dict[str, Segment] = field(default_factory=dict)  # by name

    def texts(self) -> dict[str, str]:
        """The files that say it, by path in the dataset's folder; in the order in which they are to be written."""
        parts = {
            "documents": documents_text(self.documents),
            "chunks": chunks_text(self.recipe["chunker"], self.chunks),
            "vectors": vectors_text(self.recipe["space"], self.vectors),
        }
        whole = {
            "fingerprint": self.fingerprint,
            "recipe": dict(self.recipe),
            "space": dict(self.space),
            "numerics": list(self.numerics),
            "counts": dict(self.counts),
            "parts": {part: ids.sha256(text.encode()) for part, text in parts.items()},
        }
        return {f"{part}/{FILE}": text for part, text in parts.items()} | {"dataset.json": _text(whole)}


def documents_text(documents: Mapping[str, Segment]) -> str:
    return _text({"segments": _listed(documents)})


def chunks_text(chunker: str, files: Mapping[str, str]) -> str:
    return _text({"chunker": chunker, "files": dict(files)})


def vectors_text(space: str, vectors: Mapping[str, Segment]) -> str:
    return _text({"space": space, "segments": _listed(vectors)})


def sources_csv(rows: Iterable[tuple[str, int, int]]) -> str:
    """What `dvc plots` draws: documents and chunks by source."""
    return "source,documents,chunks\n" + "".join(f"{name},{documents},{chunks}\n" for name, documents, chunks in rows)


class Dataset:
    """`data/dataset` of a workspace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "dataset.json"

    def manifest(self) -> Manifest | None:
        """What the dataset says of itself, None where there is none. Raises SchemaError; StoreError where parts of it
        are damaged, missing or of another dataset."""
        found = segments.read_manifest(self.file, SCHEMA)
        if found is None:
            return None
        try:
            manifest = Manifest(
                found["recipe"], found["space"], found["numerics"], found["fingerprint"], found["counts"]
            )  # fmt: skip
            for part in TABLES:
                if durable.digest(self.folder / part / FILE) != found["parts"][part]:
                    raise StoreError(
                        f"{self.folder / part / FILE} is not the one that {self.file.name} names", segments.MEND
                    )
            self.read_documents(manifest)
            self.read_chunks(manifest)
            self.read_vectors(manifest)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{self.file} is damaged: {error!r}", segments.MEND) from error
        return manifest

    # -- one part's manifest into `manifest`; what a part was made by, None where there is no such part
    def read_documents(self, manifest: Manifest) -> bool:
        found = segments.read_manifest(self.folder / "documents" / FILE, SCHEMA)
        manifest.documents = _named(found)
        return found is not None

    def read_chunks(self, manifest: Manifest) -> str | None:
        found = segments.read_manifest(self.folder / "chunks" / FILE, SCHEMA)
        manifest.chunks = dict(found["files"]) if found else {}
        return found["chunker"] if found else None

    def read_vectors(self, manifest: Manifest) -> str | None:
        found = segments.read_manifest(self.folder / "vectors" / FILE, SCHEMA)
        manifest.vectors = _named(found)
        return found["space"] if found else None

    def digest(self) -> str | None:
        """Of what `dataset.json` says, or None where there is none: tells whether it is still the recorded one."""
        return durable.digest(self.file)

    # ------------------------------------------------------------------ writing
    def write(
        self, state: State, cache: Cache, manifest: Manifest, *, anew: bool, trusted: bool, compact: bool = False
    ) -> tuple[dict[str, str], int]:
        """Merge the staged documents of this run with the dataset on disk, in new files beside those that count.

        `state` already says what the dataset must hold; `work.gone` names the documents that left or changed.
        `manifest` brings recipe, space and fingerprint. `anew`: every document is staged; `trusted`: stored vectors
        may be kept; `compact`: what no longer counts leaves the disk. Returns what `adopt` writes to make the files
        count, and the bytes written.
        """
        self.make_folders()
        db = state.db
        old = None if anew else self.manifest()
        if old is None:
            db.execute("DELETE FROM placed WHERE part = 'documents'")
            manifest.vectors = self._salvaged(state, manifest.space)
        else:
            manifest.documents, manifest.chunks, manifest.vectors = old.documents, old.chunks, old.vectors
            state.strike("documents", manifest.documents, "SELECT document_id FROM work.gone")
        sizes = db.execute("SELECT document_id, length(document) FROM work.staged ORDER BY document_id").fetchall()
        worn = segments.worn(manifest.documents.values(), sum(size for _, size in sizes), compact=compact)
        for segment in worn:
            del manifest.documents[segment.name]
        written = 0
        for documents, chunks in self._merged(worn, manifest.chunks):
            written += self._add(state, manifest, documents, chunks)
        for batch in segments.batches(sizes):
            documents, chunks = staged(state, batch[0], batch[-1])
            written += self._add(state, manifest, documents, chunks)
        manifest.chunks = {name: manifest.chunks[name] for name in manifest.documents}
        written += self.add_vectors(state, cache, manifest, trusted=trusted, compact=compact)
        manifest.counts = {
            "documents": state.documents(), "chunks": state.count("points"), "vectors": state.count("stored")
        }  # fmt: skip
        for part in PARTS:
            durable.sync(self.folder / part)
        by_source = "SELECT source, count(*), sum(chunks) FROM sources WHERE document_id IS NOT NULL GROUP BY source"
        sources = db.execute(f"{by_source} ORDER BY source")
        return manifest.texts() | {PLOT: sources_csv(sources)}, written

    def make_folders(self) -> None:
        for part in PARTS:
            durable.make_folder(self.folder / part)

    def adopt(self, texts: Mapping[str, str], rejects: Iterable[Mapping[str, Any]]) -> None:
        """Make what `write` wrote count, and remove what no longer does. May be repeated."""
        self.write_rejects(rejects)
        self.point(texts)

    def point(self, texts: Mapping[str, str]) -> None:
        """Write what makes files count, `dataset.json` last, and remove the files that then count no more."""
        for path in sorted(texts, key=lambda path: path == self.file.name):
            durable.write_atomic(self.folder / path, texts[path].encode())
        self.sweep()

    def sweep(self) -> None:
        """Remove the files that no manifest names."""
        manifest = Manifest()
        self.read_documents(manifest)
        self.read_chunks(manifest)
        self.read_vectors(manifest)
        for part, names in (
            ("documents", manifest.documents), ("chunks", manifest.chunks.values()), ("vectors", manifest.vectors)
        ):  # fmt: skip
            segments.sweep(self.folder / part, {*names, FILE})

    def write_documents(self, documents: pl.DataFrame) -> tuple[Segment, int]:
        name, size = segments.write(documents, self.folder / "documents")
        weight = sum(int(documents[name].str.len_bytes().sum()) for name in ("text", "spans"))
        return Segment(name, documents.height, weight), size

    def write_chunks(self, chunks: pl.DataFrame) -> tuple[str, int]:
        return segments.write(chunks, self.folder / "chunks")

    def write_vectors(self, keys: Sequence[str], vectors: Mapping[str, array[float]]) -> tuple[Segment, int]:
        import numpy as np
        import polars as pl

        matrix = np.array([vectors[key] for key in keys], dtype=np.float32)
        column = pl.Series(matrix, dtype=pl.Array(pl.Float32, matrix.shape[1]))
        frame = pl.DataFrame({"vector_key": keys, "vector": column})
        name, size = segments.write(frame, self.folder / "vectors", "uncompressed")  # vectors do not compress
        return Segment(name, len(keys), matrix.nbytes), size

    def write_rejects(self, rejects: Iterable[Mapping[str, Any]]) -> None:
        """Bound by their own manifest alone: DVC's stage that writes `dataset.json` does not see them."""
        import polars as pl

        schema = {name: pl.Boolean if name == "transient" else pl.String for name in REJECTS}
        found = [[reject[name] for name in REJECTS] for reject in rejects]
        folder = self.folder / "rejects"
        name, _ = segments.write(pl.DataFrame(found, schema=schema, orient="row"), folder)
        durable.sync(folder)
        durable.write_atomic(folder / FILE, _text({"file": name}).encode())
        segments.sweep(folder, {name, FILE})

    def _add(self, state: State, manifest: Manifest, documents: pl.DataFrame, chunks: pl.DataFrame) -> int:
        segment, size = self.write_documents(documents)
        manifest.documents[segment.name] = segment
        manifest.chunks[segment.name], more = self.write_chunks(chunks)
        state.place("documents", documents["document_id"].to_list(), segment.name)
        return size + more

    def _merged(self, worn: Iterable[Segment], files: Mapping[str, str]) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """The rows of the segments that still count, in segments that are full where there are enough of them."""
        import polars as pl

        def merged() -> tuple[pl.DataFrame, pl.DataFrame]:
            return pl.concat(documents).sort("document_id"), pl.concat(chunks).sort("document_id", "nth")

        documents: list[pl.DataFrame] = []
        chunks: list[pl.DataFrame] = []
        weight = 0
        for segment in worn:
            if not segment.live:
                continue
            some = segments.living(self._read("documents", segment.name), segment)
            size = segment.size * segment.live // segment.rows
            if documents and (weight + size > segments.FULL or sum(map(len, documents)) + len(some) > segments.ROWS):
                yield merged()
                documents, chunks, weight = [], [], 0
            documents.append(some)
            chunks.append(
                self._read("chunks", files[segment.name]).join(
                    some, on="document_id", how="semi", maintain_order="left"
                )
            )
            weight += size
        if documents:
            yield merged()

    def _salvaged(self, state: State, space: Mapping[str, Any]) -> dict[str, Segment]:
        """The segments of vectors that stay when everything else is made anew."""
        found = state.db.execute("SELECT segment, count(*) FROM stored GROUP BY segment ORDER BY segment")
        return {
            name: Segment(name, count, count * FLOAT32 * space["dim"])
            for name, count in found.fetchall()
            if (self.folder / "vectors" / name).exists()
        }

    def add_vectors(self, state: State, cache: Cache, manifest: Manifest, *, trusted: bool, compact: bool) -> int:
        """New vectors to new segments; all of them again when a quarter of what is stored is dead."""
        db = state.db
        new = "SELECT DISTINCT vector_key FROM work.wanted WHERE vector_key NOT IN (SELECT vector_key FROM stored)"
        keys = [key for (key,) in db.execute(f"{new} ORDER BY vector_key")]
        stored = state.count("stored")
        # Every point that left may have been the last to need its vector. They are counted out, which takes time in
        # proportion to the dataset, only where that could come to a quarter.
        dead = (state.get("dead_vectors") or 0) + state.count("work.old")
        if compact or dead > stored // 4:
            live = db.execute("SELECT count(DISTINCT vector_key) FROM points").fetchone()[0]
            dead = stored + len(keys) - live
        rebuild = not trusted or dead > (0 if compact else stored // 4)
        if rebuild:
            dead, manifest.vectors = 0, {}
            keys = [key for (key,) in db.execute("SELECT DISTINCT vector_key FROM points ORDER BY vector_key")]
        state.put("dead_vectors", dead)
        # what is small is merged with its like; the vectors of the worn are read before they leave
        worn = segments.worn(manifest.vectors.values(), len(keys) * FLOAT32 * manifest.space["dim"])
        written = 0
        for segment in worn:
            del manifest.vectors[segment.name]
        marks = ",".join("?" * len(worn))
        again = f"SELECT vector_key FROM stored WHERE segment IN ({marks}) ORDER BY vector_key"
        keys += [key for (key,) in db.execute(again, [segment.name for segment in worn])] if worn else []
        found: list[tuple[str, str]] = []
        for i in range(0, len(keys), segments.ROWS):
            some = keys[i : i + segments.ROWS]
            segment, size = self.write_vectors(some, self.vectors(state, cache, some))
            manifest.vectors[segment.name] = segment
            found += [(key, segment.name) for key in some]
            written += size
        if rebuild:
            db.execute("DELETE FROM stored")
        db.executemany("INSERT OR REPLACE INTO stored VALUES (?, ?)", found)
        return written

    # ------------------------------------------------------------------ reading
    def _read(self, part: str, name: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        return segments.read(self.folder / part / name, columns)

    def documents(self, manifest: Manifest, columns: Sequence[str] | None = None) -> Iterator[tuple[str, pl.DataFrame]]:
        """The documents that count with their `row` in the segment, by segment."""
        for name, segment in sorted(manifest.documents.items()):
            frame = self._read("documents", name, columns).with_row_index("row")
            yield name, segments.living(frame, segment)

    def rows(self, manifest: Manifest, within: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The documents that count of some segments."""
        for name in sorted(within):
            yield from segments.living(self._read("documents", name), manifest.documents[name]).iter_rows(named=True)

    def chunks(self, manifest: Manifest, name: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The chunks of a segment of documents; those of documents that do not count are among them."""
        return self._read("chunks", manifest.chunks[name], columns)

    def points(
        self, manifest: Manifest, wanted: Mapping[str, set[str]] | None = None, within: Collection[str] | None = None
    ) -> Iterator[Point]:
        """Points as a store keeps them. `wanted`: document id -> point ids, None for all; they stand in the segments
        `within`, None for any."""
        import polars as pl

        space = manifest.recipe["space"]
        for name, segment in sorted(manifest.documents.items()):
            if within is not None and name not in within:
                continue
            documents = segments.living(self._read("documents", name), segment)
            documents = documents.drop("spans", "raw_sha", "version", "parser", "parse_key", "seen")
            if wanted is not None:
                documents = documents.filter(pl.col("document_id").is_in(list(wanted)))
            texts = {
                row["document_id"]: (row, orjson.loads(row["fields"]), row["text"]) for row in documents.to_dicts()
            }
            chunks = self.chunks(manifest, name)
            if len(texts) < segment.rows:
                chunks = chunks.filter(pl.col("document_id").is_in(list(texts)))
            for row in chunks.drop("nth").to_dicts():
                if wanted is not None and row["point_id"] not in wanted[row["document_id"]]:
                    continue
                document, meta, text = texts[row["document_id"]]
                body = rows.payload(document, meta, row, text[row["start"] : row["end"]])
                body["payload_sha"] = row["payload_sha"]
                key = ids.vector_key(row["embed_sha"], space)
                yield Point(row["point_id"], row["chunk_id"], row["document_id"], key, body)

    def rejects(self) -> list[dict[str, Any]]:
        """Raises StoreError where they are missing or damaged, SchemaError."""
        file = self.folder / "rejects" / FILE
        found = segments.read_manifest(file, SCHEMA)
        if found is None:
            raise StoreError(f"{file} is missing", segments.MEND)
        try:
            name = str(found["file"])
        except KeyError as error:
            raise StoreError(f"{file} is damaged: {error!r}", segments.MEND) from error
        return self._read("rejects", name).to_dicts()

    def segments(self, manifest: Manifest) -> Iterator[tuple[list[str], Vectors]]:
        """Keys and vectors, float32 (keys, dim), segment by segment. Raises StoreError for a damaged one."""
        for name in manifest.vectors:
            frame = self._read("vectors", name)
            yield frame["vector_key"].to_list(), frame["vector"].to_numpy()

    def stored(self, manifest: Manifest) -> Iterator[tuple[str, str]]:
        """(vector key, segment) of every vector that stands in a sound segment; damaged ones are passed over."""
        for name in manifest.vectors:
            try:
                keys = self._read("vectors", name)["vector_key"].to_list()
            except StoreError:
                continue
            yield from ((key, name) for key in keys)

    def prime(self, manifest: Manifest, cache: Cache) -> None:
        """Put the vectors that the cache lacks into it: many are then found without reading segments over and over."""
        for keys, vectors in self.segments(manifest):
            missing = cache.missing_vectors(keys)
            found = [i for i, key in enumerate(keys) if key in missing]
            if found:
                new = [keys[i] for i in found]
                cache.save_vectors(new, vectors[found], manifest.recipe["space"], manifest.numerics)

    def vectors(self, state: State, cache: Cache, keys: Sequence[str]) -> dict[str, array[float]]:
        """key -> float32 (dim,), from the cache or else from the segments. Raises StoreError when one is nowhere."""
        found = cache.vectors(keys)
        missing = [key for key in keys if key not in found]
        if missing:
            import polars as pl

            for name in state.segments_of_vectors(missing):
                frame = self._read("vectors", name).filter(pl.col("vector_key").is_in(missing))
                for key, vector in frame.iter_rows():
                    found[key] = array("f", vector)
        lost = next((key for key in keys if key not in found), None)
        if lost is not None:
            raise StoreError(f"the vector {ids.short(lost)} is missing", segments.MEND)
        return found


def staged(state: State, first: str, last: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    documents: list[dict[str, Any]] = []
    chunks: list[dict[str, Any]] = []
    query = "SELECT document, chunks FROM work.staged WHERE document_id BETWEEN ? AND ? ORDER BY document_id"
    for document, some in state.db.execute(query, (first, last)):
        documents.append(orjson.loads(document))
        chunks += orjson.loads(some)
    return rows.frame("documents", documents), rows.frame("chunks", chunks)


def _listed(found: Mapping[str, Segment]) -> list[dict[str, Any]]:
    return [segment.as_dict() for _, segment in sorted(found.items())]


def _named(found: Mapping[str, Any] | None) -> dict[str, Segment]:
    return {segment.name: segment for segment in map(Segment.of, found["segments"] if found else ())}


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps({"schema": SCHEMA, **value}, indent=1, sort_keys=True) + "\n"
