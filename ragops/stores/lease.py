"""One writer at a time on a server: a lease in the meta collection, renewed while it is needed.

It is taken and renewed by a write that holds only if the token there is the one that was read. A lease that ran out, or
whose process is gone from this machine, is taken over. Clocks of writers may differ by much less than a lease lasts.
"""

from __future__ import annotations

import functools
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ragops.errors import Locked, RagopsError
from ragops.stores.meta import Meta

SECONDS = 120.0
_mine: set[str] = set()  # tokens of leases that this process holds now


class Lease:
    """Ours, while `hold` runs."""

    def __init__(self, meta: Meta, place: str, seconds: float = SECONDS) -> None:
        """`place` names the collection in messages; `seconds`: how long it lasts without being renewed."""
        self._meta = meta
        self._place = place
        self._seconds = seconds
        self._token = secrets.token_hex(16)
        self._epoch = 0
        self._renewed = 0.0

    @classmethod
    @contextmanager
    def hold(cls, meta: Meta, place: str, seconds: float = SECONDS) -> Iterator[Lease]:
        """Raises Locked, which names the holder and when its lease ends."""
        lease = cls(meta, place, seconds)
        _mine.add(lease._token)
        try:
            lease._take()
            try:
                yield lease
            finally:
                try:
                    lease._drop()
                except (
                    RagopsError
                ):  # it runs out by itself; what was done under it is done, or failed for its own reason
                    pass
        finally:
            _mine.discard(lease._token)

    def keep(self) -> None:
        """Before each request that writes: renewed when a third of its time has gone. Raises Locked if it was lost."""
        if time.monotonic() - self._renewed > self._seconds / 3:
            self.renew()

    def renew(self) -> None:
        """Raises Locked if another writer took it over."""
        now = self._write(self._token)
        if now.get("token") != self._token:
            raise Locked(
                f"{_holder(now)} took over the lease on {self._place} while this process was writing",
                "Nothing was published. Run it again when that one has ended.",
            )

    def _take(self) -> None:
        before = self._meta.read().lease or {}
        token = str(before.get("token", ""))
        if before and not _over(before):
            raise self._held(before)
        self._epoch = int(before.get("epoch", 0)) + 1
        now = self._write(token)
        if now.get("token") != self._token:
            raise self._held(now)

    def _drop(self) -> None:
        """Left free, not deleted: a writer that lost it must find another token there, not nothing."""
        self._meta.take_lease({"token": "", "epoch": self._epoch, "expires": 0.0}, self._token)

    def _write(self, before: str) -> Mapping[str, Any]:
        started = time.monotonic()
        value = {
            "token": self._token,
            "epoch": self._epoch,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "machine": machine(),
            "expires": time.time() + self._seconds,
        }
        now = self._meta.take_lease(value, before)
        if now.get("token") == self._token:
            self._renewed = started
        return now

    def _held(self, lease: Mapping[str, Any]) -> Locked:
        ends = datetime.fromtimestamp(float(lease.get("expires", 0)), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return Locked(
            f"{_holder(lease)} is writing to {self._place}; its lease ends at {ends} unless it is renewed",
            "Wait for it and run it again (`ragops ingest --wait 600` does). Should it have died, the next run after"
            " that takes over.",
        )


def _holder(lease: Mapping[str, Any]) -> str:
    return f"process {lease.get('pid', '?')} on {lease.get('host', '?')}"


def _over(lease: Mapping[str, Any]) -> bool:
    """Whether it ran out, or its process was of this machine and is gone, or has given up."""
    if float(lease.get("expires", 0)) <= time.time():
        return True
    if lease.get("machine") != machine():
        return False
    pid = int(lease.get("pid", 0))
    if pid == os.getpid():
        return lease.get("token") not in _mine
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


@functools.cache
def machine() -> str:
    """This boot of this machine and this space of process ids: within it, a process id means something."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux: every lease is waited for
        return secrets.token_hex(16)
