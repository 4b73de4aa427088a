"""A small Qdrant server for tests: real HTTP and JSON on loopback, answered by qdrant-client's local mode.

It speaks the part of the REST API that ragops uses, refuses what a server refuses (keys, size, strict mode, an absent
collection), and fails on demand: a `Fault` for the requests that a test chooses.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import BaseModel
from qdrant_client import QdrantClient, models

WRITES = re.compile(r"(PUT|DELETE|PATCH) |POST (/collections/aliases|.*/points/(delete|payload|batch))$")


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a request instead of its answer. `done`: it is carried out nevertheless."""

    status: int = 0  # 0: the connection is cut in the middle of an answer
    headers: dict[str, str] = field(default_factory=dict)
    text: str = "injected"
    done: bool = False
    slow: float = 0.0  # seconds before anything; with neither status nor cut, the answer then comes
    cut: bool = False


@dataclass(slots=True)
class Request:
    method: str
    path: str
    body: Any
    size: int
    nth: int  # of those with the same method and kind of path, from 1

    @property
    def verb(self) -> str:
        """The request without its collection: `PUT /collections/*/points`."""
        return f"{self.method} {re.sub('^/collections/[^/]+', '/collections/*', self.path)}"


class Stub:
    """`with Stub() as stub:` serves at `stub.url` until the end."""

    def __init__(self, client: QdrantClient | None = None) -> None:
        self.client = client or QdrantClient(":memory:")
        self.version = "1.19.0"
        self.key: str | None = None
        self.read_key: str | None = None
        self.largest = 32 << 20  # bytes of a request
        self.fault: Callable[[Request], Fault | None] = lambda request: None
        self.seen: Counter[str] = Counter()
        self.received = 0  # bytes
        self.sent = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Stub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def forget(self) -> None:
        """Count from nothing again."""
        self.seen, self.received, self.sent = Counter(), 0, 0

    # ------------------------------------------------------------ HTTP
    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (BrokenPipeError, ConnectionResetError):  # the client went away
                    self.close_connection = True

            def _any(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                data = self.rfile.read(size)
                path = self.path.partition("?")[0]
                with stub._lock:
                    request = Request(self.command, path, json.loads(data) if data else None, size, 0)
                    stub.seen[request.verb] += 1
                    stub.received += size
                    request.nth = stub.seen[request.verb]
                    fault = stub.fault(request)
                if fault is not None and fault.slow:
                    time.sleep(fault.slow)
                if fault is None or fault.done or not (fault.status or fault.cut):
                    status, answer = stub._answer(request, self.headers.get("api-key"))
                if fault is not None and fault.cut:
                    self.send_response(200)
                    self.send_header("content-length", "1000")
                    self.end_headers()
                    self.wfile.write(b'{"result"')
                    self.close_connection = True
                    return
                headers = {}
                if fault is not None and fault.status:
                    status, headers = fault.status, fault.headers
                    answer = json.dumps({"status": {"error": fault.text}, "time": 0}).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                stub.sent += len(answer)  # before it is there: who got it may ask
                self.wfile.write(answer)

            do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = _any

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def _answer(self, request: Request, key: str | None) -> tuple[int, bytes]:
        known = {each for each in (self.key, self.read_key) if each is not None}
        if known and key not in known:
            return _error(401, "Must provide an API key or an Authorization bearer token")
        if key is not None and key == self.read_key and WRITES.match(f"{request.method} {request.path}"):
            return _error(403, "Forbidden: Global manage access is required")
        if request.size > self.largest:
            return _error(413, f"JSON payload ({request.size} bytes) is larger than allowed (limit: {self.largest})")
        try:
            with self._lock:  # local mode is not for threads
                result = self._route(request)
        except ValueError as error:
            text = str(error)
            if found := re.fullmatch(r"Collection (\S+) not found", text):
                return _error(404, f"Not found: Collection `{found[1]}` doesn't exist!")
            return _error(409 if "already exists" in text else 400, f"Wrong input: {text}")
        if request.path == "/":
            return 200, json.dumps(result).encode()
        return 200, json.dumps({"result": _plain(result), "status": "ok", "time": 0.0}).encode()

    # ------------------------------------------------------------ the API
    def _route(self, request: Request) -> Any:
        client, body = self.client, request.body
        parts = request.path.strip("/").split("/")
        match request.method, parts:
            case "GET", [""]:
                return {"title": "qdrant - vector search engine", "version": self.version}
            case "GET", ["collections"]:
                return client.get_collections()
            case "GET", ["aliases"]:
                return client.get_aliases()
            case "POST", ["collections", "aliases"]:
                return client.update_collection_aliases(models.ChangeAliasesOperation.model_validate(body).actions)
            case "GET", ["collections", name]:
                return client.get_collection(name)
            case "PUT", ["collections", name]:
                config = models.CreateCollection.model_validate(body)
                return client.create_collection(
                    name, vectors_config=config.vectors, sparse_vectors_config=config.sparse_vectors
                )
            case "DELETE", ["collections", name]:
                return client.delete_collection(name)
            case "PUT", ["collections", name, "index"]:
                models.CreateFieldIndex.model_validate(body)
                client.get_collection(name)
                return _DONE
            case "PUT", ["collections", name, "points"]:
                found = models.PointsList.model_validate(body)
                return client.upsert(name, found.points, update_filter=found.update_filter)
            case "POST", ["collections", name, "points", "delete"]:
                return client.delete(name, _selected(body))
            case "POST", ["collections", name, "points", "payload"]:
                change = models.SetPayload.model_validate(body)
                return client.set_payload(name, change.payload, points=change.filter or change.points)
            case "POST", ["collections", name, "points", "batch"]:
                return client.batch_update_points(name, models.UpdateOperations.model_validate(body).operations)
            case "POST", ["collections", name, "points", "count"]:
                count = models.CountRequest.model_validate(body)
                return client.count(name, count_filter=count.filter, exact=True)
            case "POST", ["collections", name, "points", "scroll"]:
                ask = models.ScrollRequest.model_validate(body)
                records, offset = client.scroll(
                    name, ask.filter, limit=ask.limit, offset=ask.offset, with_payload=ask.with_payload,
                    with_vectors=ask.with_vector or False,
                )  # fmt: skip
                return {"points": [_plain(record) for record in records], "next_page_offset": offset}
            case "POST", ["collections", name, "points", "query", "batch"]:
                return client.query_batch_points(name, models.QueryRequestBatch.model_validate(body).searches)
            case "POST", ["collections", name, "points"]:
                wanted = models.PointRequest.model_validate(body)
                return client.retrieve(
                    name, wanted.ids, with_payload=wanted.with_payload, with_vectors=wanted.with_vector or False
                )
        raise ValueError(f"the stub does not know {request.method} {request.path}")


_DONE = {"operation_id": 0, "status": "completed"}


def _selected(body: Any) -> Any:
    if "filter" in body:
        return models.FilterSelector.model_validate(body)
    return models.PointIdsList.model_validate(body)


def _plain(result: Any) -> Any:
    if isinstance(result, list):
        return [_plain(each) for each in result]
    return result.model_dump(mode="json") if isinstance(result, BaseModel) else result


def _error(status: int, text: str) -> tuple[int, bytes]:
    return status, json.dumps({"status": {"error": text}, "time": 0.0}).encode()
