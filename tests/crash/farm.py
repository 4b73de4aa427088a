"""The processes that run trials, side by side."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.crash.trials import Outcome, Trial


class Farm:
    """A few warmed processes that run trials. Close it."""

    def __init__(self, folder: Path, processes: int = 2) -> None:
        self.folder = folder
        self.prepared: dict[str, dict[str, Any]] = {}
        self._servers = [_Server() for _ in range(processes)]
        self._number = 0

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()

    def prepare(self, *scenarios: str) -> None:
        missing = [name for name in scenarios if name not in self.prepared]
        requests = [{"prepare": name, "place": str(self.folder / name)} for name in missing]
        for name, answer in zip(missing, self._ask(requests), strict=True):
            self.prepared[name] = {**answer, "steps": [(label, nth) for label, nth in answer["steps"]]}

    def run(self, trials: Sequence[Trial]) -> list[Outcome]:
        """In the order of `trials`."""
        self.prepare(*dict.fromkeys(trial.scenario for trial in trials))
        requests: list[dict[str, Any]] = []
        for trial in trials:
            self._number += 1
            place = str(self.folder / trial.scenario)
            requests.append({"trial": asdict(trial), "place": place, "name": str(self._number)})
        return [Outcome(**answer) for answer in self._ask(requests)]

    def _ask(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        answers: list[Any] = [None] * len(requests)
        waiting = iter(enumerate(requests))
        lock = threading.Lock()
        failed: list[BaseException] = []

        def serve(server: _Server) -> None:
            while not failed:
                with lock:
                    found = next(waiting, None)
                if found is None:
                    return
                try:
                    answers[found[0]] = server.ask(found[1])
                except BaseException as error:
                    failed.append(error)

        threads = [threading.Thread(target=serve, args=(server,)) for server in self._servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        return answers


class _Server:
    def __init__(self) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash"], cwd=Path(__file__).parents[2], env={**os.environ, **threads},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that runs trials ended with {self._process.wait()} at {request}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        self._process.communicate()


def fast_folder() -> Path | None:
    """Memory to work in, where there is enough of it: what a trial costs is then not the disk's."""
    shared = Path("/dev/shm")
    with contextlib.suppress(OSError):
        if os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 2 << 30:
            return shared
    return None
