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
        for check in checks:
            print(f"{check.state:<8} {check.name:<16} {check.found}" + (f"\n{'':26}{check.hint}" if check.hint else ""))
        print("all well" if not wrong else f"{len(wrong)} wrong")
    return 1 if wrong else 0
