"""What ragops stands on: versions, model, device, disk, store, engine, optional tools."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ragops.errors import RagopsError

if TYPE_CHECKING:
    from ragops.config import StoreSettings

BASE = ("ragops", "qdrant-edge-py", "qdrant-client", "onnxruntime", "tokenizers", "polars", "numpy", "typer")
INGEST = ("torch", "sentence-transformers", "unstructured", "kreuzberg", "pypdfium2", "dvc")
LOW_DISK = 1 << 30  # bytes


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `note` is worth knowing, `wrong` must be mended for something to work."""

    name: str
    state: Literal["ok", "note", "wrong"]
    found: str
    hint: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(root: Path | None) -> list[Check]:
    """All checks; those of the workspace only where there is one. Changes nothing."""
    checks = [*_packages(), *_tools(), *_device()]
    if root is None:
        return [*checks, Check("workspace", "note", "none here", "Make one: ragops init")]
    try:
        return [*checks, *_workspace(root)]
    except RagopsError as error:
        return [*checks, Check("workspace", "wrong", error.message, error.hint)]


def _packages() -> Iterator[Check]:
    for name in (*BASE, *INGEST):
        try:
            yield Check(name, "ok", version(name))
        except PackageNotFoundError:
            if name in BASE:
                yield Check(name, "wrong", "not installed", "pip install ragops")
            else:
                yield Check(
                    name, "note", "not installed: this machine can search, not ingest", "pip install 'ragops[ingest]'"
                )


def _tools() -> Iterator[Check]:
    try:
        from ragops_pipelines.parse import language_model
    except ImportError:
        return
    yield Check("language model", "ok", f"{language_model()} (sentence and word borders for `unstructured`)")


def _device() -> Iterator[Check]:
    try:
        version("torch")
    except PackageNotFoundError:
        return
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Check("device", "ok", f"cuda: {names}")
    elif torch.backends.mps.is_available():
        yield Check("device", "ok", "mps")
    else:
        yield Check("device", "ok", f"cpu, {torch.get_num_threads()} threads")


def _server(settings: StoreSettings) -> Iterator[Check]:
    """Reach, version, key, collections. The first check says whether it can be asked at all."""
    from ragops.stores.server import QdrantStore

    try:
        with contextlib.closing(QdrantStore.connect(settings)) as store:
            found = store.examine()
    except RagopsError as error:
        yield Check("server", "wrong", error.message, error.hint)
        return
    yield Check("server", "ok", f"{settings.url}, Qdrant {found.version}, {len(found.collections)} collections of ours")
    if found.key_in_clear:
        yield Check("server key", "note", "sent in clear: the address is not https", "Set store.url to https://...")
    if found.strangers:
        yield Check(
            "server collections",
            "note",
            f"not accounted for by any release: {', '.join(found.strangers)}",
            "If nobody else made them, they can be removed there.",
        )
    if found.writer is not None:
        yield Check("server writer", "note", f"{found.writer} holds the lease", "Others are refused until it ends.")


def _workspace(root: Path) -> Iterator[Check]:
    from ragops.embedders import find_model, identify
    from ragops.versioning import lacking
    from ragops.workspace import Workspace

    workspace = Workspace.open(root)
    yield Check("workspace", "ok", str(root))
    free = shutil.disk_usage(root).free
    low = free < LOW_DISK
    yield Check("disk", "wrong" if low else "ok", f"{free / 1e9:.1f} GB free", "Free some space." if low else "")
    for missing in lacking(root):
        yield Check("versions", "note", missing, "See docs/versions.md, or leave it: everything else works the same.")
    embed = workspace.settings.embed
    try:
        space = identify(find_model(embed.model), embed.sha256)
        yield Check("model", "ok", f"{embed.model}, weights {space.weights_sha[:12]}, space {space.fingerprint[:12]}")
    except RagopsError as error:
        yield Check("model", "wrong", error.message, error.hint)
    store = workspace.store
    if workspace.settings.store.url is not None:
        server = list(_server(workspace.settings.store))
        yield from server
        if server[0].state == "wrong":
            return
    live = store.live()
    if live is None:
        yield Check("store", "note", "no release yet", "ragops ingest")
        return
    problems = store.check(live.number)
    if problems:
        yield Check("store", "wrong", f"release {live.number}: {'; '.join(problems[:3])}", "ragops verify --repair")
    else:
        held = "checksums hold" if workspace.settings.store.url is None else "its collection and count hold"
        yield Check("store", "ok", f"release {live.number}, {live.points} points, {held}")
    try:
        encoder = workspace.encoder(live)
        yield Check("query encoder", "ok", f"{encoder.space.model}, {encoder.numerics}")
    except RagopsError as error:
        yield Check("query encoder", "wrong", error.message, error.hint)
