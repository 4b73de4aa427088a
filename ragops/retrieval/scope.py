"""What somebody may see, as a filter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ragops.errors import UsageError
from ragops.types import Filter


def scope(tenant: str | None, groups: Sequence[str] | None = None) -> Filter | None:
    """Documents of `tenant` ("": of none; None: of all), and of those only what is open to everybody in it or to one
    of `groups` (None: whatever their groups). Raises UsageError."""
    if tenant is not None and not isinstance(tenant, str):
        raise UsageError(f"tenant is text, not {type(tenant).__name__} ({tenant!r})")
    found: dict[str, Any] = {}
    if tenant is not None:
        found["tenant"] = tenant
    if groups is not None:
        if isinstance(groups, (str, bytes)) or not isinstance(groups, Iterable):  # of a text: each of its letters
            raise UsageError(f"groups is a list of names, not {groups!r}", 'Such as groups=["staff", "hr"].')
        names = list(groups)
        if not all(isinstance(name, str) for name in names):
            raise UsageError(f"groups is a list of names, which {groups!r} is not")
        found["any"] = [{"groups": {"exists": False}}, {"groups": {"in": names}}]
    return found or None
