"""What is done with sealed releases, on any store."""

from __future__ import annotations

from ragops.errors import Locked, StoreError, UsageError
from ragops.stores.manifest import Absent, Damaged
from ragops.types import Release, Store


def live_release(store: Store) -> Release | None:
    """The live release; None where its pointer leads nowhere, which the next ingest mends.

    Raises StoreError where the store cannot be asked: that is no answer.
    """
    try:
        return store.live()
    except (Absent, Damaged):
        return None


def is_held(store: Store) -> bool:
    """Whether a rollback holds: later ingests seal, and do not publish."""
    try:
        return store.held()
    except Damaged:
        return False


def find(store: Store, number: int | None) -> Release:
    """A kept release, the newest without a number. Raises UsageError."""
    releases = store.releases()
    if not releases:
        raise UsageError("there is no release yet", "Make one: ragops ingest")
    if number is None:
        return releases[-1]
    for release in releases:
        if release.number == number:
            return release
    raise UsageError(
        f"there is no release {number}; kept are {', '.join(str(release.number) for release in releases)}",
        "Older ones are removed beyond release.keep; see `ragops releases list`.",
    )


def publish(store: Store, number: int | None = None) -> Release:
    """Make a kept release live, the newest without a number. An older one than that is held, as by a rollback."""
    release = find(store, number)
    store.publish(release.number, hold=release.number != find(store, None).number)
    return release


def rollback(store: Store, number: int | None = None) -> Release:
    """Make an earlier release live, the one before the live one without a number, and hold it. Raises UsageError."""
    if number is None:
        live = live_release(store)
        earlier = [release.number for release in store.releases() if live is not None and release.number < live.number]
        if not earlier:
            raise UsageError(
                "there is no earlier release to go back to", "See those that are kept: ragops releases list"
            )
        number = earlier[-1]
    release = find(store, number)
    store.publish(release.number, hold=True)
    return release


def prune(store: Store, keep: int, *, timeout: float = 0) -> tuple[list[int], list[int]]:
    """Remove all but the live release and the `keep` newest others: the numbers removed, and of those still read."""
    live = live_release(store)
    others = [release.number for release in store.releases() if live is None or release.number != live.number]
    removed, busy = [], []
    for number in others[: max(0, len(others) - keep)]:
        try:
            store.remove(number, timeout=timeout)
            removed.append(number)
        except (StoreError, Locked):  # a reader; on a server, another machine's writer
            busy.append(number)
    return removed, busy
