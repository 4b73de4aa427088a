"""What changed between two releases, as far as somebody may see it."""

from __future__ import annotations

from collections.abc import Sequence

from ragops.retrieval.diff import DocumentChange
from ragops.types import Filter, Store


def seen(
    store: Store, a: int, b: int, documents: Sequence[DocumentChange], scope: Filter | None
) -> list[DocumentChange]:
    """The changes of documents that `scope` lets be seen: what moved into sight was added, what left it removed."""
    if scope is None:
        return list(documents)
    was = {each.was or each.uri for each in documents if each.change != "added"}
    now = {each.uri for each in documents if each.change != "removed"}
    left, right = _visible(store, a, was, scope), _visible(store, b, now, scope)
    found = []
    for each in documents:
        old, new = (each.was or each.uri) in left, each.uri in right
        if each.change == "moved" and old != new:
            found.append(DocumentChange(each.uri, "added") if new else DocumentChange(each.was, "removed"))
        elif old or new:
            found.append(each)
    return sorted(found, key=lambda each: each.uri)


def _visible(store: Store, release: int, uris: set[str], scope: Filter) -> set[str]:
    """Which of these documents a release shows to somebody."""
    if not uris:
        return set()
    found: set[str] = set()
    ordered = sorted(uris)
    reader = store.open(release)
    try:
        for start in range(0, len(ordered), 500):
            wanted: Filter = {"uri": {"in": ordered[start : start + 500]}, "any": [scope]}
            found.update(payload["uri"] for _, payload, _ in reader.points(filter=wanted))
    finally:
        reader.close()
    return found
