"""ragops store migrate"""

from __future__ import annotations

from typing import Annotated

import typer

from ragops.cli.options import JsonOption, WaitOption, WorkspaceOption, print_json, releases_line

app = typer.Typer(help="Where the releases live: in the workspace, or on a Qdrant server.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Without it typer makes the only command of the group the group itself."""


@app.command("migrate")
def migrate(
    to: Annotated[str, typer.Option("--to", metavar="URL", help="A Qdrant server's address, or: embedded.")],
    no_switch: Annotated[
        bool, typer.Option("--no-switch", help="Copy and compare; leave store.url in params.yaml as it is.")
    ] = False,
    wait: WaitOption = 0,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Copy every kept release to a server (or back), compare counts and answers on both, then switch to it.

    Vectors, numbers, permissions, the live release and its hold go along. The store that is copied is not changed. Run
    it again after it broke off: it goes on. A server's key comes from the environment.

    Examples:
      ragops store migrate --to http://localhost:6333
      ragops store migrate --to embedded --no-switch
    """
    from ragops.cli.progress import Show
    from ragops.workspace import Workspace

    found = Workspace.open(workspace)
    with Show() as show:
        done = found.migrate_store(to, switch=not no_switch, wait=wait, progress=show)
    if json:
        print_json(done.as_dict() | {"to": to, "switched": not no_switch})
        return
    print(f"releases  {releases_line(done.releases, done.live, held=done.held)}")
    print(f"copied    {done.points} points; there already: {', '.join(map(str, done.skipped)) or 'none'}")
    if done.removed:
        print(f"removed   {', '.join(map(str, done.removed))}: no longer kept")
    print(f"compared  counts of all, and the answers to {done.queries} queries: the same on both")
    print(f"store.url {'is as it was' if no_switch else f'is now {to}' if to != 'embedded' else 'is now null'}")
