"""ragops status"""

from __future__ import annotations

from ragops.cli.options import JsonOption, WorkspaceOption, print_json, size, table


def command(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Where the workspace stands: the live release, the sources, the last run, the disk it uses.

    Example: ragops status --json
    """
    from ragops.workspace import Workspace

    status = Workspace.open(workspace).status()
    if json:
        print_json(status)
        return
    print(f"workspace  {status['workspace']}")
    print(f"store      {status['store']}")
    release = status["release"]
    if release is None:
        print("release    none yet; make one: ragops ingest ./docs")
    else:
        held = ", held: ingests publish nothing until `ragops releases publish`" if release["held"] else ""
        print(f"release    {release['number']} of {release['created']}, {release['points']} chunks{held}")
        print(f"dataset    {release['fingerprint'][:12]}")
        print(f"model      {release['model']} (space {release['space'][:12]}, {release['numerics']})")
        print(f"kept       {', '.join(map(str, status['releases']))}")
    if status["sources"]:
        names = ("name", "sources", "documents", "rejected", "chunks")
        rows = [tuple(str(source[name]) for name in names) for source in status["sources"]]
        print(table([("source", *names[1:]), *rows]))
    last = status["last_run"]
    if last:
        print(
            f"last run   {last['number']} of {last['started']}: {last['outcome'] or 'not ended (running, or killed)'}"
        )
    gate = status["gate"]
    if gate and (release is None or gate["release"] > release["number"]):
        print(f"gate       holds release {gate['release']} back: {gate['reason']}")
    for missing in status["versioning"]["lacking"]:
        print(f"without    {missing}")
    print("disk       " + ", ".join(f"{name} {size(count)}" for name, count in status["disk"].items()))
