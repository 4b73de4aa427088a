"""ragops releases list | show | diff | publish | rollback | prune"""

from __future__ import annotations

from typing import Annotated

import typer

from ragops.cli import diff
from ragops.cli.options import JsonOption, WaitOption, WorkspaceOption, print_json, size, table

app = typer.Typer(help="Sealed states of the collection: look, compare, go back, tidy up.", no_args_is_help=True)
app.command("diff")(diff.command)


@app.command("list")
def list_releases(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """The kept releases, oldest first.

    Example: ragops releases list --json
    """
    from ragops.workspace import Workspace

    releases = Workspace.open(workspace).releases()
    if json:
        print_json(releases)
        return
    if not releases:
        print("no release yet; make one: ragops ingest ./docs")
        return
    head = ("release", "created", "chunks", "dataset", "model", "")
    rows = [
        (
            str(release["number"]),
            release["created"],
            str(release["points"]),
            release["fingerprint"][:12],
            release["model"],
            ", ".join(word for word in ("live", "held", "incomplete") if release[word]),
        )
        for release in releases
    ]
    print(table([head, *rows]))


@app.command("show")
def show(
    number: Annotated[int | None, typer.Argument(help="Default: the live one.")] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """One release: what it holds, what it was made by, what sealing it cost. Its checksums are compared.

    Exits with 1 when the release is damaged.

    Example: ragops releases show 12
    """
    from ragops.workspace import Workspace

    found = Workspace.open(workspace).release(number)
    if json:
        print_json(found)
    else:
        for name, value in found.items():
            if isinstance(value, dict):
                value = ", ".join(
                    f"{key} {size(item) if key.endswith('bytes') else item}" for key, item in value.items()
                )
            elif isinstance(value, list):
                value = "; ".join(map(str, value)) or "none"
            print(f"{name:<12} {value}")
    raise typer.Exit(1 if found["damage"] else 0)


@app.command("publish")
def publish(
    number: Annotated[int | None, typer.Argument(help="Default: the newest one.")] = None,
    override_gate: Annotated[
        str | None,
        typer.Option("--override-gate", metavar="REASON", help="Publish what the gate holds back; it is logged."),
    ] = None,
    wait: WaitOption = 0,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Make a kept release the live one, in one step. The newest ends a hold; an older one is held.

    Examples:
      ragops releases publish
      ragops releases publish 12
      ragops releases publish 12 --override-gate "the questions are of the old product"
    """
    from ragops.workspace import Workspace

    found = Workspace.open(workspace)
    _tell(found.publish(number, override_gate=override_gate, wait=wait).number, held=found.store.held(), json=json)


@app.command("rollback")
def rollback(
    number: Annotated[int | None, typer.Argument(help="Default: the one before the live one.")] = None,
    wait: WaitOption = 0,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Go back to an earlier release, in one step. It stays live: ingests seal releases and publish none until you do.

    Examples:
      ragops releases rollback
      ragops releases rollback 12
    """
    from ragops.workspace import Workspace

    _tell(Workspace.open(workspace).rollback(number, wait=wait).number, held=True, json=json)


@app.command("prune")
def prune(
    keep: Annotated[
        int | None, typer.Option("--keep", min=0, help="How many beside the live one; default: release.keep.")
    ] = None,
    wait: WaitOption = 0,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Remove old releases; the live one always stays, and one that is being read stays for now.

    Example: ragops releases prune --keep 1
    """
    from ragops.workspace import Workspace

    removed, busy = Workspace.open(workspace).prune(keep, wait=wait)
    if json:
        print_json({"removed": removed, "busy": busy})
        return
    print("removed  " + (", ".join(map(str, removed)) or "none"))
    if busy:
        print("in use   " + ", ".join(map(str, busy)) + "; try again later")


def _tell(number: int, *, held: bool, json: bool) -> None:
    if json:
        print_json({"release": number, "held": held})
        return
    print(f"release {number} is live")
    if held:
        print("it is held: ingests publish nothing until `ragops releases publish`")
