"""ragops backup"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ragops.cli.options import JsonOption, WaitOption, WorkspaceOption, print_json, size


def command(
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="The file to write: whole, or not there.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace the file, once the new one is whole.")] = False,
    wait: WaitOption = 0,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> int:
    """Write the workspace into one file: releases, the live one and its hold, permissions, state, snapshot, dataset.

    Searches go on meanwhile; an ingest waits. The releases of a server are fetched into it. The sources themselves, the
    remote of DVC and secrets are not in it. Exits with 1 when something was damaged before; it is then named.

    Examples:
      ragops backup /backup/kb.tar
      ragops backup -w /srv/kb /backup/kb.tar --replace --wait 600
    """
    from ragops.cli.progress import Show
    from ragops.workspace import Workspace

    with Show() as show:
        done = Workspace.open(workspace).backup(file, replace=replace, wait=wait, progress=show)
    if json:
        print_json(done.as_dict())
    else:
        print(f"wrote    {done.file}: {size(done.bytes)} in {done.files} files")
        live = "none" if done.live is None else f"{done.live}{', held' if done.held else ''}"
        print(f"releases {', '.join(map(str, done.releases)) or 'none'}; live is {live}")
        print(f"dataset  {done.documents} documents, {done.chunks} chunks")
        for problem in done.damage:
            print(f"finding  {problem}")
    return 1 if done.damage else 0
