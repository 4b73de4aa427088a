"""The operations layer for RAG data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ragops.workspace import Workspace

__all__ = ["Workspace"]


def __getattr__(name: str) -> Any:
    # `import ragops` stays as cheap as an empty module
    if name == "Workspace":
        from ragops.workspace import Workspace

        return Workspace
    raise AttributeError(f"module 'ragops' has no attribute {name!r}")
