"""ragops releases diff"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ragops.cli.options import JsonOption, WorkspaceOption, print_json, table
from ragops.cli.search import ModeOption, parse_filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ragops.retrieval.diff import Difference, DocumentChange
    from ragops.retrieval.explain import HitChange

CHUNKS_A_LINE = 4


def command(
    a: Annotated[int | None, typer.Argument(metavar="[A]", help="A release; default: the one kept before B.")] = None,
    b: Annotated[int | None, typer.Argument(metavar="[B]", help="A later one; default: the live release.")] = None,
    query: Annotated[
        str | None, typer.Option("-q", "--query", help="Say too which hits of this question moved, and why.")
    ] = None,
    k: Annotated[int | None, typer.Option("-k", help="How many hits; default: search.k of params.yaml.")] = None,
    filter: Annotated[
        list[str] | None,
        typer.Option("-f", "--filter", help="For the query: field=value, or JSON. Again for more; all must hold."),
    ] = None,
    mode: ModeOption = None,
    exact: Annotated[bool, typer.Option("--exact", help="For the query: compare with every vector.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="How many documents to list, and chunks of each; --json has all.")
    ] = 20,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """What changed from release A to release B: documents, chunks, model; with a query its hits, and why they moved.

    Examples:
      ragops releases diff
      ragops releases diff 41 42 --query "how long are invoices kept?"
      ragops releases diff 41 --json
    """
    from ragops.errors import UsageError
    from ragops.workspace import Workspace

    if query is None and (k is not None or filter or exact or mode):
        raise UsageError("-k, --mode, --filter and --exact are for a query", 'Add one: --query "your question"')
    with Workspace.open(workspace) as found:
        difference = found.diff(a, b, query, k=k, mode=mode, filter=parse_filter(filter or []), exact=exact)  # type: ignore[arg-type]
    if json:
        print_json(difference.as_dict())
        return
    _print(difference, limit)
    if difference.hits is not None:
        _print_hits(difference.hits)


def _print(difference: Difference, limit: int) -> None:
    a, b = difference.a, difference.b
    print(f"release  {a.number} -> {b.number}")
    model = f"changed: {a.space.model} -> {b.space.model}" if difference.space_changed else f"same ({b.space.model})"
    print(f"model    {model}")
    chunker = {True: "changed", False: "same", None: "not known: one of the two does not name it"}
    print(f"chunker  {chunker[difference.chunker_changed]}")
    chunks = difference.chunks()
    documents = [str(len(difference.of(change))) for change in ("added", "removed", "changed", "moved")]
    print(table([("", *chunks), ("documents", *documents, ""), ("chunks", *map(str, chunks.values()))]))
    for document in difference.documents[:limit]:
        _print_document(document, limit)
    if len(difference.documents) > limit:
        print(f"... and {len(difference.documents) - limit} more documents; all: --limit {len(difference.documents)}")


def _print_document(document: DocumentChange, limit: int) -> None:
    if document.change == "moved":
        print(f"moved    {document.was} -> {document.uri}")
        return
    counts = [(len(document.added), "added"), (len(document.removed), "removed"), (len(document.changed), "changed")]
    said = ", ".join(f"{count} {name}" for count, name in (*counts, (document.unchanged, "unchanged")) if count)
    print(f"{document.change:<7}  {document.uri}  (chunks: {said})")
    if document.change == "changed":
        for sign, ids in (("+", document.added), ("-", document.removed), ("~", document.changed)):
            shown = [id[:12] for id in ids[:limit]]
            for start in range(0, len(shown), CHUNKS_A_LINE):
                print(f"         {sign} {' '.join(shown[start : start + CHUNKS_A_LINE])}")
            if len(ids) > limit:
                print(f"         {sign} ... and {len(ids) - limit} more")


def _print_hits(hits: Sequence[HitChange]) -> None:
    if not hits:
        print("no hits in either release")
        return
    rows: list[tuple[str, ...]] = [("hit", "rank", "score", "why", "passage")]
    for change in hits:
        hit = change.hit
        rows.append(
            (
                change.move,
                f"{change.rank_a or '-'} -> {change.rank_b or '-'}",
                f"{_score(change.a.score if change.a else None)} -> {_score(change.b.score if change.b else None)}",
                _why(change),
                f"{hit.uri} [{hit.start}:{hit.end}]",
            )
        )
    print(table(rows))


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.{3 if abs(score) >= 0.1 else 4}f}"  # sums of ranks are small


def _why(change: HitChange) -> str:
    counts = ((change.came, "came"), (change.left, "left"))
    others = ", ".join(f"{count} {name}" for count, name in counts if count)
    return ", ".join(f"others ({others})" if each == "others" and others else each for each in change.reasons)
