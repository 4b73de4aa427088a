"""The model's window: documents beyond it are refused, queries are cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ragops.errors import ModelError

if TYPE_CHECKING:
    from ragops.types import Tokenizer


def refuse_long(counts: Sequence[int], special_tokens: int, max_tokens: int) -> None:
    """Raises ModelError that names the first text which does not fit. `counts` leave special tokens out."""
    for index, count in enumerate(counts):
        if count + special_tokens > max_tokens:
            raise ModelError(
                f"text {index} has {count + special_tokens} tokens; the model's window is {max_tokens}",
                "make the chunks smaller; nothing was cut or embedded",
            )


def cut(text: str, tokenizer: Tokenizer, max_tokens: int) -> str:
    """The text up to the last token that fits."""
    offsets = tokenizer.offsets([text])[0]
    fits = max(max_tokens - tokenizer.special_tokens, 0)
    return text if len(offsets) <= fits else text[: offsets[fits - 1][1] if fits else 0]
