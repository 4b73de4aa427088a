"""Who is asking, and what they may see. Only what stands here makes a scope; nothing of a request can widen it."""

from __future__ import annotations

from dataclasses import dataclass

from ragops.keys import SCOPES, Key, Keys
from ragops.retrieval.scope import scope
from ragops.service.answers import Refused
from ragops.types import Filter


@dataclass(frozen=True, slots=True)
class Asker:
    """The holder of a key; `key` None: a service that was started without keys."""

    key: str | None
    name: str
    tenant: str | None
    groups: tuple[str, ...] | None
    scopes: tuple[str, ...]
    rate: str | None

    @property
    def scope(self) -> Filter | None:
        """What the asker may see, for the store's query."""
        return scope(self.tenant, self.groups)


ANYBODY = Asker(None, "anybody", None, None, SCOPES, None)


def of(key: Key) -> Asker:
    return Asker(key.id, key.name, key.tenant, key.groups, key.scopes, key.rate)


def identify(keys: Keys | None, authorization: str | None) -> Asker:
    """Whoever shows a key in the header `Authorization: Bearer ragops_...`. `keys` None: nobody needs one.

    Raises Refused (401), and StoreError where the keys cannot be read.
    """
    if keys is None:
        return ANYBODY
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Refused(
            401, "a key is needed", "Send the header `Authorization: Bearer KEY`; the operator makes a KEY with"
            " `ragops keys create NAME`.", reason="key", headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip
    key = keys.find(token.strip())
    if key is None:
        raise Refused(
            401, "this key is unknown, revoked or expired", "Ask the operator for another one.", reason="key",
            headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
        )  # fmt: skip
    return of(key)
