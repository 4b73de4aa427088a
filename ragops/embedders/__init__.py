"""Models: texts to vectors of one space.

Names: `all-MiniLM-L6-v2` (from its package), a folder, a name on the Hugging Face hub (local cache first),
`hash:<dim>` (deterministic, for tests), or `<plugin>:<rest>` by an entry point in the group `ragops.embedders`.
Importing this package imports no model library; each function imports what it uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragops.embedders.models import ModelFiles
    from ragops.types import Embedder, Space, Tokenizer

DEFAULT_MODEL = "all-MiniLM-L6-v2"


def find_model(name: str) -> ModelFiles:
    """Locate a model; loads nothing. Raises ModelError, MissingExtra."""
    from ragops.embedders import models

    return models.find_model(name)


def identify(files: ModelFiles, expected_sha: str | None = None) -> Space:
    """Hash the weights and tell the space, without torch. Raises ModelError for weights not expected or not pinned."""
    from ragops.embedders import models

    return models.identify(files, expected_sha)


def load_tokenizer(files: ModelFiles) -> Tokenizer:
    """The model's own tokenizer, without torch. Raises ModelError."""
    from ragops.embedders import models

    if files.kind == "hash":
        from ragops.embedders.hashed import HashTokenizer

        return HashTokenizer()
    return load(files.name).tokenizer if files.kind == "plugin" else models.load_tokenizer(files)


def load(
    name: str, *, device: str = "auto", batch_tokens: int | None = None, expected_sha: str | None = None
) -> Embedder:
    """An embedder for ingestion. `device`: auto, cpu, cuda, cuda:1, mps. `batch_tokens`: None for the device's default.

    Raises ModelError (unknown, unsafe, damaged, not the pinned weights), MissingExtra, UsageError (no such device).
    """
    from ragops.embedders import models

    files = models.find_model(name)
    embedder: Embedder
    if files.kind == "hash":
        from ragops.embedders.hashed import HashEmbedder

        embedder = HashEmbedder(int(name.partition(":")[2]))
    elif files.kind == "plugin":
        embedder = models.load_plugin(name, device)
    else:
        from ragops.embedders.local import TorchEmbedder

        return TorchEmbedder(files, device=device, batch_tokens=batch_tokens, expected_sha=expected_sha)
    models.check_sha(files, embedder.space.weights_sha, expected_sha)
    return embedder


def export_query_encoder(embedder: Embedder, texts: Sequence[str], folder: Path) -> Path:
    """Write what queries need without torch into `folder` (atomic), compared with `embedder` on `texts`.

    A sound encoder of the same space that is already there is kept. Raises ModelError; then nothing was left behind.
    """
    from ragops.embedders import export

    return export.export_query_encoder(embedder, texts, folder)


def load_query_encoder(folder: Path, space: str) -> Embedder:
    """Open what `export_query_encoder` wrote, on onnxruntime and tokenizers alone. `space` is a Space's fingerprint.

    Raises SpaceMismatch, SchemaError, ModelError (missing or damaged files).
    """
    from ragops.embedders import onnx

    return onnx.load_query_encoder(folder, space)
