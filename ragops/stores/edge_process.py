"""The parent's side of the writing process: frames out, answers in, deaths turned into errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

import ragops
from ragops.errors import DiskFull, StoreError
from ragops.stores import files
from ragops.stores.edge_writer import frame
from ragops.stores.manifest import SPACE_HINT

_CODE = (
    "import sys, runpy; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module('ragops.stores.edge_writer', run_name='__main__')"
)


class Writer:
    """A running writing process. `close` kills it if it has not ended by itself."""

    def __init__(self, folder: Path, config: dict[str, Any], keep: int) -> None:
        """`keep` is a descriptor (the store's lock) that the child holds as long as it lives."""
        self._folder = folder
        self.written = 0
        self._answer: dict[str, Any] = {}
        self._said: deque[str] = deque(maxlen=20)
        # Its modules come from where ours do, searched last, so that no file of the current folder shadows any.
        root = str(Path(ragops.__file__).resolve().parents[1])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CODE, root, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(keep,),
        )
        self._threads = [
            threading.Thread(target=self._listen, name="ragops-store-answers", daemon=True),
            threading.Thread(target=self._overhear, name="ragops-store-stderr", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self.send(b"C", json.dumps(config))

    @property
    def pid(self) -> int:
        return self._process.pid

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            self.written = answer.get("written", self.written)
            if "written" not in answer:
                self._answer = answer

    def _overhear(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line.decode(errors="replace").rstrip())

    def send(self, kind: bytes, value: str, raw: bytes = b"") -> None:
        """Blocks while the child is behind by more than a pipe's buffer. Raises StoreError, DiskFull."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frame(kind, value, raw))
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def finish(self) -> int:
        """Ends the stream, waits for the shard to be whole on disk, and gives its count of points."""
        self.send(b"E", "null")
        self._wait()
        if self._process.returncode or "done" not in self._answer:
            raise self._failure()
        return int(self._answer["done"])

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._wait()

    def _wait(self) -> None:
        if self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass
        self._process.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _failure(self) -> StoreError:
        self._wait()
        code = self._process.returncode
        where = self._folder.parents[1]
        if "no_space" in self._answer:
            return DiskFull(f"The disk under {where} is full: {self._answer['no_space']}.", SPACE_HINT)
        said = self._answer.get("error") or (self._said[-1] if self._said else "")
        if any(sign in said for sign in ("No space left", "os error 28", "os error 122", "quota")):
            return DiskFull(f"The disk under {where} is full: {said}", SPACE_HINT)
        if code == -signal.SIGBUS:
            free = files.free_bytes(where)
            return DiskFull(
                f"The disk under {where} is full: the engine was stopped by SIGBUS, {free:,} bytes are free.",
                SPACE_HINT,
            )
        if code == -signal.SIGKILL:
            return StoreError(
                "The process that writes the store was killed, most likely for want of memory.",
                "Nothing was published. Free memory and run it again; `dmesg` tells who was killed.",
            )
        if code < 0:
            said = f"{signal.Signals(-code).name} {said}"
        return StoreError(
            f"The vector engine failed while writing {self._folder}: {said or f'exit code {code}'}",
            "Nothing was published. Run it again; `ragops doctor` checks the store.",
        )
