"""A Haystack component over a knowledge base of ragops. Needs `pip install 'ragops[haystack]'`.

Importing this turns Haystack's telemetry off, unless the variable HAYSTACK_TELEMETRY_ENABLED says what to do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Unpack

from ragops.adapters.passages import Where, checked, metadata, opened
from ragops.errors import MissingExtra, UsageError
from ragops.retrieval.query import Options, Results
from ragops.retriever import Retriever

# Nothing that ragops takes part in phones home unasked. Haystack reads the variable once, when it is first imported.
TELEMETRY = "HAYSTACK_TELEMETRY_ENABLED"
_chosen = TELEMETRY in os.environ
os.environ.setdefault(TELEMETRY, "false")
try:
    from haystack import Document, component, default_to_dict
    from haystack.telemetry import _telemetry
except ImportError as error:
    raise MissingExtra(
        f"the adapter for Haystack needs haystack-ai ({error})", "Install it: pip install 'ragops[haystack]'"
    ) from error
if not _chosen:
    _telemetry.telemetry = None  # the application may have imported Haystack before


@component
class RagopsRetriever:
    """A component with the input `query` and the output `documents`, best first.

    `retriever` is an open `ragops.Retriever`, or a workspace's folder (then with `tenant` and `groups`, where there
    are any; only this can be written to a pipeline's YAML); `options` are those of its `search`. A document's id is
    the chunk's; its meta is the citation, with scores by leg and the release (`ragops.adapters.passages.metadata`).
    Raises UsageError.
    """

    def __init__(
        self,
        retriever: Where,
        k: int | None = None,
        *,
        tenant: str | None = None,
        groups: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._where = retriever
        self._k = k
        self._tenant = tenant
        self._groups = groups
        self._options = checked(k, options)
        self._opened: Retriever | None = None
        if isinstance(retriever, Retriever):
            self._opened = opened(retriever, tenant=tenant, groups=groups)

    def warm_up(self) -> None:
        """Open the retriever; a pipeline does this before its first run. Raises UsageError, StoreError."""
        self._ready()

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, top_k: int | None = None, filter: dict[str, Any] | None = None
    ) -> dict[str, list[Document]]:
        """`top_k` and `filter` (in the form of ragops) stand in this run for those of the constructor."""
        found = self._ready().search(query, self._k if top_k is None else top_k, **self._now(filter))
        return {"documents": _documents(found)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, top_k: int | None = None, filter: dict[str, Any] | None = None
    ) -> dict[str, list[Document]]:
        """As `run`."""
        found = await self._ready().asearch(query, self._k if top_k is None else top_k, **self._now(filter))
        return {"documents": _documents(found)}

    def to_dict(self) -> dict[str, Any]:
        """For a pipeline's YAML. Raises UsageError for a component over an open Retriever."""
        if isinstance(self._where, Retriever):
            raise UsageError(
                "a component over an open Retriever cannot be written down",
                "Make it with the folder of the workspace instead.",
            )
        groups = None if self._groups is None else list(self._groups)
        where = os.fspath(self._where)
        return default_to_dict(
            self, retriever=where, k=self._k, tenant=self._tenant, groups=groups, **dict(self._options)
        )

    def _ready(self) -> Retriever:
        if self._opened is None:
            self._opened = opened(self._where, tenant=self._tenant, groups=self._groups)
        return self._opened

    def _now(self, filter: dict[str, Any] | None) -> Options:
        return self._options if filter is None else {**self._options, "filter": filter}


def _documents(results: Results) -> list[Document]:
    return [
        Document(id=hit.chunk_id, content=hit.text, meta=metadata(hit, results), score=hit.score)
        for hit in results.hits
    ]
