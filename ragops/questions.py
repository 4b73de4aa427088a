"""The questions of a workspace, asked of its releases: for people, the gate, and DVC's stage `evaluate`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragops import config, durable
from ragops.errors import UsageError

if TYPE_CHECKING:
    from ragops.evaluation.gate import Gate
    from ragops.evaluation.queries import QuerySet
    from ragops.evaluation.results import Evaluation
    from ragops.types import Embedder, Mode, Reader, Release, Store
    from ragops_pipelines.state import State


@dataclass(slots=True)
class Questions:
    """`encoder(release)` gives its query encoder. `known`: what this process asked for gate and metrics before."""

    root: Path
    local: Path
    settings: config.Settings
    store: Store
    encoder: Callable[[Release], Embedder]
    known: dict[tuple[Any, ...], Evaluation] = field(default_factory=dict)

    def read(self, queries: str, qrels: str | None) -> QuerySet:
        """A query set that params.yaml names. Raises UsageError."""
        from ragops.evaluation import queries as sets

        return sets.read(self.root / queries, None if qrels is None else self.root / qrels)

    def digests(self) -> list[str | None]:
        """Of the files that `evaluate` names."""
        own = self.settings.evaluate
        return [durable.digest(self.root / name) for name in (own.queries, own.qrels) if name is not None]

    def ask(
        self, reader: Reader, state: State, queries: QuerySet, mode: Mode, rerank: str | None, *, exact: bool = False,
        cutoffs: Sequence[int] = (10,), slices: Sequence[str] = (),
        tell: Callable[[int, int], None] = lambda done, total: None,
    ) -> Evaluation:  # fmt: skip
        """An evaluation, which is kept, too. Raises UsageError, MissingExtra, OSError."""
        from ragops.evaluation import results, run

        release = reader.release
        found = run.evaluate(
            reader, None if mode == "bm25" else self.encoder(release), queries,
            uris=(row.uri for row in self.store.point_rows(release.number)), moves=state.moves(), mode=mode,
            rerank=rerank, exact=exact, cutoffs=cutoffs, slices=slices, tell=tell,
        )  # fmt: skip
        results.save(self.local / results.FOLDER, found)
        return found

    def gate(self, state: State) -> Gate | None:
        """The gate of params.yaml, over the releases of this workspace."""
        settings, own = self.settings.release.gate, self.settings.evaluate
        if settings is None:
            return None
        from ragops.evaluation.gate import Gate

        queries, qrels = settings.queries, settings.qrels
        if queries is None:
            queries, qrels = own.queries, own.qrels

        def ask(release: Release, asked: QuerySet, gate: Gate) -> Evaluation:
            return self._once(release, state, asked, gate.mode, gate.rerank, gate.cutoffs)

        return Gate(
            metric=settings.metric, margin=settings.margin, least=settings.min, mode=settings.mode or own.mode,
            rerank=own.rerank, read=lambda: self.read(queries or "", qrels), ask=ask,
        )  # fmt: skip

    def _once(
        self, release: Release, state: State, queries: QuerySet, mode: Mode, rerank: str | None, cutoffs: Sequence[int]
    ) -> Evaluation:
        """Of a release that may leave soon: its reader is closed at once."""
        key = (release.number, release.fingerprint, queries.digest, mode, rerank, *cutoffs)
        if key not in self.known:
            with contextlib.closing(self.store.open(release.number)) as reader:
                self.known[key] = self.ask(reader, state, queries, mode, rerank, cutoffs=cutoffs)
        return self.known[key]

    def write_metrics(self, state: State) -> int:
        """The outputs of the stage `evaluate`, of the release that was made of the dataset; the number of questions.

        Without a query set they say so. Raises UsageError, MissingExtra."""
        from ragops.evaluation import outputs

        own, found = self.settings.evaluate, None
        if own.queries is not None:
            made = [each for each in self.store.releases() if each.fingerprint == state.get("fingerprint")]
            if not made:
                raise UsageError("no release was made of the dataset", "Load it: ragops stage load")
            queries = self.read(own.queries, own.qrels)
            found = self._once(made[-1], state, queries, own.mode, own.rerank, (10,))
        for name, text in outputs.texts(found).items():
            file = self.root / name
            if not file.is_file() or file.read_bytes() != text.encode():
                durable.make_folder(file.parent)
                durable.write_atomic(file, text.encode())
        return 0 if found is None else found.queries
