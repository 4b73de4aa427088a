"""The model's own tokenizer, on the `tokenizers` package: no transformers, no truncation, no padding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ragops.errors import MissingExtra, ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]

_SLICE = 1024  # encodings are some ten times their ids: hold few at a time


class TextTokenizer:
    """A `tokenizer.json`. `special_tokens` counts all that stands around a document: the model's prompt for it too."""

    def __init__(self, definition: bytes, *, fingerprint: str, lower_case: bool = False, prompt: str = "") -> None:
        self.fingerprint = fingerprint
        self._inner = _parse(definition, lower_case)
        self.additive = _additive(json.loads(self._inner.to_str()))
        self.special_tokens: int = self._inner.num_special_tokens_to_add(False)
        if prompt:  # one more, because a merge across the border can cost a token
            self.special_tokens += self.count([prompt])[0] + 1

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        result: list[list[tuple[int, int]]] = []
        for start in range(0, len(texts), _SLICE):
            part = [clean(text) for text in texts[start : start + _SLICE]]
            result += [encoding.offsets for encoding in self._inner.encode_batch(part, add_special_tokens=False)]
        return result

    def count(self, texts: Sequence[str]) -> list[int]:
        result: list[int] = []
        for start in range(0, len(texts), _SLICE):
            part = [clean(text) for text in texts[start : start + _SLICE]]
            result += [len(encoding) for encoding in self._inner.encode_batch_fast(part, add_special_tokens=False)]
        return result

    def ids(self, texts: Sequence[str], cut_at: int | None = None) -> list[Ids]:
        """Token ids with special tokens, as the model reads them. `cut_at` tokens at most, special ones kept."""
        import numpy as np

        if cut_at is not None:
            self._inner.enable_truncation(max_length=cut_at)
        try:
            result: list[Ids] = []
            for start in range(0, len(texts), _SLICE):
                part = [clean(text) for text in texts[start : start + _SLICE]]
                result += [np.array(encoding.ids, dtype=np.int64) for encoding in self._inner.encode_batch_fast(part)]
            return result
        finally:
            if cut_at is not None:
                self._inner.no_truncation()

    def definition(self) -> bytes:
        """The tokenizer as JSON, complete: what `lower_case` added is in it."""
        text: str = self._inner.to_str()
        return text.encode()


def _parse(definition: bytes, lower_case: bool) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtra("reading a model's tokenizer needs the package tokenizers", "pip install ragops") from error
    try:
        inner = tokenizers.Tokenizer.from_str(definition.decode())
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"the model's tokenizer.json cannot be read: {error}", "fetch the model again") from error
    inner.no_truncation()
    inner.no_padding()
    if lower_case:  # in the tokenizer, not by str.lower(), so that offsets stay those of the text
        lower = tokenizers.normalizers.Lowercase()
        inner.normalizer = tokenizers.normalizers.Sequence([lower, inner.normalizer]) if inner.normalizer else lower
    return inner


def _additive(definition: dict[str, Any]) -> bool:
    """BERT's way: words are split at white space and punctuation before anything else, and each stands for itself."""
    normalizer = definition["normalizer"] or {"type": "Sequence", "normalizers": []}
    steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    return (
        (definition["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"
        and definition["model"].get("type") == "WordPiece"
        and all(step["type"] in ("BertNormalizer", "Lowercase") for step in steps)
        and not any(len(token["content"].split()) > 1 for token in definition["added_tokens"])
    )


def clean(text: str) -> str:
    """Lone surrogates have no UTF-8: one replacement character each, so that offsets stay."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def model_max_length(tokenizer_config: bytes) -> int | None:
    """What tokenizer_config.json says of the window; None where it says nothing (or "infinite")."""
    value = json.loads(tokenizer_config).get("model_max_length")
    return int(value) if isinstance(value, (int, float)) and 0 < value < 1_000_000 else None
