"""ragops restore"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ragops.cli.options import JsonOption, WaitOption, print_json, releases_line


def command(
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="What `ragops backup` wrote.")],
    path: Annotated[Path | None, typer.Argument(help="The folder; made if it is not there. Default: here.")] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="URL", help="Where the releases go, or: embedded. Default: as params.yaml says."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Give up the workspace that is there, and newer releases on the server.")
    ] = False,
    wait: WaitOption = 0,
    json: JsonOption = False,
) -> None:
    """Make a workspace out of a backup. It is unpacked and compared first; only then anything is replaced.

    Then run `ragops ingest`: permissions and contents are those of the backup until it has.

    Examples:
      ragops restore /backup/kb.tar my-kb
      ragops restore /backup/kb.tar --replace
    """
    from ragops.cli.progress import Show
    from ragops.workspace import Workspace

    with Show() as show:
        done = Workspace.restore(file, path or ".", to=to, replace=replace, wait=wait, progress=show)
    if json:
        print_json(done.as_dict())
        return
    print(f"workspace {done.workspace}, as of {done.created}{'; what was there is gone' if done.replaced else ''}")
    print(f"releases  {releases_line(done.releases, done.live, held=done.held)}; store: {done.store}")
    print(f"dataset   {done.documents} documents, {done.chunks} chunks")
    print("next: ragops ingest" + (f" -w {shlex.quote(str(path))}" if path else ""))
