"""ragops backup"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ragops.cli.options import JsonOption, WaitOption, WorkspaceOption, print_json, releases_line, size


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
        print(f"releases {releases_line(done.releases, done.live, held=done.held)}")
        print(f"dataset  {done.documents} documents, {done.chunks} chunks")
        for problem in done.damage:
            print(f"finding  {problem}")
    return 1 if done.damage else 0
