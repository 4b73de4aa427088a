"""Random points, as the benchmarks of the stores write them."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragops.types import Point


def vocabulary(size: int) -> NDArray[np.str_]:
    return np.array([f"word{i}" for i in range(size)])


def text(rng: np.random.Generator, words: NDArray[np.str_], count: int) -> str:
    """Words as often as in a language: a few of them most of the time."""
    return " ".join(words[np.minimum(rng.zipf(1.3, count), len(words)) - 1])


def point(i: int, text: str) -> Point:
    """The `i`-th, with a payload as the loader makes it: eight of a document, ten tenants."""
    payload: dict[str, Any] = {
        "chunk_id": f"{i:064x}", "document_id": f"{i // 8:064x}", "uri": f"docs:/{i // 8}.md", "source": "docs",
        "title": f"Document {i // 8}", "heading": ["Part", "Section"], "page": None, "start": 0, "end": len(text),
        "text": text, "tenant": f"t{i % 10}", "groups": ["all"], "meta": {"n": i}, "payload_sha": f"{i:064x}",
    }  # fmt: skip
    id = str(uuid.uuid5(uuid.NAMESPACE_OID, str(i)))
    return Point(id, payload["chunk_id"], payload["document_id"], f"{i:064x}", payload)
