"""How much a key may ask for in a time, counted by the package limits: in memory, or in Redis for several workers."""

from __future__ import annotations

import os

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError, StorageError

from ragops import config
from ragops.errors import ConfigError, MissingExtra
from ragops.service.access import Asker
from ragops.service.answers import AGAIN, Refused

MEMORY = "memory"


def address(limits: str) -> str:
    """What `serve.limits` names: "memory" or a Redis address. Raises ConfigError."""
    if not limits.startswith("env:"):
        return limits
    found = os.environ.get(limits.removeprefix("env:"), "")
    if not found.startswith(("redis://", "rediss://")):
        raise ConfigError(
            f"serve.limits is {limits}, and that variable holds no address of a Redis server",
            f"Set it: export {limits.removeprefix('env:')}=redis://:PASSWORD@host:6379/0",
        )
    return found


class Rates:
    """The rates of all keys: sliding windows of one count each."""

    def __init__(self, limits: str, rate: str) -> None:
        """`limits`: "memory" or a Redis address. `rate`: of keys without one. Raises MissingExtra, ConfigError."""
        self._default = rate
        try:
            self._storage = (
                MemoryStorage()
                if limits == MEMORY
                else RedisStorage(
                    f"async+{limits}", wrap_exceptions=True, implementation="redispy", key_prefix="ragops",
                    socket_timeout=2, socket_connect_timeout=2,
                )
            )  # fmt: skip
        except ConfigurationError as error:
            raise MissingExtra(
                "counting rates in Redis needs the package redis", "pip install 'ragops[serve]'"
            ) from error
        except ValueError as error:
            raise ConfigError(f"serve.limits: {error}", "Such as redis://localhost:6379/0") from error
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)

    async def spend(self, asker: Asker, weight: int, *, paid: int = 0) -> None:
        """Count `weight` against the asker's rate, less what is `paid`.

        Raises Refused: 429, or 503 where Redis is gone.
        """
        cost = weight - paid
        if asker.key is None or cost < 1:
            return
        rate = asker.rate or self._default
        amount, seconds = config.parse_rate(rate) or (1, 1)
        if weight > amount:
            raise Refused(
                422, f"this request counts as {weight}, and the key has {rate}", "Send fewer queries at a time."
            )
        item = RateLimitItemPerSecond(amount, seconds)
        try:
            if await self._limiter.hit(item, asker.key, cost=cost):
                return
            again = await self._wait(item, asker.key, cost)
        except StorageError as error:
            raise Refused(503, "the rates cannot be counted now", AGAIN, reason="redis", again=2) from error
        raise Refused(429, f"this key has {rate}, and they are spent", "Ask again later.", reason="rate", again=again)

    async def _wait(self, item: RateLimitItemPerSecond, key: str, weight: int) -> float:
        """Seconds until `weight` fits: what was counted in the window before fades evenly, then this window's does."""
        window = item.get_expiry()
        before, left, now, ends = await self._storage.get_sliding_window(item.key_for(key), window)
        room = item.amount - weight
        if now <= room:
            return left - (room - now) * window / before if before else 0.0
        return max(0.0, ends - window) + window * (1 - room / now)

    async def reachable(self) -> bool:
        return await self._storage.check()
