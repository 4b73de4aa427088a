"""The border to qdrant-client: requests that are tried again, bounded in bytes, and errors that say what to do.

One `Connection` per store, over REST, gRPC or qdrant-client's local mode. It knows nothing of releases.
"""

from __future__ import annotations

import json
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ragops.config import StoreSettings
from ragops.errors import DiskFull, StoreError, UsageError

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

T = TypeVar("T")
PAGE = 250  # points in a request
PAGE_BYTES = 8 << 20  # in a request; a server takes 32 MiB
TRIES = 6
TIMEOUTS = 3  # tries of a request that the server does not answer in time
PAUSE = 0.2  # seconds before the second try, doubled for each further one
LONGEST = 20.0  # seconds between two tries, Retry-After aside
RETRY_AFTER = 120.0  # seconds; who asks for more gets an error
CHECK = "`ragops doctor` checks the server."

Kind = Literal["busy", "down", "cut", "slow", "failed", "full", "missing", "key", "forbidden", "large", "refused"]
AGAIN: frozenset[Kind] = frozenset({"busy", "down", "cut", "slow", "failed"})


class ServerError(StoreError):
    """A server did not do what it was asked. `kind` says why."""

    def __init__(self, message: str, hint: str = "", kind: Kind = "refused") -> None:
        super().__init__(message, hint)
        self.kind: Kind = kind

    def __reduce__(self) -> tuple[type[ServerError], tuple[str, str, Kind]]:  # type: ignore[override]
        return type(self), (self.message, self.hint, self.kind)


class Missing(ServerError):
    """There is no such collection."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What an exception of the client means."""

    kind: Kind
    text: str
    after: float | None = None  # seconds, where the server says when to come again


class Connection:
    """A qdrant-client behind typed calls, safe to repeat: all of them mean the same when they are done twice."""

    def __init__(self, client: QdrantClient, where: str = "the Qdrant server", *, pause: float = PAUSE) -> None:
        """`where` names the server in messages. `pause`: seconds before the second try."""
        self.client = client
        self.where = where
        self._pause = pause
        self._page = PAGE
        self._reached = False
        self._version: tuple[int, ...] | None = None

    @classmethod
    def open(cls, settings: StoreSettings, key: str | None) -> Connection:
        """To the server at `settings.url`. Nothing is sent yet. Raises UsageError."""
        from qdrant_client import QdrantClient

        url = settings.url or ""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Api key is used with an insecure")  # doctor tells of it
                client = QdrantClient(
                    url=url,
                    api_key=key,
                    prefer_grpc=settings.grpc,
                    timeout=max(1, round(settings.timeout)),
                    check_compatibility=False,
                )
        except ValueError as error:
            raise UsageError(
                f"{url!r} is no address of a Qdrant server: {error}", "Such as http://localhost:6333."
            ) from None
        return cls(client, url)

    def close(self) -> None:
        self.client.close()

    # ------------------------------------------------------------ the server
    def version(self) -> tuple[int, ...]:
        """Such as (1, 19, 2); empty where it is no number. Asked once."""
        if self._version is None:
            text = self.call(lambda: self.client.info()).version
            parts = text.split("-")[0].split(".")
            self._version = tuple(map(int, parts)) if all(part.isdigit() for part in parts) else ()
        return self._version

    def collections(self) -> list[str]:
        return sorted(each.name for each in self.call(lambda: self.client.get_collections()).collections)

    def aliases(self) -> dict[str, str]:
        """Alias -> collection."""
        found = self.call(lambda: self.client.get_aliases()).aliases
        return {each.alias_name: each.collection_name for each in found}

    def set_alias(self, alias: str, name: str) -> None:
        """Let `alias` name a collection, in one atomic step whatever it named before."""
        from qdrant_client import models

        steps: list[Any] = [models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))]
        if alias not in self.aliases():
            steps = []
        new = models.CreateAlias(collection_name=name, alias_name=alias)
        steps.append(models.CreateAliasOperation(create_alias=new))
        self.call(lambda: self.client.update_collection_aliases(steps))

    # ------------------------------------------------------------ collections
    def describe(self, name: str) -> models.CollectionInfo | None:
        """None where there is no such collection."""
        try:
            return self.call(lambda: self.client.get_collection(name))
        except Missing:
            return None

    def create(self, name: str, **config: Any) -> None:
        """`config` is qdrant-client's. The caller has looked that there is none: one that is there now is ours, made
        by a request whose answer was lost."""
        try:
            self.call(lambda: self.client.create_collection(name, **config))
        except ServerError as error:
            if error.kind != "refused" or self.describe(name) is None:
                raise

    def index(self, name: str, field: str, schema: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Payload indexes have no effect")  # in local mode
            self.call(lambda: self.client.create_payload_index(name, field, field_schema=schema, wait=True))

    def drop(self, name: str) -> None:
        self.call(lambda: self.client.delete_collection(name))

    # ------------------------------------------------------------ writing
    def upsert(self, name: str, points: Sequence[models.PointStruct], sizes: Sequence[int]) -> None:
        """`sizes` are bytes of the points. Smaller requests where the server finds one too large or too slow."""
        start, misses = 0, 0
        while start < len(points):
            stop, room = start + 1, PAGE_BYTES - sizes[start]
            while stop < len(points) and stop - start < self._page and sizes[stop] <= room:
                room -= sizes[stop]
                stop += 1
            some = list(points[start:stop])
            try:
                self.call(lambda some=some: self.client.upsert(name, some, wait=True), slow=1 if len(some) > 1 else 2)  # type: ignore[misc]
            except ServerError as error:
                misses += 1
                if (
                    error.kind not in ("large", "slow")
                    or len(some) == 1
                    or (error.kind == "slow" and misses > TIMEOUTS)
                ):
                    raise
                self._page = max(1, len(some) // 2)
            else:
                start, misses = stop, 0

    def put(self, name: str, point: models.PointStruct, *, over: models.Filter | None = None) -> None:
        """One point, by the leader of its shard; `over`: only if there is none, or the one there matches."""
        from qdrant_client import models

        strong = models.WriteOrdering.STRONG
        self.call(lambda: self.client.upsert(name, [point], wait=True, ordering=strong, update_filter=over))

    def set_payload(self, name: str, payload: Mapping[str, Any], where: list[str] | models.Filter) -> None:
        """To points by id or filter; without points of that kind, nothing."""
        values = dict(payload)
        self.call(lambda: self.client.set_payload(name, values, points=where, wait=True))  # type: ignore[arg-type]

    def batch(self, name: str, changes: Sequence[Any]) -> None:
        for start in range(0, len(changes), PAGE):
            some = list(changes[start : start + PAGE])
            self.call(lambda some=some: self.client.batch_update_points(name, some, wait=True))  # type: ignore[misc]

    def delete(self, name: str, where: list[str] | models.Filter) -> None:
        self.call(lambda: self.client.delete(name, points_selector=where, wait=True))  # type: ignore[arg-type]

    # ------------------------------------------------------------ reading
    def count(self, name: str, condition: models.Filter | None) -> int:
        return self.call(lambda: self.client.count(name, count_filter=condition, exact=True)).count

    def query(self, name: str, requests: Sequence[models.QueryRequest]) -> list[list[models.ScoredPoint]]:
        """Several queries in one request."""
        if not requests:
            return []
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Local mode performs exact")
            answers = self.call(lambda: self.client.query_batch_points(name, requests))
        return [answer.points for answer in answers]

    def retrieve(self, name: str, ids: Sequence[str], *, vectors: bool | list[str]) -> list[models.Record]:
        return self.call(lambda: self.client.retrieve(name, list(ids), with_payload=True, with_vectors=vectors))

    def scroll(
        self,
        name: str,
        condition: models.Filter | None = None,
        *,
        payload: bool | list[str],
        vectors: bool | list[str] = False,
        page: int = PAGE,
        majority: bool = False,
    ) -> Iterator[models.Record]:
        """Every point that matches, by physical id, in pages. `majority`: as most replicas have it."""
        from qdrant_client import models

        agreed = models.ReadConsistencyType.MAJORITY if majority else None
        offset: Any = None
        while True:
            records, offset = self.call(
                lambda start=offset: self.client.scroll(  # type: ignore[misc]
                    name,
                    condition,
                    limit=page,
                    offset=start,
                    with_payload=payload,
                    with_vectors=vectors,
                    consistency=agreed,
                )
            )
            yield from records
            if offset is None:
                return

    # ------------------------------------------------------------ trying again
    def call(self, request: Callable[[], T], *, slow: int = TIMEOUTS) -> T:
        """What `request` gives, tried again while the server is busy, failing, cut off or (`slow` times) late.

        A server that never answered is down: told at once. Raises ServerError, Missing, DiskFull.
        """
        for attempt in range(1, TRIES + 1):
            try:
                found = request()
            except Exception as error:
                trouble = diagnose(error)
                if trouble is None:
                    raise
                wait = trouble.after or 0.0
                tries = slow if trouble.kind == "slow" else TRIES
                if trouble.kind == "down" and not self._reached:
                    tries = 1
                self._reached = self._reached or trouble.kind not in ("down", "slow")
                if trouble.kind not in AGAIN or attempt >= tries or wait > RETRY_AFTER:
                    raise self._told(trouble) from error
                backoff = min(LONGEST, self._pause * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311
                time.sleep(max(wait, backoff))
            else:
                self._reached = True
                return found
        raise AssertionError("the last try returns or raises")

    def _told(self, trouble: Trouble) -> StoreError:
        said = f": {trouble.text}" if trouble.text else ""
        match trouble.kind:
            case "down":
                return ServerError(
                    f"{self.where} cannot be reached{said}",
                    f"Is the server running, and store.url right? {CHECK}",
                    "down",
                )
            case "slow":
                return ServerError(
                    f"{self.where} did not answer in time{said}",
                    f"Raise store.timeout, or look at the server's load. {CHECK}",
                    "slow",
                )
            case "busy":
                return ServerError(
                    f"{self.where} turns requests away as too many{said}",
                    "Run it again later: what was computed is kept, and nothing was published.",
                    "busy",
                )
            case "full":
                return DiskFull(
                    f"the disk of {self.where} is full{said}",
                    "Free some space there and run it again. Nothing is lost.",
                )
            case "missing":
                return Missing(f"{self.where} has no such collection{said}", CHECK, "missing")
            case "key":
                return ServerError(
                    f"{self.where} wants an API key, or another one{said}",
                    "Set it in the environment: QDRANT_API_KEY, or the variable that store.api_key names.",
                    "key",
                )
            case "forbidden":
                return ServerError(
                    f"{self.where} forbids this to our API key{said}",
                    "Reading needs a key that may read; `ragops ingest` one that may write and make collections.",
                    "forbidden",
                )
            case "large":
                return ServerError(
                    f"{self.where} found a request too large{said}",
                    "Raise its max_request_size_mb (32 by default), or lower chunk.size.",
                    "large",
                )
            case "refused":
                return ServerError(
                    f"{self.where} refused{said}",
                    f"A limit of its strict mode can be raised there. {CHECK}",
                    "refused",
                )
            case _:
                return ServerError(
                    f"{self.where} failed{said}", f"Nothing was published; try again. {CHECK}", trouble.kind
                )


# ---------------------------------------------------------------- what an exception means
def diagnose(error: Exception) -> Trouble | None:
    """None for what is no matter of the server's: a fault of ours."""
    from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, ResourceExhaustedResponse):
        return Trouble("busy", str(error), float(error.retry_after_s))
    if isinstance(error, UnexpectedResponse):
        return _by_status(error.status_code or 0, _said(error.content))
    if isinstance(error, ResponseHandlingException):
        return _by_source(error.source)
    if isinstance(error, QdrantException):  # a Retry-After that is a date
        return Trouble("busy", str(error))
    if type(error).__module__.startswith("grpc"):
        return _by_code(error)
    if isinstance(error, ValueError) and "not found" in str(error):  # local mode
        return Trouble("missing", str(error))
    if isinstance(error, (ValueError, RuntimeError, ConnectionError)):
        return Trouble("refused", str(error))
    return None


def _by_status(status: int, said: str) -> Trouble:
    text = f"HTTP {status}{f', {said}' if said else ''}"
    if status == 507 or "No space left" in said or "not enough space" in said.lower():
        return Trouble("full", text)
    if status == 401 or (status == 403 and "api key" in said.lower()):
        return Trouble("key", text)
    if status == 404 and "ollection" in said:
        return Trouble("missing", text)
    kinds: dict[int, Kind] = {403: "forbidden", 408: "slow", 413: "large", 429: "busy", 504: "slow"}
    return Trouble(kinds.get(status, "failed" if status >= 500 else "refused"), text)


def _by_source(source: Exception) -> Trouble:
    import httpx

    text = str(source) or type(source).__name__
    if isinstance(source, (httpx.ConnectError, httpx.ConnectTimeout)):
        return Trouble("down", text)
    if isinstance(source, httpx.TimeoutException):
        return Trouble("slow", text)
    if isinstance(source, httpx.TransportError):
        return Trouble("cut", text)
    return Trouble("refused", f"its answer is not Qdrant's ({text.splitlines()[0]})")


def _by_code(error: Any) -> Trouble:
    code = error.code().name
    text = f"gRPC {code}, {error.details() or ''}".rstrip(", ")
    if "No space left" in text:
        return Trouble("full", text)
    if code == "RESOURCE_EXHAUSTED":
        return Trouble("large" if "larger than max" in text else "busy", text)
    if code == "PERMISSION_DENIED":
        return Trouble("key" if "api key" in text.lower() else "forbidden", text)
    if code == "UNAVAILABLE":
        return Trouble("down" if "connect" in text.lower() else "cut", text)
    kinds: dict[str, Kind] = {
        "DEADLINE_EXCEEDED": "slow", "NOT_FOUND": "missing", "UNAUTHENTICATED": "key", "INTERNAL": "failed",
        "ABORTED": "failed", "UNKNOWN": "failed", "OUT_OF_RANGE": "large",
    }  # fmt: skip
    return Trouble(kinds.get(code, "refused"), text)


def _said(content: bytes) -> str:
    """What the server says of an error, on one line."""
    try:
        text = str(json.loads(content)["status"]["error"])
    except (ValueError, KeyError, TypeError):
        text = content.decode("utf-8", "replace")
    return " ".join(text.split())[:300]
