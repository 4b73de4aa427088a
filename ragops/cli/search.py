"""ragops search"""

from __future__ import annotations

import json as json_module
import math
import re
import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragops.cli.options import JsonOption, WorkspaceOption, names, print_json

if TYPE_CHECKING:
    from ragops.config import SearchSettings
    from ragops.retrieval.query import Hit, Query

SHOWN = 400  # characters of a passage

FilterOption = Annotated[
    list[str] | None,
    typer.Option("-f", "--filter", help="field=value, or a filter as JSON. Again for more; all must hold."),
]
ModeOption = Annotated[
    str | None,
    typer.Option("-m", "--mode", help="dense (by vectors), bm25 (by words) or hybrid; default: search.mode."),
]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="As this tenant sees it; '' is no tenant.")]
GroupsOption = Annotated[
    str | None, typer.Option("--groups", metavar="A,B", help="As a member of these groups sees it; '' is of none.")
]


def command(
    query: Annotated[str, typer.Argument(help="The question, in plain words.")],
    k: Annotated[int | None, typer.Option("-k", help="How many passages; default: search.k of params.yaml.")] = None,
    filter: FilterOption = None,
    release: Annotated[
        int | None, typer.Option("--release", help="Ask a kept release instead of the live one.")
    ] = None,
    rev: Annotated[
        str | None, typer.Option("--rev", help="Ask what stood at a revision of git: a commit, a tag, HEAD~1.")
    ] = None,
    mode: ModeOption = None,
    offset: Annotated[int, typer.Option("--offset", help="Leave out so many of the best.")] = 0,
    per_document: Annotated[
        int | None, typer.Option("--per-document", metavar="N", help="At most N passages of one document.")
    ] = None,
    expand: Annotated[
        int, typer.Option("--expand", metavar="N", help="Show N passages before and after each, as they stand.")
    ] = 0,
    min_score: Annotated[
        float | None, typer.Option("--min-score", help="Only passages of at least this score.")
    ] = None,
    diversity: Annotated[
        float | None, typer.Option("--diversity", help="0 to 1: prefer passages unlike those before (MMR).")
    ] = None,
    rerank: Annotated[
        str | None, typer.Option("--rerank", metavar="MODEL", help="Order the best anew by a cross-encoder.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every vector, without the index.")] = False,
    tenant: TenantOption = None,
    groups: GroupsOption = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """The best passages for a question, with their citations.

    Examples:
      ragops search "what happens to a file that cannot be parsed?"
      ragops search "invoices" -k 3 -f source=docs -f meta.lang=en
      ragops search "invoices" -f '{"page": {"gte": 10}}' --json
      ragops search "invoices" --mode bm25 --per-document 1 --expand 1
      ragops search "invoices" --tenant acme --groups sales,finance
      ragops search "invoices" --rev v1.2
    """
    from ragops.workspace import Workspace

    with Workspace.open(workspace) as found:
        asked = query_of(query, found.settings.search, k=k, mode=mode, filter=filter, tenant=tenant, groups=groups)
        asked = replace(
            asked,
            offset=offset,
            per_document=per_document,
            expand=expand,
            exact=exact,
            min_score=min_score,
            diversity=diversity,
            rerank=rerank or asked.rerank,
        )
        results = found.search(asked, release=release, rev=rev)
    if json:
        print_json(results.as_dict())
        return
    for rank, hit in enumerate(results.hits, offset + 1):
        print(f"{rank}. {_citation(hit)}")
        for beside in hit.before:
            print(_wrapped(beside.text, "   | "))
        print(_wrapped(hit.text, "   "))
        for beside in hit.after:
            print(_wrapped(beside.text, "   | "))
        if hit.also:
            print(f"   also in: {', '.join(hit.also[:5])}" + (f" and {len(hit.also) - 5} more" if hit.also[5:] else ""))
    if not results.hits:
        print("no passage matches" + (" the filter" if filter else ""))
    if results.revision is not None:
        print(f"revision {results.revision}" + (f", release {results.release}" if results.release else ""))
    else:
        print(f"release {results.release}")


def query_of(
    text: str,
    settings: SearchSettings,
    *,
    k: int | None,
    mode: str | None,
    filter: list[str] | None,
    tenant: str | None,
    groups: str | None,
) -> Query:
    """What the options that commands share ask for. Raises UsageError."""
    from ragops.retrieval.query import Query
    from ragops.retrieval.scope import scope

    return Query(
        text,
        settings.k if k is None else k,
        mode or settings.mode,  # type: ignore[arg-type]
        filter=parse_filter(filter or []),
        scope=scope(tenant, None if groups is None else names(groups)),
        rerank=settings.rerank,
    )


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(passage(text), 100, initial_indent=indent, subsequent_indent=indent)


def passage(text: str) -> str:
    """The beginning of a text on one line, cut between words where there are any (Chinese sets none apart)."""
    line = _line(text)
    if len(line) <= SHOWN:
        return line
    end = line.rfind(" ", SHOWN // 2, SHOWN)
    return line[: SHOWN if end < 0 else end] + " ..."


def _line(text: str) -> str:
    """Without a document's control characters: they would steer the terminal."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split())


def _citation(hit: Hit) -> str:
    path = " > ".join(_line(part) for part in (hit.title, *hit.heading) if part)
    page = f", page {hit.page}" if hit.page is not None else ""
    legs = ", ".join(f"{name} {score:.3f}" for name, score in hit.scores.items())
    score = f"{hit.score:.4f} ({legs})" if len(hit.scores) > 1 else f"{hit.score:.3f}"
    return f"{hit.uri}{page}  [{hit.start}:{hit.end}]  {score}" + (f"\n   {path}" if path else "")


def parse_filter(given: list[str]) -> dict[str, Any] | None:
    """The options `-f` of a command as one filter. Raises UsageError."""
    from ragops.errors import UsageError

    merged: dict[str, Any] = {}
    for item in given:
        if item.lstrip().startswith("{"):
            try:
                found = json_module.loads(item)
            except (ValueError, RecursionError) as error:
                raise UsageError(
                    f"--filter: not valid JSON: {error}", """Example: -f '{"page": {"gte": 10}}'"""
                ) from error
        else:
            name, equals, value = item.partition("=")
            if not equals:
                raise UsageError(f"--filter: {item!r} is neither field=value nor JSON", "Example: -f source=docs")
            field = name.strip()
            found = {field: _value(field, value)}
        for name in found:
            if name in merged:
                raise UsageError(
                    f"--filter: the field '{name}' is given twice",
                    f"""Write one: -f '{{"{name}": {{"in": [...]}}}}'""",
                )
        merged.update(found)
    return merged or None


def _value(field: str, text: str) -> Any:
    """Numbers and booleans as such, but in fields of text; quotes keep a number as text in the others too."""
    from ragops.stores.filters import TEXT_FIELDS

    try:
        value = json_module.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, float) and not math.isfinite(value):  # NaN, 1e999: names that look like numbers
        return text
    return value if isinstance(value, str) or (isinstance(value, (int, float)) and field not in TEXT_FIELDS) else text
