"""Who may ask a service: API keys in `.ragops/keys.json`, of which only hashes are kept.

A key is `ragops_<id>_<secret>`. The id names it in lists and logs; the secret is 256 random bits, so that one sha256 of
it is enough: there is nothing to guess that a slow hash would protect.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson

from ragops import config, durable, lock
from ragops.errors import SchemaError, StoreError, UsageError

SCHEMA = 1
FILE = "keys.json"  # below .ragops
SCOPES = ("search", "read", "feedback", "admin")
USUAL = ("search", "read", "feedback")
_TOKEN = re.compile(r"ragops_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_ID = re.compile(r"[0-9a-f]{12}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SPAN = re.compile(r"([1-9][0-9]{0,4})([hdw])")
_HOURS = {"h": 1, "d": 24, "w": 168}

State: TypeAlias = Literal["active", "expired", "revoked"]


@dataclass(frozen=True, slots=True)
class Key:
    """One key, without its secret. `tenant` None: all tenants; "": only documents of no tenant. `groups` None: all
    groups of that tenant. Times are ISO 8601, UTC."""

    id: str
    name: str
    digest: str  # sha256 of the whole key
    tenant: str | None
    groups: tuple[str, ...] | None
    scopes: tuple[str, ...]
    rate: str | None  # "60/minute"; None: what `serve.rate` says
    created: str
    expires: str | None = None
    revoked: str | None = None

    def state(self, now: datetime | None = None) -> State:
        if self.revoked is not None:
            return "revoked"
        expired = self.expires is not None and datetime.fromisoformat(self.expires) <= (now or datetime.now(UTC))
        return "expired" if expired else "active"

    def as_dict(self) -> dict[str, Any]:
        """Without the hash."""
        found = asdict(self) | {"state": self.state()}
        del found["digest"]
        return found


class Keys:
    """The file of keys. Readers see a change at once; while nothing changes that costs a stat."""

    def __init__(self, local: Path) -> None:
        """`local`: the workspace's folder `.ragops`."""
        self.path = local / FILE
        self._known: tuple[tuple[int, int, int] | None, dict[str, Key]] = (None, {})

    # ------------------------------------------------------------ reading
    def all(self) -> list[Key]:
        """Every key that was made, in that order. Raises StoreError, SchemaError."""
        return list(self._read().values())

    def find(self, token: str) -> Key | None:
        """The active key that a client shows, else None. Raises StoreError, SchemaError: then nobody is let in."""
        match = _TOKEN.fullmatch(token)
        key = self._read().get(match[1]) if match else None
        if key is None or not hmac.compare_digest(_digest(token), key.digest):
            return None
        return key if key.state() == "active" else None

    def _read(self) -> dict[str, Key]:
        stamp, found = self._known
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._unreadable(error) from error
        if (status.st_mtime_ns, status.st_ino, status.st_size) == stamp:
            return found
        try:
            with open(self.path, "rb") as file:
                status, data = os.fstat(file.fileno()), file.read()
        except OSError as error:
            raise self._unreadable(error) from error
        found = self._parse(data)
        self._known = (status.st_mtime_ns, status.st_ino, status.st_size), found
        return found

    def _parse(self, data: bytes) -> dict[str, Key]:
        try:
            value = orjson.loads(data)
            if value["schema"] > SCHEMA:
                raise SchemaError.newer(self.path, value["schema"], SCHEMA)
            keys = [
                Key(**each | {"groups": _tuple(each["groups"]), "scopes": tuple(each["scopes"])})
                for each in value["keys"]
            ]
            for key in keys:
                key.state()
            return {key.id: key for key in keys}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(
                f"{self.path}, the keys of the service, is damaged: {error}",
                "Put back the file of a backup, or remove it and make new keys: ragops keys create NAME",
            ) from error

    def _unreadable(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self.path}, the keys of the service, cannot be read: {error.strerror}",
            "Run the service as the user who made the keys.",
        )

    # ------------------------------------------------------------ changing
    def create(
        self, name: str, *, tenant: str | None = "", groups: Sequence[str] | None = None,
        scopes: Sequence[str] = USUAL, rate: str | None = None, expires: str | None = None,
    ) -> tuple[Key, str]:  # fmt: skip
        """Make a key; the second value is the key itself, which cannot be told again. `expires`: see `expiry`.

        Raises UsageError, Locked.
        """
        if not _NAME.fullmatch(name) or _ID.fullmatch(name):
            raise UsageError(
                f"a key cannot be named {name!r}",
                "Letters, digits, '-', '_' and '.', at most 64, and not as an id looks: the app that uses it.",
            )
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes:
            raise UsageError(
                f"there is no scope {unknown[0]!r}" if unknown else "a key without scopes opens nothing",
                f"Scopes are {', '.join(SCOPES)}.",
            )
        try:
            "".join([tenant or "", *(groups or ())]).encode()
        except UnicodeEncodeError as error:
            raise UsageError("a tenant or group is not valid text", "Give it in UTF-8.") from error
        if rate is not None and config.parse_rate(rate) is None:
            raise UsageError(f"{rate!r} is no rate", f"Such as {config.RATE}.")
        now = datetime.now(UTC)
        until = None if expires is None else expiry(expires, now)
        id = secrets.token_hex(6)
        token = f"ragops_{id}_{secrets.token_urlsafe(32)}"
        key = Key(
            id, name, _digest(token), tenant, _tuple(groups), tuple(dict.fromkeys(scopes)), rate, _iso(now), until
        )
        with self._changing() as keys:
            if any(each.name == name and each.state() == "active" for each in keys.values()):
                raise UsageError(
                    f"there is an active key named '{name}'",
                    "Choose another name, or revoke it: ragops keys revoke NAME",
                )
            keys[key.id] = key
            self._write(keys)
        return key, token

    def revoke(self, name: str) -> Key:
        """Refuse a key from now on, by its id or the name of an active one. Raises UsageError, Locked."""
        with self._changing() as keys:
            key = keys.get(name) or next((k for k in keys.values() if k.name == name and k.revoked is None), None)
            if key is None:
                raise UsageError(f"there is no key '{name}'", "See: ragops keys list")
            if key.revoked is None:
                key = keys[key.id] = replace(key, revoked=_iso(datetime.now(UTC)))
                self._write(keys)
            return key

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Key]]:
        """One change of the file at a time."""
        durable.make_folder(self.path.parent)
        with lock.hold(self.path.with_suffix(".lock"), wait=10):
            yield dict(self._read())

    def _write(self, keys: dict[str, Key]) -> None:
        try:
            before = os.stat(self.path).st_mtime_ns
        except FileNotFoundError:
            before = 0
        value = {"schema": SCHEMA, "keys": [asdict(key) for key in keys.values()]}
        durable.write_atomic(self.path, orjson.dumps(value, option=orjson.OPT_INDENT_2), mode=0o600)
        if os.stat(self.path).st_mtime_ns <= before:  # a coarse clock, and the inode may come again
            os.utime(self.path, ns=(before + 1, before + 1))


def expiry(text: str, now: datetime) -> str:
    """When a key ends: "12h", "90d" or "4w" from now, or a day or moment in ISO 8601, UTC where it names no zone.

    Raises UsageError.
    """
    match = _SPAN.fullmatch(text)
    if match is not None:
        until = now + timedelta(hours=int(match[1]) * _HOURS[match[2]])
    else:
        try:
            until = datetime.fromisoformat(text)
            until = until.replace(tzinfo=until.tzinfo or UTC).astimezone(UTC)
        except (ValueError, OverflowError):
            raise UsageError(
                f"{text!r} is neither a span nor a date", "Such as 90d, 12h or 4w, or a date such as 2027-01-31."
            ) from None
    if until <= now:
        raise UsageError(f"{text!r} has passed", "Give a moment to come.")
    return _iso(until)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("ascii")).hexdigest()


def _tuple(items: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if items is None else tuple(items)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
