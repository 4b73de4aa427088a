"""What a form of the pages asks, as a request of the API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ragops.service import models
from ragops.service.answers import Refused
from ragops.stores.filters import TEXT_FIELDS


def ask(given: Mapping[str, str], k: int) -> models.Ask | None:
    """The question of a form; None where nothing is asked. Raises Refused."""
    if "q" not in given:
        return None
    try:
        return models.Ask.model_validate(
            {
                "text": given["q"],
                "k": number(given, "k") or k,
                "mode": given.get("mode"),
                "filter": conditions(given.get("filter", "")),
                "offset": number(given, "offset") or 0,
                "per_document": number(given, "per_document"),
                "release": number(given, "release"),
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        raise Refused(422, f"{field}: {first['msg'][:1].lower()}{first['msg'][1:]}", field=field) from None


def number(given: Mapping[str, str], name: str) -> int | None:
    """A whole number; None where the field is empty. Raises Refused."""
    if not given.get(name):
        return None
    if not (given[name].isascii() and given[name].isdecimal() and len(given[name]) < 10):
        raise Refused(422, f"{name} is {given[name]!r}; it takes a whole number", field=name)
    return int(given[name])


def conditions(text: str) -> dict[str, Any] | None:
    """JSON, or `field=value` on each line. Raises Refused; what a filter may hold is checked with the query."""
    found: dict[str, Any] = {}
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _wrong(f"not valid JSON: {error}") from None
        return found or None
    for line in filter(str.strip, text.splitlines()):
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            raise _wrong(f"{line!r} is neither field=value nor JSON", "Such as source=docs")
        if name in found:
            raise _wrong(f"the field {name!r} is given twice", f'''Write {{"{name}": {{"in": [...]}}}}.''')
        found[name] = _value(name, value)
    return found or None


def _wrong(message: str, hint: str = "") -> Refused:
    return Refused(422, f"filter: {message}", hint, field="filter")


def _value(name: str, text: str) -> Any:
    """Numbers and truth values as such, but in fields of text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, str) or (isinstance(value, (int, float)) and name not in TEXT_FIELDS) else text
