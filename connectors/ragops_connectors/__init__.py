"""Sources: one file each. Other distributions add theirs by an entry point in the group "ragops.connectors"."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ragops.errors import UsageError
from ragops.types import Connector

GROUP = "ragops.connectors"
_BUILT_IN = {
    "files": "ragops_connectors.files:Files",
    "records": "ragops_connectors.records:Records",
}


def connector_settings(kind: str) -> type:
    """The frozen dataclass that a connector takes its settings in. Raises UsageError for an unknown kind."""
    found: type = _class(kind).Settings
    return found


def build(kind: str, name: str, workspace: Path, settings: Any, subtree: str = "") -> Connector:
    """A connector under the name of its source. `subtree` narrows it to a folder or file within (files only).

    Raises UsageError for an unknown kind or settings that cannot be. Reads nothing yet.
    """
    cls = _class(kind)
    expected = cls.Settings
    if not isinstance(settings, expected):
        raise UsageError(
            f"source '{name}': connector '{kind}' takes {expected.__name__}, not {type(settings).__name__}"
        )
    make: Callable[..., Connector] = cls
    if not subtree:
        return make(name, workspace, settings)
    if not getattr(cls, "narrows", False):
        raise UsageError(
            f"source '{name}': connector '{kind}' cannot be narrowed to {subtree!r}", "Leave the path out."
        )
    return make(name, workspace, settings, subtree)


def kinds() -> list[str]:
    """Names of the connectors that are installed."""
    return sorted({*_BUILT_IN, *(point.name for point in _entry_points())})


def _entry_points() -> Any:
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def _class(kind: str) -> Any:
    """The connector's class: called as `cls(name, workspace, settings)`, its settings' type is `cls.Settings`."""
    if kind in _BUILT_IN:
        module, _, attribute = _BUILT_IN[kind].partition(":")
        return getattr(importlib.import_module(module), attribute)
    for point in _entry_points():
        if point.name == kind:
            return point.load()
    match = difflib.get_close_matches(kind, kinds(), n=1, cutoff=0.5)
    meant = f" (did you mean '{match[0]}'?)" if match else ""
    raise UsageError(f"there is no connector '{kind}'{meant}", f"Installed connectors: {', '.join(kinds())}")
