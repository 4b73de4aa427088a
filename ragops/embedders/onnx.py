"""The query encoder: onnxruntime and tokenizers, or the hash embedder. No torch, no transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragops import ids
from ragops.embedders.tokenizer import TextTokenizer
from ragops.embedders.window import refuse_long
from ragops.errors import MissingExtra, ModelError, SchemaError, SpaceMismatch
from ragops.types import Space

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ragops.types import Embedder, Vectors

SCHEMA = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
_MEND = "run `ragops ingest`: it writes the query encoder again"


class OnnxEmbedder:
    """One exported model. Texts run in groups of equal length, so nothing is padded here either."""

    def __init__(self, session: Any, runtime: str, space: Space, tokenizer: TextTokenizer) -> None:
        self.space = space
        self.numerics = f"float32/onnxruntime-{runtime}/cpu"
        self.tokenizer: TextTokenizer = tokenizer
        self._session = session

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Documents to float32 (len(texts), dim). Raises ModelError for a text beyond the window."""
        tokens = self.tokenizer.ids([self.space.document_prompt + text for text in texts])
        refuse_long([len(text) for text in tokens], 0, self.space.max_tokens)
        return self._run(tokens)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Queries to float32 (len(texts), dim); longer ones are cut at the window."""
        prompted = [self.space.query_prompt + text for text in texts]
        return self._run(self.tokenizer.ids(prompted, cut_at=self.space.max_tokens))

    def _run(self, tokens: Sequence[NDArray[Any]]) -> Vectors:
        import numpy as np

        vectors = np.empty((len(tokens), self.space.dim), dtype=np.float32)
        groups: dict[int, list[int]] = {}
        for index, text in enumerate(tokens):
            groups.setdefault(len(text), []).append(index)
        for length, places in groups.items():
            step = max(1, 2048 // max(1, length))  # a static model reads nothing of an empty text
            for start in range(0, len(places), step):
                part = places[start : start + step]
                feed = {"input_ids": np.stack([tokens[index] for index in part])}
                vectors[part] = self._session.run(None, feed)[0]
        return vectors


def load_query_encoder(folder: Path, space: str) -> Embedder:
    """Verify every file's hash, then open. Raises SpaceMismatch, SchemaError, ModelError, MissingExtra."""
    manifest = read_manifest(folder)
    found = Space(**manifest["space"])
    if found.fingerprint != space:
        raise SpaceMismatch(
            f"{folder} encodes for the space {ids.short(found.fingerprint)} ({found.model}), not {ids.short(space)}",
            "take the encoder that the release names, or " + _MEND,
        )
    contents = _read_verified(folder, manifest)
    if manifest["kind"] in ("hash", "plugin"):
        from ragops.embedders import load

        embedder = load(found.model)
        if embedder.space.fingerprint != space:
            raise SpaceMismatch(f"the embedder {found.model!r} installed here is of another space", _MEND)
        return embedder
    session, runtime = _session(folder, contents.get(MODEL))
    tokenizer = TextTokenizer(contents[TOKENIZER], fingerprint=manifest["tokenizer"], prompt=found.document_prompt)
    return OnnxEmbedder(session, runtime, found, tokenizer)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, its shape checked. Raises ModelError, SchemaError."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        schema = manifest["schema"]
        if schema <= SCHEMA:
            Space(**manifest["space"])
            if manifest["kind"] not in ("onnx", "hash", "plugin") or not isinstance(manifest["files"], dict):
                raise ValueError("unknown kind")
    except FileNotFoundError as error:
        raise ModelError(f"there is no query encoder in {folder}", _MEND) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged: {error}", _MEND) from error
    if schema > SCHEMA:
        raise SchemaError.newer(folder, schema, SCHEMA)
    return manifest  # type: ignore[no-any-return]


def _read_verified(folder: Path, manifest: dict[str, Any]) -> dict[str, bytes]:
    """The files' bytes, hashes checked: what was verified is what is loaded. Files beside model.onnx stay on disk."""
    contents: dict[str, bytes] = {}
    for name, sha in manifest["files"].items():
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            raise ModelError(f"the query encoder lacks {folder / name}: {error.strerror}", _MEND) from error
        if ids.sha256(data) != sha:
            raise ModelError(f"{folder / name} is damaged: its sha256 is not the one in {MANIFEST}", _MEND)
        contents[name] = data
    if set(contents) - {MODEL, TOKENIZER}:
        contents.pop(MODEL)  # weights of 2 GiB and more lie beside it: onnxruntime opens it by path
    return contents


def _session(folder: Path, model: bytes | None) -> tuple[Any, str]:
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra("encoding queries needs onnxruntime", "pip install ragops") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = min(4, os.cpu_count() or 1)
    options.inter_op_num_threads = 1
    # Waiting threads sleep: a service's other work and a busy machine come first.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        source: bytes | str = str(folder / MODEL) if model is None else model
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common public base
        raise ModelError(f"{folder / MODEL} cannot be opened by onnxruntime: {error}", _MEND) from error
    return session, str(onnxruntime.__version__)


def manifest_of(kind: str, embedder: Embedder, files: dict[str, str]) -> dict[str, Any]:
    """What stands in manifest.json, before the comparison is added."""
    return {
        "schema": SCHEMA,
        "kind": kind,
        "space": asdict(embedder.space),
        "tokenizer": embedder.tokenizer.fingerprint,
        "files": files,
    }
