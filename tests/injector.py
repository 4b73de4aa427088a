"""Kills a run at a chosen step, without a hook in the product.

    python -m tests.injector --list -- ingest ./docs -w kb
    python -m tests.injector 'COMMIT state.db' -- ingest ./docs -w kb
    python -m tests.injector 'rename LIVE#1' --after -- ingest ./docs -w kb

A *step* is whatever a process does that another one, or a later one, can see: a file created, renamed, removed or
synced, a transaction of a database, a lock, a child process, a frame for the store's writing process. Python's audit
events tell of most; what has none (`os.fsync`, databases, frames) is wrapped. A step is named by what it does to what,
with numbers, hashes and temporary names left out, and by how often that was done before: `fsync snapshot/objects#2`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import signal
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

WRITES = os.O_CREAT | os.O_TRUNC
_SQL = re.compile(r"\s*(BEGIN|COMMIT|ROLLBACK|INSERT|REPLACE|UPDATE|DELETE|CREATE|DROP|ATTACH|DETACH|VACUUM)\b", re.I)
_PLAIN = (  # names without what differs from run to run
    (re.compile(r"(releases/)\d+/shard/.*"), r"\1N/shard/*"),
    (re.compile(r"releases/\d+"), "releases/N"),
    (re.compile(r"^\.ragops/store/[^/]+/"), "store/"),
    (re.compile(r"^(\.ragops|data)/"), ""),
    (re.compile(r"[0-9a-f]{64}|(?<![0-9a-f])[0-9a-f]{12}(?![0-9a-f])"), "H"),
    (re.compile(r"(?<=/)\.?(?:[0-9a-f]{3}|segment)(?:-\w+)*\.(?=parquet|tmp)"), "*."),
    (re.compile(r"\.\d+\.tmp$"), ".tmp"),
    (re.compile(r"(\.H)\.\w{8}(?=$|/|\.)"), r"\1.draft"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """`done` is False just before it happens and True just after."""

    verb: str
    path: str  # absolute
    label: str
    nth: int
    done: bool
    target: str = ""  # of a rename


Observer = Callable[[Step], None]


class Injector:
    """Tells `observer` of every step that this process takes within `root`. There is no way back: for a child's use."""

    def __init__(self, root: Path, observer: Observer) -> None:
        self._root = os.path.realpath(root)
        self._observer = observer
        self._seen: Counter[str] = Counter()
        self._local = threading.local()

    def install(self) -> None:
        self._wrap_fsync()
        self._wrap_connect()
        self._wrap_frames()
        sys.addaudithook(self._audit)

    # -- what is seen
    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        handler = _HANDLERS.get(event)
        if handler is None or getattr(self._local, "busy", False):
            return
        with self._quietly():
            found = handler(self, arguments)
        if found is not None:
            verb, path, target = found
            self._step(verb, path, target)

    @contextlib.contextmanager
    def _quietly(self) -> Iterator[None]:
        """What is done to find out about a step is none."""
        self._local.busy = True
        try:
            yield
        finally:
            self._local.busy = False

    def _step(self, verb: str, path: str, target: str = "", *, wrapped: bool = False) -> Callable[[], None]:
        """Tell of a step that is about to happen. Returns what tells that it happened, called here unless `wrapped`."""
        label = f"{verb} {self._name(target or path)}".rstrip()
        nth = self._seen[label]
        self._seen[label] += 1

        def tell(done: bool) -> None:
            with self._quietly():
                self._observer(Step(verb, path, label, nth, done, target))

        tell(False)
        if wrapped:
            return lambda: tell(True)
        # The next thing that Python does, whatever it is, comes after the step.
        before = sys.getprofile()

        def after(frame: FrameType, *_: Any) -> None:
            if frame.f_code.co_filename != __file__:  # we are out of the callback that told of it
                sys.setprofile(before)
                tell(True)

        sys.setprofile(after)
        return lambda: None

    def _name(self, path: str) -> str:
        name = os.path.relpath(path, self._root) if path.startswith("/") else path
        for pattern, plain in _PLAIN:
            name = pattern.sub(plain, name)
        return name

    def _inside(self, path: Any, folder: int = -1) -> str | None:
        """The absolute path, if it lies within the root."""
        if isinstance(path, int):
            found = _of_descriptor(path)
        else:
            found = os.fsdecode(path)
            if not os.path.isabs(found):
                found = os.path.join(os.getcwd() if folder in (-1, None) else _of_descriptor(folder), found)
        found = os.path.normpath(found)
        real = os.path.join(os.path.realpath(os.path.dirname(found)), os.path.basename(found))
        return real if real == self._root or real.startswith(self._root + "/") else None

    # -- audit events
    def _opened(self, arguments: tuple[Any, ...]) -> tuple[str, str, str] | None:
        path, _, flags = arguments
        if isinstance(path, int) or not isinstance(flags, int) or not flags & WRITES:
            return None
        found = self._inside(path)
        if found is None or (not flags & os.O_TRUNC and os.path.exists(found)):
            return None  # a touch of what is there
        return "create", found, ""

    def _renamed(self, arguments: tuple[Any, ...]) -> tuple[str, str, str] | None:
        source, target, source_folder, target_folder = arguments
        found, to = self._inside(source, source_folder), self._inside(target, target_folder)
        return None if found is None or to is None else ("rename", found, to)

    def _removed(self, arguments: tuple[Any, ...]) -> tuple[str, str, str] | None:
        found = self._inside(*arguments)
        return None if found is None or not os.path.lexists(found) else ("remove", found, "")

    def _removed_folder(self, arguments: tuple[Any, ...]) -> tuple[str, str, str] | None:
        found = self._inside(*arguments)
        return None if found is None else ("rmdir", found, "")

    def _made_folder(self, arguments: tuple[Any, ...]) -> tuple[str, str, str] | None:
        found = self._inside(arguments[0], arguments[2])
        return None if found is None or os.path.exists(found) else ("mkdir", found, "")

    def _cut(self, arguments: tuple[Any, ...]) -> tuple[str, str, str] | None:
        found = self._inside(arguments[0])
        return None if found is None else ("truncate", found, "")

    def _locked(self, arguments: tuple[Any, ...]) -> tuple[str, str, str] | None:
        found = self._inside(arguments[0])
        how = "unlock" if arguments[1] & fcntl.LOCK_UN else "lock"
        return None if found is None else (how, found, "")

    def _spawned(self, arguments: tuple[Any, ...]) -> tuple[str, str, str] | None:
        command = " ".join(map(str, arguments[1]))
        for part, name in (("edge_writer", "writer"), ("parsers.worker", "parser")):
            if part in command:
                return "spawn", name, ""
        return None

    # -- what has no audit event
    def _wrap_fsync(self) -> None:
        plain = os.fsync

        def fsync(fd: Any) -> None:
            path = self._inside(fd if isinstance(fd, int) else fd.fileno())
            tell = None if path is None else self._step("fsync", path, wrapped=True)
            plain(fd)
            if tell is not None:
                tell()

        os.fsync = fsync

    def _wrap_connect(self) -> None:
        plain: Callable[..., sqlite3.Connection] = sqlite3.connect

        def connect(file: Any, *arguments: Any, **named: Any) -> sqlite3.Connection:
            db = plain(file, *arguments, **named)
            if not str(file).startswith(":") and self._inside(file) is not None:
                self._trace(db, os.path.basename(file))
            return db

        sqlite3.connect = connect  # type: ignore[assignment]

    def _trace(self, db: sqlite3.Connection, name: str) -> None:
        def traced(statement: str) -> None:
            found = _SQL.match(statement)
            if found is None:
                return
            verb = found.group(1).upper()
            if db.in_transaction and verb not in ("COMMIT", "ROLLBACK"):
                return  # nobody sees it before the COMMIT
            self._step(verb, "work.db" if re.search(r"\bwork\b", statement) else name)

        db.set_trace_callback(traced)

    def _wrap_frames(self) -> None:
        from ragops.stores.edge_process import Writer

        plain = Writer.send

        def send(writer: Writer, kind: bytes, value: str, raw: bytes = b"") -> None:
            global writer_pid
            writer_pid = writer.pid
            tell = self._step("send", f"frame {kind.decode()}", wrapped=True)
            plain(writer, kind, value, raw)
            tell()

        Writer.send = send  # type: ignore[method-assign, assignment]


_HANDLERS: dict[str, Callable[[Injector, tuple[Any, ...]], tuple[str, str, str] | None]] = {
    "open": Injector._opened,
    "os.rename": Injector._renamed,
    "os.remove": Injector._removed,
    "os.rmdir": Injector._removed_folder,
    "os.mkdir": Injector._made_folder,
    "os.truncate": Injector._cut,
    "fcntl.flock": Injector._locked,
    "subprocess.Popen": Injector._spawned,
}
writer_pid = 0  # of the store's writing process, once it has been told something


def _of_descriptor(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return "/"


# ---------------------------------------------------------------- what happens at a step
@dataclass(frozen=True, slots=True)
class Blow:
    """What happens at which step. `how`: KILL or TERM for this process, WRITER: SIGKILL for the store's writer."""

    label: str
    nth: int = 0
    done: bool = False  # just after it
    how: str = "KILL"
    delay: float = 0.0  # seconds, of WRITER

    def __call__(self, step: Step) -> None:
        if (step.label, step.nth, step.done) != (self.label, self.nth, self.done):
            return
        if self.how == "WRITER":
            threading.Timer(self.delay, _kill_writer).start() if self.delay else _kill_writer()
        else:
            os.kill(os.getpid(), signal.SIGKILL if self.how == "KILL" else signal.SIGTERM)


def _kill_writer() -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(writer_pid, signal.SIGKILL)


class Listing:
    """All steps, in order."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int]] = []

    def __call__(self, step: Step) -> None:
        if not step.done:
            self.steps.append((step.label, step.nth))


class PowerLoss:
    """Which renames a loss of power could tear: a name that comes to last while what it names does not.

    The bytes of a file are safe once it was synced as it is now, its name once its folder was synced with it in it;
    what was there before the run is safe. `names` knows the pointers, the files that make other files count: (where
    a pointer's bytes are, the name it gets) -> the files it names, or None for what is no pointer. A commit of
    the state promises what the pointers whose paths end as `promised` will say: what those name must be safe by then.
    """

    def __init__(
        self, root: Path, names: Callable[[str, str], list[str] | None], promised: tuple[str, ...] = ()
    ) -> None:
        self._root = os.path.realpath(root)
        self._names = names
        self._bytes: set[tuple[int, int, int]] = set()
        self._entries: set[str] = set()
        for base, folders, files in os.walk(self._root):
            self._entries.update(os.path.join(base, name) for name in (*folders, *files))
            self._bytes.update(self._look(os.path.join(base, name)) for name in files)
        self._promised = promised
        self._committed = set(self._bytes), set(self._entries)
        self._pointed: dict[str, str] = {}  # pointer whose name is perhaps not yet safe -> the step
        self._found: dict[str, None] = {}

    def __call__(self, step: Step) -> None:
        if step.verb == "fsync" and step.done:
            if os.path.isdir(step.path):
                self._entries.update(os.path.join(step.path, name) for name in os.listdir(step.path))
            else:
                self._bytes.add(self._look(step.path))
        elif step.verb == "rename":
            self._rename(step)
        elif step.verb in ("create", "mkdir") and step.done:
            self._entries.discard(step.path)
        elif step.path == "state.db" and step.verb not in ("BEGIN", "ROLLBACK") and not step.done:
            self._pointers_are_safe(step.label)
            self._committed = set(self._bytes), set(self._entries)

    def end(self) -> list[str]:
        self._pointers_are_safe("the end")
        return list(self._found)

    def _rename(self, step: Step) -> None:
        if step.done:
            self._entries.discard(step.target)
            if self._names(step.target, step.target) is not None:
                self._pointed[step.target] = step.label
            return
        named = self._names(step.path, step.target)
        if named is not None:
            self._pointers_are_safe(step.label)
        inside = [os.path.join(base, name) for base, _, names in os.walk(step.path) for name in names]
        for file in inside or [step.path]:
            self._bytes_are_safe(file, step.label)
        for file in named or ():
            if not os.path.exists(file):
                self._found[f"{step.label}: {self._short(file)} is named and not there"] = None
                continue
            self._bytes_are_safe(file, step.label)
            late = self._look(file) not in self._committed[0] or file not in self._committed[1]
            if late and step.target.endswith(self._promised):
                self._found[f"{step.label}: the state was committed before {self._short(file)} was safe"] = None
            self._name_is_safe(file, step.label, within=os.path.dirname(step.target))

    def _bytes_are_safe(self, file: str, when: str) -> None:
        if self._look(file) not in self._bytes:
            self._found[f"{when}: {self._short(file)} was not synced"] = None

    def _name_is_safe(self, file: str, when: str, within: str) -> None:
        """Up to a folder without which nobody would look for it."""
        while not f"{within}/".startswith(f"{file}/"):
            if file not in self._entries:
                self._found[f"{when}: the folder {self._short(os.path.dirname(file))} was not synced"] = None
            file = os.path.dirname(file)

    def _pointers_are_safe(self, when: str) -> None:
        for pointer, step in self._pointed.items():
            self._name_is_safe(pointer, f"{when}, after {step}", self._root)
        self._pointed.clear()

    def _short(self, file: str) -> str:
        return os.path.relpath(file, self._root)

    def _look(self, file: str) -> tuple[int, int, int]:
        found = os.stat(file)
        return found.st_ino, found.st_size, found.st_mtime_ns


def main(arguments: list[str]) -> int:
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(prog="python -m tests.injector", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("step", nargs="?", help="LABEL or LABEL#NTH, counted from 0")
    parser.add_argument("--after", action="store_true", help="just after the step, not just before")
    parser.add_argument("--term", action="store_true", help="SIGTERM instead of SIGKILL")
    parser.add_argument("--list", action="store_true", help="let it run and print its steps to stderr")
    options = parser.parse_args(arguments[:split])
    command = arguments[split + 1 :]
    if not command or bool(options.step) == options.list:
        parser.error("name a step or --list, then -- and the arguments of ragops")
    root = Path(command[command.index("-w") + 1] if "-w" in command else ".").absolute()

    from ragops.cli import main as ragops

    listing = Listing()
    observer: Observer = listing
    if options.step:
        label, _, nth = options.step.partition("#")
        observer = Blow(label, int(nth or 0), options.after, "TERM" if options.term else "KILL")
    Injector(root, observer).install()
    code = ragops(command)
    for label, nth in listing.steps:
        print(f"{label}#{nth}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
