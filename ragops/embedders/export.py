"""From an ingestion embedder to a query encoder: torch's own ONNX export, compared before it is kept."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragops import durable, ids
from ragops.embedders.onnx import MANIFEST, MODEL, TOKENIZER, load_query_encoder, manifest_of
from ragops.errors import DiskFull, MissingExtra, ModelError, SpaceMismatch

if TYPE_CHECKING:
    from ragops.embedders.local import TorchEmbedder
    from ragops.types import Embedder

MIN_COSINE = 0.9999
_TEXTS = 64  # compared; the whole corpus would tell no more
_OPSET = 18
_INLINE_LIMIT = 1_900_000_000  # a protobuf holds 2 GiB
_SHORT = (
    "what is it?",
    "How do I restore a deleted document to an earlier release?",
    "naïve café, Zürich; 東京 2024; emoji 🙂; C++ & <html> tags",
)


def export_query_encoder(embedder: Embedder, texts: Sequence[str], folder: Path) -> Path:
    """See `ragops.embedders.export_query_encoder`."""
    with contextlib.suppress(ModelError, SpaceMismatch):  # absent, damaged or another's: written anew
        load_query_encoder(folder, embedder.space.fingerprint)
        return folder
    try:
        durable.make_folder(folder.parent)
        for left in folder.parent.glob(f".{folder.name}.*"):  # of a killed run; writers hold the workspace's lock
            shutil.rmtree(left, ignore_errors=True)
        return _write_encoder(embedder, texts, folder)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"no space left for the query encoder in {folder.parent}", "free some space") from error
        raise ModelError(f"the query encoder cannot be written: {error}", "check the folder's permissions") from error


def _write_encoder(embedder: Embedder, texts: Sequence[str], folder: Path) -> Path:
    from ragops.embedders.hashed import HashEmbedder
    from ragops.embedders.local import TorchEmbedder

    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        if isinstance(embedder, TorchEmbedder):
            _export(embedder, draft)
            (draft / TOKENIZER).write_bytes(embedder.tokenizer.definition())
            kind = "onnx"
        else:
            kind = "hash" if isinstance(embedder, HashEmbedder) else "plugin"
        files = {path.name: ids.sha256(path.read_bytes()) for path in sorted(draft.iterdir())}
        manifest = manifest_of(kind, embedder, files)
        _write(draft, manifest)
        if kind == "onnx":
            cosine, count = _compare(embedder, draft, texts)
            manifest["compared"] = {"texts": count, "min_cosine": f"{cosine:.7f}", "with": embedder.numerics}
            _write(draft, manifest)
        _publish(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _write(draft: Path, manifest: dict[str, Any]) -> None:
    (draft / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _compare(embedder: Embedder, draft: Path, texts: Sequence[str]) -> tuple[float, int]:
    """The smallest cosine between both encoders over some of the texts, whole and as short queries."""
    import numpy as np

    step = max(1, len(texts) // _TEXTS)
    documents = list(texts[::step][:_TEXTS])
    queries = [*_SHORT, *(" ".join(text.split()[:8]) for text in documents)]
    encoder = load_query_encoder(draft, embedder.space.fingerprint)
    theirs = np.concatenate([embedder.embed(documents), embedder.embed_queries(queries)]).astype(np.float64)
    ours = np.concatenate([encoder.embed(documents), encoder.embed_queries(queries)]).astype(np.float64)
    lengths = np.linalg.norm(theirs, axis=1), np.linalg.norm(ours, axis=1)
    some = (lengths[0] > 0) | (lengths[1] > 0)  # a static model that knows no word of a text says nothing of it
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = float(np.min(np.sum(theirs * ours, axis=1)[some] / (lengths[0] * lengths[1])[some], initial=1))
        stretch = float(np.max(np.abs(lengths[1] / lengths[0] - 1)[some], initial=0))
    if not cosine > MIN_COSINE or not stretch < 0.01:
        raise ModelError(
            f"the exported query encoder of {embedder.space.model!r} does not give the model's vectors: on"
            f" {len(theirs)} texts the smallest cosine is {cosine:.6f} (more than {MIN_COSINE} is needed)"
            f" and lengths differ by up to {stretch:.1%}",
            "nothing was kept; choose another model, or report this one",
        )
    return cosine, len(theirs)


def _export(embedder: TorchEmbedder, draft: Path) -> None:
    import torch

    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "exporting a query encoder needs onnx and onnxscript", "pip install 'ragops[ingest]'"
        ) from error
    module = _module(embedder)
    size = sum(path.stat().st_size for path in embedder.files.weights)
    example = torch.full((2, 7), 5, dtype=torch.int64)
    shapes = {"input_ids": {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens", max=embedder.space.max_tokens)}}
    try:
        with _quiet(), torch.inference_mode():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=["input_ids"],
                output_names=["vectors"],
                opset_version=_OPSET,
                verbose=False,
            )
            if program is None:
                raise RuntimeError("torch gave no program")
            _strip(program.model)
            program.save(str(draft / MODEL), external_data=size > _INLINE_LIMIT)
    except OSError:
        raise
    except Exception as error:  # the exporter raises whatever its passes raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"model {embedder.space.model!r} could not be exported for queries: {reason}",
            "choose another model, or report this one",
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints and logs its progress."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _strip(model: Any) -> None:
    """Leave out what differs between runs and machines: stack traces, file names."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
    model.metadata_props.clear()


def _module(embedder: TorchEmbedder) -> Any:
    import torch

    from ragops.embedders.local import library_model
    from ragops.embedders.packed import PackedModel

    cpu = torch.device("cpu")
    layout = embedder.layout
    if embedder.packed:
        model = PackedModel(embedder.files, layout, cpu, torch.float32, plain=True)
        forward: Callable[[torch.Tensor], torch.Tensor] = model.rectangle
    else:
        if not layout.include_prompt and (layout.query_prompt or layout.document_prompt):
            raise ModelError(
                f"model {embedder.space.model!r} leaves its prompt out of pooling, which the query encoder cannot",
                "choose another model",
            )
        library = library_model(embedder.files, cpu)

        def library_forward(input_ids: torch.Tensor) -> torch.Tensor:
            features = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
            result: torch.Tensor = library(features)["sentence_embedding"]
            return result

        def static_forward(input_ids: torch.Tensor) -> torch.Tensor:
            table, *others = library
            rows = torch.nn.functional.embedding(input_ids, table.embedding.weight)
            found = {"sentence_embedding": rows.sum(1) / torch.ones_like(input_ids).sum(1, keepdim=True).clamp(min=1)}
            for other in others:
                found = other(found)
            return found["sentence_embedding"]

        forward = static_forward if layout.static else library_forward

    class Module(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return forward(input_ids)

    return Module()


def _publish(draft: Path, folder: Path) -> None:
    """Make the draft the folder, durably. Where another process was first with a sound one, that one stays."""
    for path in draft.iterdir():
        durable.sync(path)
    durable.sync(draft)
    draft.chmod(0o755)  # mkdtemp's folders are private
    old = draft.with_name(draft.name + ".old")
    if folder.exists() or folder.is_symlink():
        folder.rename(old)
    draft.rename(folder)
    durable.sync(folder.parent)
    if old.is_symlink():
        old.unlink()
    else:
        shutil.rmtree(old, ignore_errors=True)
