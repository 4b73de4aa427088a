"""ragops gc"""

from __future__ import annotations

from ragops.cli.options import JsonOption, WaitOption, WorkspaceOption, print_json, size


def command(wait: WaitOption = 0, workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Forget what nobody needs: parses, vectors and query encoders of old contents and recipes, cached revisions; and
    let what was deleted or replaced leave the files of dataset and snapshot.

    An ingest keeps at most about as much of it as it needs; this removes all of it. Releases: `ragops releases prune`.

    Example: ragops gc --json
    """
    from ragops.workspace import Workspace

    found = Workspace.open(workspace).gc(wait=wait)
    if json:
        print_json(found.as_dict())
        return
    print(f"removed  {found.rows} remembered results, {len(found.models)} query encoders; {size(found.bytes)} of disk")
