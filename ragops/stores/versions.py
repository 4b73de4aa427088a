"""Points that live from one release to another, as a server keeps them.

A point is immutable and carries two numbers of releases: N sees it if `added <= N < removed`. The protocol speaks of
logical ids; the server's own id has the last four bytes replaced by `added`, so that a point that is deleted and added
again is another one there, and the order of ids stays that of the logical ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qdrant_client import models

OPEN = 2**53 - 1  # `removed` of a point that no release has left out yet
NUMBERS = 2**32  # releases count below this
ID, KEY, ADDED, REMOVED = "point_id", "vector_key", "added", "removed"
PRIVATE = frozenset({ID, KEY, ADDED, REMOVED})  # of the payload: never leaves the store


def physical(logical: str, added: int) -> str:
    """The server's id of a point that release `added` brought."""
    tail = f"{added:08x}"
    return f"{logical[:28]}{tail}"


def stamped(payload: Mapping[str, Any], logical: str, vector_key: str, added: int) -> dict[str, Any]:
    return {**payload, ID: logical, KEY: vector_key, ADDED: added, REMOVED: OPEN}


def plain(payload: Mapping[str, Any] | None) -> dict[str, Any]:
    """A payload without what is the store's own."""
    return {key: value for key, value in (payload or {}).items() if key not in PRIVATE}


def seen_by(number: int) -> list[models.FieldCondition]:
    """The conditions that a point of release `number` meets."""
    return [between(ADDED, upto=number), between(REMOVED, after=number)]


def as_json(number: int) -> dict[str, Any]:
    """The same as JSON, for other clients."""
    return {"must": [{"key": ADDED, "range": {"lte": number}}, {"key": REMOVED, "range": {"gt": number}}]}


def between(
    key: str, *, after: int | None = None, upto: int | None = None, below: int | None = None
) -> models.FieldCondition:
    from qdrant_client import models

    return models.FieldCondition(key=key, range=models.Range(gt=after, lte=upto, lt=below))


def any_of(key: str, values: list[str]) -> models.FieldCondition:
    from qdrant_client import models

    return models.FieldCondition(key=key, match=models.MatchAny(any=values))


def every(*conditions: models.FieldCondition) -> models.Filter:
    from qdrant_client import models

    return models.Filter(must=list(conditions))
