"""ragops migrate"""

from __future__ import annotations

from typing import Annotated

import typer

from ragops.cli.options import JsonOption, WaitOption, WorkspaceOption, print_json, table

SAYS = {
    "nothing": "nothing to do",
    "lift": "would be lifted",
    "lifted": "lifted",
    "ingest": "the next ingest makes it anew",
    "upgrade": "is of a newer ragops: pip install -U ragops",
}


def command(
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done; change nothing.")] = False,
    wait: WaitOption = 0,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> int:
    """Lift what an older ragops wrote to the schema of this one: settings, state, cache; name what an ingest lifts.

    Refuses to touch anything where a newer ragops wrote something. With --plan that exits with 1.

    Examples:
      ragops migrate --plan
      ragops migrate --json
    """
    from ragops.workspace import Workspace, locate

    if plan:
        from ragops.migration import survey

        steps = survey(locate(workspace))
    else:
        steps = Workspace.open(workspace).migrate(wait=wait)
    if json:
        print_json([step.as_dict() for step in steps])
    else:
        rows = [(step.artefact, step.path, str(step.found), str(step.known), SAYS[step.action]) for step in steps]
        print(table([("artefact", "file", "schema", "known", ""), *rows]))
    return 1 if any(step.action == "upgrade" for step in steps) else 0
