"""ragops verify"""

from __future__ import annotations

from typing import Annotated

import typer

from ragops.cli.options import JsonOption, WaitOption, WorkspaceOption, print_json


def command(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what is found, then compare again.")] = False,
    wait: WaitOption = 0,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> int:
    """Compare the dataset with the release that was made of it, both ways: every point, payload and vector.

    Exits with 1 when something is missing, extra, differing or of another vector space. A repair loads a new release
    from the dataset; where the dataset itself is damaged, it is made again from the sources.

    Examples:
      ragops verify
      ragops verify --repair --json
    """
    from ragops.cli.progress import Show
    from ragops.workspace import Workspace

    with Show() as show:
        found = Workspace.open(workspace).verify(repair=repair, wait=wait, progress=show)
    if json:
        print_json(found.as_dict())
        return 0 if found.ok else 1
    for finding in found.findings:
        print(f"finding  {finding}")
    for kind, points in found.examples.items():
        print(f"{kind.replace('_', ' '):<12} {getattr(found, kind)}, such as {', '.join(points[:3])}")
    what = f"release {found.release} and the dataset ({found.points} chunks)"
    if found.ok:
        print(f"{what} agree" + (" after the repair" if found.repaired else ""))
    else:
        print(f"{what} do not agree" + ("; mend it with: ragops verify --repair" if not found.repaired else ""))
    return 0 if found.ok else 1
