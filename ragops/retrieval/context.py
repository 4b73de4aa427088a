"""Hits to a text for a language model, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ragops.retrieval.query import Hit, Passage


@dataclass(frozen=True, slots=True)
class Citation:
    """What a number in a context stands for. Several spans where neighbours of the hit were taken along."""

    number: int
    uri: str
    title: str
    heading: tuple[str, ...]
    page: int | None
    start: int
    end: int
    document_id: str
    chunk_id: str


@dataclass(frozen=True, slots=True)
class Context:
    """`text` holds a block for each citation, headed by its number: `[1] Title > Heading (uri, page 3)`."""

    text: str
    citations: tuple[Citation, ...]
    tokens: int
    left_out: int  # hits that did not fit


def context(hits: Sequence[Hit], count: Callable[[Sequence[str]], list[int]], budget: int) -> Context:
    """The hits in their order, each with the neighbours it came with, as far as they fit into `budget` tokens.

    A passage stands in it once. A hit that does not fit with its neighbours is tried alone; one that does not fit
    alone is left out, and a smaller one after it may be taken. `count` gives the tokens of texts.
    """
    blocks: list[str] = []
    citations: list[Citation] = []
    taken: set[str] = set()
    used = left_out = 0
    for hit in hits:
        if hit.chunk_id in taken:
            continue
        number = len(citations) + 1
        own = Passage(hit.text, hit.start, hit.end, hit.heading, hit.page, hit.chunk_id)
        whole = [*(p for p in hit.before if p.chunk_id not in taken), own]
        whole += [p for p in hit.after if p.chunk_id not in taken]
        for passages in (whole, [own]):
            block = f"{_head(number, hit)}\n{_joined(passages)}"
            tokens = count([block + "\n\n"])[0]
            if used + tokens <= budget:
                blocks.append(block)
                citations.append(
                    Citation(
                        number, hit.uri, hit.title, hit.heading, hit.page, passages[0].start, passages[-1].end,
                        hit.document_id, hit.chunk_id,
                    )
                )  # fmt: skip
                taken.update(p.chunk_id for p in passages)
                used += tokens
                break
        else:
            left_out += 1
    return Context("\n\n".join(blocks), tuple(citations), used, left_out)


def _head(number: int, hit: Hit) -> str:
    path = " > ".join(part for part in (hit.title, *hit.heading) if part)
    page = f", page {hit.page}" if hit.page is not None else ""
    return f"[{number}] {path} ({hit.uri}{page})" if path else f"[{number}] {hit.uri}{page}"


def _joined(passages: Sequence[Passage]) -> str:
    """As they stand in the document: what two share is said once, what is left out is marked."""
    text, at = passages[0].text, passages[0].end
    for each in passages[1:]:
        if each.start <= at:
            text += each.text[max(0, at - each.start) :]
        else:
            text += (" " if each.start - at == 1 else "\n\n") + each.text
        at = max(at, each.end)
    return text
