"""A workspace of several tenants, and a service as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ragops.keys import SCOPES, Keys
from ragops.workspace import Workspace
from tests.conftest import use_model, write_corpus

#: (tenant, groups) of each source; names that a careless filter would take for something else, too
OWNERS: list[tuple[str, tuple[str, ...]]] = [
    ("", ()), ("", ("staff",)), ("acme", ()), ("acme", ("hr",)), ("acme", ("hr", "staff")), ("globex", ()),
    ("globex", ("staff",)), ("acme ", ()), ("*", ()), ('acme"}', ("hr",)), ("null", ("a,b",)), ("ACME", ()),
    ("Größe", ("Ω",)),
]  # fmt: skip
TEXT = "# Penguins\n\nPenguins of {n} swim well; the secret word is marker{n}.\n\n## Food\n\nThey eat fish {n}.\n"


def workspace(place: Path) -> Workspace:
    """Two documents of every owner, one release."""
    Workspace.create(place / "kb")
    use_model(place / "kb")
    lines = ["sources:"]
    for n, (tenant, groups) in enumerate(OWNERS):
        write_corpus(place / f"s{n}", {"a.md": TEXT.format(n=n), "b.md": TEXT.format(n=n).replace("swim", "dive")})
        lines += [
            f"  - name: s{n}", f"    path: ../s{n}", f"    tenant: {json.dumps(tenant)}",
            f"    groups: {json.dumps(list(groups))}",
        ]  # fmt: skip
    params = place / "kb/params.yaml"
    params.write_text(params.read_text("utf-8").replace("sources: []", "\n".join(lines)), "utf-8")
    found = Workspace.open(place / "kb")
    assert found.ingest().release == 1
    return found


def sees(tenant: str | None, groups: Sequence[str] | None, owner: tuple[str, tuple[str, ...]]) -> bool:
    """What permissions mean, said once more."""
    if tenant is not None and owner[0] != tenant:
        return False
    return groups is None or not owner[1] or bool(set(owner[1]) & set(groups))


def key(root: Path, name: str = "all", **options: Any) -> dict[str, str]:
    """The headers of a new key; of all tenants and scopes where not told otherwise."""
    usual = {"tenant": None, "scopes": SCOPES, "rate": "1000000/second"}
    return {"Authorization": f"Bearer {Keys(root / '.ragops').create(name, **usual | options)[1]}"}


def settings(root: Path, **values: Any) -> None:
    """Change `serve` of params.yaml."""
    params = root / "params.yaml"
    before, head, text = params.read_text("utf-8").partition("\nserve:")
    for name, value in values.items():
        text, count = re.subn(rf"(?m)^  {name}: .*$", f"  {name}: {json.dumps(value)}", text)
        assert count == 1, name
    params.write_text(before + head + text, "utf-8")


@dataclass
class Served:
    process: subprocess.Popen[str]
    url: str
    errors: list[str]

    def client(self, headers: Mapping[str, str] | None = None) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def stop(self, sig: int = signal.SIGTERM) -> int:
        self.process.send_signal(sig)
        return self.process.wait(60)


@contextmanager
def served(root: Path, *options: str, env: Mapping[str, str] | None = None) -> Iterator[Served]:
    """`ragops serve` on a free port, until the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ragops", "serve", "--port", "0", "-w", str(root), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})},
    )  # fmt: skip
    errors: list[str] = []
    assert process.stdout is not None
    assert process.stderr is not None
    reading = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
    reading.start()
    try:
        said = process.stdout.readline()
        match = re.search(r"http://\S+?(?=;)", said)
        if match is None:
            process.wait(60)
            reading.join(10)
            raise AssertionError("".join(errors))
        found = Served(process, match[0], errors)
        _wait(found)
        yield found
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(60)
        reading.join(10)
        process.stdout.close()
        process.stderr.close()


def _wait(service: Served) -> None:
    """The port is open at once; answers come when the worker is up."""
    with service.client() as client:
        assert client.get("/healthz").json() == {"ok": True}
