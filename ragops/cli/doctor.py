"""ragops doctor"""

from __future__ import annotations

from ragops.cli.options import JsonOption, WorkspaceOption, print_json


def command(workspace: WorkspaceOption = None, json: JsonOption = False) -> int:
    """Check what ragops stands on: versions, model, device, disk, store and engine. Exit 1 when something is wrong.

    Example: ragops doctor
    """
    from ragops.doctor import examine
    from ragops.workspace import find, locate

    checks = examine(find(None) if workspace is None else locate(workspace))
    wrong = [check for check in checks if check.state == "wrong"]
    if json:
        print_json({"ok": not wrong, "checks": [check.as_dict() for check in checks]})
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{check.state:<6} {check.name:<{width}}  {check.found}")
            if check.hint:
                print(f"{'':{width + 9}}{check.hint}")
        print("all well" if not wrong else f"{len(wrong)} wrong")
    return 1 if wrong else 0
