"""ragops recall"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ragops.cli.options import JsonOption, WorkspaceOption, print_json
from ragops.cli.search import FilterOption, parse_filter


def command(
    queries: Annotated[
        Path | None, typer.Option("--queries", metavar="FILE", help="Questions, one a line; default: made of passages.")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many queries are made of passages.")] = 200,
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages a search is to find.")] = 10,
    filter: FilterOption = None,
    release: Annotated[
        int | None, typer.Option("--release", help="Measure a kept release instead of the live one.")
    ] = None,
    at_least: Annotated[
        float, typer.Option("--at-least", min=0, max=1, help="Exit 1 where the mean recall is below it.")
    ] = 0.95,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> int:
    """How much of what an exact search finds the approximate index finds, on your own data.

    Examples:
      ragops recall
      ragops recall --queries questions.txt -k 20 --at-least 0.98
    """
    from ragops.workspace import Workspace

    with Workspace.open(workspace) as found:
        measured = found.recall(queries, count=count, k=k, filter=parse_filter(filter or []), release=release)
    if json:
        print_json(measured.as_dict())
    else:
        print(f"recall at {measured.k} of {measured.points} passages, {measured.queries} queries:")
        print(f"  mean {measured.mean:.4f}, 5th percentile {measured.low:.4f}, lowest {measured.lowest:.4f}")
        print(f"  a search takes {measured.approximate_ms:.2f} ms, an exact one {measured.exact_ms:.2f} ms")
        print(f"release {measured.release}")
    return 1 if measured.mean < at_least else 0
