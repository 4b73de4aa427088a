"""ragops stage"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ragops.cli.options import JsonOption, WaitOption, WorkspaceOption, print_json


class Name(StrEnum):
    parse = "parse"
    chunk = "chunk"
    embed = "embed"
    load = "load"
    evaluate = "evaluate"


def command(
    name: Annotated[Name, typer.Argument(help="The stage.")],
    wait: WaitOption = 0,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """One stage of the pipeline in dvc.yaml, from what is on disk. `dvc repro` calls it; `ragops ingest` does all.

    parse: snapshot to documents and rejects. chunk: documents to chunks. embed: chunks to vectors, and the query
    encoder. load: the dataset into the store, live unless a rollback or the gate holds. evaluate: the query set of
    params.yaml asked of that release.

    Examples:
      dvc pull && dvc repro
      ragops stage load
    """
    from ragops.cli.progress import Show
    from ragops.workspace import Workspace

    with Show() as show:
        done = Workspace.open(workspace).stage(name.value, wait=wait, progress=show)
    if json:
        print_json(done.as_dict())
        return
    print(f"{done.stage}: {done.made} made, {done.kept} kept, {done.removed} removed")
