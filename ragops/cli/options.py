"""Options that every command shares, and how a command answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "-w", "--workspace", metavar="PATH", help="The workspace; default: the nearest one upwards from here."
    ),
]
WaitOption = Annotated[
    float, typer.Option("--wait", metavar="SECONDS", min=0, help="Wait for another command that writes here to end.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print exactly one JSON value; progress goes to stderr.")]


def print_json(value: Any, indent: int | None = 1) -> None:
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    print(json.dumps(value, ensure_ascii=not unicode, indent=indent))


def releases_line(numbers: Sequence[int], live: int | None, *, held: bool) -> str:
    told = "none" if live is None else f"{live}, held" if held else str(live)
    return f"{', '.join(map(str, numbers)) or 'none'}; live is {told}"


def names(text: str) -> list[str]:
    """Of an option that takes several, set apart by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def table(rows: list[tuple[str, ...]]) -> str:
    """Columns set apart by two spaces; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
