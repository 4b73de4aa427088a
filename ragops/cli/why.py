"""ragops why"""

from __future__ import annotations

from typing import Annotated

import typer

from ragops.cli.options import JsonOption, WorkspaceOption, print_json
from ragops.cli.search import FilterOption, GroupsOption, ModeOption, TenantOption, passage, query_of


def command(
    query: Annotated[str, typer.Argument(help="The question, in plain words.")],
    uri: Annotated[str, typer.Argument(help="The document that is expected, as `search` names it.")],
    k: Annotated[int | None, typer.Option("-k", help="How many passages; default: search.k of params.yaml.")] = None,
    mode: ModeOption = None,
    filter: FilterOption = None,
    tenant: TenantOption = None,
    groups: GroupsOption = None,
    release: Annotated[
        int | None, typer.Option("--release", help="Ask a kept release instead of the live one.")
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Why a document is a hit of a query, stands low, or is none: rejected, hidden, filtered, too far down.

    Examples:
      ragops why "how long are invoices kept?" handbook:/finance/invoices.md
      ragops why "invoices" handbook:/finance/invoices.md --mode bm25 --tenant acme --json
    """
    from ragops.workspace import Workspace

    with Workspace.open(workspace) as found:
        asked = query_of(query, found.settings.search, k=k, mode=mode, filter=filter, tenant=tenant, groups=groups)
        explanation = found.why(asked, uri, release=release)
    if json:
        print_json(explanation.as_dict())
        return
    print(f"{explanation.uri}: {explanation.said}")
    for name, leg in (explanation.legs or {}).items():
        print(f"  {name:<6} rank {leg['rank']}, score {leg['score']:.3f}")
    if explanation.best is not None:
        print(f"  best passage [{explanation.best.start}:{explanation.best.end}] {passage(explanation.best.text)}")
    print(f"release {explanation.release}")
