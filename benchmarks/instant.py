"""A model that returns instantly, for timing everything around one: all-MiniLM-L6-v2's tokenizer, vectors made before.

`register(folder)` plugs it into ragops the way any third party would: a distribution whose entry point in the group
`ragops.embedders` names `build`. The model's name is then `instant:all-MiniLM-L6-v2`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ragops import embedders, ids
from ragops.types import Space, Tokenizer

if TYPE_CHECKING:
    from ragops.types import Embedder, Vectors

MODEL = "instant:all-MiniLM-L6-v2"
ROWS = 8192


class Instant:
    """Implements ragops.types.Embedder. Hands out a table of random unit vectors, row by row, round and round."""

    numerics = "float32/instant/cpu"

    def __init__(self, space: Space, tokenizer: Tokenizer) -> None:
        import numpy as np

        self.space = space
        self.tokenizer = tokenizer
        made = np.random.default_rng(0).standard_normal((ROWS, space.dim), dtype=np.float32)
        self._made = made / np.linalg.norm(made, axis=1, keepdims=True)
        self._next = 0

    def embed(self, texts: Sequence[str]) -> Vectors:
        import numpy as np

        rows = np.arange(self._next, self._next + len(texts)) % ROWS
        self._next += len(texts)
        vectors: Vectors = self._made[rows]
        return vectors

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return self.embed(texts)


def build(name: str, device: str = "auto") -> Embedder:
    """The entry point: `name` is what stands behind the colon."""
    files = embedders.find_model(name)
    real = embedders.identify(files)
    fingerprint = ids.composite("space", {"instant": real.fingerprint})
    return Instant(
        dataclasses.replace(real, model=f"instant:{name}", fingerprint=fingerprint), embedders.load_tokenizer(files)
    )


def register(folder: Path) -> str:
    """Write the distribution's metadata into `folder` and put it on the path; returns the model's name."""
    metadata = folder / "ragops_benchmarks-0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ragops-benchmarks\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text("[ragops.embedders]\ninstant = instant:build\n")
    for path in (str(folder), str(Path(__file__).parent)):
        if path not in sys.path:
            sys.path.append(path)
    return MODEL
