"""Releases on a Qdrant server (or qdrant-client's local mode).

Within one vector space all releases share a collection, `<collection>--00000042` after the release that began it. Its
points carry the numbers of the releases that added and removed them (`versions`), so a release costs what changed.
A new space, another `avg_len` or a clean build begins another collection; with `layout: collection_per_release` every
release does, and copies its base. `<collection>--meta` says which releases are sealed, which is live, and who writes
(`meta`, `lease`). What a dead writer left belongs to a draft there: the next writer takes it back before it begins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ragops.config import StoreSettings
from ragops.errors import ConfigError, Locked, RagopsError, StoreError, UsageError
from ragops.stores import manifest, versions
from ragops.stores.batches import REBUILD, batches, check_ids, not_in_base
from ragops.stores.connection import PAGE, Connection, Missing
from ragops.stores.index import (
    DENSE,
    FULL_SCAN_KB,
    HNSW_EF,
    HNSW_M,
    INDEXED_FIELDS,
    INDEXED_FROM,
    QUANTILE,
    SPARSE,
    kilobytes,
    settings,
)
from ragops.stores.lease import SECONDS, Lease
from ragops.stores.manifest import Absent, Damaged, Manifest
from ragops.stores.meta import Draft, Meta, Records
from ragops.stores.server_reader import QdrantReader
from ragops.stores.server_writer import Writer
from ragops.types import Permission, Point, PointRow, Release

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

OLDEST = (1, 16)  # writes on a condition, which the lease is made of
CORPUS = (1, 19)  # IDF of a part of a collection, which sharing one needs
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def _ignore(_: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Examined:
    """A server as `ragops doctor` sees it."""

    version: str
    collections: Sequence[str]  # ours
    strangers: Sequence[str]  # with names like ours that no release and no draft accounts for
    alias: str | None  # the collection that other clients find under our name; None where nothing has that name
    writer: str | None  # who holds the lease
    key_in_clear: bool  # an API key over http to another machine


class QdrantStore:
    """The store of one collection on a server."""

    def __init__(
        self,
        client: QdrantClient | Connection,
        collection: str = "main",
        *,
        options: StoreSettings = StoreSettings(),
        lease: float = SECONDS,
    ) -> None:
        """`lease`: seconds after which a writer that says nothing is taken for dead."""
        if not _NAME.fullmatch(collection) or "--" in collection:
            raise UsageError(
                f"{collection!r} is no name for a collection",
                "Use up to 64 letters, digits, single '-', '_' and '.', with a letter or digit first.",
            )
        self.collection = collection
        self._options = options
        self._connection = client if isinstance(client, Connection) else Connection(client)
        self._where = self._connection.where
        self._meta = Meta(
            self._connection, collection, replicas=options.replicas, consistency=options.write_consistency
        )
        self._seconds = lease

    @classmethod
    def connect(cls, options: StoreSettings) -> QdrantStore:
        """The server at `options.url`. Nothing is sent yet. Raises UsageError, ConfigError."""
        return cls(Connection.open(options, _key(options)), options.collection, options=options)

    def close(self) -> None:
        self._connection.close()

    # ------------------------------------------------------------ reading
    def releases(self) -> list[Release]:
        """Sealed releases, oldest first; one whose manifest is damaged is left out."""
        return [seal.release for seal in self._seals(self._meta.read()).values()]

    def numbers(self) -> list[int]:
        """Every number that a release has, sound or damaged."""
        return list(self._meta.read().seals)

    def live(self) -> Release | None:
        records = self._meta.read()
        return None if records.live is None else self._seal(records, int(records.live["number"])).release

    def held(self) -> bool:
        """Whether the live release stays until somebody publishes another."""
        live = self._meta.read().live
        return live is not None and bool(live.get("hold"))

    def open(self, number: int | None = None, *, unsound: bool = False) -> QdrantReader:
        """The live release, or the numbered one. Raises StoreError."""
        records, seal = self._find(number)
        problem = None if unsound else self._collection_problem(seal)
        if problem is not None:
            raise Damaged(problem, manifest.MEND)
        release, record = seal.release, records.seals[seal.release.number]
        shared = not _alone(seal)
        if shared:
            self._check_version(CORPUS, "the releases here share a collection")
        return QdrantReader(
            self._connection,
            _collection(seal),
            release,
            shared=shared,
            kept=lambda: self._meta.read().seals.get(release.number) == record,
        )

    def point_ids(self, number: int) -> Iterator[str]:
        """Ids of a sealed release, sorted."""
        for payload in self._payloads(number, [versions.ID]):
            yield payload[versions.ID]

    def point_rows(self, number: int) -> Iterator[PointRow]:
        """The points of a sealed release, sorted by id."""
        for found in self._payloads(number, [versions.ID, "chunk_id", "document_id", versions.KEY, "uri"]):
            uri = found.get("uri") or ""
            yield PointRow(found[versions.ID], found["chunk_id"], found["document_id"], found[versions.KEY], uri)

    def permitted(self, number: int) -> Mapping[str, Permission]:
        """Nothing: `permit` writes into the points themselves."""
        return {}

    def opens(self, number: int) -> bool:
        """A server's engine lifts its collections itself."""
        return True

    def work(self, number: int) -> dict[str, int]:
        """What sealing a release cost: points `copied_points` of the base, `added` and `deleted`."""
        return dict(self._find(number)[1].work)

    def check(self, number: int | None = None) -> list[str]:
        """Whether each sealed release has its collection and its count of points, and the live one is there."""
        found = []
        records = self._meta.read()
        for each in list(records.seals) if number is None else [number]:
            try:
                seal = self._seal(records, each)
            except Damaged as error:
                found.append(error.message)
                continue
            problem = self._collection_problem(seal)
            if problem is None:
                count = self._connection.count(_collection(seal), versions.every(*versions.seen_by(each)))
                if count != seal.release.points:
                    problem = (
                        f"Release {each} is damaged: it has {count:,} points in {_collection(seal)} on {self._where} "
                        f"instead of {seal.release.points:,}."
                    )
            if problem is not None:
                found.append(problem)
        if number is None and records.live is not None:
            try:
                self._seal(records, int(records.live["number"]))
            except RagopsError as error:
                found.append(error.message)
        return found

    # ------------------------------------------------------------ for others
    def place(self, number: int | None = None) -> str:
        """The collection that holds a release, the live one without a number. The alias `<collection>` names it too."""
        return _collection(self._find(number)[1])

    def filter(self, number: int | None = None) -> dict[str, Any]:
        """What another client filters by to see a release, the live one without a number: Qdrant's filter, as JSON.

        It belongs into `filter` of every query, and into `params.idf.corpus` of sparse ones.
        """
        return versions.as_json(self._find(number)[1].release.number)

    def examine(self) -> Examined:
        """What `ragops doctor` tells of the server. Raises StoreError where it cannot be asked, or is too old."""
        version = self._check_version(CORPUS if self._options.layout == "in_place" else OLDEST, self._options.layout)
        records = self._meta.read()
        known = {self._meta.name} | {draft.collection for draft in records.drafts}
        known |= {_collection(seal) for seal in self._seals(records).values()}
        there = self._connection.collections()
        ours = re.compile(re.escape(self.collection) + r"--(\d+|meta)")
        alias = self._connection.aliases().get(self.collection)
        url, lease = self._options.url or "", records.lease or {}
        local = re.match(r"https://|(http://)?(localhost|127\.|\[::1\])", url) is not None
        return Examined(
            version=".".join(map(str, version)) or "unknown",
            collections=[name for name in there if name in known],
            strangers=[
                name for name in there if name not in known and (ours.fullmatch(name) or name == self.collection)
            ],
            alias=alias,
            writer=f"process {lease.get('pid')} on {lease.get('host')}" if lease.get("token") else None,
            key_in_clear=_key(self._options) is not None and not local,
        )

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
        """Seal a new release, as `types.Store` says. Raises Locked while another writes, and where it took over."""
        if not 1 <= release.number < versions.NUMBERS:
            raise StoreError(f"{release.number} is no number for a release: they count from 1.")
        with self._writing() as (lease, records):
            if release.number in records.seals:
                raise StoreError(f"Release {release.number} exists already on {self._where}.", "Use a new number.")
            before = None if base is None else self._base(records, base, release)
            head = None if before is None else self._head(records, before, release.number)
            if head is None:
                name = f"{self.collection}--{release.number:08d}"
                if self._connection.describe(name) is not None:
                    raise StoreError(
                        f"{self._where} has a collection {name} that no release here accounts for",
                        "Remove it there if nobody needs it, or set another store.collection.",
                    )
            else:
                name = _collection(head)
            draft = Draft(release.number, name)
            self._meta.begin(draft)
            try:
                writer = Writer(self._connection, lease, name, release, progress)
                if head is None:
                    self._create(name, release.space.dim)
                sealed = self._seal_release(writer, before, head, delete, add)
            except Locked:
                raise  # what was written is the other's to take back
            except BaseException:
                try:
                    self._meta.unseal(release.number)  # perhaps only the answer was lost
                    self._settle(self._meta.read())
                except Exception:  # the first error is the one to tell; the next write cleans up
                    pass
                raise
            try:
                self._meta.end(draft)
            except RagopsError:  # it is sealed: the next write finds that the draft is done
                pass
            return sealed

    def tidy(self) -> None:
        """Nothing: the next write takes back what a dead one left."""

    def publish(self, number: int, *, hold: bool = False) -> None:
        """Make a sealed release the live one: one write of one point. The alias follows its collection, before."""
        records = self._meta.read()
        name = _collection(self._seal(records, number))
        live = None if records.live is None else self._seals(records).get(int(records.live["number"]))
        if live is None or _collection(live) != name:
            self._alias(name)
        self._meta.publish(number, hold=hold)

    def permit(self, permissions: Mapping[str, Permission], *, upto: int) -> None:
        """Today's permissions of documents, by document id, in every release up to `upto`.

        Written into the points, some hundred documents a request; repeating it finishes what broke off.
        """
        from qdrant_client import models

        alike: dict[Permission, list[str]] = {}
        for document, (tenant, groups) in permissions.items():
            alike.setdefault((tenant, tuple(groups)), []).append(document)
        changes: list[models.SetPayloadOperation] = []
        for (tenant, groups), documents in alike.items():
            for start in range(0, len(documents), PAGE):
                some = versions.any_of("document_id", documents[start : start + PAGE])
                those = versions.every(some, versions.between(versions.ADDED, upto=upto))
                values = {"tenant": tenant, "groups": list(groups)}
                changes.append(models.SetPayloadOperation(set_payload=models.SetPayload(payload=values, filter=those)))
        seals = self._seals(self._meta.read()) if changes else {}
        for name in sorted({_collection(seal) for number, seal in seals.items() if number <= upto}, reverse=True):
            self._connection.batch(name, changes)

    def remove(self, number: int, *, timeout: float = 30.0) -> None:
        """Delete a sealed release that is not live, and the points that no other sees.

        A server knows of no readers, so there is nothing to wait for.
        """
        self._known(self._meta.read(), number)
        with self._writing() as (_, records):
            self._known(records, number)
            if records.live is not None and records.live["number"] == number:
                raise StoreError(f"Release {number} is live and stays.", "Publish another one first.")
            seals = self._seals(records)
            if number in seals:
                names = {_collection(seals[number])}
            else:  # damaged: it does not say where its points are
                own = f"{self.collection}--{number:08d}"
                names = {own, *map(_collection, seals.values())} & {*self._connection.collections()}
            for name in sorted(names):
                self._meta.begin(Draft(number, name))
            self._meta.unseal(number)
            self._settle(self._meta.read())

    # ------------------------------------------------------------ below: what there is
    def _find(self, number: int | None) -> tuple[Records, Manifest]:
        records = self._meta.read()
        if number is None:
            if records.live is None:
                raise StoreError(
                    f"Nothing is published in {self.collection} on {self._where} yet.", "Run `ragops ingest`."
                )
            number = int(records.live["number"])
        return records, self._seal(records, number)

    def _seal(self, records: Records, number: int) -> Manifest:
        self._known(records, number)
        seal = self._meta.manifest(records, number)
        assert seal is not None
        return seal

    def _known(self, records: Records, number: int) -> None:
        if number not in records.seals:
            there = ", ".join(map(str, records.seals)) or "none"
            raise Absent(
                f"There is no release {number} of {self.collection} on {self._where} (there: {there}).", manifest.MEND
            )

    def _seals(self, records: Records) -> dict[int, Manifest]:
        """Those that are sound, by number."""
        found = {}
        for number in records.seals:
            try:
                found[number] = self._seal(records, number)
            except Damaged:
                continue
        return found

    def _payloads(self, number: int, fields: list[str]) -> Iterator[dict[str, Any]]:
        seal = self._find(number)[1]
        seen = versions.every(*versions.seen_by(number))
        for record in self._connection.scroll(_collection(seal), seen, payload=fields):
            yield record.payload or {}

    def _collection_problem(self, seal: Manifest) -> str | None:
        """Why a release's collection cannot hold it, or None."""
        name, release = _collection(seal), seal.release
        found = self._connection.describe(name)
        if found is None:
            return f"Release {release.number} is damaged: its collection {name} is missing on {self._where}."
        vectors, sparse = found.config.params.vectors, found.config.params.sparse_vectors
        dim = vectors[DENSE].size if isinstance(vectors, dict) and DENSE in vectors else None
        if dim != release.space.dim or SPARSE not in (sparse or {}):
            held = "no vectors of ours" if dim is None else f"vectors of {dim} dimensions"
            return (
                f"Release {release.number} is damaged: its collection {name} on {self._where} has {held} "
                f"instead of {release.space.dim}. Somebody else made it."
            )
        return None

    def _check_version(self, oldest: tuple[int, ...], why: str) -> tuple[int, ...]:
        version = self._connection.version()
        if version and version[: len(oldest)] < oldest:
            wanted = ".".join(map(str, oldest))
            other = " or set store.layout: collection_per_release" if oldest == CORPUS and version[:2] >= OLDEST else ""
            raise StoreError(
                f"{self._where} is Qdrant {'.'.join(map(str, version))}; {wanted} or newer is needed ({why})",
                f"Upgrade the server{other}.",
            )
        return version

    # ------------------------------------------------------------ below: writing
    @contextmanager
    def _writing(self) -> Iterator[tuple[Lease, Records]]:
        """The lease and what there is, with what dead writers left taken back."""
        self._check_version(CORPUS if self._options.layout == "in_place" else OLDEST, self._options.layout)
        self._meta.prepare()
        with Lease.hold(self._meta, f"{self.collection} on {self._where}", self._seconds) as lease:
            yield lease, self._settle(self._meta.read())

    def _settle(self, records: Records) -> Records:
        """Take back what belongs to no sealed release; of drafts only, so that it costs nothing otherwise."""
        seals = self._seals(records) if records.drafts else {}
        for draft in records.drafts:
            kept = [number for number, seal in seals.items() if _collection(seal) == draft.collection]
            try:
                self._take_back(draft, kept)
            except Missing:  # somebody removed the collection: `check` tells of it
                pass
            self._meta.end(draft)
        return replace(records, drafts=())

    def _take_back(self, draft: Draft, kept: list[int]) -> None:
        """Make a collection what its `kept` releases need, where the draft's number is none of them."""
        before = max((number for number in kept if number < draft.number), default=0)
        after = min((number for number in kept if number > draft.number), default=None)
        came = versions.between(versions.ADDED, after=before)
        if draft.number in kept:  # sealed after all, or not yet removed
            return
        if not kept:
            self._connection.drop(draft.collection)
        elif after is not None:
            self._connection.delete(
                draft.collection, versions.every(came, versions.between(versions.REMOVED, upto=after))
            )
        else:
            self._connection.delete(draft.collection, versions.every(came))
            closed = versions.every(versions.between(versions.REMOVED, after=before, below=versions.OPEN))
            self._connection.set_payload(draft.collection, {versions.REMOVED: versions.OPEN}, closed)

    def _base(self, records: Records, base: int, release: Release) -> Manifest:
        seal = self._seal(records, base)
        problem = self._collection_problem(seal)
        if problem is not None:
            raise Damaged(problem, manifest.MEND)
        manifest.check_base(seal.release, release)
        return seal

    def _head(self, records: Records, before: Manifest, number: int) -> Manifest | None:
        """The newest release of the base's collection, which the new one goes on from; None: it needs its own."""
        if self._options.layout != "in_place" or _alone(before):
            return None
        name, seals = _collection(before), self._seals(records)
        head = [seal for seal in seals.values() if _collection(seal) == name][-1]
        # A damaged release may have closed points, or left some open: nothing goes on from there.
        return head if number > head.release.number and len(seals) == len(records.seals) else None

    def _seal_release(
        self,
        writer: Writer,
        before: Manifest | None,
        head: Manifest | None,
        delete: Iterable[str],
        add: Iterable[tuple[Point, Sequence[float]]],
    ) -> Release:
        release = writer.release
        deleted = 0
        if before is None:
            for id in check_ids(delete):
                raise not_in_base([id])
        elif head is None:
            gone = set(check_ids(delete))
            deleted = len(gone)
            writer.copy(_collection(before), versions.seen_by(before.release.number), gone)
            if gone:
                raise not_in_base(gone)
        else:
            deleted = writer.go_on(before.release.number, head.release.number, delete)
        for batch in batches(add, release.space.dim):
            writer.add(batch, fresh=before is None)
        count = self._connection.count(writer.name, versions.every(*versions.seen_by(release.number)))
        if count != release.points:
            raise StoreError(
                f"release {release.number} has {count:,} points on {self._where} instead of {release.points:,}",
                REBUILD,
            )
        sealed = replace(release, collection=self.collection)
        engine = {
            "name": "qdrant",
            "version": ".".join(map(str, self._connection.version())),
            "index": settings(release.space.dim),
            "layout": self._options.layout,
            "collection": writer.name,
        }
        work = {"copied_points": writer.copied, "added": writer.added, "deleted": deleted}
        writer.lease.renew()  # who lost it must not seal
        self._meta.seal(Manifest(sealed, engine, deletes=head is not None, work=work))
        return sealed

    def _create(self, name: str, dim: int) -> None:
        from qdrant_client import models

        options = self._options
        quantization: Any = None
        if options.quantization == "int8":
            int8 = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True, quantile=QUANTILE)
            quantization = models.ScalarQuantization(scalar=int8)
        elif options.quantization == "binary":
            quantization = models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
        on_disk = options.on_disk or None
        self._connection.create(
            name,
            vectors_config={DENSE: models.VectorParams(size=dim, distance=models.Distance.COSINE, on_disk=on_disk)},
            sparse_vectors_config={SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)},
            shard_number=options.shards,
            replication_factor=options.replicas,
            write_consistency_factor=options.write_consistency,
            on_disk_payload=on_disk,
            hnsw_config=models.HnswConfigDiff(m=HNSW_M, ef_construct=HNSW_EF, full_scan_threshold=FULL_SCAN_KB),
            quantization_config=quantization,
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=kilobytes(INDEXED_FROM, dim)),
        )
        keyword, integer = models.KeywordIndexType.KEYWORD, models.IntegerIndexType.INTEGER
        for field in INDEXED_FIELDS:
            tenant = field == "tenant" or None
            self._connection.index(name, field, models.KeywordIndexParams(type=keyword, is_tenant=tenant))
        self._connection.index(name, versions.ID, models.UuidIndexParams(type=models.UuidIndexType.UUID))
        for field in (versions.ADDED, versions.REMOVED):
            self._connection.index(name, field, models.IntegerIndexParams(type=integer, lookup=False, range=True))

    def _alias(self, name: str) -> None:
        """`<collection>` leads to the live release's collection, unless a collection of somebody else has that name."""
        if self._connection.aliases().get(self.collection) == name or self.collection in self._connection.collections():
            return
        self._connection.set_alias(self.collection, name)


def _collection(seal: Manifest) -> str:
    return str(seal.engine["collection"])


def _alone(seal: Manifest) -> bool:
    """Whether a release has a collection of its own."""
    return seal.engine.get("layout") == "collection_per_release"


def _key(options: StoreSettings) -> str | None:
    """The API key, out of the environment variable that the settings name. Raises ConfigError."""
    name = options.api_key.removeprefix("env:")
    key = os.environ.get(name)
    if not key and name != "QDRANT_API_KEY":
        raise ConfigError(f"store.api_key names the environment variable {name}, which is not set")
    return key or None
