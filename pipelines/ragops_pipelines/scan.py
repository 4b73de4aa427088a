"""What changed since the last recorded run: sizes and times only, no byte of a source is read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from ragops.types import Connector, Entry, Reject, Unchanged
from ragops_pipelines.state import State


@dataclass(slots=True)
class Changes:
    """The work that a scan found. `todo` holds the sources to read, with the connector that lists them."""

    todo: list[tuple[Connector, Entry]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    containers: dict[str, tuple[str, str]] = field(default_factory=dict)  # uri -> (source, token)
    incomplete: list[str] = field(default_factory=list)  # sources whose scan did not see everything
    seen: int = 0
    new: int = 0  # of todo, those that were never seen
    bytes: int = 0  # of todo, where sizes are known


def compare(
    connectors: Iterable[Connector],
    state: State,
    *,
    again: Callable[[str], bool],
    everything: Collection[str],
    dropped: Collection[str],
    tell: Callable[[int], None],
) -> Changes:
    """Scan and compare with the state.

    `again(uri)`: read it even if its token is unchanged. `everything`: names of sources to read whole.
    `dropped`: names of sources that are no longer configured; what they gave is removed.
    """
    known = state.tokens()
    changes = Changes()
    unseen: dict[str, str | None] = known.copy()
    boxes: dict[str, list[str]] | None = None
    seen = 0
    for connector in connectors:
        whole = connector.name in everything
        scan = connector.scan((lambda _: None) if whole else state.container_token)
        for found in scan:
            if isinstance(found, Entry):
                seen += 1
                uri = found.uri
                before = unseen.pop(uri, None) or known.get(uri)
                if whole or before != found.token or again(uri):
                    changes.todo.append((connector, found))
                    changes.new += uri not in known
                    changes.bytes += found.size or 0
            elif isinstance(found, Unchanged):
                if boxes is None:
                    boxes = state.contained()
                for uri in boxes.get(found.container, ()):
                    seen += 1
                    unseen.pop(uri, None)
            else:
                seen += 1
                unseen.pop(found.uri, None)
                changes.rejects.append(found)
            if seen % 1000 == 0:
                tell(seen)
        changes.containers.update({uri: (connector.name, token) for uri, token in scan.containers.items()})
        if not scan.complete:
            changes.incomplete.append(connector.name)
            continue
        prefix = f"{connector.name}:"
        changes.removed += [uri for uri in unseen if uri.startswith(prefix) and connector.owns(uri)]
    prefixes = tuple(f"{name}:" for name in dropped)
    if prefixes:
        changes.removed += [uri for uri in unseen if uri.startswith(prefixes)]
    changes.removed.sort()
    changes.seen = seen
    tell(seen)
    return changes
