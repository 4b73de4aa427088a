"""ragops rejects list | show | retry"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import typer

from ragops.cli.options import JsonOption, WaitOption, WorkspaceOption, print_json

app = typer.Typer(help="Sources that did not pass: why, and what to do.", no_args_is_help=True)


@app.command("list")
def list_rejects(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """All rejects, one line each.

    Example: ragops rejects list --json
    """
    from ragops.workspace import Workspace

    rejects = Workspace.open(workspace).rejects()
    if json:
        print_json(rejects)
        return
    for reject in rejects:
        print(f"{reject['uri']}\n   {reject['stage']}: {reject['code']}: {reject['reason']}")
        if reject["hint"]:
            print(f"   {reject['hint']}")
    print(f"{len(rejects)} rejected" + ("; see one: ragops rejects show URI" if rejects else ""))


@app.command("show")
def show(
    uri: Annotated[str, typer.Argument(help="The source, as `rejects list` names it.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Everything known of one reject.

    Example: ragops rejects show docs:/broken.pdf
    """
    from ragops.workspace import Workspace

    rejects = {reject["uri"]: reject for reject in Workspace.open(workspace).rejects()}
    _check(uri, rejects)
    if json:
        print_json(rejects[uri])
        return
    for name, value in rejects[uri].items():
        print(f"{name:<13} {value}")


@app.command("retry")
def retry(
    uris: Annotated[list[str] | None, typer.Argument(help="Which ones; default: all.")] = None,
    wait: WaitOption = 0,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Read rejected sources again, and ingest what passes now.

    Example: ragops rejects retry docs:/broken.pdf
    """
    from ragops.cli.ingest import print_summary
    from ragops.cli.progress import Show
    from ragops.workspace import Workspace

    found = Workspace.open(workspace)
    known = {reject["uri"] for reject in found.rejects()}
    for uri in uris or ():
        _check(uri, known)
    with Show() as show:
        summary = found.ingest(retry=frozenset(uris or known), wait=wait, progress=show)
    if json:
        print_json(summary.as_dict())
    else:
        print_summary(summary)


def _check(uri: str, known: Collection[str]) -> None:
    from ragops.config import nearest
    from ragops.errors import UsageError

    if uri not in known:
        raise UsageError(f"no reject has the uri {uri}{nearest(uri, list(known))}", "See them: ragops rejects list")
