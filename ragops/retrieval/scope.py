"""What somebody may see, as a filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ragops.types import Filter


def scope(tenant: str | None, groups: Sequence[str] | None = None) -> Filter | None:
    """Documents of `tenant` ("": of none; None: of all), and of those only what is open to everybody in it or to one
    of `groups` (None: whatever their groups)."""
    found: dict[str, Any] = {}
    if tenant is not None:
        found["tenant"] = tenant
    if groups is not None:
        found["any"] = [{"groups": {"exists": False}}, {"groups": {"in": list(groups)}}]
    return found or None
