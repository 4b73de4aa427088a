"""ragops ingest"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragops.cli.options import JsonOption, WaitOption, WorkspaceOption, print_json, size, table

if TYPE_CHECKING:
    from ragops.workspace import Workspace
    from ragops_pipelines.job import Plan, Summary


def command(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A folder, or a JSONL, CSV or Parquet file: added to the sources, and the run limited to it."
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be done; read no source, change nothing.")
    ] = False,
    allow_deletes: Annotated[
        bool, typer.Option("--allow-deletes", help="Consent to deleting more than release.max_delete.")
    ] = False,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Read every source again, whatever its size and time.")
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Write dataset and release again from the sources.")
    ] = False,
    wait: WaitOption = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when a source was rejected.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> int:
    """Bring the searchable release to what the sources say now; only what changed is read, parsed and embedded.

    Without a workspace one is made in the current folder (or in --workspace).

    Examples:
      ragops ingest ./docs
      ragops ingest corpus.jsonl
      ragops ingest --plan
      ragops ingest -w ~/kb --json
    """
    from ragops.cli.progress import Show

    signal.signal(signal.SIGTERM, _stop)
    found = _workspace(workspace, path, plan=plan)
    with Show(quiet=quiet) as show:
        if plan:
            planned = found.plan(path, rebuild=rebuild, rehash=rehash, progress=show)
        else:
            summary = found.ingest(
                path, allow_deletes=allow_deletes, rehash=rehash, rebuild=rebuild, wait=wait, progress=show
            )
    if plan:
        if json:
            print_json(planned.as_dict())
        else:
            _print_plan(planned)
        return 0
    if json:
        print_json(summary.as_dict())
    else:
        print_summary(summary)
    if summary.gate and not summary.gate["published"] and not summary.held:
        from ragops.evaluation.gate import refused

        error = refused(summary.gate)
        print(f"error: {error.message}\n{error.hint}", file=sys.stderr)
        return error.exit_code
    return 1 if strict and summary.sources["rejected"] else 0


def _workspace(place: Path | None, path: Path | None, *, plan: bool) -> Workspace:
    from ragops.config import Settings
    from ragops.errors import UsageError
    from ragops.workspace import Workspace, find

    if find(place) is None and path is not None:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder", "Check the path: ragops ingest FOLDER")
        if plan:
            return Workspace((place or Path(".")).absolute(), Settings())
        made = Workspace.create(place or ".")
        print(f"made a workspace in {made.root}", file=sys.stderr)
        return made
    return Workspace.open(place)


def print_summary(summary: Summary) -> None:
    sources, chunks, vectors = summary.sources, summary.chunks, summary.vectors
    counts: list[tuple[str, ...]] = [
        ("sources", "seen", "added", "changed", "removed", "unchanged", "rejected"),
        ("", *(str(sources[name]) for name in ("seen", "added", "changed", "removed", "unchanged", "rejected"))),
    ]
    print(table(counts))
    print(f"chunks   {chunks['total']} in all, {chunks['added']} added, {chunks['removed']} removed")
    print(f"vectors  {vectors['computed']} computed, {vectors['reused']} reused")
    spent = ", ".join(
        f"{name} {value:.1f}" for name, value in summary.seconds.items() if name != "total" and value >= 0.05
    )
    print(f"seconds  {summary.seconds['total']:.1f}" + (f" ({spent})" if spent else ""))
    if summary.bytes_written:
        print("written  " + ", ".join(f"{name} {size(count)}" for name, count in summary.bytes_written.items()))
    if summary.held:
        state = "held back: a rollback holds another live; sealed is"
    elif summary.gate and not summary.gate["published"]:
        state = "held back by the gate: sealed is"
    else:
        state = "nothing changed, still" if summary.noop else "now"
    print(f"release  {state} {summary.release}, dataset {summary.fingerprint[:12]}")
    if summary.held:
        print("note     publish it with: ragops releases publish", file=sys.stderr)
    if summary.gate and summary.gate["published"] and not summary.noop:
        if summary.gate["verdict"] == "inconclusive":
            print(f"note     the gate is inconclusive: {summary.gate['reason']}", file=sys.stderr)
        else:
            print(f"gate     {summary.gate['verdict']}: {summary.gate['reason']}")
    if summary.dvc and summary.dvc["recorded"]:
        print(f"dvc      recorded in {summary.dvc['seconds']:.1f} s; keep it with: git commit, dvc push")
    elif summary.dvc and summary.dvc["error"]:
        print(f"note     DVC did not record it: {summary.dvc['error']}", file=sys.stderr)
    for name in summary.incomplete:
        print(f"note     the scan of '{name}' was not complete: nothing of it was deleted", file=sys.stderr)
    if sources["rejected"]:
        print(f"note     {sources['rejected']} rejected; see: ragops rejects list", file=sys.stderr)


def _print_plan(plan: Plan) -> None:
    names = ("seen", "new", "to_read", "removed", "unchanged", "rejected")
    print(table([("sources", *names), ("", *(str(plan.sources[name]) for name in names))]))
    print(f"to read  {size(plan.read_bytes)}")
    for part in plan.recipe_changed:
        print(f"changed  {part}: every document is made again from what is remembered")
    for uri in plan.removed[:20]:
        print(f"removed  {uri}")
    if len(plan.removed) > 20:
        print(f"removed  ... and {len(plan.removed) - 20} more")
    for name in plan.incomplete:
        print(f"note     the scan of '{name}' was not complete: nothing of it would be deleted")
    if plan.needs_consent:
        print("consent  more would be deleted than release.max_delete allows (if not only moved): --allow-deletes")
    if plan.held:
        print("held     a rollback holds: the release would be sealed, not published")
    if plan.chunks is not None:
        print(f"chunks   about {plan.chunks} to make; those whose text is known embed nothing")
    print(
        f"estimate {plan.seconds:.0f} seconds"
        if plan.seconds is not None
        else "estimate none yet: no ingest here was large enough to tell from"
    )


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt
