"""A deterministic embedder without a model: words hashed to signs.

For tests, dry runs and benchmarks of everything around the model. Texts that share words are similar; nothing else is
claimed. Numpy only, the same bits on every machine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from ragops import ids
from ragops.embedders.window import cut, refuse_long
from ragops.errors import ModelError
from ragops.types import Space

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ragops.types import Tokenizer, Vectors

WINDOW = 256
MAX_DIM = 4096
_TOKEN = re.compile(r"\w{1,12}|[^\w\s]")  # a long word is several tokens, as with a real vocabulary
_START = "\n"  # no token can be this


class HashTokenizer:
    """Words and signs, in pieces of at most 12 characters."""

    additive = True
    special_tokens = 2  # as BERT's, so that the same window arithmetic is exercised
    fingerprint = ids.sha256(b"ragops:hash-tokenizer:v1 " + _TOKEN.pattern.encode())

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        return [[match.span() for match in _TOKEN.finditer(text)] for text in texts]

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(_TOKEN.findall(text)) for text in texts]


class HashEmbedder:
    """`hash:<dim>`: the normalised sum of one +1/-1 vector per word."""

    numerics = "float32/hash-1/cpu"

    def __init__(self, dim: int) -> None:
        self.tokenizer: Tokenizer = HashTokenizer()
        self.space = space(dim)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """float32 (len(texts), dim). Raises ModelError for a text beyond the window."""
        refuse_long(self.tokenizer.count(texts), self.tokenizer.special_tokens, self.space.max_tokens)
        return self._vectors(texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """float32 (len(texts), dim); longer texts are cut at the window."""
        return self._vectors([cut(text, self.tokenizer, WINDOW) for text in texts])

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        import numpy as np

        sums = np.empty((len(texts), self.space.dim), dtype=np.int64)
        start = _signs(_START, self.space.dim)
        for row, text in enumerate(texts):
            words = _TOKEN.findall(text.casefold())
            # Twice the sum of signs is even and the start is odd: no component is ever zero.
            sums[row] = start
            if words:
                sums[row] += 2 * np.sum([_signs(word, self.space.dim) for word in words], axis=0, dtype=np.int64)
        vectors = sums.astype(np.float64)
        vectors /= np.sqrt(np.sum(sums * sums, axis=1, dtype=np.int64).astype(np.float64))[:, None]
        return vectors.astype(np.float32)


def space(dim: int) -> Space:
    """The space of `hash:<dim>`. Raises ModelError for a dimension that cannot be."""
    if not 2 <= dim <= MAX_DIM:
        raise ModelError(f"hash:{dim} is not a model: its dimension must lie between 2 and {MAX_DIM}", "use hash:64")
    name = f"hash:{dim}"
    return Space(
        fingerprint=ids.composite("space", {"model": name, "version": 1, "tokenizer": HashTokenizer.fingerprint}),
        model=name,
        dim=dim,
        max_tokens=WINDOW,
        weights_sha=ids.sha256(name.encode()),
        normalized=True,
    )


@lru_cache(maxsize=100_000)
def _signs(word: str, dim: int) -> NDArray[np.int8]:
    import numpy as np

    data = hashlib.shake_128(word.encode("utf-8", "surrogatepass")).digest((dim + 7) // 8)
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=dim)
    return (bits.astype(np.int8) << 1) - 1
