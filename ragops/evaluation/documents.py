"""Which documents of a release are meant: by URI, by path, by the id of a row, or by a name from before a move."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ragops.errors import UsageError
from ragops_connectors.records import quoted


class Move(NamedTuple):
    """A document that went from one URI to another; `at` counts up."""

    at: int
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Found:
    """Names as they were judged -> URIs of the release. `moved`: those that took the log of moves."""

    uris: Mapping[str, str] = field(default_factory=dict)
    moved: Mapping[str, str] = field(default_factory=dict)


def find(names: Iterable[str], uris: Iterable[str], moves: Sequence[Move] = ()) -> Found:
    """The documents that `names` mean. What has a name now is meant by it; the log is asked of names that nobody has.

    `uris`: of the release, as often as they come; they are not held. Raises UsageError for a name that several
    documents have.
    """
    wanted: dict[str, list[str]] = {}  # how a name may stand in a URI -> the names
    for name in names:
        for form in _forms(name):
            wanted.setdefault(form, []).append(name)
    former = _former(wanted, moves)
    sought = {uri for ways in former.values() for way in ways for uri in way}
    whole: dict[str, str] = {}
    parts: dict[str, set[str]] = {}
    there: set[str] = set()
    for uri in uris:
        for name in wanted.get(uri, ()):
            whole[name] = uri
        for tail in _tails(uri):
            for name in wanted.get(tail, ()):
                parts.setdefault(name, set()).add(uri)
        if uri in sought:
            there.add(uri)
    found = {name: _only(name, candidates) for name, candidates in parts.items() if name not in whole} | whole
    moved: dict[str, str] = {}
    for name, ways in former.items():
        reached = {next((uri for uri in way if uri in there), None) for way in ways} - {None}
        if reached and name not in found:
            found[name] = moved[name] = _only(name, {uri for uri in reached if uri is not None})
    return Found(found, moved)


def _only(name: str, candidates: set[str]) -> str:
    if len(candidates) > 1:
        listed = sorted(candidates)
        raise UsageError(
            f"{name!r} names {len(listed)} documents: {', '.join(listed[:3])}{', ...' if len(listed) > 3 else ''}",
            "Write the whole URI of the one that is meant.",
        )
    return next(iter(candidates))


def _forms(name: str) -> set[str]:
    """How a name may stand in a URI."""
    plain = unicodedata.normalize("NFC", name.removeprefix("./"))
    return {name, plain, quoted(name)}


def _tails(uri: str) -> tuple[str, ...]:
    """What a source calls its document: the path of a file, the id of a row (of one file, or of one of several)."""
    tail = uri.partition(":/")[2]
    row = tail.partition("#")[2]
    return (tail, row) if row else (tail,)


def _former(wanted: Mapping[str, Sequence[str]], moves: Sequence[Move]) -> dict[str, list[list[str]]]:
    """Name -> for each document of the log that had it, its other URIs, those that count first before."""
    after: dict[str, list[Move]] = {}
    before: dict[str, list[Move]] = {}
    named: dict[str, set[str]] = {}
    for move in moves:
        after.setdefault(move.old, []).append(move)
        before.setdefault(move.new, []).append(move)
        for uri in (move.old, move.new):
            for form in (uri, *_tails(uri)):
                for name in wanted.get(form, ()):
                    named.setdefault(name, set()).add(uri)
    found: dict[str, list[list[str]]] = {}
    for name, uris in named.items():
        for uri in sorted(uris):
            forth, back = [], []
            step = after[uri][-1] if uri in after else None  # the last document of that name, on its way
            while step is not None:
                forth.append(step.new)
                step = next((move for move in after.get(step.new, ()) if move.at > step.at), None)
            step = before[uri][-1] if uri in before else None  # what an older release calls it
            while step is not None:
                back.append(step.old)
                step = next((move for move in reversed(before.get(step.old, ())) if move.at < step.at), None)
            found.setdefault(name, []).append([*reversed(forth), *back])
    return found
