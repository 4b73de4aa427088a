"""The operations layer for RAG data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ragops.retrieval.query import Query
    from ragops.retriever import Retriever
    from ragops.workspace import Workspace

__all__ = ["Query", "Retriever", "Workspace"]


def __getattr__(name: str) -> Any:
    # `import ragops` stays as cheap as an empty module
    if name == "Workspace":
        from ragops.workspace import Workspace

        return Workspace
    if name == "Retriever":
        from ragops.retriever import Retriever

        return Retriever
    if name == "Query":
        from ragops.retrieval.query import Query

        return Query
    raise AttributeError(f"module 'ragops' has no attribute {name!r}")
