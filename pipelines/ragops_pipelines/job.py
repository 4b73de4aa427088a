"""What one run works on, what it was asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragops.errors import RagopsError

if TYPE_CHECKING:
    from ragops.config import Settings
    from ragops.evaluation.gate import Gate
    from ragops.types import Connector, Store
    from ragops_pipelines.dataset import Dataset
    from ragops_pipelines.snapshot import Snapshot
    from ragops_pipelines.state import Cache, State


@dataclass(frozen=True, slots=True)
class Event:
    """Progress: `done` of `total` (where known) in a stage; `share` of the bytes to read, 0 to 1."""

    stage: str
    done: int
    total: int | None = None
    share: float | None = None


Progress = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How to run. `retry`: URIs of rejects to read again; `rehash`: trust no change token;
    `rebuild`: read and write everything again."""

    allow_deletes: bool = False
    rebuild: bool = False
    rehash: bool = False
    retry: Collection[str] = ()


@dataclass(slots=True)
class Job:
    """The parts that a run works on."""

    settings: Settings
    connectors: Sequence[Connector]
    dropped: Collection[str]  # sources that were configured once and are no more
    source_settings: Mapping[str, str]  # source name -> hash of its settings
    keep_bytes: Mapping[str, bool]  # source name -> whether the snapshot keeps its bytes
    state: State
    cache: Cache
    snapshot: Snapshot
    dataset: Dataset
    store: Store
    models: Path
    options: Options
    tell: Progress
    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What an ingest would do. `chunks` and `seconds` are estimates from earlier runs here, None where there was none
    (that was large enough): of the chunks to make, unchanged texts among them embed nothing."""

    sources: Mapping[str, int]  # seen, new, to_read, removed, unchanged, rejected
    read_bytes: int
    recipe_changed: Sequence[str]  # of "parser", "chunker", "model"
    removed: Sequence[str]
    incomplete: Sequence[str]
    chunks: int | None
    needs_consent: bool  # more leaves than `release.max_delete` allows, as far as it is not only moved
    held: bool  # a rollback holds: the release would be sealed, not published
    seconds: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Summary:
    """What an ingest did. `sources`: seen = added + changed + unchanged + rejected."""

    release: int
    fingerprint: str
    sources: Mapping[str, int]
    chunks: Mapping[str, int]
    vectors: Mapping[str, int]
    seconds: Mapping[str, float]
    bytes_written: Mapping[str, int] = field(default_factory=dict)
    incomplete: Sequence[str] = ()
    noop: bool = False
    held: bool = False  # a rollback holds: `release` is sealed, and not the live one
    gate: Mapping[str, Any] | None = None  # what the gate said of `release`, where it was asked
    dvc: Mapping[str, Any] | None = None  # recorded, seconds, error; None outside of a DVC repository

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class HeldBack(RagopsError):
    """More would be deleted than `release.max_delete` allows without consent."""


class NothingPassed(RagopsError):
    """Not one source gave text, so there is nothing to release."""
