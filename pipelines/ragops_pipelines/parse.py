"""The parse stage: bytes to documents' text, in worker processes that can be killed."""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

from ragops.errors import ParseError
from ragops.types import Block, Fields, Parsed, ParserOutput, Span
from ragops_pipelines.parsers import general, has_plugins, wire

K = TypeVar("K")
Item = tuple[K, bytes, str, str | None]


# Small files travel together, so that a message costs little of each.
_BATCH_ITEMS = 32
_BATCH_BYTES = 64 * 1024
_BATCH_SECONDS = 0.02  # a slow source must not keep workers waiting
_FLIGHT_ITEMS = 4 * _BATCH_ITEMS  # per worker, taken from the source and not yet handed out
_FLIGHT_BYTES = 64 << 20
_LOAD_SECONDS = 300  # for a parser's imports, on a cold and busy machine
MAX_TEXT = 200_000_000  # characters of one file
_MOST_OF = 0.4  # buffers double: the one that is refused may be larger than all before it
_ATTEMPTS = 3  # for files of a worker that died of nobody's fault


@dataclass(frozen=True, slots=True)
class Limits:
    """What one file may cost."""

    seconds: float = 60.0  # of CPU; three times that on the clock
    memory: int = 2 << 30  # bytes of address space beyond the worker's own
    unpacked: int = 1 << 30  # bytes, the sum of a zip's members
    text: int = MAX_TEXT  # characters of extracted text

    @property
    def wall(self) -> float:
        """Seconds on the clock after which a parse that uses no CPU is taken for hung."""
        return 3 * self.seconds

    def out_of_time(self, clock: bool) -> ParseError:
        spent = f"{self.wall:g} s on the clock" if clock else f"{self.seconds:g} s of CPU time"
        return ParseError(
            f"Parsing took more than {spent}.",
            "Raise `parse.timeout` in params.yaml, or split the file.",
            code="timeout",
            transient=True,
        )

    def out_of_memory(self) -> ParseError:
        return ParseError(
            f"Parsing took more than {self.memory >> 20:,} MiB of memory.",
            "Raise `parse.memory_mb` in params.yaml, or split the file.",
            code="memory",
            transient=True,
        )


def language_model() -> str:
    """The sentence model that unstructured uses here: "en_core_web_sm", or the name of the offline stand-in."""
    return general.language_model()


# ---------------------------------------------------------------- blocks to text
_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
# Control characters other than tab and line feed, soft hyphens, byte order marks, noncharacters.
_DROPPED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\ufeff\ufdd0-\ufdef\ufffe\uffff]")
_SURROGATES = re.compile("[\ud800-\udfff]")
# All of these as one class, which is searched many times faster than alternatives.
_UNCLEAN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u2028\u2029\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff]")
_TRAILING = re.compile("[ \t]+\n")
_GAPS = re.compile("\n{2,}")


def assemble(output: ParserOutput, parser: str, limit: int = MAX_TEXT) -> Parsed:
    """Blocks to one text with their places in it. Raises ParseError ("too_large") beyond `limit` characters."""
    parts: list[str] = []
    spans: list[Span] = []
    position = 0
    for block in output.blocks:
        text = _clean_block(block)
        if not text:
            continue
        spans.append(Span(block.kind, position, position + len(text), block.level, block.page))
        parts.append(text)
        position += len(text) + 2
        if position > limit + 2:
            raise ParseError(
                f"The file holds more than {limit:,} characters of text.", "Split it into parts.", code="too_large"
            )
    title = " ".join(_clean(output.title).split()) if output.title else ""
    return Parsed(title or None, "\n\n".join(parts), tuple(spans), _clean_fields(output.fields), parser)


def _clean_block(block: Block) -> str:
    text = _clean(block.text)
    if block.kind == "code":
        text = text.strip("\n").rstrip()
        return text if text.strip() else ""
    if "\n" in text:
        # A blank line stands between blocks and nowhere inside one, code apart. Most texts have neither: `in` is fast.
        if " \n" in text or "\t\n" in text:
            text = _TRAILING.sub("\n", text)
        if "\n\n" in text:
            text = _GAPS.sub("\n", text)
        text = text.strip("\n")
    return text.rstrip()


def _clean(text: str) -> str:
    if _UNCLEAN.search(text) is not None:
        text = _SURROGATES.sub("\ufffd", _DROPPED.sub("", _LINE_ENDS.sub("\n", text)))
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _clean_fields(fields: Fields) -> Fields:
    return {
        _clean(key): [_clean(v) if isinstance(v, str) else v for v in value]
        if isinstance(value, list)
        else _clean(value)
        if isinstance(value, str)
        else value
        for key, value in fields.items()
    }


# ---------------------------------------------------------------- the pool
@dataclass(slots=True, eq=False)
class _Task:
    """One file on its way."""

    run: int
    number: int
    data: bytes
    media_type: str
    encoding: str | None
    attempts: int = 0


class _Died(Exception):
    """A worker ended; `task` is the file that it worked on, if any."""

    def __init__(self, task: _Task | None, error: ParseError) -> None:
        super().__init__(error.message)
        self.task = task
        self.error = error


_Result = tuple[_Task, Parsed | ParseError]


class ParserPool:
    """Worker processes that parse. A context manager; one `parse_many` at a time."""

    def __init__(self, workers: int, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._workers = max(workers, 1)
        self._tasks: queue.SimpleQueue[list[_Task] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[_Result | BaseException] = queue.SimpleQueue()
        self._run = 0
        self._closing = False
        self._threads: list[threading.Thread] = []
        self._processes: set[_Process] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> ParserPool:
        for number in range(self._workers):
            thread = threading.Thread(target=self._serve, name=f"ragops-parse-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closing = True
            for process in self._processes:
                process.kill()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def parse_many(self, items: Iterable[Item[K]]) -> Iterator[tuple[K, Parsed | ParseError]]:
        """Parse (key, data, media type, encoding); yields (key, text or error) as each is done.

        Pulls from `items` only as far as a bounded number and size of files is on its way.
        """
        if not self._threads or self._closing:
            raise RuntimeError("the pool is not open; use it in a `with` block")
        self._run += 1
        run = self._run
        flight = _Flight(items, self._workers)
        try:
            while True:
                if not flight.exhausted and flight.has_room():
                    batch = flight.pull(run)
                    if batch:
                        self._tasks.put(batch)
                elif flight.keys:
                    yield from self._handed_out(flight, self._results.get())
                else:
                    return
                while not self._results.empty():
                    yield from self._handed_out(flight, self._results.get())
        finally:
            self._run += 1  # late results of an abandoned run are dropped
            self._drop_queued()

    def _handed_out(
        self, flight: _Flight[K], result: _Result | BaseException
    ) -> Iterator[tuple[K, Parsed | ParseError]]:
        if isinstance(result, BaseException):
            raise result
        task, outcome = result
        if task.run == self._run:
            yield flight.land(task), outcome

    def _drop_queued(self) -> None:
        while True:
            try:
                self._tasks.get_nowait()
            except queue.Empty:
                return

    def _serve(self) -> None:
        """One thread, one worker process at a time."""
        process: _Process | None = None
        try:
            while (batch := self._tasks.get()) is not None:
                waiting = batch
                while waiting and not self._closing:
                    if waiting[0].run != self._run:  # abandoned
                        break
                    if process is None:
                        process = self._started()
                    process, waiting = self._ran(process, waiting)
        except BaseException as error:  # a defect here must not leave the reader waiting for ever
            self._results.put(error)
        finally:
            if process is not None:
                self._ended(process)

    def _ran(self, process: _Process, tasks: list[_Task]) -> tuple[_Process | None, list[_Task]]:
        """Run a batch. Returns the process if it goes on, and what is left to do."""
        waiting = list(tasks)

        def answered(task: _Task, outcome: Parsed | ParseError) -> None:
            waiting.remove(task)
            self._results.put((task, outcome))

        try:
            retired = process.run(tasks, answered)
        except _Died as death:
            self._ended(process)
            if self._closing:
                return None, []
            if death.task is not None:
                answered(death.task, death.error)
            else:
                for task in list(waiting):
                    task.attempts += 1
                    if task.attempts >= _ATTEMPTS:
                        answered(task, death.error)
            return None, waiting
        if retired:
            self._ended(process)
            return None, waiting
        return process, waiting

    def _started(self) -> _Process:
        process = _Process(self._limits)
        with self._lock:
            self._processes.add(process)
            if self._closing:
                process.kill()
        return process

    def _ended(self, process: _Process) -> None:
        with self._lock:
            self._processes.discard(process)
        process.close()


class _Flight(Generic[K]):
    """What has been taken from the source and not yet handed out."""

    def __init__(self, items: Iterable[Item[K]], workers: int) -> None:
        self.exhausted = False
        self.keys: dict[int, K] = {}
        self._items = iter(items)
        self._bytes = 0
        self._most = _FLIGHT_ITEMS * workers
        self._batch: list[_Task] = []
        self._batch_bytes = 0
        self._began = 0.0
        self._number = 0

    def has_room(self) -> bool:
        return len(self.keys) < self._most and self._bytes < _FLIGHT_BYTES

    def pull(self, run: int) -> list[_Task]:
        """Take one more file; returns a batch when it is time to send one."""
        item = next(self._items, None)
        if item is None:
            self.exhausted = True
            return self._flush()
        key, data, media_type, encoding = item
        self._number += 1
        self.keys[self._number] = key
        self._bytes += len(data)
        if not self._batch:
            self._began = time.monotonic()
        self._batch.append(_Task(run, self._number, data, media_type, encoding))
        self._batch_bytes += len(data)
        full = self._batch_bytes >= _BATCH_BYTES or len(self._batch) >= _BATCH_ITEMS or not self.has_room()
        return self._flush() if full or time.monotonic() - self._began > _BATCH_SECONDS else []

    def _flush(self) -> list[_Task]:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        return batch

    def land(self, task: _Task) -> K:
        self._bytes -= len(task.data)
        return self.keys.pop(task.number)


_ABORTS = (signal.SIGABRT, signal.SIGTRAP, signal.SIGILL, signal.SIGSEGV)

#: What of the environment a worker sees. No secret of ours belongs near a hostile file.
_ENVIRONMENT = frozenset(("PATH", "HOME", "LANG", "LANGUAGE", "TMPDIR", "VIRTUAL_ENV", "TZ", "USER"))
_ENVIRONMENT_PREFIXES = ("LC_", "PYTHON", "LD_", "DYLD_", "NIX_")
_SETTINGS = {
    "SCARF_NO_ANALYTICS": "true",
    "DO_NOT_TRACK": "true",
    "UNSTRUCTURED_DISABLE_NOTICE": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "PYTHONHASHSEED": "0",  # no text may hang on the order of a set
    "PYTHONUTF8": "1",
    # One file, one thread; and threads' arenas would count as memory of the file.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKIO_WORKER_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
}


_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


class _Process:
    """One worker process, seen from the parent."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._shared = tempfile.TemporaryFile()  # noqa: SIM115
        self._shared.truncate(wire.PROGRESS_BYTES)
        self._progress = wire.Progress(self._shared.fileno())
        self._sock, theirs = socket.socketpair()
        # A child's peak begins with what its parent held when it was made, which says nothing of the child.
        self._inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
        }
        arguments = {
            "limits": dataclasses.asdict(limits),
            "socket": theirs.fileno(),
            "progress": self._shared.fileno(),
            "parent": os.getpid(),
            "plugins": has_plugins(),
        }
        # -P: the current folder may be full of strangers' files, one of them named like a module.
        command = [sys.executable, "-P", "-m", "ragops_pipelines.parsers.worker", json.dumps(arguments)]
        with theirs:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(theirs.fileno(), self._shared.fileno()),
                env={**environment, **_SETTINGS},
                start_new_session=True,  # its own group: Ctrl-C does not reach it, a kill reaches its children
            )
        self._inbox = wire.Inbox(self._sock)

    def run(self, tasks: Sequence[_Task], answered: Callable[[_Task, Parsed | ParseError], None]) -> bool:
        """Parse a batch; True if the process has retired. Raises _Died."""
        header = {"items": [(task.media_type, task.encoding, len(task.data)) for task in tasks]}
        pending = dict(enumerate(tasks))
        try:
            self._sock.settimeout(None)
            wire.send(self._sock, wire.encode(header), *(task.data for task in tasks))
            while True:
                self._wait(pending)
                answer, body = self._inbox.take()
                if "done" in answer:
                    return bool(answer["retire"])
                task = pending.pop(answer["item"])
                answered(task, wire.unpack_error(answer) if "error" in answer else wire.unpack_parsed(answer, body))
        except (wire.Closed, ConnectionError) as gone:
            phase, item, _ = self._progress.read()
            blamed = pending.get(item) if phase != wire.IDLE else None
            raise _Died(blamed, self._cause_of_death()) from gone

    def _wait(self, pending: dict[int, _Task]) -> None:
        """Until a whole answer is there. Raises _Died for a file that takes too long, and Closed."""
        while not self._inbox.ready():
            self._sock.settimeout(min(1.0, self._limits.wall))
            try:
                self._inbox.fill()
            except TimeoutError:
                phase, item, seconds = self._progress.read()
                most = self._limits.wall if phase == wire.PARSING else _LOAD_SECONDS
                if phase != wire.IDLE and seconds > most:
                    self.kill()
                    raise _Died(pending.get(item), self._limits.out_of_time(clock=True)) from None

    def _cause_of_death(self) -> ParseError:
        _, ended, usage = os.wait4(self._child.pid, 0)
        status = self._child.returncode = os.waitstatus_to_exitcode(ended)
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(self._log.tell() - 4000, 0))
        last = self._log.read().decode("utf-8", "replace").strip()
        if status == -signal.SIGXCPU:
            return self._limits.out_of_time(clock=False)
        # Native code that is refused memory aborts without a word; that it had taken most of what it may tells why.
        peak = usage.ru_maxrss * _RSS_UNIT
        refused = -status in _ABORTS and peak > max(_MOST_OF * self._limits.memory, self._inherited)
        if refused or wire.OUT_OF_MEMORY.search(last):
            return self._limits.out_of_memory()
        if status == -signal.SIGKILL:
            return ParseError(
                "The parser's process was killed, most likely by the system for want of memory.",
                "Use fewer `parse.workers`, or leave the file out; it is tried again at the next run.",
                code="memory",
                transient=True,
            )
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        detail = f" Its last words: {last.splitlines()[-1][:200]}" if last else ""
        return ParseError(
            f"The parser's process died ({how}) while it read this file.{detail}",
            "It is tried again at the next run; leave the file out if it stays so.",
            code="crashed",
            transient=True,
        )

    def kill(self) -> None:
        if self._child.returncode is None:
            try:
                os.killpg(self._child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def close(self) -> None:
        self._sock.close()
        self.kill()
        self._child.wait()
        self._progress.close()
        self._shared.close()
        self._log.close()
