"""A first query set from the corpus itself: it shows what broke between releases, and does not measure real use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ragops import ids
from ragops.errors import UsageError
from ragops.types import Reader

LABEL = """\
# SYNTHETIC: made from the corpus by `ragops eval bootstrap`, not written by people. A heading, or the first sentence of
# a passage, is asked, and its document expected. Such questions use the document's own words, so results are far better
# than with real ones. They show whether a change broke something; they do not measure how good answers are.
"""
PER_DOCUMENT = 3
SHORTEST, LONGEST = 20, 200  # characters of a sentence
_SENTENCE = re.compile(r"(.+?[.!?。！？])(?:\s|$)", re.S)

Kind = Literal["heading", "sentence"]


@dataclass(frozen=True, slots=True)
class Made:
    """A question and the document that it was taken from."""

    kind: Kind
    text: str
    uri: str


def make(reader: Reader, size: int = 50, seed: int = 0) -> list[Made]:
    """Up to `size` questions of a release: headings and first sentences of passages in turn, each once in the corpus, a
    few of one document. The same corpus and seed give the same; another document changes few of them. Raises UsageError
    where the corpus gives none.
    """
    found: dict[Kind, dict[str, tuple[str, str]]] = {"heading": {}, "sentence": {}}  # plain text -> text, uri
    several: set[str] = set()  # they name no single document
    for _, payload, _ in reader.points():
        for kind, text in _candidates(payload):
            plain = " ".join(text.lower().split())
            known = found[kind].setdefault(plain, (text, payload["uri"]))
            if known[1] != payload["uri"]:
                several.add(plain)
    chosen: list[Made] = []
    count: dict[str, int] = {}
    asked = set(several)
    queues = [iter(_shuffled(kind, found[kind], seed)) for kind in ("heading", "sentence")]
    while queues and len(chosen) < size:
        queue = queues.pop(0)
        for plain, made in queue:
            if plain not in asked and count.get(made.uri, 0) < PER_DOCUMENT:
                asked.add(plain)
                count[made.uri] = count.get(made.uri, 0) + 1
                chosen.append(made)
                queues.append(queue)
                break
    if not chosen:
        raise UsageError(
            "the release has no heading and no sentence that names one document", "Write some questions by hand."
        )
    return chosen


def _shuffled(kind: Kind, texts: Mapping[str, tuple[str, str]], seed: int) -> Iterable[tuple[str, Made]]:
    """In an order by hashes: what is added to a corpus moves nothing else."""
    for plain in sorted(texts, key=lambda plain: ids.composite("bootstrap", [seed, plain])):
        text, uri = texts[plain]
        yield plain, Made(kind, text, uri)


def _candidates(payload: Mapping[str, Any]) -> Iterable[tuple[Kind, str]]:
    title = (payload.get("title") or "").strip()
    heading = [part.strip() for part in payload.get("heading") or () if part.strip()]
    asked = " ".join(dict.fromkeys([each for each in (title, *heading[-1:]) if each]))
    if 4 <= len(asked) <= LONGEST:
        yield "heading", asked
    blocks = (" ".join(block.split()) for block in payload["text"].split("\n\n"))
    body = next((block for block in blocks if block and block not in (title, *heading)), "")
    match = _SENTENCE.match(body)
    if match and SHORTEST <= len(match[1]) <= LONGEST and any(c.isalpha() for c in match[1]):
        yield "sentence", match[1]


def text(made: Iterable[Made]) -> str:
    """The query set as YAML, with its label."""
    import yaml

    questions = [{"text": each.text, "expect": [each.uri], "meta": {"kind": each.kind}} for each in made]
    value = {"synthetic": True, "questions": questions}
    return LABEL + yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=120)
