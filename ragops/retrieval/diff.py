"""What changed from one release to another: documents and chunks. `explain` tells why the hits of a query moved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal, TypeAlias

from ragops.errors import UsageError
from ragops.retrieval.explain import HitChange, chunker_changed
from ragops.stores.releases import find
from ragops.types import PointRow, Release, Store

Change: TypeAlias = Literal["added", "removed", "changed", "moved"]


@dataclass(frozen=True, slots=True)
class DocumentChange:
    """One document that differs from release A to release B. Chunks are named by their ids, in order.

    `changed` chunks say the same to the model, with another payload (place, page, metadata); one whose text changed is
    one removed and one added. Of a moved document all chunks say the same, and no id is the same.
    """

    uri: str
    change: Change
    was: str = ""  # its uri in A, where it moved
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    unchanged: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "uri": self.uri,
            "change": self.change,
            **({"was": self.was} if self.change == "moved" else {}),
            "added": list(self.added),
            "removed": list(self.removed),
            "changed": list(self.changed),
            "unchanged": self.unchanged,
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs from release `a` to release `b`. `hits` is None where no query was asked."""

    a: Release
    b: Release
    documents: tuple[DocumentChange, ...]  # by uri
    unchanged: int  # chunks with the same text and payload in both
    query: str | None = None
    hits: tuple[HitChange, ...] | None = None

    @property
    def space_changed(self) -> bool:
        return self.a.space.fingerprint != self.b.space.fingerprint

    @property
    def chunker_changed(self) -> bool | None:
        """None where a release does not say by which chunker it was made."""
        return chunker_changed(self.a, self.b)

    def of(self, change: Change) -> tuple[DocumentChange, ...]:
        return tuple(document for document in self.documents if document.change == change)

    def chunks(self) -> dict[str, int]:
        """Counts. A has removed + changed + moved + unchanged chunks, B added + changed + moved + unchanged."""
        stayed = [document for document in self.documents if document.change != "moved"]
        return {
            "added": sum(len(document.added) for document in stayed),
            "removed": sum(len(document.removed) for document in stayed),
            "changed": sum(len(document.changed) for document in stayed),
            "moved": sum(len(document.added) for document in self.of("moved")),
            "unchanged": self.unchanged,
        }

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "a": self.a.number,
            "b": self.b.number,
            "space_changed": self.space_changed,
            "chunker_changed": self.chunker_changed,
            "documents": {
                "added": [document.uri for document in self.of("added")],
                "removed": [document.uri for document in self.of("removed")],
                "changed": [document.uri for document in self.of("changed")],
                "moved": [[document.was, document.uri] for document in self.of("moved")],
            },
            "chunks": self.chunks(),
            "by_document": [document.as_dict() for document in self.documents],
        }
        if self.hits is not None:
            found |= {"query": self.query, "hits": [change.as_dict() for change in self.hits]}
        return found


@dataclass(slots=True)
class _Rows:
    """The rows of one document that stand in one release only."""

    uri: str
    before: list[str] = field(default_factory=list)  # chunk ids
    after: list[str] = field(default_factory=list)
    texts_before: int | None = 0  # a sum over the vector keys: equal for equal texts in any order. None: keys unknown
    texts_after: int | None = 0
    unchanged: int = 0


def diff(store: Store, a: int, b: int) -> Difference:
    """Compare two kept releases by their rows; no engine is opened. Raises UsageError for an unknown number.

    Memory holds the rows that differ, not the releases. A document that is gone and another that came with the same
    texts are one that moved; this is not seen where the vector space changed. Permissions are no part of it: they are
    the same for every release.
    """
    old, new = find(store, a), find(store, b)
    documents: dict[str, _Rows] = {}
    unchanged = 0
    for before, after in _merged(store.point_rows(a), store.point_rows(b)):
        if before is not None and after is not None:
            unchanged += 1
        elif before is not None:
            rows = _rows(documents, before)
            rows.before.append(before.chunk_id)
            rows.texts_before = _plus(rows.texts_before, before.vector_key)
        elif after is not None:
            rows = _rows(documents, after)
            rows.after.append(after.chunk_id)
            rows.texts_after = _plus(rows.texts_after, after.vector_key)
    if documents:
        for row in store.point_rows(a):
            if (found := documents.get(row.document_id)) is not None:
                found.unchanged += 1
        for found in documents.values():
            found.unchanged -= len(found.before)
    return Difference(old, new, tuple(sorted(_changes(documents.values()), key=lambda d: (d.uri, d.was))), unchanged)


def between(store: Store, a: int | None, b: int | None) -> tuple[int, int]:
    """Which releases to compare: without `b` the live one, without `a` the one kept before `b`. Raises UsageError."""
    if b is None:
        b = (store.live() or find(store, None)).number
    if a is None:
        find(store, b)
        older = [release.number for release in store.releases() if release.number < b]
        if not older:
            raise UsageError(
                f"no release before {b} is kept, so there is nothing to compare it with",
                "The next ingest that changes something makes another; release.keep says how many are kept.",
            )
        a = older[-1]
    return a, b


def _merged(old: Iterator[PointRow], new: Iterator[PointRow]) -> Iterator[tuple[PointRow | None, PointRow | None]]:
    """Both by point id, side by side where the id is the same."""
    a, b = next(old, None), next(new, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a.point_id < b.point_id):
            yield a, None
            a = next(old, None)
        elif a is None or b.point_id < a.point_id:
            yield None, b
            b = next(new, None)
        else:
            yield a, b
            a, b = next(old, None), next(new, None)


def _rows(documents: dict[str, _Rows], row: PointRow) -> _Rows:
    found = documents.get(row.document_id)
    if found is None:
        found = documents[row.document_id] = _Rows(row.uri)
    return found


def _plus(texts: int | None, vector_key: str) -> int | None:
    if texts is None or not vector_key:
        return None
    return texts + int.from_bytes(hashlib.blake2b(vector_key.encode(), digest_size=16).digest())


def _changes(documents: Iterable[_Rows]) -> Iterator[DocumentChange]:
    gone: dict[tuple[int, int], list[_Rows]] = {}  # by number and sum of texts
    came: dict[tuple[int, int], list[_Rows]] = {}
    for rows in documents:
        before, after = set(rows.before), set(rows.after)
        if rows.unchanged or (before and after):
            both = before & after
            yield DocumentChange(
                rows.uri,
                "changed",
                added=tuple(sorted(after - both)),
                removed=tuple(sorted(before - both)),
                changed=tuple(sorted(both)),
                unchanged=rows.unchanged,
            )
        elif before:
            if rows.texts_before is None:
                yield _removed(rows)
            else:
                gone.setdefault((len(before), rows.texts_before), []).append(rows)
        elif rows.texts_after is None:
            yield _added(rows)
        else:
            came.setdefault((len(after), rows.texts_after), []).append(rows)
    for texts in gone.keys() | came.keys():
        pairs = zip_longest(*(sorted(side.get(texts, ()), key=lambda rows: rows.uri) for side in (gone, came)))
        for left, arrived in pairs:
            if arrived is None:
                yield _removed(left)
            elif left is None:
                yield _added(arrived)
            else:
                added, removed = _added(arrived).added, _removed(left).removed
                yield DocumentChange(arrived.uri, "moved", was=left.uri, added=added, removed=removed)


def _added(rows: _Rows) -> DocumentChange:
    return DocumentChange(rows.uri, "added", added=tuple(sorted(rows.after)))


def _removed(rows: _Rows) -> DocumentChange:
    return DocumentChange(rows.uri, "removed", removed=tuple(sorted(rows.before)))
