"""A deterministic model that counts: each text is logged before it is embedded, so that a killed run's work counts too.

`Model` is what every side's own embedder class wraps. It reads from the environment: COUNTED, the folder to log into;
PAUSE, seconds per text; FAIL=n, raise once, at the n-th text of the process; REAL=1, let all-MiniLM-L6-v2 do the
embedding (ragops only). `register` plugs it into ragops the way any third party would.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragops.types import Embedder, Space, Vectors

DIM = 64
LOG = "embedded.log"


class Model:
    """64 numbers of unit length, made of the text's hash."""

    def __init__(self) -> None:
        self.log = os.open(Path(os.environ["COUNTED"]) / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.pause = float(os.environ.get("PAUSE", "0"))
        self.fail = int(os.environ.get("FAIL", "0"))
        self.seen = 0

    def count(self, texts: Sequence[str]) -> None:
        for text in texts:
            self.seen += 1
            if self.seen == self.fail:
                raise ConnectionError("the model is out of reach")
            os.write(self.log, hashlib.sha256(text.encode()).hexdigest().encode() + b"\n")
            if self.pause:
                time.sleep(self.pause)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.count(texts)
        vectors = []
        for text in texts:
            numbers = struct.unpack(f"<{DIM}h", hashlib.shake_128(text.encode()).digest(2 * DIM))
            norm = sum(x * x for x in numbers) ** 0.5
            vectors.append([x / norm for x in numbers])
        return vectors


class Counted:
    """Implements ragops.types.Embedder around another one."""

    def __init__(self, inner: Embedder, space: Space) -> None:
        self.inner = inner
        self.space = space
        self.tokenizer = inner.tokenizer
        self.numerics = inner.numerics
        self.model = Model()

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.model.count(texts)
        return self.inner.embed(texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return self.inner.embed_queries(texts)


def build(name: str, device: str = "auto") -> Embedder:
    """The entry point: `name` is what stands behind the colon, another model."""
    import dataclasses

    from ragops import embedders, ids

    inner = embedders.load(name, device=device)
    fingerprint = ids.composite("space", {"counted": inner.space.fingerprint})
    return Counted(inner, dataclasses.replace(inner.space, model=f"counted:{name}", fingerprint=fingerprint))


def register(folder: Path) -> None:
    """Write a distribution's metadata into `folder` and put it on the path: `counted:<model>` is then a model."""
    metadata = folder / "ragops_counted-0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ragops-counted\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text("[ragops.embedders]\ncounted = counted:build\n")
    for path in (str(folder), str(Path(__file__).parent)):
        if path not in sys.path:
            sys.path.append(path)
