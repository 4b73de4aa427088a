"""The model's own tokenizer, on the `tokenizers` package: no transformers, no truncation, no padding."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ragops.errors import MissingExtra, ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]

_SLICE = 1024  # encodings are some ten times their ids: hold few at a time
_REMEMBERED = 1 << 20  # characters of words whose tokens are remembered: some 5 MB
_PARTS = re.compile("[0-9A-Za-z]+|.")
_NO_SPACE = re.compile("[\x0b\x0c\x1c-\x1f\x85]")  # str.split() cuts here; BERT drops them and joins their neighbours


class TextTokenizer:
    """A `tokenizer.json`. `special_tokens` counts all that stands around a document: the model's prompt for it too."""

    def __init__(self, definition: bytes, *, fingerprint: str, lower_case: bool = False, prompt: str = "") -> None:
        self.fingerprint = fingerprint
        self._inner = _parse(definition, lower_case)
        parsed = json.loads(self._inner.to_str())
        self.additive = _additive(parsed)
        self._is_plain = _plain(token["content"] for token in parsed["added_tokens"]).fullmatch
        self._known: dict[str, int] = {}  # word -> tokens, of an additive tokenizer
        self._known_size = 0
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
            part = texts[start : start + _SLICE]
            result += self._count_words(part) if self.additive else self._count(part)
        return result

    def _count(self, texts: Sequence[str]) -> list[int]:
        encodings = self._inner.encode_batch_fast([clean(text) for text in texts], add_special_tokens=False)
        return [len(encoding) for encoding in encodings]

    def _count_words(self, texts: Sequence[str]) -> list[int]:
        """As the sum of their words, each tokenised once: documents say the same words again and again."""
        if self._known_size > _REMEMBERED:
            self._known, self._known_size = {}, 0
        known = self._known  # another thread may begin a new one
        words = [[text] if _NO_SPACE.search(text) else text.split() for text in texts]
        new = list(set[str]().union(*words).difference(known))
        parts = [_PARTS.findall(word) if self._is_plain(word) else [word] for word in new]
        fresh = list(set[str]().union(*parts).difference(known))
        if 2 * len(fresh) > sum(map(len, words)):  # hardly any come twice: one call for each would cost more
            return self._count(texts)
        for first in range(0, len(fresh), _SLICE):
            some = fresh[first : first + _SLICE]
            known.update(zip(some, self._count(some), strict=True))
        tokens = known.__getitem__
        known.update([(word, sum(map(tokens, cut))) for word, cut in zip(new, parts, strict=True)])
        self._known_size += sum(map(len, fresh)) + sum(map(len, new))
        return [sum(map(tokens, some)) for some in words]

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


def _plain(added_tokens: Iterable[str]) -> re.Pattern[str]:
    """Words that BERT cuts at every sign that is no letter or digit: ASCII, without the start of an added token."""
    begin = {sign for token in added_tokens for sign in (token[:1].lower(), token[:1].upper())}
    return re.compile("[" + re.escape("".join(sign for sign in map(chr, range(33, 127)) if sign not in begin)) + "]+")


def clean(text: str) -> str:
    """Lone surrogates have no UTF-8: one replacement character each, so that offsets stay."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def bare(definition: bytes) -> bytes:
    """A tokenizer.json that puts nothing around a text. Raises ModelError."""
    try:
        return json.dumps(json.loads(definition) | {"post_processor": None}).encode()
    except (ValueError, TypeError) as error:
        raise ModelError(f"the model's tokenizer.json cannot be read: {error}", "fetch the model again") from error


def model_max_length(tokenizer_config: bytes) -> int | None:
    """What tokenizer_config.json says of the window; None where it says nothing (or "infinite")."""
    value = json.loads(tokenizer_config).get("model_max_length")
    return int(value) if isinstance(value, (int, float)) and 0 < value < 1_000_000 else None
