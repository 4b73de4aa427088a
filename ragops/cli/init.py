"""ragops init"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ragops.cli.options import JsonOption, print_json


def command(
    path: Annotated[Path, typer.Argument(help="The folder; made if it is not there.")] = Path("."),
    json: JsonOption = False,
) -> None:
    """Make a workspace: params.yaml, dvc.yaml, .gitignore and .dvcignore. Files that exist stay as they are.

    Example: ragops init my-kb
    """
    from ragops.templates import FILES
    from ragops.workspace import Workspace

    existed = {name for name in FILES if (path / name).exists()}
    workspace = Workspace.create(path)
    made = [name for name in FILES if name not in existed]
    if json:
        print_json({"workspace": str(workspace.root), "made": made, "kept": sorted(existed)})
        return
    print(f"workspace {workspace.root}")
    for name in FILES:
        print(f"  {'kept' if name in existed else 'made'}  {name}")
    print("next: ragops ingest ./docs")
