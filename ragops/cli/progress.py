"""Progress of an ingest: live bars on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from ragops_pipelines.job import Event

LABELS = {
    "scan": "scanning", "sources": "reading and parsing", "embed": "embedding", "export": "exporting query encoder",
    "dataset": "writing dataset", "load": "loading release", "copy": "copying releases", "compare": "comparing both",
    "evaluate": "asking the query set", "backup": "writing the backup", "restore": "reading the backup",
}  # fmt: skip
UNITS = {"scan": "sources", "sources": "sources", "embed": "vectors", "load": "points",
         "evaluate": "questions", "copy": "points", "compare": "releases", "backup": "MB", "restore": "MB"}  # fmt: skip
EVERY = 5.0  # seconds between plain lines


class Show:
    """Takes the events of a run. Everything goes to stderr."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.bars: Progress | None = None
        self.tasks: dict[str, TaskID] = {}
        self.begun: dict[str, float] = {}
        self.said: dict[str, float] = {}

    def __enter__(self) -> Show:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn("{task.description:<24}"), BarColumn(bar_width=24), TextColumn("{task.fields[note]}"))
            self.bars = Progress(*columns, console=Console(stderr=True), refresh_per_second=5)
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars is not None:
            self.bars.stop()

    def __call__(self, event: Event) -> None:
        if self.quiet:
            return
        now = time.monotonic()
        begun = self.begun.setdefault(event.stage, now)
        note = _note(event, now - begun)
        if self.bars is not None:
            if event.stage not in self.tasks:
                label = LABELS.get(event.stage, event.stage)
                self.tasks[event.stage] = self.bars.add_task(label, total=event.total, note="")
            done = event.share * 1000 if event.total is None and event.share is not None else event.done
            total = 1000 if event.total is None and event.share is not None else event.total
            self.bars.update(self.tasks[event.stage], completed=done, total=total, note=note)
        elif now - self.said.get(event.stage, begun) >= EVERY:
            self.said[event.stage] = now
            print(f"{LABELS.get(event.stage, event.stage)}: {note}", file=sys.stderr, flush=True)


def _note(event: Event, seconds: float) -> str:
    unit = UNITS.get(event.stage, "")
    parts = [f"{event.done}/{event.total} {unit}" if event.total else f"{event.done} {unit}" if unit else ""]
    if event.done and seconds > 1:
        if event.done >= seconds:  # else it would say 0/s
            parts.append(f"{event.done / seconds:.0f}/s")
        share = event.share if event.total is None or event.stage == "sources" else event.done / event.total
        if share and 0.01 < share < 1:
            parts.append(f"about {_clock(seconds / share - seconds)} left")
    return ", ".join(part for part in parts if part)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
