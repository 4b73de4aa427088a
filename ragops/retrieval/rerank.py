"""A cross-encoder reads the query and each passage together: slower than vectors, and better."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ragops.errors import MissingExtra, ModelError

_lock = threading.Lock()


def _anew() -> None:
    """Another thread of the parent may have held it, and torch's threads do not survive a fork."""
    global _lock
    _lock = threading.Lock()
    _load.cache_clear()


os.register_at_fork(after_in_child=_anew)


def scores(model: str, query: str, texts: Sequence[str]) -> list[float]:
    """One score a text, higher is better: what `CrossEncoder.predict` gives. `model` is a folder or a hub name.

    Raises MissingExtra, ModelError.
    """
    if not texts:
        return []
    with _lock:  # loading twice, or two batches at once, would only fight for the cores
        encoder = _load(model)
        found = encoder.predict([(query, text) for text in texts], show_progress_bar=False)
    if getattr(found, "ndim", 1) != 1:
        raise ModelError(f"{model!r} gives {found.shape[1]} scores for a passage; a reranker gives one")
    return [float(score) for score in found]


@functools.lru_cache(maxsize=2)
def _load(model: str) -> Any:
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise MissingExtra("reranking needs sentence-transformers", "pip install 'ragops[ingest]'") from error
    folder = Path(model).expanduser()
    name = str(folder.resolve()) if folder.is_dir() else model
    if not folder.is_dir() and (model[0] in "./~\\" or model.count("/") > 1):
        raise ModelError(f"reranker {model!r}: there is no such folder", "Give a folder, or a hub name: owner/name.")
    try:
        found = CrossEncoder(name, model_kwargs={"use_safetensors": True}, trust_remote_code=False)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        line = " ".join(str(error).split())[:300]
        raise ModelError(
            f"reranker {model!r} cannot be loaded: {line}", "It must be a CrossEncoder with .safetensors weights."
        ) from error
    if found.config.num_labels != 1:
        raise ModelError(f"{model!r} gives {found.config.num_labels} scores for a passage; a reranker gives one")
    return found
