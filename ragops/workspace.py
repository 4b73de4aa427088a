"""A workspace: a folder with `params.yaml`, one knowledge base. The edge where configuration is read."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Unpack

from ragops import config, durable, ids, lock
from ragops.errors import RagopsError, UsageError
from ragops.questions import Questions
from ragops.revisions import Revisions
from ragops.stores import open_store

if TYPE_CHECKING:
    from ragops.backup import BackedUp, Restored
    from ragops.evaluation.compare import Comparison
    from ragops.evaluation.results import Evaluation
    from ragops.migration import Step
    from ragops.retrieval.diff import Difference
    from ragops.retrieval.query import Options, Query, Results
    from ragops.retrieval.recall import Recall
    from ragops.retrieval.why import Explanation
    from ragops.stores.transfer import Transferred
    from ragops.types import Connector, Embedder, Filter, Mode, Reader, Release, Store
    from ragops_pipelines.collect import Collected
    from ragops_pipelines.job import Event, Job, Plan, Summary
    from ragops_pipelines.stages import Done
    from ragops_pipelines.state import State
    from ragops_pipelines.verify import Verification


FULL = 1 << 20  # bytes; with less than this free, a failing write failed for want of space


class Workspace:
    """One knowledge base on disk. Not tied to a process: open it as often as needed."""

    def __init__(self, root: Path, settings: config.Settings) -> None:
        self.root = root
        self.settings = settings
        self.local = root / ".ragops"
        self.data = root / "data"
        self._readers: dict[int | None, Reader] = {}
        self._encoders: dict[str, Embedder] = {}
        self._revisions = Revisions(root, self.local, self.data)
        self._stores: dict[config.StoreSettings, Store] = {}
        self._asked: dict[tuple[Any, ...], Evaluation] = {}

    # ------------------------------------------------------------------ making and finding
    @classmethod
    def open(cls, path: str | os.PathLike[str] | None = None) -> Workspace:
        """The workspace at `path`, or the nearest one upwards from the current folder. Raises UsageError."""
        root = locate(Path(path) if path is not None else None)
        return cls(root, config.load(root / config.FILE))

    @classmethod
    def create(cls, path: str | os.PathLike[str] = ".") -> Workspace:
        """Make a workspace; what is already there is left as it is. Raises UsageError."""
        from ragops import templates

        root = Path(path).absolute()
        if root.exists() and not root.is_dir():
            raise UsageError(f"{root} is a file; a workspace is a folder", "Choose another path: ragops init my-kb")
        root.mkdir(parents=True, exist_ok=True)
        templates.write(root)
        return cls(root, config.load(root / config.FILE))

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self._revisions.close()

    # ------------------------------------------------------------------ parts
    @property
    def store(self) -> Store:
        return self._store(self.settings.store)

    def _store(self, store: config.StoreSettings) -> Store:
        if store not in self._stores:  # a server's holds a connection
            self._stores[store] = open_store(self.local / "store", store)
        return self._stores[store]

    @contextlib.contextmanager
    def state(self) -> Iterator[State]:
        from ragops_pipelines.state import State

        state = State(self.local)
        try:
            yield state
        finally:
            state.close()

    # ------------------------------------------------------------------ ingest
    def ingest(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        allow_deletes: bool = False,
        rebuild: bool = False,
        rehash: bool = False,
        retry: Collection[str] = (),
        wait: float = 0,
        progress: Callable[[Event], None] | None = None,
    ) -> Summary:
        """Bring the live release to what the sources say now; without a change, do nothing.

        `path` adds (or reuses) a source and limits the run to it. `wait`: seconds to wait for another writer, here or
        on the server. Raises RagopsError; the live release is then as it was.
        """
        from ragops_pipelines.job import Options
        from ragops_pipelines.run import ingest

        options = Options(allow_deletes, rebuild, rehash, retry)
        params = self.root / config.FILE

        def run(left: float) -> Summary:
            with self._locked(left):
                before = params.read_text("utf-8")
                try:
                    with self._job(path, options, progress, add=True) as job:
                        if job.gate is not None:
                            job.gate.check()
                        summary = ingest(job)
                        return replace(summary, dvc=self._record(job))
                except UsageError:
                    durable.write_atomic(params, before.encode())  # a source that cannot be ingested is not remembered
                    raise

        return lock.patiently(wait, run)

    def _record(self, job: Job) -> Mapping[str, Any] | None:
        """Tell DVC of a run: None outside of a DVC repository. A failure is reported; the release stands."""
        from ragops import versioning

        if versioning.dvc_root(self.root) is None:
            return None
        data = job.state.get("dataset_sha"), job.state.get("snapshot_sha"), *self._questions().digests()
        if job.state.get("dvc") == versioning.token(self.root, *data):
            return {"recorded": False, "seconds": 0.0, "error": None}
        start = time.perf_counter()
        error = None
        try:
            lacking = None
            if versioning.has_stage(self.root, "evaluate"):
                try:
                    self._questions().write_metrics(job.state)
                except RagopsError as found:  # the rest is recorded all the same
                    lacking = found
            versioning.record(self.root, but=() if lacking is None else ("evaluate",))
            if lacking is not None:
                raise lacking
            job.state.put("dvc", versioning.token(self.root, *data))
        except RagopsError as found:
            error = f"{found.message} {found.hint}".strip()
        return {"recorded": error is None, "seconds": round(time.perf_counter() - start, 3), "error": error}

    def stage(self, name: str, *, wait: float = 0, progress: Callable[[Event], None] | None = None) -> Done:
        """One stage of the pipeline in dvc.yaml: "parse", "chunk", "embed", "load" or "evaluate", from what is on disk.

        Raises RagopsError."""
        from ragops_pipelines import stages
        from ragops_pipelines.job import Options

        run = {"parse": stages.parse, "chunk": stages.chunk, "embed": stages.embed, "load": stages.load}
        with self._locked(wait), self._job(None, Options(), progress, add=True, scanned=False) as job:
            if name == "evaluate":
                return stages.Done(name, 0, self._questions().write_metrics(job.state), 0)
            if name == "load" and job.gate is not None:
                job.gate.check()
            return run[name](job)

    def plan(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        rebuild: bool = False,
        rehash: bool = False,
        progress: Callable[[Event], None] | None = None,
    ) -> Plan:
        """What `ingest` would do, with counts. Reads no source, changes nothing."""
        from ragops_pipelines.job import Options
        from ragops_pipelines.run import plan

        with self._job(path, Options(rebuild=rebuild, rehash=rehash), progress, add=False) as job:
            return plan(job)

    @contextlib.contextmanager
    def _job(
        self, path: str | os.PathLike[str] | None, options: Any, progress: Callable[[Event], None] | None, *, add: bool,
        scanned: bool = True,
    ) -> Iterator[Job]:  # fmt: skip
        from ragops_pipelines.dataset import Dataset
        from ragops_pipelines.job import Job
        from ragops_pipelines.snapshot import Snapshot
        from ragops_pipelines.state import Cache, State

        sources, subtree = self._sources(path, add=add) if scanned else ([], "")
        connectors = [self._connector(source, subtree) for source in sources]
        with contextlib.ExitStack() as stack:
            # a plan writes nothing, not even where nothing was ever ingested
            local = self.local if add or self.local.exists() else Path(stack.enter_context(TemporaryDirectory()))
            state = stack.enter_context(contextlib.closing(State(local)))
            cache = stack.enter_context(contextlib.closing(Cache(local)))
            configured = {source.name for source in self.settings.sources}
            known = set(state.get("source_settings") or {}) if path is None else set()
            yield Job(
                settings=self.settings,
                connectors=connectors,
                dropped=sorted(known - configured),
                source_settings={s.name: _digest(s) for s in sources},
                keep_bytes={s.name: s.keep_bytes for s in self.settings.sources},
                state=state,
                cache=cache,
                snapshot=Snapshot(self.data / "snapshot"),
                dataset=Dataset(self.data / "dataset"),
                store=self.store,
                models=self.data / "models",
                options=options,
                tell=progress or (lambda event: None),
                gate=self._questions().gate(state),
            )

    def _connector(self, source: config.SourceSettings, subtree: str) -> Connector:
        from ragops_connectors import build, connector_settings

        kind: type[Any] = connector_settings(source.connector)
        settings: Any = config.bind(kind, source.options, source.where, also=("name", "connector", "snapshot"))
        return build(source.connector, source.name, self.root, settings, subtree=subtree)

    def _sources(self, path: str | os.PathLike[str] | None, *, add: bool) -> tuple[list[config.SourceSettings], str]:
        """The sources to run and, for a path inside of one, the part of it to which the run is limited."""
        from ragops import sources

        if path is None:
            if not self.settings.sources:
                raise UsageError(
                    f"{self.root / config.FILE} names no source",
                    "Name a folder: ragops ingest ./docs (it is then remembered), or add it under `sources:`.",
                )
            return list(self.settings.sources), ""
        found, subtree = sources.match(self.root, self.settings, Path(path))
        if found is None:
            found, text = sources.add(self.root, self.settings, Path(path))
            if add:
                durable.write_atomic(self.root / config.FILE, text.encode())
            self.settings = config.parse(text)
        return [found], subtree

    @contextlib.contextmanager
    def _locked(self, wait: float) -> Iterator[None]:
        """One writer at a time. Raises Locked, which names the holder, and what the machine refuses as RagopsError."""
        try:
            durable.make_folder(self.local)
            with lock.hold(self.local / "lock", wait) as died:
                self.settings = config.load(self.root / config.FILE)  # another may have changed it in the meantime
                if died:
                    self._sweep()
                yield
        except (OSError, sqlite3.Error) as error:
            raise _environment(error, self.root) from error

    def _sweep(self) -> None:
        """Remove what a process left that died: drafts, temporary files, the work area."""
        for file in self.local.glob("work.db*"):
            file.unlink()
        for file in (*self.root.glob(f".{config.FILE}.*.tmp"), *self.data.rglob(".*.tmp")):
            file.unlink()
        self.store.tidy()

    # ------------------------------------------------------------------ releases
    def releases(self) -> list[dict[str, Any]]:
        """The kept releases, oldest first, as `ragops releases list --json` prints them. Loads no engine."""
        live, held = self._pointer()
        return [_described(release, live, held) for release in self.store.releases()]

    def release(self, number: int | None = None) -> dict[str, Any]:
        """One kept release, the live one without a number: what it holds, its cost, what is wrong with it."""
        from ragops.stores.releases import find

        store = self.store
        live, held = self._pointer()
        release = find(store, live if number is None else number)
        return _described(release, live, held) | {
            "recipe": dict(release.notes.get("recipe", {})),
            "work": dict(store.work(release.number)),
            "damage": store.check(release.number),
        }

    def _pointer(self) -> tuple[int | None, bool]:
        """The live release, if its pointer is sound, and whether it is held."""
        from ragops.stores.releases import is_held, live_release

        live = live_release(self.store)
        return None if live is None else live.number, is_held(self.store)

    def publish(self, number: int | None = None, *, override_gate: str | None = None, wait: float = 0) -> Release:
        """Make a kept release live, the newest without a number: readers see it from their next query on.

        An older one than the newest is held, as by `rollback`. A gate is asked of one that is newer than the live one;
        `override_gate` says why it does not count, and is logged. Raises UsageError, StoreError, GateRefused.
        """
        from ragops.stores.releases import find, live_release, publish
        from ragops_pipelines.gate import allowed, override, verdict
        from ragops_pipelines.job import Options

        if override_gate is not None and not override_gate.strip():
            raise UsageError("--override-gate takes a reason", 'Write: --override-gate "the old answers were wrong"')
        with self._locked(wait):
            release, live = find(self.store, number), live_release(self.store)
            if self.settings.release.gate is None or (live is not None and release.number <= live.number):
                return publish(self.store, number)
            with self._job(None, Options(), None, add=True, scanned=False) as job:
                if override_gate is not None:
                    override(job, self.local / "log" / "overrides.jsonl", release, live, override_gate.strip())
                elif not allowed(job, release.number):
                    from ragops.evaluation.gate import refused

                    raise refused(verdict(job, release.number) or {})
                return publish(self.store, number)

    def rollback(self, number: int | None = None, *, wait: float = 0) -> Release:
        """Make an earlier release live, the one before the live one without a number. It holds: later ingests seal
        releases and publish none until `publish`. Raises UsageError, StoreError."""
        from ragops.stores.releases import rollback

        with self._locked(wait):
            return rollback(self.store, number)

    def prune(self, keep: int | None = None, *, wait: float = 0) -> tuple[list[int], list[int]]:
        """Remove all but the live release and the `keep` newest others (default: `release.keep`).

        Returns the numbers that were removed, and those that are older and still read by somebody.
        """
        from ragops.stores.releases import prune

        with self._locked(wait):
            return prune(self.store, self.settings.release.keep if keep is None else keep)

    def verify(
        self, *, repair: bool = False, wait: float = 0, progress: Callable[[Event], None] | None = None
    ) -> Verification:
        """Compare the dataset with the release made of it, both ways; `repair` mends what is found."""
        from ragops_pipelines.job import Options
        from ragops_pipelines.verify import repair as mend
        from ragops_pipelines.verify import verify

        with self._locked(wait), self._job(None, Options(), progress, add=False, scanned=repair) as job:
            found = verify(job)
            return mend(job, found) if repair else found

    def gc(self, *, wait: float = 0) -> Collected:
        """Remove what nobody needs: deleted and replaced texts and bytes from the files of dataset and snapshot;
        parses, vectors and models of old contents and recipes from what is remembered."""
        from ragops_pipelines.collect import collect
        from ragops_pipelines.job import Options
        from ragops_pipelines.run import compact

        with self._locked(wait), self._job(None, Options(), None, add=False, scanned=False) as job:
            before = sum(_disk(self.data / part) for part in ("snapshot", "dataset"))
            compact(job)
            freed = before - sum(_disk(self.data / part) for part in ("snapshot", "dataset"))
            self._revisions.forget()
            found = collect(job)
            return replace(found, bytes=found.bytes + max(0, freed))

    # ------------------------------------------------------------------ care
    def migrate_store(
        self, to: str, *, switch: bool = True, wait: float = 0, progress: Callable[[Event], None] | None = None
    ) -> Transferred:
        """Copy every kept release to the server at the address `to`, or to "embedded", and compare both; then change
        `store.url` in params.yaml, unless told not to `switch`. The store that was copied stays as it is.

        Run again after it broke off, it goes on. Raises UsageError, StoreError; `store.url` is then as it was.
        """
        from ragops import params
        from ragops.stores.transfer import transfer

        file = self.root / config.FILE
        with self._locked(wait):
            store = self.settings.store
            url = params.destination(to)
            text = params.with_store_url(file.read_text("utf-8"), url)
            if url == store.url:
                raise UsageError(
                    f"the releases of {self.root} are there already: store.url is {url or 'not set, so embedded'}",
                    "Move them with: ragops store migrate --to URL, or --to embedded",
                )
            target = self._store(replace(store, url=url))
            with self.state() as state:
                done = transfer(
                    self.store,
                    target,
                    name=f"the collection {store.collection} of the {url or 'embedded store'}",
                    ours=lambda release: state.made(release.number, release.fingerprint, release.created),
                    tell=_teller(progress),
                )
            if switch:
                self.close()
                durable.write_atomic(file, text.encode())
                self.settings = config.parse(text)
            return done

    def backup(
        self,
        file: str | os.PathLike[str],
        *,
        replace: bool = False,
        wait: float = 0,
        progress: Callable[[Event], None] | None = None,
    ) -> BackedUp:
        """Write releases, pointer and hold, permissions, state, cache, snapshot, dataset, models and params into one
        tar file. Ingests wait, readers go on. `replace`: a file that is there. Raises UsageError, StoreError, DiskFull.
        """
        from ragops.backup import backup

        with self._locked(wait):
            return backup(self.root, self.settings, self.store, Path(file), replace=replace, tell=_teller(progress))

    @classmethod
    def restore(
        cls,
        file: str | os.PathLike[str],
        path: str | os.PathLike[str] = ".",
        *,
        to: str | None = None,
        replace: bool = False,
        wait: float = 0,
        progress: Callable[[Event], None] | None = None,
    ) -> Restored:
        """Make the workspace of a backup in the folder `path`, whole or not at all.

        Releases of a server go back to it, or `to` "embedded" or another address. `replace`: give up the workspace that
        is there, or the newer releases on the server. Raises UsageError, SchemaError, StoreError, DiskFull.
        """
        from ragops.backup import restore

        try:
            return restore(Path(file), Path(path), to=to, replace=replace, wait=wait, tell=_teller(progress))
        except (OSError, sqlite3.Error) as error:
            raise _environment(error, Path(path).absolute()) from error

    def migrate(self, *, wait: float = 0) -> list[Step]:
        """Lift every artefact of an older ragops to this one's schema. Raises SchemaError where one is newer."""
        from ragops.migration import migrate

        with self._locked(wait):
            found = migrate(self.root)
            self.settings = config.load(self.root / config.FILE)
            return found

    # ------------------------------------------------------------------ asking
    def search(
        self, query: str | Query, k: int | None = None, *, release: int | None = None, rev: str | None = None,
        **options: Unpack[Options],
    ) -> Results:  # fmt: skip
        """The `k` best passages for a query in the live release, or in a kept one, or in what stood at a revision of
        git. What is not given is that of params.yaml. Raises UsageError, StoreError, VersioningError."""
        from ragops.retrieval.query import ask
        from ragops.retrieval.search import search

        if rev is not None:
            if release is not None:
                raise UsageError("a release and a revision are asked at once", "Give one of --release and --rev.")
            release = self._revisions.kept(self.store, rev)
        settings = self.settings.search
        asked = ask(query, k, options, {"mode": settings.mode, "rerank": settings.rerank}, settings.k)
        reader = self.reader(release) if rev is None or release is not None else self._revisions.reader(rev, self.state)
        encoder = None if asked.mode == "bm25" else self.encoder(reader.release)
        results = search(reader, encoder, asked)
        return replace(results, release=release, revision=rev) if rev is not None else results

    def why(self, query: str | Query, uri: str, k: int | None = None, *, release: int | None = None) -> Explanation:
        """Why a document is a hit of a query, a low one, or none. It is named by its uri, by its path in the source, by
        the id of its row, or by what it was called before it moved. Raises UsageError, StoreError."""
        from ragops.retrieval.query import ask
        from ragops.retrieval.why import why

        settings = self.settings.search
        asked = ask(query, k, {}, {"mode": settings.mode, "rerank": settings.rerank}, settings.k)
        reader, rejects = self.reader(release), self.rejects()
        meant, note = uri, ""
        if not reader.count({"uri": uri}) and all(row["uri"] != uri for row in rejects):
            meant, note = self._named(uri, reader.release.number, rejects)
        found = why(reader, None if asked.mode == "bm25" else self.encoder(reader.release), asked, meant, rejects)
        return replace(found, said=note + found.said)

    def _named(self, name: str, release: int, rejects: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
        """The uri of the document that a name means, or the name; and what is to be told of a name of old."""
        from itertools import chain

        from ragops.evaluation import documents

        with self.state() as state:
            moves = [documents.Move(*move) for move in state.moves()]
        uris = chain((row.uri for row in self.store.point_rows(release)), (row["uri"] for row in rejects))
        found = documents.find([name], uris, moves)
        note = f"it was {name}, or is so in other releases; " if name in found.moved else ""
        return found.uris.get(name, name), note

    def recall(
        self, queries: str | os.PathLike[str] | None = None, *, count: int = 200, k: int = 10,
        filter: Filter | None = None, release: int | None = None,
    ) -> Recall:  # fmt: skip
        """How much of what an exact search finds the release's index finds: for the questions in a file, one a line,
        or for `count` vectors made of its own passages. Raises UsageError, StoreError."""
        from ragops.retrieval import recall

        reader = self.reader(release)
        if queries is None:
            vectors = recall.sample(reader, count)
        else:
            texts = [line.strip() for line in _text(Path(queries)).splitlines() if line.strip()]
            vectors = list(self.encoder(reader.release).embed_queries(texts)) if texts else []
        if not vectors:
            raise UsageError(
                "there is no query to measure with", "Give a file of questions, one a line: --queries FILE"
            )
        return recall.measure(reader, vectors, k, filter)

    def diff(
        self, a: int | None = None, b: int | None = None, query: str | None = None, *, k: int | None = None,
        mode: Mode | None = None, filter: Filter | None = None, exact: bool = False,
    ) -> Difference:  # fmt: skip
        """What changed from release `a` to `b`, and with a query which of its hits moved, and why.

        Without `b` to the live release, without `a` from the one kept before `b`. Raises UsageError, StoreError.
        """
        from ragops.retrieval.diff import between, diff
        from ragops.retrieval.explain import explain

        a, b = between(self.store, a, b)
        found = diff(self.store, a, b)
        if query is None:
            return found
        before, after = self.reader(a), self.reader(b)
        hits = explain(
            before, after, self.encoder(before.release), self.encoder(after.release), query,
            k=self.settings.search.k if k is None else k, mode=mode or self.settings.search.mode, filter=filter,
            exact=exact, moved={document.was: document.uri for document in found.of("moved")},
        )  # fmt: skip
        return replace(found, query=query, hits=hits)

    def reader(self, number: int | None = None) -> Reader:
        """The live release, or a kept one, open for reading until `close`."""
        from ragops.stores.releases import find

        store = self.store
        release = store.live() if number is None else find(store, number)
        if release is None:
            raise UsageError(f"{self.root} has no release yet", "Make one: ragops ingest")
        if release.number in self._readers:
            return self._readers[release.number]
        opened = store.open(number)  # without a number the live one: this one may be no more, and pruned
        self._readers[opened.release.number] = opened
        return opened

    def encoder(self, release: Release) -> Embedder:
        """The query encoder of a release's own space: never torch."""
        from ragops.embedders import load_query_encoder

        space = release.space.fingerprint
        if space not in self._encoders:
            places = (self.data, *self._revisions.folder.glob("*"))  # an old revision may have another model
            folders = [place / "models" / ids.short(space) for place in places]
            found = next((folder for folder in folders if folder.is_dir()), folders[0])
            self._encoders[space] = load_query_encoder(found, space)
        return self._encoders[space]

    # ------------------------------------------------------------------ evaluation
    def evaluate(
        self, queries: str | os.PathLike[str] | None = None, qrels: str | os.PathLike[str] | None = None, *,
        release: int | None = None, mode: Mode | None = None, rerank: str | None = None, exact: bool = False,
        k: Sequence[int] = (10,), slices: Sequence[str] = (), progress: Callable[[Event], None] | None = None,
    ) -> Evaluation:  # fmt: skip
        """Ask the live release, or a kept one, a query set and measure the answers; the result is kept below
        `.ragops/evaluations`. Without `queries`, those of `evaluate` in params.yaml. Raises UsageError, MissingExtra.
        """
        from ragops.evaluation import queries as sets

        own = self.settings.evaluate
        if queries is None:
            if own.queries is None:
                raise UsageError(
                    f"no query set: {self.root / config.FILE} has no evaluate.queries",
                    "Give one: ragops eval run --queries FILE. Or begin with: ragops eval bootstrap",
                )
            asked = self._questions().read(own.queries, own.qrels)
        else:
            asked = sets.read(Path(queries), None if qrels is None else Path(qrels))
        mode, tell = mode or own.mode, _teller(progress)
        try:
            with self.state() as state:
                return self._questions().ask(
                    self.reader(release), state, asked, mode, rerank or own.rerank, exact=exact, cutoffs=k,
                    slices=slices, tell=lambda done, total: tell("evaluate", done, total),
                )  # fmt: skip
        except OSError as error:
            raise _environment(error, self.root) from error

    def bootstrap_queries(
        self, file: str | os.PathLike[str], *, size: int = 50, seed: int = 0, release: int | None = None,
        replace: bool = False,
    ) -> int:  # fmt: skip
        """Write a synthetic query set, made of the headings and sentences of a release, as YAML; how many questions.

        Raises UsageError, also where the file is there already, unless told to `replace` it."""
        from ragops.evaluation import synthetic

        target = Path(file).absolute()
        if not 1 <= size <= 100_000:
            raise UsageError(f"--size is {size}; it takes 1 to 100000")
        if target.is_dir() or (target.exists() and not replace):
            raise UsageError(f"{target} exists already", "Choose another name, or replace it: --replace")
        made = synthetic.make(self.reader(release), size, seed)
        try:
            durable.make_folder(target.parent)
            durable.write_atomic(target, synthetic.text(made).encode())
        except OSError as error:
            said = f"{target}: cannot be written: {error.strerror}"
            raise UsageError(said, "Choose another place: -o FILE") from error
        return len(made)

    def _questions(self) -> Questions:
        return Questions(self.root, self.local, self.settings, self.store, self.encoder, self._asked)

    def compare(self, a: str | int, b: str | int, *, metric: str = "nDCG@10", margin: float = 0.01) -> Comparison:
        """Whether evaluation `b` is worse than `a`: each an id or its beginning, the number of a release, or a file.

        Raises UsageError."""
        from ragops.evaluation import results
        from ragops.evaluation.compare import compare

        return compare(*results.pair(self.local / results.FOLDER, str(a), str(b)), metric=metric, margin=margin)

    # ------------------------------------------------------------------ knowing
    def status(self) -> dict[str, Any]:
        """Where the workspace stands. Loads no engine and no model."""
        from ragops.versioning import dvc_root, git_root, lacking

        live, gate = self.store.live(), None
        with self.state() as state:
            last = state.last_run()
            if self.settings.release.gate is not None:
                gate = state.get("gate")
            rows = state.db.execute(
                "SELECT source, count(*), sum(document_id IS NOT NULL), sum(rejected), coalesce(sum(chunks), 0)"
                " FROM sources GROUP BY source ORDER BY source"
            )
            sources = [
                dict(zip(("name", "sources", "documents", "rejected", "chunks"), row, strict=True)) for row in rows
            ]
        return {
            "workspace": str(self.root),
            "store": self.settings.store.url or config.EMBEDDED,
            "release": None if live is None else _described(live, live.number, self.store.held()),
            "releases": [release.number for release in self.store.releases()],
            "sources": sources,
            "last_run": last,
            "gate": None if gate is None else {name: gate[name] for name in ("release", "verdict", "reason", "hint")},
            "versioning": {
                "git": git_root(self.root) is not None,
                "dvc": dvc_root(self.root) is not None,
                "lacking": lacking(self.root),
            },
            "disk": {
                name: _disk(path)
                for name, path in (
                    ("snapshot", self.data / "snapshot"),
                    ("dataset", self.data / "dataset"),
                    ("models", self.data / "models"),
                    ("store", self.local / "store"),
                    ("revisions", self._revisions.folder),
                    ("cache", self.local / "cache.db"),
                    ("state", self.local / "state.db"),
                )
            },
        }

    def rejects(self) -> list[dict[str, Any]]:
        """Sources that did not pass, with stage, code, reason, hint, first_seen and attempts; by uri."""
        with self.state() as state:
            return state.rejects()


def find(path: Path | None) -> Path | None:
    """The folder with params.yaml: `path` itself, or upwards from the current folder."""
    if path is not None:
        path = path.absolute()
        return path if (path / config.FILE).is_file() else None
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / config.FILE).is_file()), None)


def locate(path: Path | None) -> Path:
    """What `find` finds. Raises UsageError where there is no workspace."""
    root = find(path)
    if root is not None:
        return root
    where = path.absolute() if path is not None else Path.cwd()
    if (where / ".ragops-restore" / "READY").exists():
        raise UsageError(
            f"a restore in {where} was stopped at its end", "Run the same `ragops restore` again: it goes on."
        )
    raise UsageError(
        f"no workspace (no {config.FILE}) in {where}" + ("" if path is not None else " or above it"),
        "Make one with `ragops init`, or ingest a folder right away: ragops ingest ./docs",
    )


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read as text: {error}", "It takes UTF-8.") from error


def _described(release: Release, live: int | None, held: bool) -> dict[str, Any]:
    return {
        "number": release.number,
        "live": release.number == live,
        "held": release.number == live and held,
        "created": release.created,
        "fingerprint": release.fingerprint,
        "points": release.points,
        "model": release.space.model,
        "space": release.space.fingerprint,
        "numerics": release.numerics,
        "incomplete": list(release.notes.get("incomplete", ())),
    }


def _teller(progress: Callable[[Event], None] | None) -> Callable[[str, int, int], None]:
    from ragops_pipelines.job import Event

    return lambda stage, done, total: progress(Event(stage, done, total)) if progress else None


def _digest(source: config.SourceSettings) -> str:
    value = (source.connector, _plain(source.options), *(() if source.keep_bytes else ("manifest",)))
    return ids.sha256(repr(value).encode())


def _plain(value: Any) -> Any:
    return sorted((k, _plain(v)) for k, v in value.items()) if isinstance(value, Mapping) else value


def _disk(path: Path) -> int:
    """Bytes on disk; sparse files count what they use."""
    files = path.rglob("*") if path.is_dir() else [path]
    total = 0
    for file in files:
        with contextlib.suppress(OSError):
            total += file.stat().st_blocks * 512
    return total


def _environment(error: OSError | sqlite3.Error, root: Path) -> RagopsError:
    """What the machine refused, as an error with a way out."""
    import errno

    from ragops.errors import DiskFull

    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in str(error)
    if isinstance(error, sqlite3.OperationalError) and "disk I/O error" in str(error):  # what sqlite makes of some
        full = shutil.disk_usage(root).free < FULL
    if full:
        return DiskFull(
            f"no space left on the disk of {root}; the live release is whole, what was computed is kept",
            "Free some space and run `ragops ingest` again: it goes on where it stopped.",
        )
    place = getattr(error, "filename", None) or root
    return RagopsError(
        f"{place}: {getattr(error, 'strerror', None) or error}", "The live release is whole; see `ragops doctor`."
    )
