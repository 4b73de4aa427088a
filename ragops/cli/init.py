"""ragops init"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ragops.cli.options import JsonOption, print_json


def command(
    path: Annotated[Path | None, typer.Argument(help="The folder; made if it is not there. Default: here.")] = None,
    dvc: Annotated[bool, typer.Option("--dvc", help="Make it a DVC repository, too, without usage data.")] = False,
    json: JsonOption = False,
) -> None:
    """Make a workspace: params.yaml, dvc.yaml, .gitignore and .dvcignore. Files that exist stay as they are.

    Missing lines are added to a .gitignore or .dvcignore that exists.

    Examples:
      ragops init my-kb
      git init && ragops init --dvc
    """
    from ragops.templates import FILES
    from ragops.versioning import dvc_root, init
    from ragops.workspace import Workspace

    place = path or Path(".")
    existed = {name for name in FILES if (place / name).exists()}
    made_workspace = Workspace.create(place)
    made_dvc = init(made_workspace.root) if dvc else False
    made = [name for name in FILES if name not in existed]
    if json:
        print_json({"workspace": str(made_workspace.root), "made": made, "kept": sorted(existed), "dvc": made_dvc})
        return
    print(f"workspace {made_workspace.root}")
    for name in FILES:
        print(f"  {'kept' if name in existed else 'made'}  {name}")
    if dvc:
        print(f"  {'made' if made_dvc else 'kept'}  the DVC repository {dvc_root(made_workspace.root)}")
    print("next: ragops ingest ./docs" + (f" -w {shlex.quote(str(path))}" if path else ""))
