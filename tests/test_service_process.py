"""The service as a process: starting, stopping, hanging clients, releases switched under load, workers and Redis."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ragops.errors import UsageError
from ragops.keys import Keys
from ragops.service.run import listen, serve
from ragops.workspace import Workspace
from tests.conftest import Result, copy, use_model, write_corpus
from tests.served import Served, key, served, settings


def editions(place: Path, count: int) -> Path:
    """A knowledge base whose every document says which release it is of."""
    Workspace.create(place / "kb")
    use_model(place / "kb")
    params = place / "kb/params.yaml"
    params.write_text(params.read_text("utf-8").replace("sources: []", "sources: [{name: s, path: ../s}]"), "utf-8")
    for number in range(1, count + 1):
        write_corpus(place / "s", {f"{n}.md": f"# Page {n}\n\nPenguins of edition{number}.\n" for n in range(8)})
        assert Workspace.open(place / "kb").ingest(rehash=True).release == number
    return place / "kb"


@pytest.fixture(scope="module")
def _editions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return editions(tmp_path_factory.mktemp("editions"), 2).parent


@pytest.fixture
def root(_editions: Path, tmp_path: Path) -> Path:
    copy(_editions, tmp_path)
    return tmp_path / "kb"


@pytest.fixture
def headers(root: Path) -> dict[str, str]:
    return key(root)


ASK = {"text": "penguins", "k": 8, "collapse": False}


class Load:
    """Clients that ask without a pause, until the end of the block; what they got."""

    def __init__(self, service: Served, headers: dict[str, str], clients: int) -> None:
        self._service, self._headers = service, headers
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(clients)]
        self.answers: list[Any] = []
        self.failed: list[str] = []
        self.cut: list[str] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, n: int) -> None:
        with self._service.client(self._headers) as client:
            while not self._stop.is_set():
                try:
                    if n % 2:
                        answer = client.post("/v1/search/batch", json={"queries": [ASK, ASK, ASK]})
                    else:
                        answer = client.post("/v1/search", json=ASK)
                except httpx.HTTPError as error:  # no answer at all
                    self.cut.append(repr(error))
                    return
                if answer.status_code != 200:
                    self.failed.append(answer.text)
                    return
                self.answers.append(answer.json())

    def check(self) -> set[int]:
        """Every answer is of one release, wholly. Which they were."""
        assert self.failed == []
        found = set()
        for answer in self.answers:
            for each in answer.get("results", [answer]):
                assert each["release"] == answer["release"]
                texts = {hit["text"] for hit in each["hits"]}
                assert len(each["hits"]) == 8
                assert all(f"edition{answer['release']}." in text for text in texts), (answer["release"], texts)
            found.add(answer["release"])
        return found


# ---------------------------------------------------------------- starting
def test_what_keeps_it_from_starting(
    root: Path, monkeypatch: pytest.MonkeyPatch, ragops: Callable[..., Result]
) -> None:
    def refused(**options: Any) -> str:
        with pytest.raises(UsageError) as caught:
            serve(root, **{"port": 0, **options})
        return str(caught.value)

    assert "ragops keys create NAME" in refused()
    assert "everybody who reaches 0.0.0.0" in refused(host="0.0.0.0", auth=False)
    key(root, "once")
    Keys(root / ".ragops").revoke("once")
    assert "there is no key yet" in refused()
    done = ragops("serve", "--port", "0", "-w", root)
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no key yet" in done.stderr
    key(root)
    assert "serve.limits: redis://" in refused(workers=2)
    assert "cannot listen on 203.0.113.7" in refused(host="203.0.113.7")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "Address already in use" in refused(port=taken.getsockname()[1])
        address = f"redis://127.0.0.1:{taken.getsockname()[1]}/0"
    settings(root, limits=address)
    assert "Redis server does not answer" in refused()
    settings(root, limits="env:RAGOPS_TEST_LIMITS")
    assert "holds no address" in refused()
    monkeypatch.setenv("RAGOPS_TEST_LIMITS", address)
    assert "Redis server does not answer" in refused()


def test_a_missing_extra_is_named(root: Path, tmp_path: Path, ragops: Callable[..., Result]) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['fastapi'] = None\n")
    done = ragops("serve", "-w", root, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert "the service needs fastapi\npip install 'ragops[serve]'" in done.stderr


def test_keys_of_the_command_line(root: Path, ragops: Callable[..., Result]) -> None:
    def keys(*arguments: object) -> Any:
        done = ragops("keys", *arguments, "-w", root, "--json")
        return done.returncode, json.loads(done.stdout)

    code, made = keys("create", "app", "--tenant", "acme", "--groups", "a, b", "--rate", "5/hour", "--expires", "90d")
    assert code == 0
    assert made["groups"] == ["a", "b"]
    assert made["key"].startswith(f"ragops_{made['id']}_")
    file = root / ".ragops/keys.json"
    assert made["key"].rpartition("_")[2] not in file.read_text("utf-8")
    assert file.stat().st_mode & 0o777 == 0o600
    assert keys("list")[1] == [{name: value for name, value in made.items() if name != "key"}]
    for wrong in (
        ["create", "app"], ["create", "a b"], ["create", ""], ["create", "x", "--scopes", "all"],
        ["create", "x", "--rate", "5"], ["create", "x", "--expires", "2020-01-01"],
        ["create", "x", "--expires", "soon"], ["create", "x", "--tenant", "a", "--all-tenants"], ["revoke", "nobody"],
    ):  # fmt: skip
        assert keys(*wrong)[0] == 2, wrong
    with served(root) as service, service.client({"Authorization": f"Bearer {made['key']}"}) as client:
        assert client.post("/v1/search", json=ASK).status_code == 200
        assert keys("revoke", "app")[1]["state"] == "revoked"
        assert client.post("/v1/search", json=ASK).status_code == 401
    assert keys("create", "app")[0] == 0, "the name is free again"


def test_a_backup_holds_the_keys(root: Path, tmp_path: Path) -> None:
    made = key(root, "kept")["Authorization"].removeprefix("Bearer ")
    Workspace.open(root).backup(tmp_path / "kb.tar")
    Workspace.restore(tmp_path / "kb.tar", tmp_path / "again")
    found = Keys(tmp_path / "again/.ragops")
    assert found.find(made) is not None
    assert found.path.stat().st_mode & 0o777 == 0o600


# ---------------------------------------------------------------- stopping
def test_sigterm_finishes_what_runs(root: Path, headers: dict[str, str]) -> None:
    with served(root) as service:
        host, port = service.url.removeprefix("http://").split(":")
        body = json.dumps(ASK).encode()
        head = (
            f"POST /v1/search HTTP/1.1\r\nHost: {host}\r\nAuthorization: {headers['Authorization']}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port))) as begun, Load(service, headers, 6) as load:
            begun.sendall(head.encode() + body[:5])
            while len(load.answers) < 50:
                time.sleep(0.01)
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            begun.sendall(body[5:])
            begun.settimeout(30)
            answer = b""
            while part := begun.recv(65536):
                answer += part
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["release"] == 2
            with pytest.raises(OSError):
                socket.create_connection((host, int(port))).close()
        assert service.process.wait(60) == 0
        assert load.check() == {2}
        assert len(load.cut) == 6, "each client was told by the end of its connection"
        assert not [line for line in service.errors if "Traceback" in line], service.errors


def test_ctrl_c_ends_it_too(root: Path, headers: dict[str, str]) -> None:
    with served(root) as service:
        assert service.stop(signal.SIGINT) == 0
        assert service.errors == []


# ---------------------------------------------------------------- releases
def test_releases_are_switched_under_load(root: Path, headers: dict[str, str]) -> None:
    """Nothing fails and nothing is mixed."""
    with served(root) as service, service.client(headers) as client, Load(service, headers, 4) as load:
        found = Workspace.open(root)
        for n in range(10):
            (found.publish if n % 2 else found.rollback)()
            wanted = 2 if n % 2 else 1
            deadline = time.monotonic() + 20
            while client.post("/v1/search", json=ASK).json()["release"] != wanted:  # while it is opened, the old one
                assert time.monotonic() < deadline
    assert load.cut == []
    assert load.check() == {1, 2}


def test_a_release_is_pruned_while_it_is_served(root: Path, tmp_path: Path, headers: dict[str, str]) -> None:
    """The service gives an old release back once its last query is answered, so that prune does not wait for it."""
    with served(root) as service, service.client(headers) as client:
        assert client.post("/v1/search", json=ASK).json()["release"] == 2
        write_corpus(tmp_path / "s", {f"{n}.md": f"# Page {n}\n\nPenguins of edition3.\n" for n in range(8)})
        assert Workspace.open(root).ingest(rehash=True).release == 3
        assert client.post("/v1/search", json=ASK).json()["release"] == 3
        assert client.post("/v1/search", json={**ASK, "release": 2}).json()["release"] == 2
        start = time.monotonic()
        assert Workspace.open(root).prune(1) == ([1], [])
        assert time.monotonic() - start < 20
        assert client.post("/v1/search", json=ASK).json()["release"] == 3


# ---------------------------------------------------------------- clients that hang
def test_clients_that_hang_hold_nobody_up(root: Path, headers: dict[str, str]) -> None:
    settings(root, timeout=1.5, concurrency=2)
    with served(root) as service, service.client(headers) as client, contextlib.ExitStack() as stack:
        host, port = service.url.removeprefix("http://").split(":")

        def connect(data: bytes) -> socket.socket:
            found = stack.enter_context(socket.create_connection((host, int(port))))
            found.sendall(data)
            found.settimeout(30)
            return found

        head = (
            f"POST /v1/search HTTP/1.1\r\nHost: x\r\nAuthorization: {headers['Authorization']}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        ).encode()
        silent = [connect(b"") for _ in range(5)]
        half = [connect(head[:40]) for _ in range(5)]
        bodies = [connect(head + b'{"text"') for _ in range(5)]
        strangers = [connect(head.replace(b"ragops_", b"nobody_") + b'{"text"') for _ in range(5)]
        for _ in range(5):
            assert client.post("/v1/search", json=ASK).status_code == 200
        for each in (*silent, *half):
            assert each.recv(1000) == b"", "closed without a word"
        for each in bodies:
            assert each.recv(1000).startswith(b"HTTP/1.1 408 ")
        for each in strangers:
            assert each.recv(1000).startswith(b"HTTP/1.1 401 ")
        for _ in range(10):  # asks, and never reads the answer
            connect(head.replace(b"100", b"17") + b'{"text": "bears"}')
            time.sleep(0.05)
        assert client.post("/v1/search", json=ASK).status_code == 200
        assert "ragops_requests_running 0.0" in client.get("/metrics").text


def test_bytes_that_are_no_http(root: Path, headers: dict[str, str]) -> None:
    with served(root) as service, service.client(headers) as client:
        host, port = service.url.removeprefix("http://").split(":")
        for data in (
            b"\x00" * 100,
            b"GET\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01",
            b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000,
        ):
            with socket.create_connection((host, int(port))) as raw:
                raw.settimeout(30)
                with contextlib.suppress(OSError):
                    raw.sendall(data)
                    assert raw.recv(1000)[:12] in (b"HTTP/1.1 400", b"")
        assert client.post("/v1/search", json=ASK).status_code == 200


def test_a_full_service_says_when_to_come_again(root: Path, headers: dict[str, str]) -> None:
    settings(root, concurrency=1, max_batch=200)
    batch = {"queries": [{**ASK, "text": f"penguins {n}", "exact": True} for n in range(200)]}
    with served(root) as service:
        answers: list[httpx.Response] = []

        def ask() -> None:
            with service.client(headers) as client:
                answers.append(client.post("/v1/search/batch", json=batch))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        statuses = [answer.status_code for answer in answers]
        assert sorted(set(statuses)) == [200, 503], statuses
        for answer in answers:
            if answer.status_code == 503:
                assert answer.headers["retry-after"] == "1"
                assert "busy" in answer.json()["error"]["message"]


# ---------------------------------------------------------------- several workers
needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


class Redis:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--dir", str(self._folder)],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.02)
        raise AssertionError("redis-server did not start")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(20)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    found = Redis(tmp_path)
    yield found
    found.stop()


@needs_redis
def test_workers_share_rates_and_metrics(root: Path, headers: dict[str, str], redis: Redis) -> None:
    settings(root, limits=f"redis://127.0.0.1:{redis.port}/0")
    few = key(root, "few", rate="20/day")
    with served(root, "--workers", "2") as service:
        statuses = []
        for _ in range(30):  # a connection each, so that both workers get some
            with service.client(few) as client:
                statuses.append(client.get("/v1/releases").status_code)
        assert statuses == [200] * 20 + [429] * 10
        with Load(service, headers, 4) as load:
            while len(load.answers) < 100:
                time.sleep(0.01)
        assert load.check() == {2}
        assert load.cut == []
        with service.client() as client:
            text = client.get("/metrics").text
        assert 'ragops_requests_total{route="/v1/releases",status="429"} 10.0' in text
        count = sum(1 for answer in load.answers if "results" not in answer)
        assert f'ragops_requests_total{{route="/v1/search",status="200"}} {count:.1f}' in text
        assert service.stop() == 0


@needs_redis
def test_without_redis_nobody_is_let_in_until_it_is_back(root: Path, headers: dict[str, str], redis: Redis) -> None:
    settings(root, limits=f"redis://127.0.0.1:{redis.port}/0")
    with served(root) as service, service.client(headers) as client:
        assert client.post("/v1/search", json=ASK).status_code == 200
        redis.stop()
        for answer in (client.post("/v1/search", json=ASK), client.get("/readyz")):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert "redis" not in answer.text.lower(), "what stands behind is nobody's business"
        assert client.get("/healthz").status_code == 200
        redis.start()
        assert client.post("/v1/search", json=ASK).status_code == 200


@needs_redis
def test_workers_end_with_their_parent(root: Path, headers: dict[str, str], redis: Redis) -> None:
    settings(root, limits=f"redis://127.0.0.1:{redis.port}/0")
    with served(root, "--workers", "2") as service:
        with service.client(headers) as client:
            assert client.post("/v1/search", json=ASK).status_code == 200
        service.process.send_signal(signal.SIGKILL)
        service.process.wait(20)
        host, port = service.url.removeprefix("http://").split(":")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
                time.sleep(0.2)
                continue
            return
        raise AssertionError("a worker still listens")


# ---------------------------------------------------------------- traces
def test_traces_tell_parts_and_no_text(root: Path, headers: dict[str, str]) -> None:
    received: list[bytes] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_address[1]}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none", "OTEL_SERVICE_NAME": "my-search",
            "FASTAPI_OTEL_AUTO_CONFIGURE": "true",  # the framework's own spans would hold whole addresses
        }  # fmt: skip
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        with served(root, env=env) as service, service.client(headers) as client:
            ask = {**ASK, "text": "unmistakable words"}
            client.post("/v1/search", json=ask, headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
            client.get("/v1/documents", params={"uri": "unmistakable:/words"})
            assert service.stop() == 0
        collector.shutdown()
    found = b"".join(received)
    for expected in (b"my-search", b"POST /v1/search", b"embed", b"search", bytes.fromhex(trace), b"GET /v1/documents"):
        assert expected in found, expected
    assert b"unmistakable" not in found


def test_traces_without_the_extra_are_a_warning(root: Path, headers: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry.sdk'] = None\n")
    env = {
        "OTEL_TRACES_EXPORTER": "otlp",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }
    with served(root, env=env) as service, service.client(headers) as client:
        assert client.post("/v1/search", json=ASK).status_code == 200
        assert service.stop() == 0
    assert any("pip install 'ragops[otel]'" in line for line in service.errors)


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """With Nagle's algorithm the second part of an answer waits 40 ms, until the client's system confirms the first."""

    async def nodelay() -> int:
        loop = asyncio.get_running_loop()
        made: asyncio.Future[Any] = loop.create_future()

        class Accepted(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.set_result(transport.get_extra_info("socket"))

        listener = listen("127.0.0.1", 0)
        server = await loop.create_server(Accepted, sock=listener)
        with socket.create_connection(listener.getsockname()):
            option = (await made).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        server.close()
        return int(option)

    assert asyncio.run(nodelay())
