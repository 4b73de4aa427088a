"""Releases on a Qdrant server (or qdrant-client's local mode): one collection per release.

`<collection>--00000042` holds the points of release 42; `<collection>--meta` holds one point per sealed release and one
that names the live release. A collection without its point in meta is what a dead attempt left; the next write deletes
it. There is no lock between readers and `remove` here: prune with the readers in mind.
"""

from __future__ import annotations

import json
import os
import re
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ragops.errors import RagopsError, SpaceMismatch, StoreError, UsageError
from ragops.stores import bm25, manifest, ranking
from ragops.stores.batches import batches, check_ids
from ragops.stores.filters import for_server, parse
from ragops.stores.index import (
    DENSE,
    EF,
    FULL_SCAN_KB,
    HNSW_EF,
    HNSW_M,
    INDEXED_FIELDS,
    INDEXED_FROM,
    OVERSAMPLING,
    QUANTILE,
    SPARSE,
    kilobytes,
    settings,
)
from ragops.stores.manifest import Manifest
from ragops.types import Filter, Permission, Point, PointRow, Release, Scored

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

    from ragops.types import Vectors

_NAMESPACE = uuid.UUID("6f0b5d5e-6c3c-5b3e-9d3a-2b1f7c1f0a02")
_LIVE = str(uuid.uuid5(_NAMESPACE, "live"))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PAGE = 250  # points per request: with vectors and payloads far below the server's 32 MiB


def _ignore(_: int) -> None:
    return None


class QdrantStore:
    """The store of one collection behind a qdrant-client."""

    def __init__(self, client: QdrantClient, collection: str = "main", *, where: str = "the Qdrant server") -> None:
        """`where` names the server in messages."""
        if not _NAME.fullmatch(collection) or "--" in collection:
            raise UsageError(
                f"{collection!r} is no name for a collection",
                "Use up to 64 letters, digits, single '-', '_' and '.', with a letter or digit first.",
            )
        self.collection = collection
        self._client = client
        self._meta = f"{collection}--meta"
        self._where = where

    @classmethod
    def connect(cls, url: str, collection: str = "main", *, prefer_grpc: bool = False) -> QdrantStore:
        """The server at `url`; its key is taken from QDRANT_API_KEY."""
        from qdrant_client import QdrantClient

        try:
            client = QdrantClient(
                url=url,
                api_key=os.environ.get("QDRANT_API_KEY"),
                prefer_grpc=prefer_grpc,
                timeout=60,
                check_compatibility=False,
            )
        except ValueError as error:
            raise UsageError(
                f"{url!r} is no address of a Qdrant server: {error}", "Such as http://localhost:6333."
            ) from None
        return cls(client, collection, where=url)

    # ------------------------------------------------------------ reading
    def releases(self) -> list[Release]:
        """Sealed releases, oldest first."""
        with self._errors():
            return [seal.release for seal in self._manifests()]

    def numbers(self) -> list[int]:
        """Every number that a collection on the server or a manifest has."""
        name = re.compile(re.escape(self.collection) + r"--(\d{8,18})")
        with self._errors():
            found = (name.fullmatch(each.name) for each in self._client.get_collections().collections)
            return sorted({int(m[1]) for m in found if m} | {seal.release.number for seal in self._manifests()})

    def held(self) -> bool:
        """Whether the live release stays until somebody publishes another."""
        with self._errors():
            value = self._get(_LIVE)
            return bool(value and value.get("hold"))

    def live(self) -> Release | None:
        with self._errors():
            number = self._live_number()
            return None if number is None else self._manifest(number).release

    def open(self, number: int | None = None, *, unsound: bool = False) -> QdrantReader:
        """The live release, or the numbered one. Raises StoreError."""
        with self._errors():
            chosen = self._live_number() if number is None else number
            if chosen is None:
                raise StoreError(
                    f"Nothing is published in {self.collection} on {self._where} yet.", "Run `ragops ingest`."
                )
            return QdrantReader(self._client, self._name(chosen), self._manifest(chosen).release, self._where)

    def point_ids(self, number: int) -> Iterator[str]:
        """Ids of a sealed release, sorted."""
        with self._errors():
            self._manifest(number)
        for record in self._scroll(self._name(number), payload=False, vectors=False):
            yield str(record.id)

    def point_rows(self, number: int) -> Iterator[PointRow]:
        """The points of a sealed release by id: a server does not keep the vector key."""
        with self._errors():
            self._manifest(number)
        for record in self._scroll(self._name(number), payload=["chunk_id", "document_id", "uri"], vectors=False):
            payload = record.payload or {}
            yield PointRow(str(record.id), payload["chunk_id"], payload["document_id"], "", payload.get("uri") or "")

    def work(self, number: int) -> dict[str, int]:
        """What sealing a release cost: points copied of the base, points added."""
        with self._errors():
            return dict(self._manifest(number).work)

    def check(self, number: int | None = None) -> list[str]:
        """Whether each sealed release has its collection and its count of points, and LIVE its release."""
        found = []
        with self._errors():
            numbers = [seal.release.number for seal in self._manifests()] if number is None else [number]
            for each in numbers:
                expected = self._manifest(each).release.points
                name = self._name(each)
                if not self._client.collection_exists(name):
                    found.append(f"Release {each} is damaged: its collection {name} is missing on {self._where}.")
                elif (count := self._client.count(name, exact=True).count) != expected:
                    found.append(f"Release {each} is damaged: {name} has {count:,} points instead of {expected:,}.")
            if number is None:
                try:
                    self.live()
                except RagopsError as error:
                    found.append(error.message)
        return found

    # ------------------------------------------------------------ writing
    def write(
        self,
        release: Release,
        *,
        base: int | None,
        delete: Iterable[str],
        add: Iterable[tuple[Point, Sequence[float]]],
        progress: Callable[[int], None] = _ignore,
    ) -> Release:
        """Seal a new release, as `types.Store` says. The base is copied through this process."""
        if release.number < 1:
            raise StoreError(f"{release.number} is no number for a release: they count from 1.")
        with self._errors():
            self._prepare()
            name = self._name(release.number)
            if self._client.collection_exists(name):
                raise StoreError(f"Release {release.number} exists already on {self._where}.", "Use a new number.")
            if base is not None:
                self._check_base(self._manifest(base).release, release)
        try:
            return self._write(name, release, base, delete, add, progress)
        except BaseException:
            try:
                self._client.delete_collection(name)
            except Exception:  # the first error is the one to tell; the next write cleans up
                pass
            raise

    def tidy(self) -> None:
        """Nothing: the next write cleans what a dead attempt left."""

    def publish(self, number: int, *, hold: bool = False) -> None:
        """Make a sealed release the live one: one upsert of one point."""
        with self._errors():
            self._manifest(number)
            self._put(_LIVE, {"kind": "live", "number": number, "hold": hold})

    def permit(self, permissions: Mapping[str, Permission], *, upto: int) -> None:
        """Today's permissions of documents, by document id, in every release up to `upto`, newest first.

        Written into the points, some hundred documents a request; repeating it finishes what broke off.
        """
        from qdrant_client import models

        alike: dict[Permission, list[str]] = {}
        for document, (tenant, groups) in permissions.items():
            alike.setdefault((tenant, tuple(groups)), []).append(document)
        changes: list[models.SetPayloadOperation] = []
        for (tenant, groups), documents in alike.items():
            for start in range(0, len(documents), _PAGE):
                some = models.MatchAny(any=documents[start : start + _PAGE])
                those = models.Filter(must=[models.FieldCondition(key="document_id", match=some)])
                values = {"tenant": tenant, "groups": list(groups)}
                changes.append(models.SetPayloadOperation(set_payload=models.SetPayload(payload=values, filter=those)))
        with self._errors():
            numbers = [seal.release.number for seal in self._manifests() if seal.release.number <= upto]
            for number in reversed(numbers):
                for start in range(0, len(changes), _PAGE):
                    self._client.batch_update_points(self._name(number), changes[start : start + _PAGE], wait=True)

    def permitted(self, number: int) -> Mapping[str, Permission]:
        """Nothing: `permit` writes into the points themselves."""
        return {}

    def remove(self, number: int, *, timeout: float = 30.0) -> None:
        """Delete a sealed release that is not live. A server knows of no readers, so there is nothing to wait for."""
        with self._errors():
            self._manifest(number)
            if self._live_number() == number:
                raise StoreError(f"Release {number} is live and stays.", "Publish another one first.")
            self._client.delete(self._meta, points_selector=[_release_id(number)], wait=True)
            self._client.delete_collection(self._name(number))

    # ------------------------------------------------------------ below
    def _name(self, number: int) -> str:
        return f"{self.collection}--{number:08d}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with client_errors(self._where):
            yield

    def _prepare(self) -> None:
        from qdrant_client import models

        if not self._client.collection_exists(self._meta):
            one = {"none": models.VectorParams(size=1, distance=models.Distance.DOT)}
            self._client.create_collection(self._meta, vectors_config=one)
        sealed = {self._name(seal.release.number) for seal in self._manifests()}
        draft = re.compile(re.escape(self.collection) + r"--\d{8}")
        for found in self._client.get_collections().collections:
            if draft.fullmatch(found.name) and found.name not in sealed:
                self._client.delete_collection(found.name)

    def _check_base(self, old: Release, release: Release) -> None:
        if old.space.fingerprint != release.space.fingerprint or old.space.dim != release.space.dim:
            raise SpaceMismatch(
                f"release {release.number} is of the space {release.space.fingerprint[:12]}, "
                f"its base {old.number} of {old.space.fingerprint[:12]}",
                "A new space needs a clean build: base=None.",
            )
        if old.avg_len != release.avg_len:
            raise StoreError(
                f"release {release.number} has avg_len {release.avg_len}, its base {old.number} has {old.avg_len}",
                "avg_len is fixed per collection; another one needs a clean build: base=None.",
            )

    def _write(
        self,
        name: str,
        release: Release,
        base: int | None,
        delete: Iterable[str],
        add: Iterable[tuple[Point, Sequence[float]]],
        progress: Callable[[int], None],
    ) -> Release:
        from qdrant_client import models

        with self._errors():
            self._create(name, release.space.dim)
        gone = set(check_ids(delete))
        kept: set[str] = set()
        copied = 0
        if base is not None:
            some: list[models.PointStruct] = []
            for record in self._scroll(self._name(base), payload=True, vectors=True):
                id = str(record.id)
                if id in gone:
                    gone.discard(id)
                    continue
                kept.add(id)
                vectors: Any = record.vector
                some.append(models.PointStruct(id=id, vector=vectors, payload=record.payload))
                if len(some) == _PAGE:
                    self._upsert(name, some)
                    copied, some = copied + len(some), []
            self._upsert(name, some)
            copied += len(some)
        if gone:
            raise StoreError(
                f"{len(gone):,} points to delete are not in the base, such as {min(gone)}",
                "Nothing was published. `ragops verify --repair` builds the release from the dataset.",
            )
        encoder = bm25.Bm25(release.avg_len)
        added = 0
        for batch in batches(add, release.space.dim):
            fresh: list[models.PointStruct] = []
            for point, text, dense in zip(batch.points, batch.payloads, batch.vectors, strict=True):
                if point.point_id in kept:
                    raise StoreError(
                        f"point {point.point_id} is in the base already and was added again without being deleted",
                        "Nothing was published. `ragops verify --repair` builds the release from the dataset.",
                    )
                payload = json.loads(text)
                named: dict[str, Any] = {DENSE: dense.tolist()}
                tokens, weights = encoder.document(bm25.text_of(payload))
                if tokens:
                    named[SPARSE] = models.SparseVector(indices=tokens, values=weights)
                fresh.append(models.PointStruct(id=point.point_id, vector=named, payload=payload))
            self._upsert(name, fresh)
            added += len(fresh)
            progress(added)
        with self._errors():
            count = self._client.count(name, exact=True).count
            if count != release.points:
                raise StoreError(
                    f"release {release.number} has {count:,} points on {self._where} instead of {release.points:,}",
                    "Nothing was published. `ragops verify --repair` builds it from the dataset.",
                )
            sealed = replace(release, collection=self.collection)
            engine = {"name": "qdrant", "index": settings(release.space.dim)}
            seal = Manifest(sealed, engine, work={"copied_points": copied, "added": added})
            self._put(_release_id(release.number), {"kind": "release", "manifest": manifest.dump(seal)})
        return sealed

    def _create(self, name: str, dim: int) -> None:
        from qdrant_client import models

        self._client.create_collection(
            name,
            vectors_config={DENSE: models.VectorParams(size=dim, distance=models.Distance.COSINE)},
            sparse_vectors_config={SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)},
            hnsw_config=models.HnswConfigDiff(m=HNSW_M, ef_construct=HNSW_EF, full_scan_threshold=FULL_SCAN_KB),
            quantization_config=models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True, quantile=QUANTILE)
            ),
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=kilobytes(INDEXED_FROM, dim)),
        )
        for field in INDEXED_FIELDS:
            schema = models.KeywordIndexParams(
                type=models.KeywordIndexType.KEYWORD, is_tenant=field == "tenant" or None
            )
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Payload indexes have no effect")  # in local mode
                self._client.create_payload_index(name, field, field_schema=schema, wait=True)

    def _upsert(self, name: str, points: list[models.PointStruct]) -> None:
        for start in range(0, len(points), _PAGE):
            with self._errors():
                self._client.upsert(name, points[start : start + _PAGE], wait=True)

    def _scroll(self, name: str, *, payload: bool | list[str], vectors: bool) -> Iterator[models.Record]:
        yield from scroll(self._client, self._where, name, _PAGE, payload=payload, vectors=vectors)

    def _put(self, id: str, payload: Mapping[str, Any]) -> None:
        from qdrant_client import models

        # Kept as text: a server must not read numbers out of it in its own way.
        point = models.PointStruct(id=id, vector={"none": [1.0]}, payload={"json": json.dumps(payload)})
        self._client.upsert(self._meta, [point], wait=True)

    def _get(self, id: str) -> Any:
        if not self._client.collection_exists(self._meta):
            return None
        found = self._client.retrieve(self._meta, [id], with_payload=True)
        return json.loads((found[0].payload or {})["json"]) if found else None

    def _live_number(self) -> int | None:
        value = self._get(_LIVE)
        return None if value is None else int(value["number"])

    def _manifest(self, number: int) -> Manifest:
        value = self._get(_release_id(number))
        if value is None:
            raise StoreError(f"There is no release {number} of {self.collection} on {self._where}.", manifest.MEND)
        return manifest.load(value["manifest"], f"the manifest of release {number} on {self._where}")

    def _manifests(self) -> list[Manifest]:
        if not self._client.collection_exists(self._meta):
            return []
        found = []
        for record in self._scroll(self._meta, payload=True, vectors=False):
            value = json.loads((record.payload or {})["json"])
            if value["kind"] == "release":
                found.append(manifest.load(value["manifest"], f"a manifest in {self._meta} on {self._where}"))
        return sorted(found, key=lambda seal: seal.release.number)


class QdrantReader:
    """One release on a server."""

    def __init__(self, client: QdrantClient, name: str, release: Release, where: str) -> None:
        self.release = release
        self._client = client
        self._name = name
        self._where = where
        self._encoder: bm25.Bm25 | None = None

    def search(
        self, vector: Sequence[float], k: int, filter: Filter | None = None, *, exact: bool = False, offset: int = 0
    ) -> list[Scored]:
        from qdrant_client import models

        ranking.check_page(k, offset)
        query = ranking.unit(vector, self.release.space.dim)
        condition = for_server(parse(filter))

        def fetch(limit: int) -> list[tuple[str, float]]:
            if exact:
                quantization = models.QuantizationSearchParams(ignore=True)
            else:
                quantization = models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
            params = models.SearchParams(hnsw_ef=max(EF, limit), exact=exact, quantization=quantization)
            return self._query(query, DENSE, limit, condition, params)

        return self._scored(ranking.ranked(fetch, k, offset))

    def search_text(self, text: str, k: int, filter: Filter | None = None) -> list[Scored]:
        from qdrant_client import models

        ranking.check_page(k)
        condition = for_server(parse(filter))
        if self._encoder is None:
            self._encoder = bm25.Bm25(self.release.avg_len)
        tokens, weights = self._encoder.query(text)
        if not tokens:
            return []
        query = models.SparseVector(indices=tokens, values=weights)
        found = ranking.ranked(
            lambda limit: self._query(query, SPARSE, limit, condition, None), k, places=ranking.TEXT_PLACES
        )
        return self._scored(found)

    def _query(
        self,
        query: list[float] | models.SparseVector,
        using: str,
        limit: int,
        condition: models.Filter | None,
        params: models.SearchParams | None,
    ) -> list[tuple[str, float]]:
        limit = min(limit, max(1, self.release.points))
        with client_errors(self._where):
            found = self._client.query_points(
                self._name,
                query=query,
                using=using,
                limit=limit,
                query_filter=condition,
                search_params=params,
                with_payload=False,
            )
        return [(str(point.id), point.score) for point in found.points]

    def _scored(self, ranked: Sequence[tuple[str, float]]) -> list[Scored]:
        if not ranked:
            return []
        with client_errors(self._where):
            records = self._client.retrieve(self._name, [id for id, _ in ranked], with_payload=True)
        payloads = {str(record.id): record.payload or {} for record in records}
        return [Scored(id, score, payloads[id]) for id, score in ranked]

    def points(
        self, batch: int = 500, filter: Filter | None = None
    ) -> Iterator[tuple[str, Mapping[str, Any], Vectors]]:
        """Every point that matches, by id: id, payload, dense vector float32 (dim,) of unit length."""
        import numpy as np

        condition = for_server(parse(filter))
        for record in scroll(self._client, self._where, self._name, batch, condition, payload=True, vectors=[DENSE]):
            vectors: Any = record.vector
            yield str(record.id), record.payload or {}, np.asarray(vectors[DENSE], dtype=np.float32)

    def count(self, filter: Filter | None = None) -> int:
        with client_errors(self._where):
            return self._client.count(self._name, count_filter=for_server(parse(filter)), exact=True).count

    def close(self) -> None:
        """Nothing to give back: the client belongs to the store."""

    def __enter__(self) -> QdrantReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def scroll(
    client: QdrantClient,
    where: str,
    name: str,
    page: int,
    condition: models.Filter | None = None,
    *,
    payload: bool | list[str],
    vectors: bool | list[str],
) -> Iterator[models.Record]:
    """Every point of a collection that matches, by id, in pages."""
    offset: Any = None
    while True:
        with client_errors(where):
            records, offset = client.scroll(
                name, condition, limit=page, offset=offset, with_payload=payload, with_vectors=vectors
            )
        yield from records
        if offset is None:
            return


@contextmanager
def client_errors(where: str) -> Iterator[None]:
    """What qdrant-client raises, as StoreError."""
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    except ApiException as error:
        raise StoreError(f"{where} did not do what was asked: {error}", "`ragops doctor` checks the server.") from error
    except (ValueError, RuntimeError, ConnectionError) as error:
        raise StoreError(f"{where} refused: {error}", "`ragops doctor` checks the server.") from error
    except Exception as error:
        if isinstance(error, RagopsError) or not type(error).__module__.startswith("grpc"):
            raise
        raise StoreError(f"{where} did not answer: {error}", "`ragops doctor` checks the server.") from error


def _release_id(number: int) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"release/{number}"))
