"""Work in forked children, and a count of the texts that they embed."""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import struct
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def forked(work: Callable[[], Any], log: Path | None = None, *, group: bool = False) -> Child:
    """Run `work` in a forked child, its output in `log`."""
    used = {name for name in _threads() if name.startswith(("polars-0", "rayon", "tokio", "ort", "async"))}
    assert not used, f"thread pools were used before the fork: {used}"
    read, write = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(write)
        return Child(pid, read)
    code = 70
    try:
        os.close(read)
        if group:
            os.setpgid(0, 0)
        if log is not None:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(out, 1)
            os.dup2(out, 2)
        value = work()
        with open(write, "wb") as pipe:
            pickle.dump(value, pipe)
        code = value if isinstance(value, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _threads() -> Iterator[str]:
    for thread in os.listdir("/proc/self/task"):
        yield Path(f"/proc/self/task/{thread}/comm").read_text().strip()


@dataclass(slots=True)
class Child:
    pid: int
    pipe: int
    cpu: float = 0.0  # seconds, with its own ended children

    def wait(self) -> tuple[int, Any]:
        """(exit code, negative for a signal; what the work returned, or None)."""
        with open(self.pipe, "rb") as pipe:
            data = pipe.read()
        _, status, usage = os.wait4(self.pid, 0)
        self.cpu = usage.ru_utime + usage.ru_stime
        return os.waitstatus_to_exitcode(status), pickle.loads(data) if data else None


class Counter:
    """Texts embedded, over all processes forked since."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    def watch(self) -> None:
        from ragops.embedders.hashed import HashEmbedder

        plain = HashEmbedder.embed

        def embed(model: HashEmbedder, texts: Sequence[str]) -> Any:
            self._memory[:] = struct.pack("q", self.value + len(texts))
            return plain(model, texts)

        HashEmbedder.embed = embed  # type: ignore[method-assign, assignment]

    @property
    def value(self) -> int:
        return int(struct.unpack("q", self._memory[:])[0])

    def reset(self) -> None:
        self._memory[:] = struct.pack("q", 0)
