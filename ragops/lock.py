"""The lock of a workspace: one writer at a time, known by its process id."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from ragops.errors import Locked

T = TypeVar("T")

_WIDTH = 19
_PAUSES = (1.0, 30.0)  # seconds between two tries, the first and the longest


@contextlib.contextmanager
def hold(file: Path, wait: float) -> Iterator[bool]:
    """Hold the lock, after waiting for it up to `wait` seconds; True where the last holder died. Raises Locked."""
    lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(lock, 64, 0).decode("ascii", "replace").strip() or "unknown"
                    raise Locked(
                        f"another command works on {file.parent.parent} (process {holder})",
                        "Wait for it to end, or let this one wait: --wait 600",
                    ) from None
                time.sleep(0.1)
        died = bool(os.pread(lock, _WIDTH + 1, 0).strip())  # who ends without an error takes its name away
        os.pwrite(lock, f"{os.getpid():<{_WIDTH}}\n".encode(), 0)  # of equal length: to cut a file short takes long
        yield died
        os.pwrite(lock, b" " * _WIDTH + b"\n", 0)
    finally:
        os.close(lock)


def patiently(wait: float, work: Callable[[float], T]) -> T:
    """What `work(seconds left)` gives, tried again for up to `wait` seconds while it raises Locked.

    For a lock that is met late: the lease of another machine on a server, by a run that has to begin again behind it.
    """
    deadline = time.monotonic() + wait
    pause = _PAUSES[0]
    while True:
        try:
            return work(max(0.0, deadline - time.monotonic()))
        except Locked:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
        time.sleep(min(pause, left))
        pause = min(2 * pause, _PAUSES[1])
