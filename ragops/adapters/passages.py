"""What the adapters share: how they ask, and a hit's citation as metadata. No framework is imported here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

from ragops.errors import UsageError
from ragops.retrieval.query import Hit, Options, Results, ask
from ragops.retriever import Retriever
from ragops.stores import filters

#: An open retriever, or the folder of a workspace. (A server also needs a model: `Retriever.open` takes it.)
Where: TypeAlias = Retriever | str | os.PathLike[str]


def opened(where: Where, *, tenant: str | None = None, groups: Sequence[str] | None = None) -> Retriever:
    """The retriever itself, or one opened there. Raises UsageError, StoreError, SpaceMismatch."""
    if not isinstance(where, Retriever):
        return Retriever.open(where, tenant=tenant, groups=groups)
    if tenant is not None or groups is not None:
        raise UsageError(
            "tenant or groups were given beside an open Retriever, which has its own",
            'Give them to it: Retriever.open("kb", tenant="acme").',
        )
    return where


def checked(k: int | None, options: Options) -> Options:
    """Options of a search, found wrong before the first one. Raises UsageError."""
    unknown = sorted(options.keys() - Options.__annotations__.keys())
    if unknown:
        raise UsageError(f"a search has no option {unknown[0]!r}", f"It has {', '.join(Options.__annotations__)}.")
    ask("words", k, options, {}, 10)
    filters.parse(options.get("filter"))
    return options


def metadata(hit: Hit, results: Results) -> dict[str, Any]:
    """The whole citation, scores and ranks by leg, and the release; plain values, ready for JSON.

    A user's own fields stand under "meta". "before" and "after" are there where neighbours were asked for.
    """
    found: dict[str, Any] = {
        "uri": hit.uri,
        "title": hit.title,
        "heading": list(hit.heading),
        "page": hit.page,
        "start": hit.start,
        "end": hit.end,
        "source": hit.source,
        "document_id": hit.document_id,
        "chunk_id": hit.chunk_id,
        "release": results.release,
        "score": hit.score,
        "scores": dict(hit.scores),
        "ranks": dict(hit.ranks),
        "also": list(hit.also),
        "meta": dict(hit.meta),
    }
    if hit.before or hit.after:
        found["before"] = [passage.text for passage in hit.before]
        found["after"] = [passage.text for passage in hit.after]
    return found
