"""The process that listens: uvicorn with one worker in it, or several spawned ones beside it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragops.errors import ConfigError, MissingExtra, StoreError, UsageError
from ragops.keys import Keys
from ragops.workspace import Workspace

if TYPE_CHECKING:
    from fastapi import FastAPI

BACKLOG = 512
IDLE = 10  # seconds for the head of a request to arrive
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stderr"}},
    "loggers": {
        # what uvicorn tells of a request has its whole address, so a query of a page
        "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        "ragops.service": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
    },
}


@dataclass(frozen=True, slots=True)
class Make:
    """The application's maker, which a spawned worker is sent."""

    root: Path
    auth: bool
    together: int
    parent: int | None

    def __call__(self) -> FastAPI:
        from ragops.service.app import make

        return make(self.root, auth=self.auth, together=self.together, parent=self.parent)


def serve(
    root: Path, *, host: str = "127.0.0.1", port: int = 8080, workers: int = 1, auth: bool = True,
    together: int | None = None, told: Callable[[str], None] = lambda address: None,
) -> None:  # fmt: skip
    """Answer until SIGTERM or SIGINT, then finish what runs. `told` gets the address once the port is ours.

    Raises UsageError (no key, no such host, a port that is taken), ConfigError, MissingExtra, StoreError.
    """
    try:
        import uvicorn
        from uvicorn.config import STARTUP_FAILURE
        from uvicorn.supervisors.multiprocess import Multiprocess

        from ragops.service import app, protocol  # noqa: F401  what a worker will import
        from ragops.service.batches import MOST
        from ragops.service.rates import MEMORY, address
    except ImportError as error:
        raise MissingExtra(f"the service needs {error.name}", "pip install 'ragops[serve]'") from error
    workspace = Workspace.open(root)
    settings = workspace.settings.serve
    if workers < 1:
        raise UsageError(f"{workers} workers", "One at least.")
    limits = address(settings.limits)
    if workers > 1 and limits == MEMORY:
        raise UsageError(
            f"{workers} workers cannot count rates in the memory of each",
            "Set `serve.limits: redis://host:6379/0` in params.yaml, or start one worker.",
        )
    _check_keys(workspace, auth=auth, host=host)
    _check_limits(limits)
    listener = listen(host, port)
    make = Make(workspace.root, auth, MOST if together is None else together, os.getpid() if workers > 1 else None)
    configured = uvicorn.Config(
        make, factory=True, http=protocol.Impatient, ws="none", lifespan="on", log_config=LOGGING, access_log=False,
        server_header=False, proxy_headers=False, workers=workers,
        timeout_keep_alive=max(1, min(IDLE, int(settings.timeout))), backlog=BACKLOG,
        timeout_graceful_shutdown=int(settings.timeout) + 5,
    )  # fmt: skip
    shown = f"[{host}]" if ":" in host else host
    told(f"http://{shown}:{listener.getsockname()[1]}")
    with listener, _counting_together(workers), _ending_well():
        if workers == 1:
            uvicorn.Server(configured).run(sockets=[listener])
            return
        supervisor = Multiprocess(configured, sockets=[listener])
        supervisor.run()
        if any(each.exitcode == STARTUP_FAILURE for each in supervisor.processes):
            raise StoreError("the service could not start", "The reason stands above.")


def _check_keys(workspace: Workspace, *, auth: bool, host: str) -> None:
    if not auth:
        if not _is_loopback(host):
            raise UsageError(
                f"without keys everybody who reaches {host} could read everything",
                "Make a key (ragops keys create NAME) and leave --no-auth out, or listen on 127.0.0.1.",
            )
        return
    if not any(key.state() == "active" for key in Keys(workspace.local).all()):
        raise UsageError(
            "there is no key yet, so nobody could ask",
            "Make one: ragops keys create NAME. Or, on this machine alone, start with --no-auth.",
        )


def _check_limits(limits: str) -> None:
    """Redis is reached before anything listens."""
    from ragops.service.rates import Rates

    async def reachable() -> bool:
        return await Rates(limits, "1/second").reachable()

    if not asyncio.run(reachable()):
        raise ConfigError("serve.limits: the Redis server does not answer", "Start it, or mend the address.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is told: else each answer waits 40 ms for an ACK
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {host} port {port}: {getattr(error, 'strerror', None) or error}",
            "Choose another: ragops serve --port 8081",
        ) from error
    listener.set_inheritable(True)
    return listener


@contextlib.contextmanager
def _counting_together(workers: int) -> Iterator[None]:
    """A folder in which workers count for /metrics."""
    from ragops.service.metrics import FOLDER

    if workers == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="ragops-metrics-") as folder:
        os.environ[FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[FOLDER]


@contextlib.contextmanager
def _ending_well() -> Iterator[None]:
    """uvicorn raises the signal that stopped it once more; by then all is done."""
    before = {each: signal.signal(each, lambda *_: None) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except SystemExit as error:  # of uvicorn, which has told the reason
        if error.code:
            raise StoreError("the service could not start", "The reason stands above.") from error
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        sys.stderr.flush()
