"""The filter form of ragops, and its two translations: Qdrant Edge and qdrant-client.

A filter is `{"field": value | {"in": [...], "gte": x, "lt": y, "exists": bool}}`; every condition must hold.
`{"any": [filter, ...]}` holds when one of its filters does. A list in the payload (`groups`, `heading`, a list
under `meta`) matches when one of its items does. `gte` and `lt` compare numbers, or dates given as ISO 8601 text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from ragops.errors import UsageError
from ragops.types import Filter

if TYPE_CHECKING:
    import qdrant_edge
    from qdrant_client import models

TEXT_FIELDS = ("tenant", "groups", "source", "uri", "document_id", "chunk_id", "title", "heading")
FIELDS = (*TEXT_FIELDS, "page")
OPERATORS = ("in", "gte", "lt", "exists")
MAX_DEPTH = 16
MAX_CONDITIONS = 64  # of a field without an index each one costs a read of every payload
EXACT_FLOAT = 2**53  # beyond it a float cannot hold every integer
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Texts:
    """The field is one of these; none of them is possible, and matches nothing."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exactly:
    """The field is this truth value or this integer, too large for a range."""

    key: str
    value: bool | int


@dataclass(frozen=True, slots=True)
class Numbers:
    """gte <= field <= lte, and field < lt."""

    key: str
    gte: float | None = None
    lte: float | None = None
    lt: float | None = None


@dataclass(frozen=True, slots=True)
class Dates:
    """gte <= field < lt, as ISO 8601 text; UTC where it names no zone."""

    key: str
    gte: str | None = None
    lt: str | None = None


@dataclass(frozen=True, slots=True)
class Exists:
    """The field holds something (or, turned round, is missing, null or an empty list)."""

    key: str
    yes: bool


@dataclass(frozen=True, slots=True)
class Every:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Either:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The form has none; permissions need it."""

    part: Node


Node: TypeAlias = Texts | Exactly | Numbers | Dates | Exists | Every | Either | Not


def parse(filter: Filter | None) -> Every | None:
    """The filter as a checked tree; None where there is nothing to filter by. Raises UsageError."""
    if not filter and (filter is None or isinstance(filter, Mapping)):
        return None
    tree = _every(filter, 1)
    count = _count(tree)
    if count > MAX_CONDITIONS:
        raise UsageError(
            f"the filter has {count:,} conditions; it takes {MAX_CONDITIONS}",
            'A list of texts is one: {"meta.sku": {"in": ["a", "b"]}}. Each number is one; take a range: "gte", "lt".',
        )
    return tree


def _count(node: Node) -> int:
    return sum(map(_count, node.parts)) if isinstance(node, (Every, Either)) else 1


def both(one: Every | None, other: Every | None) -> Every | None:
    """What holds where both hold."""
    if one is None or other is None:
        return one or other
    return Every((*one.parts, *other.parts))


def _every(filter: Any, depth: int) -> Every:
    if not isinstance(filter, Mapping):
        raise UsageError(f"a filter is an object, not {_kind(filter)}", 'For example {"tenant": "acme"}.')
    if depth > MAX_DEPTH:
        raise UsageError(f"the filter is nested more than {MAX_DEPTH} deep", "Flatten it.")
    if not filter:
        raise UsageError('a filter inside "any" is empty', "Take it out, or give it a condition.")
    parts: list[Node] = []
    for name, condition in filter.items():
        if name == "any":
            if not isinstance(condition, (list, tuple)) or not condition:
                raise UsageError(
                    'filter: "any" takes a list of at least one filter', 'Such as {"any": [{"page": 1}, {"page": 2}]}.'
                )
            parts.append(Either(tuple(_every(part, depth + 1) for part in condition)))
        else:
            parts.extend(_conditions(name, condition))
    return Every(tuple(parts))


def _conditions(name: Any, condition: Any) -> Iterator[Node]:
    key = _key(name)
    if isinstance(condition, (list, tuple, set)):
        raise UsageError(f"filter: {name} is compared with a list", f'Use {{"{name}": {{"in": [...]}}}}.')
    if not isinstance(condition, Mapping):
        yield _equals(name, key, condition)
        return
    unknown = [operator for operator in condition if operator not in OPERATORS]
    if unknown or not condition:
        what = f"does not know {unknown[0]!r}" if unknown else "has no operator"
        raise UsageError(f"filter: {name} {what}", f"Operators are {', '.join(OPERATORS)}.")
    if "in" in condition:
        yield _one_of(name, key, condition["in"])
    if "exists" in condition:
        if not isinstance(condition["exists"], bool):
            raise UsageError(f'filter: {name}: "exists" is true or false, not {_kind(condition["exists"])}')
        yield Exists(key, condition["exists"])
    if "gte" in condition or "lt" in condition:
        yield _range(name, key, condition.get("gte"), condition.get("lt"), given=[o for o in condition if o in RANGE])


RANGE = ("gte", "lt")


def _range(name: str, key: str, gte: Any, lt: Any, given: list[str]) -> Node:
    bounds = {"gte": gte, "lt": lt}
    if name in TEXT_FIELDS:
        raise UsageError(f'filter: {name} is text and has no order for "{given[0]}"', "Compare it by value or by in.")
    values = [bounds[operator] for operator in given]
    if all(_is_number(value) for value in values):
        for value in values:
            _finite(name, value)
        return Numbers(key, gte=gte, lt=lt)
    if name != "page" and all(isinstance(value, str) for value in values):
        for value in values:
            try:
                datetime.fromisoformat(value)
            except ValueError:
                raise UsageError(
                    f"filter: {name}: {value!r} is neither a number nor a date",
                    'Dates are ISO 8601, such as "2026-01-31" or "2026-01-31T12:00:00Z".',
                ) from None
        return Dates(key, gte=gte, lt=lt)
    wanted = "numbers" if name == "page" else "numbers, or dates as ISO 8601 text"
    raise UsageError(f"filter: {name}: {' and '.join(given)} take {wanted}, not {', '.join(map(_kind, values))}")


def _one_of(name: str, key: str, values: Any) -> Node:
    if not isinstance(values, (list, tuple)):
        raise UsageError(f'filter: {name}: "in" takes a list, not {_kind(values)}')
    parts = [_equals(name, key, value) for value in values]
    texts = tuple(value for part in parts if isinstance(part, Texts) for value in part.values)
    others = [part for part in parts if not isinstance(part, Texts)]
    if not others:
        return Texts(key, texts)  # of an empty list too: "one of nothing" never holds
    return Either((Texts(key, texts), *others) if texts else tuple(others))


def _equals(name: str, key: str, value: Any) -> Node:
    if value is None:
        raise UsageError(f"filter: {name} is compared with null", f'Use {{"{name}": {{"exists": false}}}}.')
    if name in TEXT_FIELDS and not isinstance(value, str):
        raise UsageError(f"filter: {name} is text, not {_kind(value)} ({value!r})", "Write it in quotes, as text.")
    if name == "page" and not _is_number(value):
        raise UsageError(f"filter: page is a number, not {_kind(value)} ({value!r})")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UsageError(f"filter: {name}: {value!r} is not valid Unicode") from None
        return Texts(key, (value,))
    if isinstance(value, bool):
        return Exactly(key, value)
    if _is_number(value):
        _finite(name, value)
        if isinstance(value, int) and abs(value) > EXACT_FLOAT:
            return Exactly(key, value)
        return Numbers(key, gte=value, lte=value)  # a range, so that 3 finds 3.0
    raise UsageError(f"filter: {name} is compared with {_kind(value)}", "Values are text, numbers, true or false.")


def _key(name: Any) -> str:
    """The payload path of a field of the filter form."""
    if not isinstance(name, str):
        raise UsageError(f"filter: a field is text, not {_kind(name)}")
    if name in FIELDS:
        return name
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"filter: the field {name!r} is not valid Unicode") from None
    prefix, dot, own = name.partition(".")
    if prefix == "meta" and dot and own:
        if _PLAIN_NAME.fullmatch(own):
            return f"meta.{own}"
        if '"' in own or "\\" in own:
            raise UsageError(f"filter: the name in {name!r} has a quote or a backslash, which a path cannot hold")
        return f'meta."{own}"'
    import difflib

    near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.75)
    own_field = (
        f'your own fields stand under meta: "meta.{name}"' if name and prefix != "meta" else 'write "meta.<name>"'
    )
    guess = f"Did you mean {near[0]}? If not, {own_field}." if near else f"{own_field[0].upper()}{own_field[1:]}."
    raise UsageError(f"filter: no field {name!r} (there are {', '.join(FIELDS)})", guess)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _finite(name: str, value: float) -> None:
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise UsageError(f"filter: {name}: {value} does not fit in 64 bits")
    elif not math.isfinite(value):
        raise UsageError(f"filter: {name}: {value} is no number to compare with")


def _kind(value: Any) -> str:
    return {bool: "true or false", str: "text", int: "a number", float: "a number", type(None): "null"}.get(
        type(value), "a list" if isinstance(value, (list, tuple, set)) else type(value).__name__
    )


# ---------------------------------------------------------------- Qdrant Edge
def for_edge(tree: Every | None) -> qdrant_edge.Filter | None:
    return None if tree is None else _edge_every(tree)


def _edge_every(tree: Every) -> qdrant_edge.Filter:
    import qdrant_edge as edge

    return edge.Filter(must=[_edge(part) for part in tree.parts])


def _edge(node: Node) -> qdrant_edge.FieldCondition | qdrant_edge.Filter | qdrant_edge.IsEmptyCondition:
    import qdrant_edge as edge

    match node:
        case Texts(key, values):
            return edge.FieldCondition(key, match=edge.MatchAny(list(values)))
        case Exactly(key, bool(value)):
            # Edge 0.9.0 reads Python's True as the integer 1; numpy's bool arrives as a truth value.
            import numpy as np

            return edge.FieldCondition(key, match=edge.MatchValue(np.bool_(value)))  # type: ignore[arg-type]
        case Exactly(key, value):
            return edge.FieldCondition(key, match=edge.MatchValue(value))
        case Numbers(key, gte, lte, lt):
            return edge.FieldCondition(key, range=edge.RangeFloat(gte=gte, lte=lte, lt=lt))
        case Dates(key, gte, lt):
            return edge.FieldCondition(key, range=edge.RangeDateTime(gte=gte, lt=lt))
        case Exists(key, yes):
            empty = edge.IsEmptyCondition(key)
            return edge.Filter(must_not=[empty]) if yes else empty
        case Every():
            return _edge_every(node)
        case Either(parts):
            return edge.Filter(should=[_edge(part) for part in parts])
        case Not(part):
            return edge.Filter(must_not=[_edge(part)])


# ---------------------------------------------------------------- qdrant-client
def for_server(tree: Every | None) -> models.Filter | None:
    return None if tree is None else _server_every(tree)


def _server_every(tree: Every) -> models.Filter:
    from qdrant_client import models

    return models.Filter(must=[_server(part) for part in tree.parts])


def _server(node: Node) -> models.FieldCondition | models.Filter | models.IsEmptyCondition:
    from qdrant_client import models

    match node:
        case Texts(key, values):
            return models.FieldCondition(key=key, match=models.MatchAny(any=list(values)))
        case Exactly(key, value):
            return models.FieldCondition(key=key, match=models.MatchValue(value=value))
        case Numbers(key, gte, lte, lt):
            return models.FieldCondition(key=key, range=models.Range(gte=gte, lte=lte, lt=lt))
        case Dates(key, gte, lt):
            bounds = models.DatetimeRange(gte=_moment(gte), lt=_moment(lt))
            return models.FieldCondition(key=key, range=bounds)
        case Exists(key, yes):
            empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
            return models.Filter(must_not=[empty]) if yes else empty
        case Every():
            return _server_every(node)
        case Either(parts):
            return models.Filter(should=[_server(part) for part in parts])
        case Not(part):
            return models.Filter(must_not=[_server(part)])


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
