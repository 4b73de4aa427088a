"""ragops mcp"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ragops.cli.options import WorkspaceOption, names

if TYPE_CHECKING:
    from ragops.types import Mode


def command(
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Serve what this tenant sees; '' is no tenant; default: everything.")
    ] = None,
    groups: Annotated[
        str | None, typer.Option("--groups", metavar="A,B", help="As a member of these groups sees it; '' is of none.")
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option("-m", "--mode", help="dense (by vectors), bm25 (by words) or hybrid; default: search.mode."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many passages, where the asker does not say.")] = 10,
    workspace: WorkspaceOption = None,
) -> None:
    """Serve the knowledge base to an assistant by the Model Context Protocol, over standard input and output.

    The tools are search (passages with citations) and fetch (a whole document). An assistant starts this command
    itself; put it into its configuration.

    Examples:
      ragops mcp -w /srv/kb
      ragops mcp -w /srv/kb --tenant acme --groups staff,hr --mode hybrid
    """
    from ragops.mcp_server import server
    from ragops.retriever import Retriever

    with Retriever.open(workspace, tenant=tenant, groups=None if groups is None else names(groups)) as retriever:
        made = server(retriever, mode=cast("Mode | None", mode), k=k)
        if sys.stdin.isatty():
            print("Waiting for an MCP client on standard input; Ctrl-C ends.", file=sys.stderr)
        made.run("stdio")
